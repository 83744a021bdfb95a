//! turnutils_uclient's command line, read as getopt_long reads it: flags may be combined (`-yc`), values
//! may be attached (`-n50`), options may follow the server's address, `--` ends them.

use std::net::IpAddr;
use std::path::PathBuf;

use super::output::Style;
use crate::limits::MAX_CLIENTS;
use crate::transport::Transport;

/// Flags without a value, and options with one.
const PLAIN: &str = "tbTPSUvsyhcxXgDNROMIGBZJ";
const VALUED: &str = "lpndLmerzuwWCikEFoaKY";
/// Long options: name, whether a value follows, and the letter they stand for (or their own name).
const LONG: [(&str, bool); 10] = [
    ("listener-threads", true),
    ("sender-threads", true),
    ("no-even-port", false),
    ("fail-above-loss", true),
    ("output-style", true),
    ("json", true),
    ("html", true),
    ("alloc-peer", true),
    ("setup-timeout", true),
    ("help", false),
];
/// Flags whose transport or method this program doesn't have.
const UNSUPPORTED: [(char, &str); 6] = [
    ('b', "SCTP to the server"),
    ('P', "RFC 6062 TCP relay, passive"),
    ('U', "TLS with a NULL cipher"),
    ('J', "OAuth"),
    ('F', "cipher suites"),
    ('?', "this flag"),
];
/// Smallest and largest `-l`.
const PAYLOAD: std::ops::RangeInclusive<usize> = 16..=65_407;

/// What is sent in a `-Y` run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMode {
    /// Packets as fast as possible.
    Packet,
    /// Allocations one after another.
    Alloc,
    /// Bytes that are no STUN.
    Invalid,
}

/// Everything the flags say.
#[derive(Debug, Clone, PartialEq)]
pub struct Flags {
    /// Server address, as given.
    pub server: String,
    /// `-p`, or what the transport has by default.
    pub port: u16,
    /// `-t`, `-S`.
    pub transport: Transport,
    /// `-E`.
    pub ca_file: Option<PathBuf>,
    /// `-i`.
    pub certificate: Option<PathBuf>,
    /// `-k`.
    pub key: Option<PathBuf>,
    /// `-y`.
    pub client_to_client: bool,
    /// `-e`.
    pub peer: Option<IpAddr>,
    /// `-T`.
    pub tcp_relay: bool,
    /// `-r`.
    pub peer_port: u16,
    /// `-m`, as given.
    pub clients: usize,
    /// `-n`; `None` = no end (`-Y` only).
    pub messages: Option<u64>,
    /// `-l`.
    pub payload_bytes: usize,
    /// `-z`, ms.
    pub interval_ms: u64,
    /// `-c` or implied.
    pub no_rtcp: bool,
    /// `-s`.
    pub indications: bool,
    /// `-x`.
    pub relay_v6: bool,
    /// `-X`.
    pub relay_v4: bool,
    /// `-Z`.
    pub dual: bool,
    /// `-g`.
    pub dont_fragment: bool,
    /// `-D`.
    pub padding: bool,
    /// `-u`.
    pub user: Option<String>,
    /// `-w`.
    pub password: Option<String>,
    /// `-W`.
    pub rest_secret: Option<String>,
    /// `-C`.
    pub separator: char,
    /// `-L`.
    pub local: Option<IpAddr>,
    /// `-d`.
    pub device: Option<String>,
    /// `-M`.
    pub mobility: bool,
    /// `-a`.
    pub bandwidth: u32,
    /// `-o`.
    pub origin: Option<String>,
    /// `-I`.
    pub no_permission: bool,
    /// `-G`.
    pub extra_requests: bool,
    /// `-N`.
    pub random_channels: bool,
    /// `-R`.
    pub disrupt: bool,
    /// `-B`.
    pub drop_sockets: bool,
    /// `-O`.
    pub quick_exit: bool,
    /// `-h`.
    pub hang: bool,
    /// `-v`.
    pub verbose: bool,
    /// `-K`, `--listener-threads`.
    pub listener_threads: Option<usize>,
    /// `--sender-threads`.
    pub sender_threads: Option<usize>,
    /// `--no-even-port`.
    pub no_even_port: bool,
    /// `-Y`.
    pub load_mode: Option<LoadMode>,
    /// `--fail-above-loss`, percent.
    pub fail_above_loss: Option<f64>,
    /// `--output-style`.
    pub style: Style,
    /// `--json`.
    pub json: Option<PathBuf>,
    /// `--html`.
    pub html: Option<PathBuf>,
    /// `--alloc-peer`: the peer of `-Y alloc`'s permissions.
    pub alloc_peer: Option<IpAddr>,
    /// `--setup-timeout`, seconds.
    pub setup_timeout_secs: u64,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            server: String::new(),
            port: Transport::Udp.default_port(),
            transport: Transport::Udp,
            ca_file: None,
            certificate: None,
            key: None,
            client_to_client: false,
            peer: None,
            tcp_relay: false,
            peer_port: 3480,
            clients: 1,
            messages: None,
            payload_bytes: 100,
            interval_ms: 20,
            no_rtcp: false,
            indications: false,
            relay_v6: false,
            relay_v4: false,
            dual: false,
            dont_fragment: false,
            padding: false,
            user: None,
            password: None,
            rest_secret: None,
            separator: ':',
            local: None,
            device: None,
            mobility: false,
            bandwidth: 0,
            origin: None,
            no_permission: false,
            extra_requests: false,
            random_channels: false,
            disrupt: false,
            drop_sockets: false,
            quick_exit: false,
            hang: false,
            verbose: false,
            listener_threads: None,
            sender_threads: None,
            no_even_port: false,
            load_mode: None,
            fail_above_loss: None,
            style: Style::V4_6,
            json: None,
            html: None,
            alloc_peer: None,
            setup_timeout_secs: 60,
        }
    }
}

