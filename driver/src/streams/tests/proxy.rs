//! Connections of proxies that are trusted, and of those that are not.

use turnpike_proto::wire::proxy::{self, Proxied};

use super::*;

const OWN: &str = "203.0.113.5:50000";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// The header for a client of a proxy.
fn header(client: &str) -> Vec<u8> {
    let (source, destination) = (addr(client), addr("192.0.2.1:443"));
    proxy::write(&Proxied { source, destination, is_stream: true })
}

/// One without addresses: the proxy asks whether we live.
fn local() -> Vec<u8> {
    [&proxy::SIGNATURE[..], &[0x20, 0, 0, 0]].concat()
}

/// Streams that trust whoever connects from this machine.
fn behind_proxy(options: StreamOptions) -> Rig {
    let proxies: IsProxy = Arc::new(|ip| ip.is_loopback());
    Rig::new(BOTH, StreamOptions { proxies: Some(proxies), ..options })
}

#[test]
fn the_clients_own_address_comes_with_its_messages_and_the_path_stays_the_proxys() {
    let mut rig = behind_proxy(StreamOptions::default());
    let mut client = rig.connect();
    client.write_all(&header(OWN)).expect("sent");
    let socket = rig.introduce(&mut client);
    assert_eq!(rig.clients[&socket], [client.local_addr().expect("connected"), addr(OWN)]);
    // Nothing more of the kind comes later.
    client.write_all(&channel_data(b"data")).expect("sent");
    assert_eq!(rig.until_messages(1).len(), 1);
    // The proxy itself, and a client whose addresses it does not know.
    let unknown = [&proxy::SIGNATURE[..], &[0x21, 0, 0, 3, 1, 2, 3]].concat();
    for bytes in [local(), unknown] {
        let mut itself = rig.connect();
        itself.write_all(&bytes).expect("sent");
        let socket = rig.introduce(&mut itself);
        assert_eq!(rig.clients[&socket], [itself.local_addr().expect("connected"); 2]);
    }
}

#[test]
fn a_header_may_come_in_pieces_and_with_what_follows() {
    let mut rig = behind_proxy(StreamOptions::default());
    let values = [&[0x02, 0, 4][..], b"name", &[0xea, 0, 200], &[1; 200]].concat();
    let mut long = header(OWN);
    long[15] += values.len() as u8;
    long.extend(values);
    let sent = [long, request()].concat();
    for cut in 1..sent.len() {
        let mut client = rig.connect();
        client.write_all(&sent[..cut]).expect("sent");
        rig.turn();
        client.write_all(&sent[cut..]).expect("sent");
        rig.until(|rig| rig.messages.len() == 1);
        let (socket, message) = rig.messages.pop().expect("a message");
        assert_eq!((rig.clients[&socket][1], message), (addr(OWN), request()), "cut at {cut}");
        rig.streams.close(rig.now_ns, socket, CloseReason::Idle);
    }
    assert_eq!(rig.streams.unfinished, 0);
}

#[test]
fn tls_begins_behind_the_header() {
    let mut rig = behind_proxy(StreamOptions::default());
    for is_split in [false, true] {
        let mut socket = rig.connect();
        let mut tls = rig.tls(&[], rustls::ALL_VERSIONS);
        let mut begun = header(OWN);
        if !is_split {
            tls.write_tls(&mut begun).expect("a ClientHello");
        }
        socket.write_all(&begun).expect("sent");
        let mut client = StreamOwned::new(tls, socket);
        rig.shake_hands(&mut client);
        let socket = rig.introduce(&mut client);
        assert_eq!(rig.clients[&socket][1], addr(OWN));
    }
}

