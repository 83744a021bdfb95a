//! What lines mean together, and the TOML.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::super::options::{Kind, OPTIONS};
use super::super::parse;
use super::super::strength::Strength;
use super::draft::Draft;
use super::{Fate, Imported, Origin, peers};

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
        self.finish_alternates();
        self.finish_transports();
        self.finish_ports();
        self.finish_credentials(invented);
        self.finish_peers();
        self.say_what_differs();
        self.remarks.sort_by_key(|remark| remark.origin);
        let toml = self.render();
        Imported { toml, remarks: self.remarks }
    }

    fn finish_listeners(&mut self) {
        let port = self.port.unwrap_or(PORT);
        if self.listen_ips.is_empty() && port == PORT && self.more_listeners.is_empty() {
            return;
        }
        let all = [self.at(port), std::mem::take(&mut self.more_listeners)].concat();
        uncovered(&all).for_each(|address| self.push("listen", address));
    }

    /// A port of all the addresses where it listens.
    fn at(&self, port: u16) -> Vec<SocketAddr> {
        let wildcards = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let ips = if self.listen_ips.is_empty() { &wildcards[..] } else { &self.listen_ips };
        ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
    }

    fn finish_tls(&mut self) {
        let files = [self.cert.take(), self.key.take()];
        if self.no_tls {
            for (origin, _) in files.into_iter().flatten() {
                self.revise(origin, Fate::NotNeeded, "left out, as there is a `no-tls`");
            }
            return;
        }
        let [Some((cert_origin, cert)), Some((key_origin, key))] = files else {
            for (origin, _) in files.into_iter().flatten() {
                let why = "left out: there is no TLS without both, `cert` and `pkey`";
                self.revise(origin, Fate::NotSupported, why);
            }
            return;
        };
        for (origin, path) in [(cert_origin, &cert), (key_origin, &key)] {
            if Path::new(path).is_relative() {
                let why = "taken over, but coturn looks for a relative path in several folders, Turnpike where it is started";
                self.revise(origin, Fate::Changed, why);
            }
        }
        self.push("tls-cert", cert);
        self.push("tls-key", key);
        let port = self.tls_port.unwrap_or(TLS_PORT);
        if port != TLS_PORT || !self.listen_ips.is_empty() {
            let all = self.at(port);
            uncovered(&all).for_each(|address| self.push("listen-tls", address));
        }
    }

    /// Nobody is sent to where it is already.
    fn finish_alternates(&mut self) {
        let own = ["listen", "listen-tls"].iter().filter_map(|key| self.values.get(key)).flatten();
        let own: Vec<String> = own.cloned().collect();
        let Some(alternates) = self.values.get_mut("alternate-server") else { return };
        let before = alternates.len();
        alternates.retain(|other| !own.contains(other));
        if alternates.len() < before {
            let why = "left out: it is a listener of this relay itself";
            self.remark(Origin::Unsaid, "alternate-server", Fate::NotNeeded, why);
        }
    }

    /// Where only TLS was left, and there is none, nobody could reach it.
    fn finish_transports(&mut self) {
        let is_closed = ["no-udp", "no-tcp"].iter().all(|key| self.values.contains_key(key));
        if is_closed && !self.values.contains_key("tls-cert") {
            self.values.remove("no-udp");
            self.values.remove("no-tcp");
            let why = "left out: without TLS nobody could reach the relay";
            self.remark(Origin::Unsaid, "no-udp, no-tcp", Fate::NotSupported, why);
        }
    }

    fn finish_ports(&mut self) {
        if self.ports != [None; 2] {
            let [first, last] = self.ports;
            let range = format!("{}-{}", first.unwrap_or(FIRST_PORT), last.unwrap_or(LAST_PORT));
            match parse::port_range(&range) {
                Ok(_) => self.set("port-range", range),
                Err(why) => self.remark(
                    Origin::Unsaid,
                    "min-port, max-port",
                    Fate::NotSupported,
                    format!("left out: {why}"),
                ),
            }
        }
    }

    fn finish_credentials(&mut self, invented: &str) {
        let (users, secrets) = (std::mem::take(&mut self.users), std::mem::take(&mut self.secrets));
        if let Some(origin) = self.uses_secrets.filter(|_| secrets.is_empty()) {
            let why =
                "its secrets are in coturn's database (turn_secret): write them into `auth-secret-file`";
            self.revise(origin, Fate::Changed, why);
        }
        let only_secrets = self.uses_secrets.is_some() || !secrets.is_empty();
        for (origin, secret) in secrets {
            self.take_credential("auth-secret", origin, secret, parse::secret);
        }
        for (origin, user) in users {
            // Of two lines for one user the last counts.
            let name = user.split_once(':').map_or(&*user, |(name, _)| name);
            let of_same = |other: &String| other.split_once(':').is_some_and(|(other, _)| other == name);
            self.values.entry("user").or_default().retain(|other| !of_same(other));
            match only_secrets {
                true => {
                    let why = "left out: coturn doesn't look at it beside a shared secret; in `user` it would be valid";
                    self.revise(origin, Fate::NotNeeded, why);
                }
                false => self.take_credential("user", origin, user, parse::user),
            }
        }
        if !["auth-secret", "user"].iter().any(|key| self.values.get(key).is_some_and(|all| !all.is_empty()))
        {
            self.push("auth-secret", invented);
            let why = "the file has none that can be taken over, and nobody gets in without: an `auth-secret` was invented";
            self.remark(Origin::Unsaid, "credentials", Fate::Unsafe, why);
        }
    }

    fn take_credential<T: Strength>(
        &mut self,
        key: &'static str,
        origin: Origin,
        value: String,
        parse: impl Fn(&str) -> Result<T, String>,
    ) {
        match parse(&value).map(|checked| checked.weakness()) {
            Err(why) => return self.revise(origin, Fate::NotSupported, format!("left out: {why}")),
            Ok(Some(weakness)) => self.revise(origin, Fate::Unsafe, format!("taken over, but {weakness}")),
            Ok(None) => {}
        }
        self.push(key, value);
    }

    fn finish_peers(&mut self) {
        let allowed = std::mem::take(&mut self.allowed);
        for (origin, denied) in std::mem::take(&mut self.denied) {
            let (mapped, denied): (Vec<_>, Vec<_>) = denied.into_iter().partition(peers::is_mapped);
            let (overruled, denied): (Vec<_>, Vec<_>) =
                denied.into_iter().partition(|prefix| peers::is_overruled(prefix, &allowed));
            let rest = if denied.is_empty() { "left out" } else { "taken over but for a part" };
            if !mapped.is_empty() {
                let why = "IPv4 inside IPv6 is brought to one form, and the rules for IPv4 hold";
                self.revise(origin, Fate::NotNeeded, format!("{rest}: {why}"));
            }
            if !overruled.is_empty() {
                let why = "an `allowed-peer-ip` has the same, which wins there; here the most specific would";
                self.revise(origin, Fate::NotNeeded, format!("{rest}: {why}"));
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
        self.remark(Origin::Unsaid, "private peers", Fate::Changed, private);
        if !self.no_tcp_relay {
            let why = "off here, on there: `allow-tcp-relay = true` turns it on (RFC 6062)";
            self.remark(Origin::Unsaid, "TCP relaying", Fate::Changed, why);
        }
        if !self.values.contains_key("realm") {
            let why = "`turnpike` here, the host's domain there";
            self.remark(Origin::Unsaid, "realm", Fate::Changed, why);
        }
    }

    fn render(&self) -> String {
        let mut text =
            "# Made from a turnserver.conf by `turnpike import-coturn`, whose report says what became of each line.\n".to_owned();
        for spec in OPTIONS {
            let Some(values) = self.values.get(spec.key).filter(|values| !values.is_empty()) else {
                continue;
            };
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

/// Those for which no wildcard stands.
fn uncovered(all: &[SocketAddr]) -> impl Iterator<Item = SocketAddr> {
    let covers = |wildcard: &SocketAddr, other: &SocketAddr| {
        let (is_same_family, is_same_port) =
            (wildcard.is_ipv4() == other.is_ipv4(), wildcard.port() == other.port());
        wildcard.ip().is_unspecified() && wildcard != other && is_same_family && is_same_port
    };
    all.iter().filter(move |own| !all.iter().any(|other| covers(other, own))).copied()
}
