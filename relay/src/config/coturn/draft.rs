//! What each line says, by itself.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use super::super::parse;
use super::table::{self, Row};
use super::{Fate, Line, Origin, Remark, Stored, peers};

/// What the table says of the option says all; or what else is to be said.
type Judged = Result<Option<(Fate, String)>, String>;

/// A configuration that is being made.
#[derive(Default)]
pub(super) struct Draft {
    /// Values by our keys, as text.
    pub(super) values: BTreeMap<&'static str, Vec<String>>,
    pub(super) remarks: Vec<Remark>,
    pub(super) listen_ips: Vec<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) tls_port: Option<u16>,
    pub(super) more_listeners: Vec<SocketAddr>,
    pub(super) no_tls: bool,
    pub(super) no_tcp_relay: bool,
    /// With where it stands, as are those below.
    pub(super) cert: Option<(Origin, String)>,
    pub(super) key: Option<(Origin, String)>,
    pub(super) ports: [Option<u16>; 2],
    pub(super) users: Vec<(Origin, String)>,
    pub(super) secrets: Vec<(Origin, String)>,
    /// `use-auth-secret`.
    pub(super) uses_secrets: Option<Origin>,
    pub(super) allowed: Vec<IpNet>,
    pub(super) denied: Vec<(Origin, Vec<IpNet>)>,
}

impl Draft {
    /// Takes over what a line says, and remarks on it.
    pub(super) fn take(&mut self, line: &Line<'_>) {
        let Some(row) = table::find(line.name) else {
            let why = "no option of coturn 4.17, nor of 4.6.1";
            // Behind a slip of the pen there may be a secret.
            let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            let name: String = line.name.chars().take_while(|c| is_of_a_name(*c)).collect();
            return self.remark(line.origin, &name, Fate::NotSupported, why);
        };
        let judged = match row.fate {
            _ if is_off(line.value) && row.fate >= Fate::NotNeeded => {
                Ok(Some((Fate::NotNeeded, "it is off".to_owned())))
            }
            Fate::TakenOver | Fate::Changed => self.convert(line),
            Fate::NotNeeded | Fate::NotSupported | Fate::Unsafe => Ok(None),
        };
        self.no_tcp_relay |= line.name == "no-tcp-relay" && !is_off(line.value);
        let (fate, why) = match judged {
            Ok(Some(judged)) => judged,
            Ok(None) if row.fate == Fate::TakenOver => (row.fate, row.here.to_owned()),
            Ok(None) => (row.fate, plainly(row)),
            Err(why) => (Fate::NotSupported, format!("left out: {why}")),
        };
        self.remark(line.origin, line.name, fate, why);
    }

    /// Takes over what the database has, once all lines are taken.
    pub(super) fn take_stored(&mut self, origin: Origin, stored: &Stored) {
        match stored {
            Stored::Secret(secret) if self.uses_secrets.is_some() => {
                self.secrets.push((origin, secret.clone()));
                self.remark(origin, "turn_secret", Fate::TakenOver, "`auth-secret`");
            }
            Stored::Secret(_) => {
                let why = "left out: coturn doesn't look at it without `use-auth-secret`";
                self.remark(origin, "turn_secret", Fate::NotNeeded, why);
            }
            Stored::Allowed(value) => self.take(&Line { origin, name: "allowed-peer-ip", value }),
            Stored::Denied(value) => self.take(&Line { origin, name: "denied-peer-ip", value }),
            Stored::Limit { name, value } if matches!(&**name, "user-quota" | "total-quota" | "max-bps") => {
                self.take(&Line { origin, name, value });
            }
            Stored::Limit { .. } => {
                let why = "no limit that coturn 4.17 knows";
                self.remark(origin, "turn_realm_option", Fate::NotSupported, why);
            }
            Stored::Users(count) if self.uses_secrets.is_some() => {
                let why =
                    format!("{count} users, left out: coturn doesn't look at them beside shared secrets");
                self.remark(origin, "turnusers_lt", Fate::NotNeeded, why);
            }
            Stored::Users(count) => {
                let why = format!(
                    "{count} users, left out: of their passwords it has MD5 keys only; set them again"
                );
                self.remark(origin, "turnusers_lt", Fate::NotSupported, why);
            }
        }
    }

    pub(super) fn remark(&mut self, origin: Origin, name: &str, fate: Fate, why: impl Into<String>) {
        self.remarks.push(Remark { origin, name: name.to_owned(), fate, why: why.into() });
    }

