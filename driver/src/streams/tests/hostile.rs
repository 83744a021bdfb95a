//! Clients that do what they should not.

use super::*;

fn limits(limits: StreamLimits) -> StreamOptions {
    StreamOptions { limits, ..StreamOptions::default() }
}

#[test]
fn who_says_nothing_or_says_it_too_slowly_is_closed_in_time() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let silent = rig.connect();
    let mut slow = rig.connect();
    slow.write_all(&request()[..10]).expect("sent");
    let mut shaking = rig.connect();
    shaking.write_all(&[0x16, 3, 1, 2, 0, 1]).expect("sent");
    rig.until(|rig| rig.streams.counters().opening == 3 && rig.streams.unfinished > 10);
    rig.later(Duration::from_millis(4900));
    rig.turn();
    assert_eq!(rig.streams.counters().opening, 3);
    slow.write_all(&request()[10..11]).expect("sent");
    rig.later(Duration::from_millis(101));
    rig.until(|rig| rig.streams.is_empty());
    assert_eq!(rig.closed(CloseReason::MessageTimeout), 2);
    assert_eq!(rig.closed(CloseReason::HandshakeTimeout), 1);
    assert_eq!(rig.streams.unfinished, 0);
    assert!(rig.closed.is_empty(), "nobody had heard of them");
    drop(silent);
}

#[test]
fn after_its_handshake_a_client_has_time_for_its_first_message() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let client = StreamOwned::new(rig.tls(&[], rustls::ALL_VERSIONS), rig.connect());
    rig.until(|rig| rig.streams.counters().opening == 1);
    rig.later(Duration::from_secs(4));
    let mut client = client;
    rig.shake_hands(&mut client);
    rig.later(Duration::from_secs(4));
    rig.introduce(&mut client);
    let late = rig.connect_tls();
    rig.later(Duration::from_secs(6));
    rig.until(|rig| rig.closed(CloseReason::MessageTimeout) == 1);
    drop(late);
}

#[test]
fn an_idle_connection_is_asked_about_and_a_busy_one_is_not() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let (mut idle, mut busy) = (rig.connect(), rig.connect());
    let idle_socket = rig.introduce(&mut idle);
    rig.introduce(&mut busy);
    rig.later(Duration::from_secs(40));
    rig.introduce(&mut busy);
    rig.later(Duration::from_secs(20));
    rig.until(|rig| rig.idle == [idle_socket]);
    rig.streams.close(rig.now_ns, idle_socket, CloseReason::Idle);
    assert_eq!(idle.read(&mut [0; 8]).expect("closed"), 0);
    rig.turn();
    assert_eq!(rig.closed, [CloseReason::Idle]);
    assert_eq!(rig.idle.len(), 1);
}

#[test]
fn garbage_is_closed_and_counted_by_its_kind() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut first = |bytes: &[u8], reason: CloseReason| {
        let mut client = rig.connect();
        client.write_all(bytes).expect("sent");
        rig.until(|rig| rig.closed(reason) == 1);
    };
    first(b"\x80anything else", CloseReason::NotTurn);
    // It looks like ChannelData, as does a STUN header with the longest length: nobody begins with so much.
    first(b"GET / HTTP/1.1\r\n\r\n", CloseReason::TooLong);
    first(&[0x16, 3, 1, 0, 4, 1, 2, 3, 4], CloseReason::NotTls);
    let mut client = rig.connect();
    rig.introduce(&mut client);
    client.write_all(&[channel_data(b"good"), b"\xff garbage".to_vec()].concat()).expect("sent");
    assert_eq!(rig.until_messages(1).len(), 1, "what came before it counts");
    rig.until(|rig| rig.closed == [CloseReason::NotTurn]);
    let mut tls = rig.connect_tls();
    rig.introduce(&mut tls);
    tls.sock.write_all(&[0x17, 3, 3, 0, 4, 1, 2, 3, 4]).expect("sent");
    rig.until(|rig| rig.closed == [CloseReason::NotTurn, CloseReason::TlsOther]);
    assert!(rig.streams.is_empty());
}

#[test]
fn only_what_is_offered_is_spoken() {
    let plain = Offer { plain: true, tls: false };
    let mut rig = Rig::new(plain, StreamOptions::default());
    let mut client = rig.connect();
    client.write_all(&[0x16, 3, 1]).expect("sent");
    rig.until(|rig| rig.closed(CloseReason::TlsNotOffered) == 1);
    let mut rig = Rig::new(Offer { plain: false, tls: true }, StreamOptions::default());
    let mut client = rig.connect();
    client.write_all(&request()).expect("sent");
    rig.until(|rig| rig.closed(CloseReason::PlainNotOffered) == 1);
    assert!(rig.messages.is_empty());
}

