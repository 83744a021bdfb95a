//! Q1 to Q3 of the checklist: what is refused, what opens it, and what nothing opens.

use proptest::prelude::*;

use super::*;

fn own() -> OwnAddresses {
    OwnAddresses {
        relay_ips: vec![ip("203.0.113.1"), ip("10.9.9.9")],
        relay_ports: 49152..=65535,
        listeners: vec![
            addr("203.0.113.1:3478"),
            addr("127.0.0.1:3478"),
            addr("127.0.0.1:8080"),
            addr("203.0.113.1:60000"),
            addr("[::1]:3478"),
        ],
        local_ips: vec![ip("127.0.0.1"), ip("::1"), ip("203.0.113.1"), ip("10.9.9.9"), ip("203.0.113.2")],
    }
}

/// Every port of the range is a relayed address.
fn all_open(_: IpAddr, _: u16) -> bool {
    true
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn nets(text: &[&str]) -> Vec<IpNet> {
    text.iter().map(|net| net.parse().unwrap()).collect()
}

fn policy(allow: &[&str], deny: &[&str]) -> PeerPolicy {
    PeerPolicy::new(&nets(allow), &nets(deny), false, own())
}

fn allows(policy: &PeerPolicy, ip_text: &str) -> bool {
    let by_ip = policy.check_ip(ip(ip_text)).is_ok();
    assert_eq!(
        policy.check(SocketAddr::new(ip(ip_text), 9), all_open).is_ok(),
        by_ip,
        "{ip_text} with and without port"
    );
    by_ip
}

fn remedy(policy: &PeerPolicy, peer: &str) -> Option<String> {
    policy.check(addr(peer), all_open).unwrap_err().remedy.map(|remedy| remedy.to_string())
}

#[test]
fn q1_special_ranges_are_refused_by_default() {
    let policy = policy(&[], &[]);
    for (first, last) in [
        ("0.0.0.0", "0.255.255.255"),
        ("10.0.0.0", "10.255.255.255"),
        ("100.64.0.0", "100.127.255.255"),
        ("127.0.0.0", "127.255.255.255"),
        ("168.63.129.16", "168.63.129.16"),
        ("169.254.0.0", "169.254.255.255"),
        ("172.16.0.0", "172.31.255.255"),
        ("192.0.0.0", "192.0.0.255"),
        ("192.168.0.0", "192.168.255.255"),
        ("198.18.0.0", "198.19.255.255"),
        ("224.0.0.0", "255.255.255.255"),
        ("::", "::1"),
        ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("fe80::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ] {
        assert!(!allows(&policy, first), "{first}");
        assert!(!allows(&policy, last), "{last}");
    }
}

#[test]
fn q1_neighbours_of_special_ranges_are_allowed() {
    let policy = policy(&[], &[]);
    for peer in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2001:db8::1",
        "fbff::1",
        "fe7f::1",
        "2600::1",
    ] {
        assert!(allows(&policy, peer), "{peer}");
    }
}

#[test]
fn q2_mapped_addresses_are_never_allowed() {
    let open = policy(&["::/0", "0.0.0.0/0", "::ffff:8.8.8.8/128"], &[]);
    for peer in ["::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0.0.0.0"] {
        assert_eq!(open.check_ip(ip(peer)), Err(Refused::NEVER), "{peer}");
    }
}

#[test]
fn q2_embedded_ipv4_is_checked_too() {
    let policy = policy(&["64:ff9b:1::/48"], &["8.8.8.8/32"]);
    for peer in [
        "::127.0.0.1",
        "::10.0.0.1",
        "::8.8.8.8",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::192.168.1.1",
        "64:ff9b:1:a00:0:100::",
        "64:ff9b:1:a:0:1::",
        "64:ff9b:1:0:a:0:100::",
        "2002:7f00:1::1",
        "2002:a00:1::",
        "2001:0:7f00:1::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ] {
        assert!(!allows(&policy, peer), "{peer}");
    }
    for peer in ["64:ff9b::1.1.1.1", "64:ff9b:1::1.1.1.1", "2002:101:101::1", "::1.1.1.1"] {
        assert!(allows(&policy, peer), "{peer}");
    }
}

#[test]
fn q2_opening_the_outer_prefix_does_not_open_the_inner_address() {
    let outer = policy(&["64:ff9b::/96", "2002::/16"], &[]);
    assert_eq!(remedy(&outer, "[64:ff9b::10.0.0.1]:9").as_deref(), Some("--allow-peer 10.0.0.1"));
    let inner = policy(&["10.0.0.0/8"], &[]);
    assert!(allows(&inner, "64:ff9b::10.0.0.1"));
    let untranslated = policy(&[], &[]);
    assert_eq!(
        remedy(&untranslated, "[64:ff9b:1::1.1.1.1]:9").as_deref(),
        Some("--allow-peer 64:ff9b:1::101:101")
    );
}

#[test]
fn the_most_specific_rule_wins() {
    let policy = policy(&["10.0.0.0/8", "10.1.2.0/24", "8.0.0.0/8"], &["10.1.0.0/16", "8.8.0.0/16"]);
    for (peer, allowed) in
        [("10.2.0.1", true), ("10.1.0.1", false), ("10.1.2.3", true), ("8.8.8.8", false), ("8.9.8.8", true)]
    {
        assert_eq!(allows(&policy, peer), allowed, "{peer}");
    }
}

#[test]
fn a_wider_rule_does_not_open_a_default() {
    let policy = policy(&["0.0.0.0/0", "::/0"], &[]);
    assert!(!allows(&policy, "10.0.0.1"));
    assert!(!allows(&policy, "fd00::1"));
}

#[test]
fn deny_wins_between_equal_rules_of_the_operator() {
    assert!(!allows(&policy(&["10.0.0.0/8"], &["10.0.0.0/8"]), "10.0.0.1"));
    assert!(!allows(&policy(&["10.3.3.3/8"], &["10.4.4.4/8"]), "10.0.0.1"));
}

#[test]
fn metadata_services_are_opened_by_their_exact_address_only() {
    for (peer, exact, wide) in [
        ("169.254.169.254", "169.254.169.254/32", "169.254.169.254/31"),
        ("168.63.129.16", "168.63.129.16/32", "168.63.129.0/24"),
        ("100.100.100.200", "100.100.100.200/32", "100.100.100.192/26"),
        ("fd00:ec2::254", "fd00:ec2::254/128", "fd00:ec2::/64"),
    ] {
        assert!(!allows(&policy(&[wide], &[]), peer), "{peer} by {wide}");
        assert!(allows(&policy(&[exact], &[]), peer), "{peer} by {exact}");
    }
}

#[test]
fn q3_own_listeners_are_never_peers() {
    let mut open = policy(&["203.0.113.1/32", "127.0.0.0/8", "127.0.0.1/32", "::1/128"], &[]);
    for _ in 0..2 {
        for peer in [
            "203.0.113.1:3478",
            "127.0.0.1:8080",
            "127.0.0.2:3478",
            "203.0.113.1:60000",
            "[::1]:3478",
            "[64:ff9b::cb00:7101]:3478",
        ] {
            assert_eq!(open.check(addr(peer), all_open), Err(Refused::NEVER), "{peer}");
        }
        open = PeerPolicy::new(&nets(&["203.0.113.1/32"]), &[], true, own());
    }
}

#[test]
fn q3_a_listener_named_in_mapped_form_is_recognised() {
    let mut own = own();
    own.listeners = vec![addr("[::ffff:8.8.8.8]:3478")];
    let policy = PeerPolicy::new(&[], &[], false, own);
    assert_eq!(policy.check(addr("8.8.8.8:3478"), all_open), Err(Refused::NEVER));
    assert_eq!(policy.check(addr("8.8.8.8:3479"), all_open), Ok(()));
}

// RFC 8656 s. 3: a peer may be another client's relayed address.
#[test]
fn d6_relayed_addresses_are_always_peers() {
    let policy = policy(&[], &["10.9.9.9/32", "203.0.113.0/24"]);
    for peer in ["203.0.113.1:49152", "203.0.113.1:65535", "10.9.9.9:50000"] {
        assert_eq!(policy.check(addr(peer), all_open), Ok(()), "{peer}");
        assert_eq!(policy.check_ip(addr(peer).ip()), Ok(()), "{peer}");
    }
}

#[test]
fn q3_other_ports_of_this_host_need_a_rule() {
    let closed = policy(&[], &[]);
    for peer in ["203.0.113.1:22", "203.0.113.2:50000", "10.9.9.9:6379"] {
        let exact = format!("--allow-peer {}", addr(peer).ip());
        assert_eq!(remedy(&closed, peer), Some(exact), "{peer}");
    }
    let open = policy(&["203.0.113.0/24"], &[]);
    assert_eq!(open.check(addr("203.0.113.1:22"), all_open), Ok(()));
    assert_eq!(open.check(addr("203.0.113.2:22"), all_open), Ok(()));
}

#[test]
fn loopback_peers_have_a_switch_of_their_own() {
    assert_eq!(remedy(&policy(&[], &[]), "127.0.0.1:9").as_deref(), Some("--allow-loopback-peers"));
    assert_eq!(remedy(&policy(&[], &[]), "[::1]:9").as_deref(), Some("--allow-loopback-peers"));
    let open = PeerPolicy::new(&[], &nets(&["127.0.0.53/32"]), true, own());
    for (peer, allowed) in [("127.0.0.1", true), ("127.9.9.9", true), ("::1", true), ("127.0.0.53", false)] {
        assert_eq!(allows(&open, peer), allowed, "{peer}");
    }
    assert!(!allows(&open, "0.0.0.0"));
    assert!(!allows(&open, "::ffff:127.0.0.1"));
}

#[test]
fn the_operators_own_refusal_proposes_nothing() {
    assert_eq!(remedy(&policy(&[], &["8.8.8.0/24"]), "8.8.8.8:9"), None);
}

#[test]
fn port_zero_is_nobody() {
    assert_eq!(policy(&["8.8.8.8/32"], &[]).check(addr("8.8.8.8:0"), all_open), Err(Refused::NEVER));
}

#[test]
fn the_unspecified_address_is_never_a_peer() {
    let open = policy(&["0.0.0.0/32", "::/128"], &[]);
    assert_eq!(open.check_ip(ip("0.0.0.0")), Err(Refused::NEVER));
    assert_eq!(open.check_ip(ip("::")), Err(Refused::NEVER));
}

proptest! {
    // Doing what the 403's log line says does allow the peer, though perhaps one line at a time.
    #[test]
    fn following_the_remedies_leads_somewhere(v4 in any::<u32>(), v6 in any::<u128>(), which in 0..5u8) {
        let peer = match which {
            0 => IpAddr::V4(v4.into()),
            1 => IpAddr::V6(v6.into()),
            2 => IpAddr::V6((0x0064_ff9b_u128 << 96 | u128::from(v4)).into()),
            3 => IpAddr::V6((0x2002_u128 << 112 | u128::from(v4) << 80 | (v6 & 0xFFFF)).into()),
            _ => IpAddr::V6((0x0064_ff9b_0001_u128 << 80 | (v6 >> 48)).into()),
        };
        let peer = SocketAddr::new(peer, 9);
        let (mut rules, mut loopback) = (Vec::new(), false);
        for _ in 0..8 {
            match PeerPolicy::new(&rules, &[], loopback, own()).check(peer, all_open) {
                Ok(()) => return Ok(()),
                Err(Refused { remedy: Some(Remedy::AllowPeer(ip)) }) => rules.push(ip.into()),
                Err(Refused { remedy: Some(Remedy::AllowLoopbackPeers) }) => loopback = true,
                Err(Refused { remedy: None }) => {
                    prop_assert!(peer.ip().to_canonical().is_ipv4() || which >= 1);
                    return Ok(());
                }
            }
        }
        prop_assert!(false, "{peer} still refused with {rules:?}");
    }
}