/// Why a command line isn't run, with coturn's exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One line for stderr.
    pub message: String,
    /// Whether the usage follows.
    pub usage: bool,
    /// 1 for an unknown flag or a bad value, 255 for a missing one.
    pub status: u8,
}

fn refuse(message: impl Into<String>) -> Refusal {
    Refusal { message: message.into(), usage: false, status: 1 }
}

fn missing(message: &str) -> Refusal {
    Refusal { message: message.into(), usage: true, status: 255 }
}

/// Reads the arguments after the program's name.
pub fn parse(arguments: &[String]) -> Result<Flags, Refusal> {
    let mut flags = Flags::default();
    let mut given = Given::default();
    let mut positional = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            positional.extend(rest.by_ref().cloned());
        } else if let Some(long) = argument.strip_prefix("--") {
            parse_long(&mut flags, long, &mut rest)?;
        } else if argument.len() > 1 && argument.starts_with('-') {
            parse_short(&mut flags, &mut given, &argument[1..], &mut rest)?;
        } else {
            positional.push(argument.clone());
        }
    }
    finish(flags, &given, positional)
}

/// Which flags with a mode-dependent default were given.
#[derive(Default)]
struct Given {
    interval: bool,
    payload: bool,
    no_rtcp: bool,
    port: bool,
    tcp: bool,
    secure: bool,
}

fn parse_short(
    flags: &mut Flags,
    given: &mut Given,
    cluster: &str,
    rest: &mut std::slice::Iter<'_, String>,
) -> Result<(), Refusal> {
    for (at, letter) in cluster.char_indices() {
        if let Some((_, what)) = UNSUPPORTED.iter().find(|(flag, _)| *flag == letter && letter != '?') {
            return Err(refuse(format!("-{letter}: {what} is not supported yet")));
        }
        if PLAIN.contains(letter) {
            set_plain(flags, given, letter);
        } else if VALUED.contains(letter) {
            let attached = &cluster[at + letter.len_utf8()..];
            let value = if attached.is_empty() { rest.next().map(String::as_str) } else { Some(attached) };
            let value = value.ok_or_else(|| Refusal {
                message: format!("option requires an argument -- '{letter}'"),
                usage: true,
                status: 1,
            })?;
            return set_value(flags, given, letter, value);
        } else {
            return Err(Refusal { message: format!("invalid option -- '{letter}'"), usage: true, status: 1 });
        }
    }
    Ok(())
}