#[test]
fn a_client_of_another_protocol_is_told_so_by_an_alert() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = StreamOwned::new(rig.tls(&[b"h2"], rustls::ALL_VERSIONS), rig.connect());
    client.conn.write_tls(&mut client.sock).expect("sent");
    rig.until(|rig| rig.closed(CloseReason::TlsAlpn) == 1);
    let error = client.read(&mut [0; 8]).expect_err("an alert");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

#[test]
fn a_source_has_its_share_and_the_oldest_stranger_makes_room() {
    let bounds = StreamLimits {
        opening: 3,
        opening_per_source: 100,
        per_source: 5,
        total: 100,
        ..StreamLimits::default()
    };
    let mut rig = Rig::new(BOTH, limits(bounds));
    let mut strangers = Vec::new();
    for count in 1..=3 {
        strangers.push(rig.connect());
        rig.until(|rig| rig.streams.counters().opening == count);
        rig.later(Duration::from_millis(1));
    }
    strangers.push(rig.connect());
    rig.until(|rig| rig.closed(CloseReason::Displaced) == 1);
    let error = strangers[0].read(&mut [0; 8]).expect_err("it is over, and the system keeps nothing of it");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(rig.streams.counters().opening, 3);
    for client in &mut strangers[1..] {
        rig.introduce(client);
    }
    let more = [rig.connect(), rig.connect(), rig.connect()];
    rig.until(|rig| rig.closed(CloseReason::SourceCap) == 1);
    assert_eq!(rig.streams.counters().open_tcp, 3);
    drop(more);
    rig.until(|rig| rig.streams.counters().opening == 0);
    let mut next = rig.connect();
    rig.introduce(&mut next);
}

#[test]
fn caps_in_total_and_of_half_open_ones_hold() {
    let bounds = StreamLimits { opening_per_source: 2, total: 3, ..StreamLimits::default() };
    let mut rig = Rig::new(BOTH, limits(bounds));
    let held: Vec<TcpStream> = (0..3).map(|_| rig.connect()).collect();
    rig.until(|rig| rig.closed(CloseReason::SourceOpeningCap) == 1);
    drop(held);
    rig.until(|rig| rig.streams.is_empty());
    let mut clients: Vec<TcpStream> = Vec::new();
    for _ in 0..3 {
        let mut client = rig.connect();
        rig.introduce(&mut client);
        clients.push(client);
    }
    // The last descriptors are not for connections either.
    let bounds = StreamLimits { max_descriptor: 3, ..StreamLimits::default() };
    let mut poor = Rig::new(BOTH, limits(bounds));
    let _refused = poor.connect();
    poor.until(|rig| rig.closed(CloseReason::NoDescriptor) == 1);
    let _fourth = rig.connect();
    rig.until(|rig| rig.closed(CloseReason::TotalCap) == 1);
}

#[test]
fn handshakes_that_never_end_keep_nobody_from_talking_or_from_coming_in() {
    let bounds = StreamLimits { opening: 50, opening_per_source: 1000, ..StreamLimits::default() };
    let mut rig = Rig::new(BOTH, limits(bounds));
    let mut talker = rig.connect_tls();
    rig.introduce(&mut talker);
    let mut hello = Vec::new();
    rig.tls(&[], rustls::ALL_VERSIONS).write_tls(&mut hello).expect("a ClientHello");
    let mut strangers = Vec::new();
    for round in 0..300 {
        let mut client = rig.connect();
        client.write_all(&hello).expect("sent");
        strangers.push(client);
        if round % 50 == 0 {
            talker.write_all(&channel_data(b"still here")).expect("sent");
            talker.flush().expect("sent");
            assert_eq!(rig.until_messages(1).len(), 1);
        }
        rig.turn();
    }
    rig.until(|rig| rig.closed(CloseReason::Displaced) == 250);
    assert!(rig.streams.counters().opening <= 50);
    let mut newcomer = rig.connect_tls();
    rig.introduce(&mut newcomer);
}

#[test]
fn with_all_places_taken_newcomers_do_not_wait_in_the_system() {
    let bounds = StreamLimits { opening: 5, ..StreamLimits::default() };
    let mut rig = Rig::new(BOTH, limits(bounds));
    let _first: Vec<TcpStream> = (0..5).map(|_| rig.connect()).collect();
    rig.until(|rig| rig.streams.counters().opening == 5);
    let _more: Vec<TcpStream> = (0..30).map(|_| rig.connect()).collect();
    let mut most = 0;
    while rig.closed(CloseReason::Displaced) < 30 {
        let before = rig.closed(CloseReason::Displaced);
        rig.until(|rig| rig.closed(CloseReason::Displaced) > before);
        most = most.max(rig.closed(CloseReason::Displaced) - before);
    }
    assert!(most > SIGNATURES_PER_TURN as u64, "{most} were taken at once");
}

