//! One port for TURN and for somebody else: who gets which connection, and that not a byte is changed.

use std::net::TcpListener;

use turnpike_proto::wire::proxy::{self, Header};

use super::super::sorting::{Sorted, sort};
use super::*;

/// A relay with a fallback whose connections the test takes itself.
struct Shared {
    rig: Rig,
    site: TcpListener,
}

impl Shared {
    fn new() -> Shared {
        Shared::with(StreamLimits::default(), false)
    }

    fn with(limits: StreamLimits, proxy_header: bool) -> Shared {
        let site = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let to = site.local_addr().expect("bound");
        let fallback = Fallback { to, is_own_name: Arc::new(|name| name == "localhost"), proxy_header };
        let options = StreamOptions { limits, fallback: Some(fallback), ..StreamOptions::default() };
        site.set_nonblocking(true).expect("an option");
        Shared { rig: Rig::new(BOTH, options), site }
    }

    /// The next connection that the fallback has.
    fn taken(&mut self) -> TcpStream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.rig.turn();
            if let Ok((socket, _)) = self.site.accept() {
                socket.set_nonblocking(false).expect("an option");
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                return socket;
            }
            assert!(Instant::now() < deadline, "it took none: {:?}", self.rig.streams.counters());
        }
    }

    fn hello(&self, name: &str, alpn: &[&[u8]], has_sni: bool) -> Vec<u8> {
        let mut config = self.rig.certificate.client();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.enable_sni = has_sni;
        let mut hello = Vec::new();
        certificate::tls(config, name).write_tls(&mut hello).expect("a ClientHello");
        hello
    }

    /// Turns while somebody reads so many bytes.
    fn read(&mut self, mut from: &TcpStream, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut read = 0;
        from.set_nonblocking(true).expect("an option");
        let deadline = Instant::now() + PATIENCE;
        while read < len {
            self.rig.turn();
            match from.read(&mut bytes[read..]) {
                Ok(0) => panic!("it ended after {read} bytes"),
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            assert!(Instant::now() < deadline, "{read} bytes came: {:?}", self.rig.streams.counters());
        }
        from.set_nonblocking(false).expect("an option");
        bytes
    }

    /// Turns until somebody's side has ended.
    fn read_end(&mut self, mut from: &TcpStream) {
        from.set_nonblocking(true).expect("an option");
        let deadline = Instant::now() + PATIENCE;
        while from.read(&mut [0; 16]).is_err() {
            self.rig.turn();
            assert!(Instant::now() < deadline, "it does not end: {:?}", self.rig.streams.counters());
        }
        from.set_nonblocking(false).expect("an option");
    }
}

#[test]
fn alpn_decides_before_the_name_and_the_name_before_nothing() {
    let shared = Shared::new();
    let protocols = [b"stun.turn".to_vec(), b"stun.nat-discovery".to_vec()];
    let is_own_name: IsOwnName = Arc::new(|name| name == "localhost");
    let (own, other) = ("localhost", "www.example.org");
    for (name, alpn, has_sni, sorted) in [
        (own, &[][..], true, Sorted::Turn),
        (other, &[], true, Sorted::Fallback),
        (own, &[], false, Sorted::Turn),
        // Clients that are given an address say no name.
        ("192.0.2.1", &[], true, Sorted::Turn),
        (other, &[&b"stun.turn"[..]][..], true, Sorted::Turn),
        (other, &[b"h2", b"stun.nat-discovery"], true, Sorted::Turn),
        (own, &[b"h2"], true, Sorted::Fallback),
        (own, &[b"h2"], false, Sorted::Fallback),
    ] {
        let hello = shared.hello(name, alpn, has_sni);
        assert_eq!(sort(&hello, &protocols, &is_own_name), sorted, "{name} {alpn:?} {has_sni}");
        for cut in 0..hello.len() {
            assert_eq!(sort(&hello[..cut], &protocols, &is_own_name), Sorted::NotYet, "cut at {cut}");
        }
    }
    // A ClientHello that never ends is nobody's.
    let endless = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 0x4000 - 4]].concat();
    let endless = [&endless[..], &endless, &endless].concat();
    assert_eq!(sort(&endless, &protocols, &is_own_name), Sorted::Fallback);
}