fn set_plain(flags: &mut Flags, given: &mut Given, letter: char) {
    match letter {
        't' => given.tcp = true,
        'T' => {
            given.tcp = true;
            flags.tcp_relay = true;
        }
        'S' => given.secure = true,
        'v' => flags.verbose = true,
        's' => flags.indications = true,
        'y' => flags.client_to_client = true,
        'h' => flags.hang = true,
        'c' => {
            flags.no_rtcp = true;
            given.no_rtcp = true;
        }
        'x' => flags.relay_v6 = true,
        'X' => flags.relay_v4 = true,
        'g' => flags.dont_fragment = true,
        'D' => flags.padding = true,
        'N' => flags.random_channels = true,
        'R' => flags.disrupt = true,
        'O' => flags.quick_exit = true,
        'M' => flags.mobility = true,
        'I' => flags.no_permission = true,
        'G' => flags.extra_requests = true,
        'B' => flags.drop_sockets = true,
        'Z' => flags.dual = true,
        _ => {}
    }
}

fn number<T: std::str::FromStr>(letter: char, value: &str) -> Result<T, Refusal> {
    value.trim().parse().map_err(|_| refuse(format!("-{letter}: not a usable number: {value}")))
}

fn address(name: &str, value: &str) -> Result<IpAddr, Refusal> {
    value.parse().map_err(|_| Refusal {
        message: format!("{name}: not an IP address: {value}"),
        usage: false,
        status: 255,
    })
}

fn set_value(flags: &mut Flags, given: &mut Given, letter: char, value: &str) -> Result<(), Refusal> {
    match letter {
        'l' => {
            flags.payload_bytes = number(letter, value)?;
            given.payload = true;
        }
        'p' => {
            flags.port = number(letter, value)?;
            given.port = true;
        }
        'i' => flags.certificate = Some(value.into()),
        'k' => flags.key = Some(value.into()),
        'E' => flags.ca_file = Some(value.into()),
        'n' => flags.messages = Some(number(letter, value)?),
        'd' => flags.device = Some(value.to_owned()),
        'L' => flags.local = Some(address("-L", value)?),
        'm' => flags.clients = number(letter, value)?,
        'e' => flags.peer = Some(address("-e", value)?),
        'r' => flags.peer_port = number(letter, value)?,
        'z' => {
            flags.interval_ms = number(letter, value)?;
            given.interval = true;
        }
        'u' => flags.user = Some(value.to_owned()),
        'w' => flags.password = Some(value.to_owned()),
        'W' => flags.rest_secret = Some(value.to_owned()),
        'C' => {
            let mut characters = value.chars();
            flags.separator = characters.next().ok_or_else(|| refuse("-C: give one character"))?;
        }
        'o' => flags.origin = Some(value.to_owned()),
        'a' => flags.bandwidth = number(letter, value)?,
        'K' => flags.listener_threads = Some(threads(value)?),
        'Y' => {
            flags.load_mode = Some(match value {
                "packet" => LoadMode::Packet,
                "alloc" => LoadMode::Alloc,
                "invalid" => LoadMode::Invalid,
                _ => return Err(refuse(format!("-Y: packet, alloc or invalid, not {value}"))),
            });
        }
        _ => return Err(refuse(format!("-{letter} is not supported yet"))),
    }
    Ok(())
}

fn threads(value: &str) -> Result<usize, Refusal> {
    value
        .parse()
        .ok()
        .filter(|count| *count <= 4)
        .ok_or_else(|| refuse(format!("threads are 0 to 4, not {value}")))
}

