//! What is printed on stdout when the relay accepts traffic: the ready line, which programs wait for,
//! and for a trial what a developer needs to use it.
//!
//! Nothing of it goes to the log, since a trial's password is part of it.

use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use turnpike_driver::choose::Choice;
use turnpike_proto::settings::RelayIp;
use zeroize::Zeroizing;

use crate::config::{Config, PortRange};
use crate::{credentials, patience};

/// How long the credential that a trial makes from a configured secret is valid, seconds.
const TRIAL_CREDENTIAL_SECS: u64 = 24 * 3600;

/// What the relay came to use.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where it listens for UDP, with the ports that the kernel chose.
    pub listen: Vec<SocketAddr>,
    /// Where it listens for TCP.
    pub tcp: Vec<SocketAddr>,
    /// Where it listens for TLS.
    pub tls: Vec<SocketAddr>,
    /// Where it relays from.
    pub relay: Vec<RelayIp>,
    /// The ports of relayed addresses.
    pub port_range: PortRange,
    /// Worker threads.
    pub workers: usize,
    /// What moves the datagrams, and why.
    pub io: Choice,
    /// Where ChannelData is forwarded, and why there.
    pub data_path: DataPath,
    /// Where the administration is, if there is one.
    pub admin: Option<String>,
}

/// Where ChannelData is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataPath {
    /// `kernel`, or `userspace`.
    pub name: &'static str,
    /// Why it is this one, in words for the operator.
    pub why: String,
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.why)
    }
}

impl Ready {
    /// Where clients come, by whatever transport.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        [&self.listen, &self.tcp, &self.tls].into_iter().flatten().copied().collect()
    }

    /// What a configuration leads to with these addresses; listeners for UDP, TCP and TLS.
    pub fn new(
        config: &Config,
        [listen, tcp, tls]: [Vec<SocketAddr>; 3],
        relay: Vec<RelayIp>,
        io: Choice,
        data_path: DataPath,
    ) -> Self {
        Ready {
            listen,
            tcp,
            tls,
            relay,
            port_range: config.port_range,
            workers: config.workers.get(),
            io,
            data_path,
            admin: None,
        }
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relay: Vec<_> = self.relay.iter().map(ToString::to_string).collect();
        f.write_str("turnpike ready:")?;
        for (name, listen) in [("listen", &self.listen), ("tcp", &self.tcp), ("tls", &self.tls)] {
            let listen: Vec<_> = listen.iter().map(SocketAddr::to_string).collect();
            if !listen.is_empty() {
                write!(f, " {name}={}", listen.join(","))?;
            }
        }
        write!(
            f,
            " relay={} ports={} workers={} io={} data-path={}",
            relay.join(","),
            self.port_range,
            self.workers,
            self.io,
            self.data_path,
        )?;
        self.admin.as_ref().map_or(Ok(()), |url| write!(f, " admin={url}"))
    }
}