/// A client to whose ClientHello TLS has answered; it doesn't know yet.
fn answered(rig: &mut Rig) -> StreamOwned<ClientConnection, TcpStream> {
    let mut client = StreamOwned::new(rig.tls(&[], rustls::ALL_VERSIONS), rig.connect());
    client.conn.write_tls(&mut client.sock).expect("sent");
    client.sock.set_nonblocking(true).expect("an option");
    rig.until(|_| client.sock.peek(&mut [0]).is_ok());
    client.sock.set_nonblocking(false).expect("an option");
    client
}

fn hello(rig: &Rig) -> Vec<u8> {
    let mut hello = Vec::new();
    rig.tls(&[], rustls::ALL_VERSIONS).write_tls(&mut hello).expect("a ClientHello");
    hello
}

#[test]
fn a_handshake_that_goes_on_is_not_displaced_by_those_who_only_begin() {
    let bounds = StreamLimits { opening: 10, opening_per_source: 1000, ..StreamLimits::default() };
    let mut rig = Rig::new(BOTH, limits(bounds));
    let mut client = answered(&mut rig);
    let _silent: Vec<TcpStream> = (0..100).map(|_| rig.connect()).collect();
    rig.until(|rig| rig.closed(CloseReason::Displaced) == 91);
    rig.shake_hands(&mut client);
    rig.introduce(&mut client);
}

#[test]
fn handshakes_that_go_on_have_half_of_the_places() {
    let bounds = StreamLimits { opening: 10, opening_per_source: 1000, ..StreamLimits::default() };
    let mut rig = Rig::new(BOTH, limits(bounds));
    let mut silent = rig.connect();
    rig.until(|rig| rig.streams.counters().opening == 1);
    let strangers: Vec<_> = (0..30).map(|_| answered(&mut rig)).collect();
    assert_eq!(rig.closed(CloseReason::Displaced), 21, "one of those who only begin is none of them");
    rig.introduce(&mut silent);
    drop(strangers);
}

#[test]
fn handshakes_go_on_before_others_begin() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = answered(&mut rig);
    let hello = hello(&rig);
    let mut strangers: Vec<TcpStream> = (0..100).map(|_| rig.connect()).collect();
    rig.until(|rig| rig.streams.counters().opening == 101);
    strangers.iter_mut().for_each(|stranger| stranger.write_all(&hello).expect("sent"));
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock).expect("it was answered");
    }
    let deadline = Instant::now() + PATIENCE;
    let has_come = |rig: &Rig| {
        rig.streams.new.ready(READY).expect("epoll works").count() == READY
            && rig.streams.answered.ready(1).expect("epoll works").count() == 1
    };
    while !has_come(&rig) {
        assert!(Instant::now() < deadline, "loopback delivers");
    }
    rig.turn();
    assert_eq!(rig.streams.counters().handshakes.total(), 1);
}

#[test]
fn the_source_that_holds_the_most_makes_room() {
    let bounds = StreamLimits { opening: 6, opening_per_source: 1000, ..StreamLimits::default() };
    let mut rig = Rig::new(BOTH, limits(bounds));
    let alone = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    alone.bind(&"127.0.0.2:0".parse::<SocketAddr>().expect("an address").into()).expect("it is free");
    alone.connect(&rig.address.into()).expect("it listens");
    let mut alone = TcpStream::from(alone);
    rig.until(|rig| rig.streams.counters().opening == 1);
    let _crowd: Vec<TcpStream> = (0..100).map(|_| rig.connect()).collect();
    rig.until(|rig| rig.closed(CloseReason::Displaced) == 95);
    rig.introduce(&mut alone);
}

#[test]
fn a_reset_within_a_frame_frees_all_of_it() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = rig.connect();
    let socket = rig.introduce(&mut client);
    client.write_all(&channel_data(&[1; 1000])[..500]).expect("sent");
    rig.until(|rig| rig.streams.unfinished > 0);
    rig.streams.send_media(rig.now_ns, socket, [&[0x40, 1, 0, 4], b"more"], 0);
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(client);
    rig.until(|rig| rig.closed == [CloseReason::Broken]);
    assert_eq!((rig.streams.unfinished, rig.streams.queued), (0, 0));
    assert!(rig.streams.is_empty());
}