fn parse_long(flags: &mut Flags, text: &str, rest: &mut std::slice::Iter<'_, String>) -> Result<(), Refusal> {
    let (name, attached) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let unknown = || Refusal { message: format!("unrecognized option '--{name}'"), usage: true, status: 1 };
    let (name, takes_value) = *LONG.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
    let value = match (takes_value, attached) {
        (false, _) => "",
        (true, Some(value)) => value,
        (true, None) => {
            rest.next().ok_or_else(|| refuse(format!("option '--{name}' requires an argument")))?.as_str()
        }
    };
    let decimal = || value.parse::<f64>().map_err(|_| refuse(format!("--{name}: not a number: {value}")));
    match name {
        "listener-threads" => flags.listener_threads = Some(threads(value)?),
        "sender-threads" => flags.sender_threads = Some(threads(value)?),
        "no-even-port" => flags.no_even_port = true,
        "fail-above-loss" => flags.fail_above_loss = Some(decimal()?),
        "json" => flags.json = Some(value.into()),
        "html" => flags.html = Some(value.into()),
        "alloc-peer" => flags.alloc_peer = Some(address("--alloc-peer", value)?),
        "setup-timeout" => flags.setup_timeout_secs = decimal()?.clamp(1.0, 86_400.0) as u64,
        "output-style" => {
            flags.style = match value {
                "4.6" => Style::V4_6,
                "4.17" => Style::V4_17,
                _ => return Err(refuse(format!("--output-style: 4.6 or 4.17, not {value}"))),
            };
        }
        _ => return Err(Refusal { message: String::new(), usage: true, status: 0 }),
    }
    Ok(())
}

/// Applies what flags imply for each other, and refuses what doesn't fit together.
fn finish(mut flags: Flags, given: &Given, positional: Vec<String>) -> Result<Flags, Refusal> {
    if flags.load_mode.is_some() {
        if flags.client_to_client {
            return Err(refuse("-Y and -y exclude each other"));
        }
        flags.no_rtcp = true;
        if !given.interval {
            flags.interval_ms = 0;
        }
        if flags.load_mode == Some(LoadMode::Invalid) && !given.payload {
            flags.payload_bytes = 16;
        }
    } else {
        flags.messages = flags.messages.or(Some(5));
    }
    flags.no_rtcp |= flags.dual;
    set_relayed_transport(&mut flags)?;
    set_transport(&mut flags, given)?;
    let needs_peer = !matches!(flags.load_mode, Some(LoadMode::Alloc | LoadMode::Invalid));
    if needs_peer && flags.peer.is_none() && !flags.client_to_client {
        return Err(missing("Either -e peer_address or -y must be specified"));
    }
    let mut positional = positional.into_iter();
    flags.server = positional.next().ok_or_else(|| missing("the TURN server's IP address is missing"))?;
    let invalid = flags.load_mode == Some(LoadMode::Invalid);
    let smallest = if invalid { 1 } else { *PAYLOAD.start() };
    if !(smallest..=*PAYLOAD.end()).contains(&flags.payload_bytes) {
        return Err(refuse(format!("-l: {} to {} bytes", PAYLOAD.start(), PAYLOAD.end())));
    }
    if flags.clients == 0 || flags.clients > MAX_CLIENTS {
        return Err(refuse(format!("-m: 1 to {MAX_CLIENTS} clients")));
    }
    if flags.messages == Some(0) {
        return Err(refuse("-n: at least one message"));
    }
    Ok(flags)
}

/// What `-T` implies: pairs of clients, unless there is a peer, and no datagrams.
fn set_relayed_transport(flags: &mut Flags) -> Result<(), Refusal> {
    if !flags.tcp_relay {
        return Ok(());
    }
    let useless = [
        (flags.load_mode.is_some(), "-Y"),
        (flags.dual, "-Z"),
        (flags.random_channels, "-N"),
        (flags.no_permission, "-I"),
        (flags.extra_requests, "-G"),
        (flags.drop_sockets, "-B"),
    ];
    if let Some((_, flag)) = useless.iter().find(|(is_given, _)| *is_given) {
        return Err(refuse(format!("{flag} with -T: it is about UDP to the peers")));
    }
    flags.client_to_client |= flags.peer.is_none();
    flags.no_rtcp = true;
    flags.indications = false;
    flags.dont_fragment = false;
    Ok(())
}