/// `turn:` and `turns:` addresses where clients reach the relay (RFC 7065), the most useful one first: UDP before TCP
/// before TLS. `names` are those of the certificates: by an address alone no certificate is accepted.
pub fn urls(ready: &Ready, names: &[String]) -> Vec<String> {
    let of = |transport: &'static str, listen: &[SocketAddr]| {
        let endpoints = endpoints(listen, &ready.relay).into_iter();
        endpoints.map(move |endpoint| format!("turn:{endpoint}?transport={transport}")).collect::<Vec<_>>()
    };
    let mut urls = of("udp", &ready.listen);
    urls.extend(of("tcp", &ready.tcp));
    for name in names.iter().filter(|name| !name.starts_with("*.") && name.parse::<IpAddr>().is_err()) {
        for listener in &ready.tls {
            let url = format!("turns:{name}:{}?transport=tcp", listener.port());
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    urls
}

/// Prints the ready line on stdout, and for a trial how to use it. Whoever reads stdout is not waited for.
///
/// # Errors
/// If stdout can't be written, or takes nothing.
pub fn announce(ready: &Ready, config: &Config) -> io::Result<()> {
    let trial = config.quickstart.is_some().then(|| quickstart_text(ready, config, unix_secs()));
    let line = ready.to_string();
    patience::print(move || {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        if let Some(trial) = trial {
            out.write_all(trial.as_bytes())?;
        }
        out.flush()
    })
}

fn unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Everything that a developer needs: addresses, credentials, settings for a browser, a test.
fn quickstart_text(ready: &Ready, config: &Config, now_unix_secs: u64) -> Zeroizing<String> {
    let (user, password) = trial_credentials(config, now_unix_secs);
    let urls = urls(ready, &[]);
    let main = endpoints(&ready.listen, &ready.relay).first().copied();
    let test = main.map_or_else(String::new, |main| {
        format!(
            "\nTest it:\n\n  turnutils_uclient -y -c -u {} -w {} -n 50 -p {} {}\n",
            shell(&user),
            shell(&password),
            main.port(),
            main.ip(),
        )
    });
    Zeroizing::new(format!(
        "\n  TURN URL   {urls}\n  user       {user}\n  password   {shown}\n  data path  {path}: {why}\n{admin}\
         \nFor the browser:\n\n  new RTCPeerConnection({{\n    iceServers: [{{\n      urls: {js_urls},\n      \
         username: {js_user},\n      credential: {js_password},\n    }}],\n    iceTransportPolicy: \"relay\", \
         // to see the relay at work; leave it out later\n  }});\n{test}\n{notes}",
        urls = urls.join("\n             "),
        shown = password.as_str(),
        path = ready.data_path.name,
        why = ready.data_path.why.as_str(),
        admin = admin_text(ready, config).as_str(),
        js_urls = serde_json::json!(urls),
        js_user = serde_json::json!(user),
        js_password = serde_json::json!(password.as_str()),
        notes = notes(config),
    ))
}

/// Where the administration is, with the token that was made for the trial; a configured one isn't shown.
fn admin_text(ready: &Ready, config: &Config) -> Zeroizing<String> {
    let Some(url) = &ready.admin else { return Zeroizing::default() };
    let generated = config.quickstart.as_ref().and_then(|quickstart| quickstart.admin_token.as_ref());
    let token = generated.map_or("the-configured-token", |token| token.expose());
    Zeroizing::new(format!("\n  dashboard  {url}\n  token      {token}\n"))
}

/// A name and password to show. A configured password isn't shown, one that was made for the trial is.
fn trial_credentials(config: &Config, now_unix_secs: u64) -> (String, Zeroizing<String>) {
    let generated = config.quickstart.as_ref().and_then(|quickstart| quickstart.generated.as_ref());
    if let Some(user) = generated {
        return (user.name.clone(), Zeroizing::new(user.password.expose().to_owned()));
    }
    if let Some(user) = config.users.first() {
        return (user.name.clone(), Zeroizing::new("the-configured-password".to_owned()));
    }
    let expiry = now_unix_secs.saturating_add(TRIAL_CREDENTIAL_SECS);
    match config.auth_secrets.first().map(|secret| credentials::issue(secret, "quickstart", expiry)) {
        Some(Ok(credential)) => (credential.username, credential.password),
        _ => ("none".to_owned(), Zeroizing::new("none".to_owned())),
    }
}

/// Where clients reach the relay, the most useful address first. For a wildcard that is the relay
/// address of its family, which other hosts see too.
fn endpoints(listen: &[SocketAddr], relays: &[RelayIp]) -> Vec<SocketAddr> {
    let reachable = |listener: &SocketAddr| {
        let same_family = |relay: &&RelayIp| relay.local.is_ipv4() == listener.is_ipv4();
        let ip = match listener.ip() {
            ip if !ip.is_unspecified() => ip,
            // An IPv6 listener without an address beyond this host isn't worth an URL.
            IpAddr::V6(_) => relays.iter().find(same_family)?.public(),
            IpAddr::V4(_) => {
                relays.iter().find(same_family).map_or(Ipv4Addr::LOCALHOST.into(), |relay| relay.public())
            }
        };
        Some(SocketAddr::new(ip, listener.port()))
    };
    let mut endpoints: Vec<_> = listen.iter().filter_map(reachable).collect();
    if endpoints.is_empty() {
        let local = |listener: &SocketAddr| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), listener.port());
        endpoints.extend(listen.first().map(local));
    }
    endpoints
}

/// What the trial changed, so that nobody is surprised.
fn notes(config: &Config) -> String {
    let mut notes = String::new();
    let generated = config.quickstart.as_ref().is_some_and(|quickstart| quickstart.generated.is_some());
    if generated {
        notes.push_str("The password is new at each start. ");
    }
    if config.rfc5766_channel_numbers {
        notes.push_str("Channel numbers of RFC 5766 are accepted (older test clients use them). ");
    }
    let allowed: Vec<_> = config.allow_peer.iter().map(ToString::to_string).collect();
    if !allowed.is_empty() {
        notes.push_str(&format!("Peers in {} are allowed. ", allowed.join(", ")));
    }
    if config.allow_loopback_peers {
        notes.push_str("Peers on loopback addresses are allowed. ");
    }
    notes.push_str("For service, write a configuration: docs/configuration.md.\n");
    notes
}

