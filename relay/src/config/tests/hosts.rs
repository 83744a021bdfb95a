//! Tests of what a configuration means on a host.

use std::net::IpAddr;

use turnpike_driver::interfaces::LocalAddress;
use turnpike_proto::addr::Family;

use crate::config::layers::from_flags;
use crate::config::options::assign;
use crate::config::report::{Place, Report};
use crate::config::resolve::{Awaited, Host, resolve};
use crate::config::settings::Settings;
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
        has_ipv6: true,
        ..Host::default()
    }
}

fn lonely() -> Host {
    Host { addresses: vec![address("lo", "127.0.0.1", 8, true)], ..Host::default() }
}

fn locals(config: &Config, host: &Host) -> Vec<String> {
    resolve(config, host).relay.iter().map(|relay| relay.local.to_string()).collect()
}

fn near(config: &Config, host: &Host) -> Vec<String> {
    resolve(config, host).near.iter().map(|relay| relay.local.to_string()).collect()
}

/// What a host with sockets for these addresses, too, is waiting for.
fn awaited(config: &Config, host: &Host) -> Vec<Awaited> {
    resolve(config, host).awaited
}

fn ips<const N: usize>(texts: [&str; N]) -> Vec<IpAddr> {
    texts.map(|text| text.parse().unwrap()).into()
}

#[test]
fn wildcards_become_the_primary_addresses() {
    let config = Config::default();
    let addresses = resolve(&config, &laptop());
    let listen: Vec<_> = addresses.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:3478", "[::]:3478"]);
    assert_eq!(locals(&config, &laptop()), ["192.168.1.5", "2001:db8::5"]);
    // Without a default route nothing tells one private address from another.
    let unrouted = Host { routed_v4: None, routed_v6: None, ..laptop() };
    assert_eq!(locals(&config, &unrouted), ["172.17.0.1", "2001:db8::5"]);
    assert_eq!(resolve(&config, &lonely()).listen.len(), 1, "no IPv6 there");
}

// A host without a network yet: nobody may be told of 127.0.0.1
#[test]
fn loopback_is_no_default() {
    for host in [lonely(), Host::default(), Host { has_ipv6: true, ..lonely() }] {
        let addresses = resolve(&Config::default(), &host);
        assert!(addresses.relay.is_empty() && addresses.near.is_empty(), "{addresses:?}");
        assert_eq!(addresses.awaited, [Awaited::AnyRelay]);
        assert_eq!(addresses.awaited_families().len(), 2, "508 for both");
    }
    let named = Config { listen: vec!["127.0.0.1:3478".parse().unwrap()], ..Config::default() };
    assert_eq!(locals(&named, &lonely()), ["127.0.0.1"], "as it was asked to");
}

#[test]
fn what_is_named_and_not_there_is_waited_for() {
    let listen = vec!["192.0.2.1:3478".parse().unwrap(), "[2001:db8::9]:3478".parse().unwrap()];
    let config = Config { listen, relay_address: ips(["10.0.0.1", "10.0.0.2"]), ..Config::default() };
    let nothing = Host { has_ipv6: true, ..lonely() };
    let [v4, v6] = [config.listen[0], config.listen[1]];
    let [first, second] = [config.relay_address[0], config.relay_address[1]];
    assert_eq!(
        awaited(&config, &nothing),
        [Awaited::Listener(v4), Awaited::Listener(v6), Awaited::Relay(first), Awaited::Relay(second)]
    );
    assert_eq!(resolve(&config, &nothing).awaited_families(), [Family::V4]);
    let streams = Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        listen_tcp: vec!["192.0.2.1:443".parse().unwrap()],
        listen_tls: vec!["192.0.2.1:443".parse().unwrap()],
        relay_address: ips(["127.0.0.1"]),
        ..Config::default()
    };
    assert_eq!(awaited(&streams, &nothing), [Awaited::Listener(streams.listen_tls[0])], "said once");
    let half = Host { bindable: ips(["192.0.2.1", "10.0.0.2"]), ..nothing.clone() };
    assert_eq!(awaited(&config, &half), [Awaited::Listener(v6), Awaited::Relay(first)]);
    assert_eq!(locals(&config, &half), ["10.0.0.2"]);
    let all = Host { bindable: ips(["192.0.2.1", "2001:db8::9", "10.0.0.1", "10.0.0.2"]), ..nothing };
    assert!(awaited(&config, &all).is_empty());
}

// RFC 4862 s. 5.4: a tentative address is nobody's yet
#[test]
fn an_interface_may_have_an_address_that_no_socket_can() {
    let tentative = Host { addresses: vec![address("eth0", "2001:db8::5", 64, false)], ..lonely() };
    let config = Config { relay_address: ips(["2001:db8::5"]), ..Config::default() };
    assert_eq!(awaited(&config, &tentative), [Awaited::Relay(config.relay_address[0])]);
    assert_eq!(resolve(&config, &tentative).own, config.relay_address, "but it is ours");
    let done = Host { addresses: vec![address("eth0", "2001:db8::5", 64, true)], ..lonely() };
    assert!(awaited(&config, &done).is_empty());
}

