//! What lines mean together, and the TOML.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::super::options::{Kind, OPTIONS};
use super::super::parse;
use super::super::strength::Strength;
use super::draft::Draft;
use super::{Fate, Imported, peers};

const PORT: u16 = 3478;
const TLS_PORT: u16 = 5349;
/// coturn's, and ours.
const FIRST_PORT: u16 = 49_152;
const LAST_PORT: u16 = 65_535;

impl Draft {
    /// The configuration that all lines are together.
    pub(super) fn finish(mut self, invented: &str) -> Imported {
        self.finish_listeners();
        self.finish_tls();
        self.finish_ports();
        self.finish_credentials(invented);
        self.finish_peers();
        self.say_what_differs();
        // What the file doesn't say comes last.
        self.remarks.sort_by_key(|remark| (remark.line == 0, remark.line));
        let toml = self.render();
        Imported { toml, remarks: self.remarks }
    }

    fn finish_listeners(&mut self) {
        let port = self.port.unwrap_or(PORT);
        if self.listen_ips.is_empty() && port == PORT && self.more_listeners.is_empty() {
            return;
        }
        for address in self.at(port).into_iter().chain(std::mem::take(&mut self.more_listeners)) {
            self.push("listen", address);
        }
    }

    /// A port of all the addresses where it listens.
    fn at(&self, port: u16) -> Vec<SocketAddr> {
        let wildcards = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let ips = if self.listen_ips.is_empty() { &wildcards[..] } else { &self.listen_ips };
        ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
    }

    fn finish_tls(&mut self) {
        let (cert, key) = (self.cert.take(), self.key.take());
        if self.no_tls {
            for (line, name) in [(&cert, "cert"), (&key, "pkey")] {
                if let Some((line, _)) = line {
                    self.remark(*line, name, Fate::NotNeeded, "left out, as there is a `no-tls`");
                }
            }
            return;
        }
        let (Some((cert_line, cert)), Some((key_line, key))) = (&cert, &key) else {
            let alone = cert.map(|(line, _)| (line, "cert")).or(key.map(|(line, _)| (line, "pkey")));
            if let Some((line, name)) = alone {
                let why = "left out: there is no TLS without both, `cert` and `pkey`";
                self.remark(line, name, Fate::NotSupported, why);
            }
            return;
        };
        for (line, name, path) in [(*cert_line, "cert", cert), (*key_line, "pkey", key)] {
            if Path::new(path).is_relative() {
                let why =
                    "a relative path: coturn looks for it in several folders, Turnpike where it is started";
                self.remark(line, name, Fate::Changed, why);
            }
        }
        self.push("tls-cert", cert);
        self.push("tls-key", key);
        let port = self.tls_port.unwrap_or(TLS_PORT);
        if port != TLS_PORT || !self.listen_ips.is_empty() {
            self.at(port).into_iter().for_each(|address| self.push("listen-tls", address));
        }
    }

    fn finish_ports(&mut self) {
        if self.ports != [None; 2] {
            let [first, last] = self.ports;
            let range = format!("{}-{}", first.unwrap_or(FIRST_PORT), last.unwrap_or(LAST_PORT));
            match parse::port_range(&range) {
                Ok(_) => self.set("port-range", range),
                Err(why) => {
                    self.remark(0, "min-port, max-port", Fate::NotSupported, format!("left out: {why}"))
                }
            }
        }
    }

