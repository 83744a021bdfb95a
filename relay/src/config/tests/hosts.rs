//! Tests of what a configuration means on a host.

use std::net::IpAddr;

use crate::config::layers::{Settings, from_flags};
use crate::config::options::assign;
use crate::config::report::{Place, Report};
use crate::config::resolve::{Host, LocalAddress, RelayAddress, resolve};
use crate::config::*;

fn address(interface: &str, ip: &str, prefix: u8, stable: bool) -> LocalAddress {
    let ip: IpAddr = ip.parse().unwrap();
    let network = ipnet::IpNet::new(ip, prefix).unwrap().trunc();
    LocalAddress { interface: interface.to_owned(), ip, network, stable }
}

/// A laptop: Docker's bridge first, then the LAN with a temporary and a stable IPv6 address.
fn laptop() -> Host {
    Host {
        addresses: vec![
            address("lo", "127.0.0.1", 8, true),
            address("lo", "::1", 128, true),
            address("docker0", "172.17.0.1", 16, true),
            address("wlan0", "192.168.1.5", 24, true),
            address("wlan0", "2001:db8::aaaa", 64, false),
            address("wlan0", "2001:db8::5", 64, true),
            address("wlan0", "fe80::5", 64, true),
        ],
        routed_v4: Some("192.168.1.5".parse().unwrap()),
        routed_v6: Some("2001:db8::aaaa".parse().unwrap()),
    }
}

fn lonely() -> Host {
    Host { addresses: vec![address("lo", "127.0.0.1", 8, true)], ..Host::default() }
}

fn locals(config: &Config, host: &Host) -> Vec<String> {
    resolve(config, host)
        .expect("relay addresses")
        .relay
        .iter()
        .map(|relay| relay.local.to_string())
        .collect()
}

#[test]
fn wildcards_become_the_primary_addresses() {
    let config = Config::default();
    let addresses = resolve(&config, &laptop()).unwrap();
    let listen: Vec<_> = addresses.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:3478", "[::]:3478"]);
    assert_eq!(locals(&config, &laptop()), ["192.168.1.5", "2001:db8::5"]);
    // Without a default route nothing tells one private address from another.
    let unrouted = Host { routed_v4: None, routed_v6: None, ..laptop() };
    assert_eq!(locals(&config, &unrouted), ["172.17.0.1", "2001:db8::5"]);
    assert_eq!(locals(&config, &lonely()), ["127.0.0.1"]);
    assert_eq!(resolve(&config, &lonely()).unwrap().listen.len(), 1, "no IPv6 there");
    assert!(
        resolve(&config, &Host::default()).unwrap_err().to_string().starts_with("relay-address: none found")
    );
}

#[test]
fn named_listeners_are_relay_addresses_too() {
    let listen = ["10.0.0.1:3478", "10.0.0.1:3479", "[2001:db8::9]:3478"];
    let config =
        Config { listen: listen.iter().map(|text| text.parse().unwrap()).collect(), ..Config::default() };
    assert_eq!(locals(&config, &laptop()), ["10.0.0.1", "2001:db8::9"]);
    let config = Config { relay_address: vec!["192.0.2.1".parse().unwrap()], ..config };
    assert_eq!(locals(&config, &laptop()), ["192.0.2.1"]);
}

#[test]
fn external_addresses_map_exactly_before_they_map_generally() {
    let external = |public: &str, local: Option<&str>| ExternalAddress {
        public: public.parse().unwrap(),
        local: local.map(|local| local.parse().unwrap()),
    };
    let config = Config {
        relay_address: vec![
            "10.0.0.1".parse().unwrap(),
            "10.0.0.2".parse().unwrap(),
            "fd00::1".parse().unwrap(),
        ],
        external_address: vec![external("192.0.2.1", None), external("192.0.2.2", Some("10.0.0.2"))],
        ..Config::default()
    };
    let addresses = resolve(&config, &laptop()).unwrap();
    let public = |index: usize| addresses.relay[index].public.to_string();
    assert_eq!((public(0), public(1), public(2)), ("192.0.2.1".into(), "192.0.2.2".into(), "fd00::1".into()));
    let config = Config { external_address: vec![external("192.0.2.1", None)], ..config };
    let warnings = resolve(&config, &laptop()).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].to_string().contains("stands for both 10.0.0.1 and 10.0.0.2"), "{}", warnings[0]);
    let config =
        Config { external_address: vec![external("192.0.2.1", Some("10.9.9.9"))], ..Config::default() };
    let faults = resolve(&config, &laptop()).unwrap_err().to_string();
    assert_eq!(faults, "external-address: \"192.0.2.1=10.9.9.9\": 10.9.9.9 is not a relay-address");
}

#[test]
fn derived_relay_addresses_are_judged_at_the_start() {
    let texts: Vec<_> =
        resolve(&Config::default(), &laptop()).unwrap().warnings.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].starts_with("relay-address: \"192.168.1.5\": is private"), "{texts:?}");
    let mapped: RelayAddress = resolve(&Config::default(), &laptop()).unwrap().relay[0];
    assert_eq!(mapped.local, mapped.public);
}

fn trial(host: &Host, flags: &[&str]) -> Config {
    let flags = std::iter::once("turnpike").chain(flags.iter().copied());
    let matches = crate::cli::command().try_get_matches_from(flags).unwrap();
    let mut settings = Settings::merge(Place::CommandLine, [from_flags(&matches)]);
    let mut report = Report::default();
    let mut config = assign(&mut settings, &mut report);
    Quickstart::generate().unwrap().apply_on(&mut config, &settings, host);
    config
}

#[test]
fn a_trial_fills_in_what_is_missing() {
    let config = trial(&laptop(), &[]);
    assert_eq!(config.users.len(), 1);
    assert!(config.rfc5766_channel_numbers && !config.allow_loopback_peers);
    assert!(config.listen.is_empty(), "both wildcards");
    assert_eq!(format!("{:?}", config.allow_peer), "[192.168.1.0/24]", "the LAN, not Docker, nothing public");
    let config = trial(&lonely(), &[]);
    assert_eq!(config.listen, ["127.0.0.1:3478".parse().unwrap()]);
    assert_eq!(config.relay_address, [IpAddr::from([127, 0, 0, 1])]);
    assert!(config.allow_loopback_peers && config.allow_peer.is_empty());
}

#[test]
fn a_trial_leaves_alone_what_is_configured() {
    let flags = [
        "--user",
        "alice:pw",
        "--rfc5766-channel-numbers=false",
        "--allow-peer",
        "192.0.2.1",
        "--listen",
        "127.0.0.1:1",
        "--allow-loopback-peers=false",
    ];
    let config = trial(&laptop(), &flags);
    assert_eq!(config.users.len(), 1);
    assert_eq!(config.users[0].name, "alice");
    assert!(config.quickstart.as_ref().unwrap().generated.is_none());
    assert!(!config.rfc5766_channel_numbers && !config.allow_loopback_peers);
    assert_eq!(config.allow_peer.len(), 1);
    assert_eq!(config.listen, ["127.0.0.1:1".parse().unwrap()]);
}