#[test]
fn what_is_no_header_is_refused_by_its_kind() {
    let mut rig = behind_proxy(StreamOptions::default());
    let mut wrong = header(OWN);
    wrong[13] = 0x31;
    let long = [&proxy::SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
    for (bytes, reason) in [
        (request(), CloseReason::ProxyMissing),
        (vec![0x16, 3, 1, 2, 0, 1], CloseReason::ProxyMissing),
        (b"PROXY TCP4 203.0.113.5 192.0.2.1 50000 443\r\n".to_vec(), CloseReason::ProxyVersion),
        (wrong, CloseReason::ProxyHeader),
        (long, CloseReason::ProxyHeader),
        // What follows it is the client's, who is not trusted.
        ([header(OWN), header("203.0.113.6:1")].concat(), CloseReason::ProxyUntrusted),
    ] {
        let before = rig.closed(reason);
        let mut client = rig.connect();
        client.write_all(&bytes).expect("sent");
        rig.until(|rig| rig.closed(reason) == before + 1);
        assert!(rig.streams.is_empty());
    }
}

#[test]
fn from_anybody_else_a_header_is_refused_and_counted() {
    let untrusting: IsProxy = Arc::new(|_| false);
    for proxies in [None, Some(untrusting)] {
        let mut rig = Rig::new(BOTH, StreamOptions { proxies, ..StreamOptions::default() });
        for bytes in [[header(OWN), request()].concat(), b"PROXY UNKNOWN\r\n".to_vec()] {
            let before = rig.closed(CloseReason::ProxyUntrusted);
            let mut client = rig.connect();
            client.write_all(&bytes).expect("sent");
            rig.until(|rig| rig.closed(CloseReason::ProxyUntrusted) == before + 1);
        }
        assert!(rig.messages.is_empty());
        let mut honest = rig.connect();
        rig.introduce(&mut honest);
    }
}

#[test]
fn a_header_has_the_time_of_a_handshake() {
    let mut rig = behind_proxy(StreamOptions::default());
    let silent = rig.connect();
    let mut slow = rig.connect();
    slow.write_all(&header(OWN)[..20]).expect("sent");
    rig.until(|rig| rig.streams.counters().opening == 2 && rig.streams.unfinished > 0);
    rig.later(Duration::from_millis(4900));
    rig.turn();
    assert_eq!(rig.streams.counters().opening, 2);
    rig.later(Duration::from_millis(101));
    rig.until(|rig| rig.streams.is_empty());
    assert_eq!((rig.closed(CloseReason::MessageTimeout), rig.streams.unfinished), (2, 0));
    drop(silent);
}

#[test]
fn bounds_go_by_the_clients_own_addresses() {
    let bounds = StreamLimits { per_source: 2, opening_per_source: 2, ..StreamLimits::default() };
    let mut rig = behind_proxy(StreamOptions { limits: bounds, ..StreamOptions::default() });
    let mut held = Vec::new();
    for client in ["203.0.113.5:1", "203.0.113.5:2", "203.0.113.6:1", "203.0.113.7:1", "203.0.113.8:1"] {
        let mut connection = rig.connect();
        connection.write_all(&header(client)).expect("sent");
        rig.introduce(&mut connection);
        held.push(connection);
    }
    // Those that have not said yet for whom they are count for nobody.
    let waiting: Vec<TcpStream> = (0..5).map(|_| rig.connect()).collect();
    rig.until(|rig| rig.streams.counters().opening == 5);
    let mut third = rig.connect();
    third.write_all(&[header("203.0.113.5:3"), request()].concat()).expect("sent");
    rig.until(|rig| rig.closed(CloseReason::SourceCap) == 1);
    drop((waiting, held.remove(0)));
    rig.until(|rig| rig.streams.counters().opening == 0 && rig.closed.len() == 1);
    let mut next = rig.connect();
    next.write_all(&header("203.0.113.5:4")).expect("sent");
    rig.introduce(&mut next);
    for client in ["203.0.113.9:1", "203.0.113.9:2"] {
        let mut silent = rig.connect();
        silent.write_all(&header(client)).expect("sent");
        held.push(silent);
    }
    rig.until(|rig| rig.streams.counters().opening == 2);
    let mut more = rig.connect();
    more.write_all(&header("203.0.113.9:3")).expect("sent");
    rig.until(|rig| rig.closed(CloseReason::SourceCap) + rig.closed(CloseReason::SourceOpeningCap) == 2);
}