#[test]
fn what_is_turns_is_not_passed_on() {
    let mut shared = Shared::new();
    let mut plain = shared.rig.connect();
    shared.rig.introduce(&mut plain);
    let mut held = Vec::new();
    // By the name, by the protocol, and by neither.
    for (alpn, name, has_sni) in [
        (&[][..], "localhost", true),
        (&[&b"stun.turn"[..]][..], "localhost", true),
        (&[b"h2", b"stun.nat-discovery"], "localhost", true),
        (&[], "localhost", false),
    ] {
        let mut config = shared.rig.certificate.client();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.enable_sni = has_sni;
        let mut client = StreamOwned::new(certificate::tls(config, name), shared.rig.connect());
        shared.rig.shake_hands(&mut client);
        shared.rig.introduce(&mut client);
        held.push(client);
    }
    let counters = shared.rig.streams.counters();
    assert_eq!((counters.open_tcp, counters.open_tls, counters.fallback_accepted), (1, 4, 0));
}

#[test]
fn what_is_not_turns_is_passed_on_as_it_is_however_it_was_cut() {
    let mut shared = Shared::new();
    let beginnings = [
        shared.hello("www.example.org", &[], true),
        shared.hello("www.example.org", &[b"h2", b"http/1.1"], true),
        shared.hello("localhost", &[b"http/1.1"], true),
        shared.hello("localhost", &[b"acme-tls/1"], false),
        b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        // TLS that we don't understand.
        vec![0x16, 3, 1, 0, 4, 1, 0, 0, 0],
    ];
    for (number, begun) in beginnings.iter().enumerate() {
        for cut in [begun.len(), 1, 5, begun.len() - 1] {
            let mut client = shared.rig.connect();
            client.write_all(&begun[..cut]).expect("sent");
            shared.rig.turn();
            client.write_all(&begun[cut..]).expect("sent");
            let mut site = shared.taken();
            assert_eq!(shared.read(&site, begun.len()), *begun, "{number} cut at {cut}");
            site.write_all(b"an answer").expect("sent");
            assert_eq!(shared.read(&client, 9), b"an answer");
            client.write_all(b"more").expect("sent");
            assert_eq!(shared.read(&site, 4), b"more");
        }
    }
    shared.rig.until(|rig| rig.streams.counters().fallback_open == 0);
    let counters = shared.rig.streams.counters();
    let passed = 4 * beginnings.len() as u64;
    assert_eq!(counters.fallback_accepted, passed);
    let done = counters.closed.of(CloseReason::FallbackDone) + counters.closed.of(CloseReason::Broken);
    assert_eq!(done, passed, "{counters:?}");
    let begun: usize = beginnings.iter().map(Vec::len).sum();
    assert_eq!(counters.fallback_bytes, [4 * (begun as u64 + passed), 9 * passed]);
    assert!(shared.rig.messages.is_empty() && shared.rig.streams.is_empty());
}

#[test]
fn without_tls_on_a_listener_nothing_is_passed_on() {
    let fallback = Fallback {
        to: "127.0.0.1:9".parse().expect("an address"),
        is_own_name: Arc::new(|_| false),
        proxy_header: false,
    };
    let options = StreamOptions { fallback: Some(fallback), ..StreamOptions::default() };
    let mut rig = Rig::new(Offer { plain: true, tls: false }, options);
    let mut client = rig.connect();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    rig.until(|rig| rig.closed(CloseReason::TooLong) == 1);
    assert_eq!(rig.streams.counters().fallback_accepted, 0);
}

#[test]
fn the_end_of_one_direction_is_passed_on_and_the_other_goes_on() {
    let mut shared = Shared::new();
    let mut client = shared.rig.connect();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
    let mut site = shared.taken();
    client.shutdown(std::net::Shutdown::Write).expect("half closed");
    shared.read(&site, 18);
    shared.read_end(&site);
    site.write_all(&[7; 100_000]).expect("sent");
    assert_eq!(shared.read(&client, 100_000), [7; 100_000]);
    assert_eq!(shared.rig.streams.counters().fallback_open, 1);
    drop(site);
    shared.read_end(&client);
    shared.rig.until(|rig| rig.closed(CloseReason::FallbackDone) == 1 && rig.streams.is_empty());
}