#[test]
fn a_family_that_has_gone_is_missed() {
    let host = Host { had: vec![Family::V4, Family::V6], ..laptop() };
    assert!(awaited(&Config::default(), &host).is_empty());
    let v4_only = |address: &LocalAddress| address.ip.is_ipv4();
    let host = Host { addresses: laptop().addresses.into_iter().filter(v4_only).collect(), ..host };
    assert_eq!(awaited(&Config::default(), &host), [Awaited::Family(Family::V6)]);
    assert_eq!(resolve(&Config::default(), &host).awaited_families(), [Family::V6], "508 instead of 440");
}

// Two networks and no way between them: each one's clients get its address
#[test]
fn other_networks_are_relayed_from_for_those_who_talk_to_them() {
    assert_eq!(near(&Config::default(), &laptop()), ["172.17.0.1"]);
    let networks = |first: &str, second: &str| Host {
        addresses: vec![address("eth0", first, 24, true), address("eth1", second, 24, true)],
        routed_v4: Some(first.parse().unwrap()),
        ..Host::default()
    };
    assert_eq!(near(&Config::default(), &networks("192.0.2.1", "198.51.100.1")), ["198.51.100.1"]);
    assert_eq!(near(&Config::default(), &networks("10.0.0.1", "198.51.100.1")), ["198.51.100.1"]);
    // Everybody reaches the public one.
    assert!(near(&Config::default(), &networks("192.0.2.1", "10.0.0.1")).is_empty());
    let named = Config { relay_address: ips(["10.0.0.1"]), ..Config::default() };
    assert!(near(&named, &networks("10.0.0.1", "10.1.0.1")).is_empty());
    let mapped = Config { external_address: vec![external("192.0.2.1", None)], ..Config::default() };
    assert!(near(&mapped, &networks("10.0.0.1", "10.1.0.1")).is_empty());
}

fn external(public: &str, local: Option<&str>) -> ExternalAddress {
    let public = match public.parse() {
        Ok(ip) => PublicAddress::Ip(ip),
        Err(_) => PublicAddress::Name(public.to_owned()),
    };
    ExternalAddress { public, local: local.map(|local| local.parse().unwrap()) }
}

#[test]
fn a_name_maps_ipv4_once_it_has_told() {
    let config = Config { external_address: vec![external("turn.example.org", None)], ..Config::default() };
    let addresses = resolve(&config, &laptop());
    let [question] = &addresses.questions[..] else { panic!("{addresses:?}") };
    assert_eq!(question.1.to_string(), "192.168.1.5");
    assert_eq!(addresses.awaited, [Awaited::Public(question.0.clone(), question.1)]);
    assert_eq!(locals(&config, &laptop()), ["2001:db8::5"], "which needs no other address");
    let host = Host { publics: [(question.clone(), ips(["192.0.2.9"])[0])].into(), ..laptop() };
    let addresses = resolve(&config, &host);
    assert!(addresses.awaited.is_empty());
    assert_eq!(addresses.relay[0].to_string(), "192.0.2.9=192.168.1.5");
    assert_eq!(addresses.questions.len(), 1, "it is asked again");
}

#[test]
fn external_addresses_name_relay_addresses() {
    let config = Config {
        external_address: vec![
            external("192.0.2.1", Some("172.17.0.1")),
            external("192.0.2.2", Some("10.9.9.9")),
        ],
        ..Config::default()
    };
    assert_eq!(locals(&config, &laptop()), ["172.17.0.1", "2001:db8::5"]);
    assert_eq!(awaited(&config, &laptop()), [Awaited::Relay("10.9.9.9".parse().unwrap())]);
}

#[test]
fn named_listeners_are_relay_addresses_too() {
    let listen = ["10.0.0.1:3478", "10.0.0.1:3479", "[2001:db8::9]:3478"];
    let config =
        Config { listen: listen.iter().map(|text| text.parse().unwrap()).collect(), ..Config::default() };
    let host = Host { bindable: ips(["10.0.0.1", "2001:db8::9", "192.0.2.1"]), ..laptop() };
    assert_eq!(locals(&config, &host), ["10.0.0.1", "2001:db8::9"]);
    let config = Config { relay_address: ips(["192.0.2.1"]), ..config };
    assert_eq!(locals(&config, &host), ["192.0.2.1"]);
}

#[test]
fn external_addresses_map_exactly_before_they_map_generally() {
    let config = Config {
        relay_address: vec![
            "10.0.0.1".parse().unwrap(),
            "10.0.0.2".parse().unwrap(),
            "fd00::1".parse().unwrap(),
        ],
        external_address: vec![external("192.0.2.1", None), external("192.0.2.2", Some("10.0.0.2"))],
        ..Config::default()
    };
    let host = Host { bindable: config.relay_address.clone(), ..laptop() };
    let addresses = resolve(&config, &host);
    let public = |index: usize| addresses.relay[index].public().to_string();
    assert_eq!((public(0), public(1), public(2)), ("192.0.2.1".into(), "192.0.2.2".into(), "fd00::1".into()));
    let config = Config { external_address: vec![external("192.0.2.1", None)], ..config };
    let warnings = resolve(&config, &host).warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].to_string().contains("stands for both 10.0.0.1 and 10.0.0.2"), "{}", warnings[0]);
}

#[test]
fn derived_relay_addresses_are_judged_at_the_start() {
    let texts: Vec<_> =
        resolve(&Config::default(), &laptop()).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].starts_with("relay-address: \"192.168.1.5\": is private"), "{texts:?}");
    let mapped = resolve(&Config::default(), &laptop()).relay[0];
    assert_eq!(mapped.external, None);
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