    /// Says something else of a line, as another one, or all together, make something else of it.
    pub(super) fn revise(&mut self, origin: Origin, fate: Fate, why: impl Into<String>) {
        if let Some(remark) = self.remarks.iter_mut().find(|remark| remark.origin == origin) {
            (remark.fate, remark.why) = (fate, why.into());
        }
    }

    /// One value more of a list, unless it has that.
    pub(super) fn push(&mut self, key: &'static str, value: impl Display) {
        let (values, value) = (self.values.entry(key).or_default(), value.to_string());
        if !values.contains(&value) {
            values.push(value);
        }
    }

    /// The value, instead of one from before: coturn's last line counts, too.
    pub(super) fn set(&mut self, key: &'static str, value: impl Display) {
        self.values.insert(key, vec![value.to_string()]);
    }

    fn try_push(&mut self, key: &'static str, value: impl Display) -> Result<(), String> {
        accept(key, &value.to_string())?;
        self.push(key, value);
        Ok(())
    }

    fn try_set(&mut self, key: &'static str, value: impl Display) -> Result<(), String> {
        accept(key, &value.to_string())?;
        self.set(key, value);
        Ok(())
    }

    fn convert(&mut self, line: &Line<'_>) -> Judged {
        let Line { origin, name, value } = *line;
        match name {
            "listening-ip" => {
                let ip = number_of(value)?;
                accept("listen", &SocketAddr::new(ip, 1).to_string())?;
                self.listen_ips.push(ip);
            }
            "listening-port" => self.port = Some(number_of(value)?),
            "aux-server" => {
                accept("listen", value)?;
                self.more_listeners.push(number_of(value)?);
            }
            "tls-listening-port" => self.tls_port = Some(number_of(value)?),
            "no-tls" => self.no_tls = !is_off(value),
            "no-tcp" => return Ok(self.switch("no-tcp", value)),
            "no-udp" => return Ok(self.switch("no-udp", value)),
            "rfc5766-channel-numbers" => return Ok(self.switch("rfc5766-channel-numbers", value)),
            "min-port" => self.ports[0] = Some(number_of(value)?),
            "max-port" => self.ports[1] = Some(number_of(value)?),
            "relay-ip" => self.try_push("relay-address", number_of::<IpAddr>(value)?)?,
            "external-ip" => return self.convert_external(value),
            "cert" => self.cert = Some((origin, value.to_owned())),
            "pkey" => self.key = Some((origin, value.to_owned())),
            "user" => self.users.push((origin, value.to_owned())),
            "use-auth-secret" => self.uses_secrets = (!is_off(value)).then_some(origin),
            "static-auth-secret" => self.secrets.push((origin, value.to_owned())),
            "realm" => self.try_set("realm", value)?,
            "allowed-peer-ip" => self.allowed.extend(peers::prefixes(value)?),
            "denied-peer-ip" => self.denied.push((origin, peers::prefixes(value)?)),
            _ => return self.convert_limits(name, value),
        }
        Ok(None)
    }

    fn convert_limits(&mut self, name: &str, value: &str) -> Judged {
        match (name, number_of::<u64>(value)) {
            ("user-quota" | "total-quota" | "max-bps", Ok(0)) => {
                return Ok(Some((Fate::NotNeeded, "0 is no limit, as without it".to_owned())));
            }
            ("user-quota", _) => self.try_set("user-quota", value)?,
            ("total-quota", _) => self.try_set("total-quota", value)?,
            ("max-bps", number) => {
                // Bytes there, bits here.
                self.try_set("max-bitrate", number?.saturating_mul(8))?;
            }
            ("max-allocate-lifetime", _) => self.try_set("max-lifetime", value)?,
            ("unauthorized-ratelimit-rps", _) => self.try_set("unauthenticated-rate", value)?,
            ("unauthorized-ratelimit", _) => {}
            ("relay-threads" | "cpus", Ok(0)) => {
                return Ok(Some((Fate::NotNeeded, "one worker per core without it".to_owned())));
            }
            ("relay-threads" | "cpus", _) => self.try_set("workers", value)?,
            _ => return self.convert_rest(name, value),
        }
        Ok(None)
    }