/// A word for a POSIX shell.
fn shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/+=@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Hidden, Quickstart, Secret, User};
    use turnpike_driver::choose::Backend;

    fn ready(listen: &[&str], relay: &[(&str, &str)]) -> Ready {
        let listen = listen.iter().map(|text| text.parse().unwrap()).collect();
        let relay = relay
            .iter()
            .map(|(local, public)| RelayIp {
                local: local.parse().unwrap(),
                external: Some(public).filter(|public| *public != local).map(|ip| ip.parse().unwrap()),
            })
            .collect();
        let config = Config { workers: 2.try_into().unwrap(), ..Config::default() };
        let io = Choice { backend: Backend::Epoll, why: "as configured".to_owned() };
        let path = DataPath { name: "userspace", why: "offload is off".to_owned() };
        Ready::new(&config, [listen, Vec::new(), Vec::new()], relay, io, path)
    }

    fn trial() -> Config {
        let quickstart = Quickstart::generate().unwrap();
        Config { quickstart: Some(quickstart), rfc5766_channel_numbers: true, ..Config::default() }
    }

    #[test]
    fn the_ready_line_says_what_is_used_and_why() {
        let ready = ready(
            &["0.0.0.0:3478", "[::]:3478"],
            &[("10.0.0.5", "203.0.113.9"), ("2001:db8::5", "2001:db8::5")],
        );
        assert_eq!(
            ready.to_string(),
            "turnpike ready: listen=0.0.0.0:3478,[::]:3478 relay=203.0.113.9=10.0.0.5,2001:db8::5 \
             ports=49152-65535 workers=2 io=epoll (as configured) \
             data-path=userspace (offload is off)"
        );
    }

    #[test]
    fn a_trial_prints_what_a_developer_needs() {
        let config = trial();
        let password =
            config.quickstart.as_ref().unwrap().generated.as_ref().unwrap().password.expose().to_owned();
        assert_eq!(password.len(), 32);
        let ready = ready(&["0.0.0.0:3478", "[::]:3478"], &[("192.168.1.5", "192.168.1.5")]);
        let text = quickstart_text(&ready, &config, 0);
        for expected in [
            "TURN URL   turn:192.168.1.5:3478?transport=udp\n".to_owned(),
            format!("turnutils_uclient -y -c -u quickstart -w {password} -n 50 -p 3478 192.168.1.5\n"),
            "urls: [\"turn:192.168.1.5:3478?transport=udp\"],".to_owned(),
            "username: \"quickstart\",".to_owned(),
            format!("credential: \"{password}\","),
            "data path  userspace: offload is off\n".to_owned(),
        ] {
            assert!(text.contains(&expected), "{expected:?} is missing in {}", text.as_str());
        }
        assert!(!ready.to_string().contains(&password), "the ready line has no password");
    }

    // RFC 7065 s. 3.1
    #[test]
    fn urls_name_each_transport_and_a_certificate_s_names() {
        let ready = Ready {
            tcp: vec!["0.0.0.0:3478".parse().unwrap()],
            tls: vec!["0.0.0.0:443".parse().unwrap(), "[::]:443".parse().unwrap()],
            ..ready(&["0.0.0.0:3478"], &[("10.0.0.5", "203.0.113.9")])
        };
        let names = ["*.example.org", "turn.example.org", "192.0.2.1"].map(str::to_owned);
        assert_eq!(
            urls(&ready, &names),
            [
                "turn:203.0.113.9:3478?transport=udp",
                "turn:203.0.113.9:3478?transport=tcp",
                "turns:turn.example.org:443?transport=tcp",
            ]
        );
        assert!(ready.to_string().starts_with(
            "turnpike ready: listen=0.0.0.0:3478 tcp=0.0.0.0:3478 tls=0.0.0.0:443,[::]:443 relay="
        ));
        assert_eq!(ready.listeners().len(), 4, "none of them is a peer for anybody");
        let without_udp = Ready { listen: Vec::new(), ..ready };
        assert!(without_udp.to_string().starts_with("turnpike ready: tcp="));
        assert_eq!(urls(&without_udp, &[]), ["turn:203.0.113.9:3478?transport=tcp"]);
    }

    #[test]
    fn two_trials_have_two_passwords() {
        let password = || Quickstart::generate().unwrap().generated.unwrap().password.expose().to_owned();
        assert_ne!(password(), password());
    }

    #[test]
    fn a_configured_password_is_not_printed() {
        let user =
            User { name: "al'ice".to_owned(), password: Secret::new(Zeroizing::new("hush-hush".to_owned())) };
        let config = Config {
            users: Hidden(vec![user]),
            quickstart: Some(Quickstart { generated: None, admin_token: None }),
            ..Config::default()
        };
        let text = quickstart_text(&ready(&["127.0.0.1:3478"], &[("127.0.0.1", "127.0.0.1")]), &config, 0);
        assert!(!text.contains("hush-hush"), "{}", text.as_str());
        assert!(text.contains("-u 'al'\\''ice' -w the-configured-password"), "{}", text.as_str());
        assert!(text.contains("username: \"al'ice\""), "{}", text.as_str());
    }

    #[test]
    fn a_configured_secret_gives_a_credential_for_a_day() {
        let secret = Secret::new(Zeroizing::new("north".to_owned()));
        let config = Config {
            auth_secrets: Hidden(vec![secret.clone()]),
            quickstart: Some(Quickstart { generated: None, admin_token: None }),
            ..Config::default()
        };
        let text = quickstart_text(&ready(&["[::]:3478"], &[("2001:db8::5", "2001:db8::5")]), &config, 1_000);
        let expected = credentials::issue(&secret, "quickstart", 87_400).unwrap();
        assert!(text.contains("user       87400:quickstart\n"), "{}", text.as_str());
        assert!(text.contains(expected.password.as_str()), "{}", text.as_str());
        assert!(text.contains("turn:[2001:db8::5]:3478?transport=udp"), "{}", text.as_str());
        assert!(text.contains("-p 3478 2001:db8::5\n"), "{}", text.as_str());
        assert!(!text.contains("north"), "{}", text.as_str());
    }
}