    fn finish_credentials(&mut self, invented: &str) {
        let (users, secrets) = (std::mem::take(&mut self.users), std::mem::take(&mut self.secrets));
        if let Some(line) = self.uses_secrets.filter(|_| secrets.is_empty()) {
            let why =
                "its secrets are in coturn's database (turn_secret): write them into `auth-secret-file`";
            self.remark(line, "use-auth-secret", Fate::Changed, why);
        }
        let only_secrets = self.uses_secrets.is_some() || !secrets.is_empty();
        for (line, secret) in secrets {
            match parse::secret(&secret) {
                Ok(checked) => {
                    if let Some(weakness) = checked.weakness() {
                        self.remark(
                            line,
                            "static-auth-secret",
                            Fate::Unsafe,
                            format!("taken over, but {weakness}"),
                        );
                    }
                    self.push("auth-secret", secret);
                }
                Err(why) => self.remark(line, "static-auth-secret", Fate::NotSupported, why),
            }
        }
        for (line, user) in users {
            match parse::user(&user) {
                _ if only_secrets => {
                    let why = "left out: coturn doesn't look at it beside a shared secret; in `user` it would be valid";
                    self.remark(line, "user", Fate::NotNeeded, why);
                }
                Ok(checked) => {
                    if let Some(weakness) = checked.weakness() {
                        self.remark(line, "user", Fate::Unsafe, format!("taken over, but {weakness}"));
                    }
                    self.push("user", user);
                }
                Err(why) => self.remark(line, "user", Fate::NotSupported, format!("left out: {why}")),
            }
        }
        if !["auth-secret", "user"].iter().any(|key| self.values.contains_key(key)) {
            self.push("auth-secret", invented);
            let why = "the file has none that can be taken over, and nobody gets in without: an `auth-secret` was invented";
            self.remark(0, "credentials", Fate::Unsafe, why);
        }
    }

    fn finish_peers(&mut self) {
        let allowed = std::mem::take(&mut self.allowed);
        for (line, denied) in std::mem::take(&mut self.denied) {
            let (mapped, denied): (Vec<_>, Vec<_>) = denied.into_iter().partition(peers::is_mapped);
            let (overruled, denied): (Vec<_>, Vec<_>) =
                denied.into_iter().partition(|prefix| peers::is_overruled(prefix, &allowed));
            if !mapped.is_empty() {
                let why = "IPv4 inside IPv6 is brought to one form, and the rules for IPv4 hold";
                self.remark(line, "denied-peer-ip", Fate::NotNeeded, why);
            }
            if !overruled.is_empty() {
                let why = "left out where `allowed-peer-ip` has the same: that wins there, here the most specific would";
                self.remark(line, "denied-peer-ip", Fate::NotNeeded, why);
            }
            denied.iter().for_each(|prefix| self.push("deny-peer", prefix));
        }
        allowed
            .iter()
            .filter(|prefix| !peers::is_mapped(prefix))
            .for_each(|prefix| self.push("allow-peer", prefix));
        for key in ["deny-peer", "allow-peer"] {
            if let Some(prefixes) = self.values.get_mut(key) {
                prefixes.sort();
                prefixes.dedup();
            }
        }
    }

    /// What coturn does without being told, and Turnpike doesn't.
    fn say_what_differs(&mut self) {
        let private = "denied here, let pass there: a media server in your own network needs `allow-peer`";
        self.remark(0, "private peers", Fate::Changed, private);
        if !self.no_tcp_relay {
            let why = "off here, on there: `allow-tcp-relay = true` turns it on (RFC 6062)";
            self.remark(0, "TCP relaying", Fate::Changed, why);
        }
        if !self.values.contains_key("realm") {
            let why = "`turnpike` here, the host's domain there";
            self.remark(0, "realm", Fate::Changed, why);
        }
    }

    fn render(&self) -> String {
        let mut text =
            "# Made from a turnserver.conf by `turnpike import-coturn`, whose report says what became of each line.\n".to_owned();
        for spec in OPTIONS {
            let Some(values) = self.values.get(spec.key) else { continue };
            let quoted = |value: &String| toml::Value::String(value.clone()).to_string();
            let value = match (spec.kind, values.as_slice()) {
                (Kind::Switch | Kind::Number, [value, ..]) => value.clone(),
                (Kind::Text, [value, ..]) => quoted(value),
                (_, values) => format!("[{}]", values.iter().map(quoted).collect::<Vec<_>>().join(", ")),
            };
            let _ = writeln!(text, "{} = {value}", spec.key);
        }
        text
    }
}