    fn convert_rest(&mut self, name: &str, value: &str) -> Judged {
        match name {
            "allocation-default-address-family" => self.try_set("default-address-family", value)?,
            "keep-address-family" => self.set("default-address-family", "keep"),
            "no-tlsv1_2" if !is_off(value) => self.set("tls-min-version", "1.3"),
            "alternate-server" | "udp-alternate-server" => {
                let server = number_of::<SocketAddr>(value);
                let server =
                    server.or_else(|_| number_of::<IpAddr>(value).map(|ip| SocketAddr::new(ip, 3478)))?;
                let known = self.values.get("alternate-server").into_iter().flatten();
                let mut known = known.filter_map(|other| other.parse::<SocketAddr>().ok());
                if known.any(|other| other.is_ipv4() == server.is_ipv4()) {
                    let why = "left out: there is one for each family, the first";
                    return Ok(Some((Fate::NotSupported, why.to_owned())));
                }
                self.try_push("alternate-server", server)?;
            }
            "software-attribute" if is_off(value) => self.set("software", "off"),
            "no-software-attribute" if !is_off(value) => self.set("software", "off"),
            "Verbose" if !is_off(value) => self.set("log-level", "debug"),
            "log-min-level" => self.set("log-level", level(value)?),
            "no-tlsv1_2" | "software-attribute" | "no-software-attribute" | "Verbose" => {
                return Ok(Some((Fate::NotNeeded, "so it is without it".to_owned())));
            }
            _ => {
                let why = "not turned on: `admin` says where it listens, `admin-token-file` who may ask";
                return Ok(Some((Fate::Changed, why.to_owned())));
            }
        }
        Ok(None)
    }

    fn convert_external(&mut self, value: &str) -> Judged {
        let (public, local) = match value.split_once('/') {
            Some((public, local)) => (number_of::<IpAddr>(public)?, Some(number_of::<IpAddr>(local)?)),
            None => (number_of::<IpAddr>(value)?, None),
        };
        let ours = local.map_or_else(|| public.to_string(), |local| format!("{public}={local}"));
        accept("external-address", &ours)?;
        // Of two for the same, the last one counts.
        let is_same = |other: &String| match other.split_once('=') {
            Some((_, of)) => local.is_some_and(|local| local.to_string() == of),
            None => local.is_none() && other.contains(':') == public.is_ipv6(),
        };
        self.values.entry("external-address").or_default().retain(|other| !is_same(other));
        self.push("external-address", ours);
        // Only the private part makes a difference.
        Ok(local.is_none().then(|| (Fate::TakenOver, "`external-address`".to_owned())))
    }

    fn switch(&mut self, key: &'static str, value: &str) -> Option<(Fate, String)> {
        if is_off(value) {
            return Some((Fate::NotNeeded, "it is off".to_owned()));
        }
        self.set(key, true);
        None
    }
}

/// Whether an option of ours takes a value; what isn't in a shape that coturn takes would only be refused later.
fn accept(key: &str, value: &str) -> Result<(), String> {
    match key {
        "listen" => parse::listen(value).map(drop),
        "relay-address" => parse::relay_address(value).map(drop),
        "external-address" => parse::external_address(value).map(drop),
        "alternate-server" => parse::alternate_server(value).map(drop),
        "realm" => parse::realm(value).map(drop),
        "default-address-family" => parse::default_family(value).map(drop),
        "max-lifetime" => parse::max_lifetime(value).map(drop),
        "max-bitrate" => parse::bitrate(value).map(drop),
        "workers" => parse::workers(value).map(drop),
        "user-quota" | "total-quota" | "unauthenticated-rate" => parse::limit(value).map(drop),
        other => unreachable!("{other} has no check here"),
    }
}

/// Nothing means on.
fn is_off(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "0" | "n" | "no" | "f" | "false" | "off")
}

fn number_of<T: FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| "its value is not understood".to_owned())
}

fn level(value: &str) -> Result<&'static str, String> {
    match value.to_ascii_lowercase().as_str() {
        "debug" => Ok("debug"),
        "info" | "notice" => Ok("info"),
        "warning" | "warn" => Ok("warn"),
        "error" => Ok("error"),
        _ => Err("its value is not understood".to_owned()),
    }
}

/// The row's words without the page's links.
fn plainly(row: &Row) -> String {
    let whole = match row.note {
        "" => row.here.to_owned(),
        note => format!("{}: {note}", row.here),
    };
    let mut text = whole.replace("**", "");
    while let Some((before, rest)) = text.split_once("](")
        && let (Some(open), Some((_, after))) = (before.rfind('['), rest.split_once(')'))
    {
        text = format!("{}{}{after}", &before[..open], &before[open + 1..]);
    }
    text
}