#[test]
fn a_reader_that_stands_still_stops_the_other_side_and_memory_stays_flat() {
    let mut shared = Shared::new();
    let mut client = shared.rig.connect();
    client.write_all(b"GET /large HTTP/1.1\r\n\r\n").expect("sent");
    let site = shared.taken();
    shared.read(&site, 23);
    site.set_nonblocking(true).expect("an option");
    // Until neither kernel nor relay take any more.
    let chunk: Vec<u8> = (0..65_536_u32).map(|n| (n % 251) as u8).collect();
    let mut sent = 0_usize;
    let mut refusals = 0;
    while refusals < 200 {
        match (&site).write(&chunk[sent % chunk.len()..]) {
            Ok(count) => (sent, refusals) = (sent + count, 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => refusals += 1,
            Err(error) => panic!("{error}"),
        }
        shared.rig.turn();
    }
    let waiting = shared.rig.streams.passing.as_ref().expect("there is a fallback").waiting();
    assert!(waiting <= 16 << 10, "{waiting} bytes wait in the relay, of {sent}");
    // It is not looked at again and again meanwhile, and others are served.
    let mut talker = shared.rig.connect_tls();
    shared.rig.introduce(&mut talker);
    let mut came = Vec::new();
    while came.len() < sent {
        let part = (sent - came.len()).min(chunk.len());
        came.extend(shared.read(&client, part));
    }
    assert!(
        came.iter().enumerate().all(|(at, byte)| *byte == chunk[at % chunk.len()]),
        "all of it, in order"
    );
}

#[test]
fn a_fallback_that_is_not_there_is_a_reason_of_its_own() {
    let mut shared = Shared::new();
    shared.site = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut client = shared.rig.connect();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    shared.rig.until(|rig| rig.closed(CloseReason::FallbackUnreachable) == 1);
    shared.read_end(&client);
    let (_, why) = shared.rig.streams.fallback_fault().expect("it is known why");
    assert_eq!(why.kind(), io::ErrorKind::ConnectionRefused);
    assert!(shared.rig.streams.is_empty());
}

#[test]
fn deadlines_caps_and_a_stop_hold_for_what_is_passed_on() {
    let mut shared = Shared::with(StreamLimits { total: 8, ..StreamLimits::default() }, false);
    let pass = |shared: &mut Shared| {
        let mut client = shared.rig.connect();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
        client
    };
    let first = pass(&mut shared);
    let site = shared.taken();
    shared.read(&site, 18);
    let _second = pass(&mut shared);
    let mut second_site = shared.taken();
    shared.read(&second_site, 18);
    // A quarter of all that there may be.
    let third = pass(&mut shared);
    shared.rig.until(|rig| rig.closed(CloseReason::FallbackCap) == 1);
    drop(third);

    shared.rig.later(Duration::from_secs(400));
    second_site.write_all(b"still here").expect("sent");
    shared.rig.until(|rig| rig.streams.counters().fallback_bytes[1] == 10);
    shared.rig.later(Duration::from_secs(300));
    shared.rig.until(|rig| rig.closed(CloseReason::Idle) == 1);
    shared.read_end(&site);
    drop(first);
    assert_eq!(shared.rig.streams.counters().fallback_open, 1, "the other one was not idle");
    assert!(shared.rig.idle.is_empty(), "nobody is asked about them");

    shared.rig.streams.stop(shared.rig.now_ns);
    shared.rig.until(|rig| rig.streams.is_empty());
    assert_eq!(shared.rig.closed(CloseReason::ByRelay), 1);
    shared.read_end(&second_site);
}

#[test]
fn the_fallback_is_told_by_a_header_who_the_client_is() {
    let mut shared = Shared::with(StreamLimits::default(), true);
    let mut client = shared.rig.connect();
    let begun = shared.hello("www.example.org", &[], true);
    client.write_all(&begun).expect("sent");
    let site = shared.taken();
    let came = shared.read(&site, 28 + begun.len());
    let Header::Whole { len, client: Some(said) } = proxy::read(&came) else { panic!("{came:02x?}") };
    assert_eq!((said.source, said.is_stream), (client.local_addr().expect("connected"), true));
    assert_eq!(said.destination, shared.rig.address);
    assert_eq!(came[len..], begun);
}