fn set_transport(flags: &mut Flags, given: &Given) -> Result<(), Refusal> {
    flags.transport = match (given.tcp, given.secure) {
        (false, false) => Transport::Udp,
        (true, false) => Transport::Tcp,
        (true, true) => Transport::Tls,
        (false, true) => return Err(refuse("-S without -t: DTLS to the server is not supported yet")),
    };
    if !given.port {
        flags.port = flags.transport.default_port();
    }
    if flags.certificate.is_some() != flags.key.is_some() {
        return Err(refuse("-i and -k go together: a certificate and its key"));
    }
    if flags.transport.is_stream() && flags.disrupt {
        return Err(refuse("-R: a spoilt length would end the stream"));
    }
    if flags.transport.is_stream() && flags.load_mode == Some(LoadMode::Invalid) {
        return Err(refuse("-Y invalid: what is no message would end the stream"));
    }
    Ok(())
}

impl Flags {
    /// Legs of the run: `-m` rounded up to whole clients and pairs.
    pub fn legs(&self) -> usize {
        let unit = match (self.client_to_client, self.no_rtcp) {
            (true, false) => 4,
            (true, true) | (false, false) => 2,
            (false, true) => 1,
        };
        self.clients.next_multiple_of(unit)
    }
}

/// The usage text.
pub const USAGE: &str = "\
Usage: uclient [flags] [options] turn-server-ip-address
Flags:
\t-t\tTCP to the server (default: UDP).
\t-S\tWith -t: TLS to the server.
\t-T\tTCP to the peers, too (RFC 6062). Implies -t, -c, and -y without -e.
\t-v\tVerbose: percentiles and more at the end.
\t-s\tUse Send and Data indications.
\t-y\tUse client-to-client connections.
\t-h\tHang on indefinitely after the last sent packet.
\t-c\tNo rtcp connections.
\t-x\tIPv6 relay address requested.
\t-X\tIPv4 relay address explicitly requested.
\t-Z\tDual allocation (implies -c).
\t-g\tInclude DONT-FRAGMENT.
\t-D\tPad ChannelData to 4 bytes.
\t-N\tRandom channel numbers.
\t-R\tSpoil one message in ten.
\t-O\tConnect and exit.
\t-M\tInclude MOBILITY-TICKET.
\t-I\tDo not set permissions.
\t-G\tExtra permissions and channels.
\t-B\tDrop the sockets after a few packets.
Options:
\t-l\tMessage length (default: 100 bytes).
\t-p\tTURN server port (default: 3478, with -S 5349).
\t-E\tCA file to check the server's certificate with (default: it isn't checked).
\t-i, -k\tClient certificate and its key.
\t-n\tNumber of messages to send (default: 5).
\t-d\tLocal interface device.
\t-L\tLocal address.
\t-m\tNumber of clients (default: 1).
\t-e\tPeer address.
\t-r\tPeer port (default 3480).
\t-z\tPer-session packet interval in milliseconds (default: 20 ms).
\t-u\tUser name.
\t-w\tPassword.
\t-W\tTURN REST API secret.
\t-C\tTURN REST API separator (default: ':').
\t-o\tORIGIN attribute value.
\t-a\tBandwidth for the Allocate request.
\t-Y\tLoad mode: packet, alloc, invalid.
\t-K, --listener-threads, --sender-threads\tThreads, 0 to 4.
\t--no-even-port\tNever send EVEN-PORT.
\t--setup-timeout SECS\tDeadline of the set-up (default: 60).
\t--alloc-peer IP\tPeer of -Y alloc's permissions (default: synthetic ones).
\t--fail-above-loss PERCENT\tExit with 1 if more is lost.
\t--output-style 4.6|4.17\tPrefix of the lines (default: 4.6).
\t--json FILE, --html FILE\tWrite a report.
Not supported yet: -b -P -U -J -F, -S without -t.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Flags, Refusal> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_combine_and_values_attach() {
        let flags = parsed("-yc -n50 -m 10 127.0.0.1 -z1 -ustan -wa=b").expect("getopt accepts it");
        assert!(flags.client_to_client && flags.no_rtcp);
        assert_eq!((flags.messages, flags.clients, flags.interval_ms), (Some(50), 10, 1));
        assert_eq!((flags.user.as_deref(), flags.password.as_deref()), (Some("stan"), Some("a=b")));
        assert_eq!(flags.server, "127.0.0.1");
        let flags = parsed("-ycn 7 -- ::1").expect("the last of a cluster may take a value");
        assert_eq!((flags.messages, flags.server.as_str()), (Some(7), "::1"));
    }

    #[test]
    fn defaults_are_coturns() {
        let flags = parsed("-y 10.0.0.1").expect("-y suffices");
        assert_eq!((flags.messages, flags.payload_bytes, flags.interval_ms), (Some(5), 100, 20));
        assert_eq!((flags.port, flags.peer_port, flags.clients), (3478, 3480, 1));
    }

    #[test]
    fn legs_are_rounded_as_coturn_rounds_them() {
        for (line, legs) in [
            ("-y -m 5 s", 8),
            ("-y -c -m 5 s", 6),
            ("-e 1.2.3.4 -m 5 s", 6),
            ("-e 1.2.3.4 -c -m 5 s", 5),
            ("-y -Z -m 1 s", 2),
        ] {
            assert_eq!(parsed(line).expect(line).legs(), legs, "{line}");
        }
    }

    #[test]
    fn load_modes_have_their_own_defaults() {
        let flags = parsed("-Y packet -e 1.2.3.4 s").expect("packet");
        assert_eq!((flags.messages, flags.interval_ms, flags.no_rtcp), (None, 0, true));
        assert_eq!(parsed("-Y invalid s").expect("invalid").payload_bytes, 16);
        assert_eq!(parsed("-Y packet s").unwrap_err().status, 255, "packet needs a peer");
        assert_eq!(parsed("-Y alloc -y s").unwrap_err().status, 1);
        assert_eq!(parsed("-Y other s").unwrap_err().status, 1);
    }

    #[test]
    fn the_transport_decides_the_port() {
        let of = |line: &str| parsed(line).map(|flags| (flags.transport, flags.port));
        assert_eq!(of("-y -t s"), Ok((Transport::Tcp, 3478)));
        assert_eq!(of("-ytS s"), Ok((Transport::Tls, 5349)));
        assert_eq!(of("-y -p 443 -S -t s"), Ok((Transport::Tls, 443)));
        let flags = parsed("-y -t -S -i c.pem -k k.pem -E ca.pem s").expect("all known");
        assert_eq!(flags.ca_file, Some("ca.pem".into()));
        for line in ["-y -t -S -i c.pem s", "-y -t -R s", "-t -Y invalid s"] {
            assert_eq!(parsed(line).unwrap_err().status, 1, "{line}");
        }
    }

    #[test]
    fn tcp_to_the_peers_implies_what_it_needs() {
        let flags = parsed("-T -s -g -m 3 s").expect("-T suffices");
        assert_eq!((flags.transport, flags.legs()), (Transport::Tcp, 4));
        assert!(flags.client_to_client && flags.no_rtcp && !flags.indications && !flags.dont_fragment);
        let flags = parsed("-TS -e 1.2.3.4 -m 3 s").expect("an echo");
        assert_eq!((flags.transport, flags.port, flags.legs()), (Transport::Tls, 5349, 3));
        assert!(!flags.client_to_client);
        for line in ["-T -Y packet s", "-T -Z s", "-TN s", "-TI s", "-TG s", "-TB s", "-TR s"] {
            assert_eq!(parsed(line).unwrap_err().status, 1, "{line}");
        }
    }

    #[test]
    fn refusals_have_coturns_status() {
        assert_eq!(parsed("-y -Q s").unwrap_err().status, 1, "unknown flag");
        assert_eq!(parsed("-n 5 s").unwrap_err().status, 255, "neither -e nor -y");
        assert_eq!(parsed("-y").unwrap_err().status, 255, "no server");
        for flag in ["-S", "-b", "-U", "-P", "-J", "-F"] {
            let refusal = parsed(&format!("-y {flag} s")).unwrap_err();
            assert!(refusal.message.contains("not supported yet"), "{flag}: {}", refusal.message);
            assert_eq!(refusal.status, 1);
        }
        assert_eq!(parsed("-y -l 15 s").unwrap_err().status, 1);
        assert_eq!(parsed("-y --bogus s").unwrap_err().status, 1);
        assert_eq!(parsed("-y -n").unwrap_err().status, 1);
    }
}
