//! Clients that do what they should.

use super::*;

#[test]
fn a_message_arrives_whole_however_it_was_cut() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = rig.connect();
    rig.introduce(&mut client);
    let sent = [channel_data(b"12345"), request(), channel_data(b""), channel_data(b"abcd")].concat();
    let expected = [
        b"\x40\x01\0\x0512345".to_vec(),
        request(),
        b"\x40\x01\0\0".to_vec(),
        b"\x40\x01\0\x04abcd".to_vec(),
    ];
    // All at once, then each byte by itself, then in two parts cut anywhere.
    client.write_all(&sent).expect("sent");
    assert_eq!(rig.until_messages(4), expected);
    for byte in &sent {
        client.write_all(&[*byte]).expect("sent");
        rig.turn();
    }
    assert_eq!(rig.until_messages(4), expected);
    for cut in 1..sent.len() {
        client.write_all(&sent[..cut]).expect("sent");
        rig.turn();
        client.write_all(&sent[cut..]).expect("sent");
        assert_eq!(rig.until_messages(4), expected, "cut at {cut}");
    }
    assert_eq!(rig.streams.unfinished, 0, "nothing is kept of what has come whole");
}

#[test]
fn the_longest_frames_pass_both_ways_with_and_without_tls() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let payload: Vec<u8> = (0..=u16::MAX).map(|n| (n % 251) as u8).take(65_535).collect();
    for tls in [false, true] {
        let (mut client, socket) = rig.talking(tls);
        let frame = channel_data(&payload);
        let mut left = &frame[..];
        while !left.is_empty() {
            let part = left.len().min(8 << 10);
            client.write_all(&left[..part]).expect("sent");
            left = &left[part..];
            rig.turn();
        }
        assert_eq!(rig.until_messages(1), [frame[..frame.len() - 1].to_vec()]);
        rig.streams.send_media(rig.now_ns, socket, [&[0x40, 0x01, 0xff, 0xff], &payload], 1);
        rig.turn();
        rig.turn();
        assert_eq!(read_frame(&mut client), payload);
    }
}

#[test]
fn tls_of_both_versions_carries_messages_both_ways() {
    for (offered, version) in
        [(&rustls::version::TLS12, TlsVersion::V12), (&rustls::version::TLS13, TlsVersion::V13)]
    {
        let mut rig = Rig::new(BOTH, StreamOptions::default());
        let tls = rig.tls(&[b"stun.turn"], &[offered]);
        let mut client = StreamOwned::new(tls, rig.connect());
        rig.shake_hands(&mut client);
        let socket = rig.introduce(&mut client);
        let cipher_suite = client.conn.negotiated_cipher_suite().expect("agreed").suite().into();
        let info = TlsInfo { version, cipher_suite, alpn: Some(Alpn::Turn) };
        assert_eq!(rig.tls_infos[&socket], Some(info));
        for size in [0, 1, 3, 1200, 40_000] {
            client.write_all(&channel_data(&vec![7; size])).expect("sent");
            client.flush().expect("sent");
            assert_eq!(rig.until_messages(1)[0].len(), 4 + size);
            let len = (size as u16).to_be_bytes();
            let padding = size.next_multiple_of(4) - size;
            let header = [0x40, 1, len[0], len[1]];
            rig.streams.send_media(rig.now_ns, socket, [&header, &vec![9; size]], padding as u8);
            rig.streams.send_answer(rig.now_ns, socket, &channel_data(b"answer"));
            rig.turn();
            rig.turn();
            let mut came = [read_frame(&mut client), read_frame(&mut client)];
            came.sort();
            let mut expected = [vec![9; size], b"answer".to_vec()];
            expected.sort();
            assert_eq!(came, expected);
        }
        let counters = rig.streams.counters();
        assert_eq!((counters.handshakes.total(), counters.open_tls, counters.open_tcp), (1, 1, 0));
        assert_eq!(counters.handshakes.of(version, false), 1);
        client.conn.send_close_notify();
        client.flush().expect("sent");
        rig.until(|rig| rig.closed == [CloseReason::ByClient]);
        assert_eq!(rig.streams.counters().open_tls, 0);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("our close_notify, not a cut");
    }
}

#[test]
fn a_client_that_changes_its_keys_is_understood_and_answered() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = rig.connect_tls();
    let socket = rig.introduce(&mut client);
    client.conn.refresh_traffic_keys().expect("TLS 1.3");
    client.write_all(&channel_data(b"new keys")).expect("sent");
    client.flush().expect("sent");
    assert_eq!(rig.until_messages(1), [b"\x40\x01\0\x08new keys".to_vec()]);
    rig.streams.send_answer(rig.now_ns, socket, &channel_data(b"heard"));
    rig.turn();
    assert_eq!(read_frame(&mut client), b"heard");
}

#[test]
fn a_session_is_resumed() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let config = Arc::new(rig.certificate.client());
    for resumed in [0, 1] {
        let mut client = StreamOwned::new(certificate::tls(Arc::clone(&config), "localhost"), rig.connect());
        rig.shake_hands(&mut client);
        let socket = rig.introduce(&mut client);
        rig.streams.send_answer(rig.now_ns, socket, &channel_data(b"with tickets before it"));
        rig.turn();
        read_frame(&mut client);
        assert_eq!(rig.streams.counters().handshakes.of(TlsVersion::V13, true), resumed);
        let info = rig.tls_infos[&socket].expect("TLS");
        assert_eq!((info.version, info.alpn), (TlsVersion::V13, None));
    }
}

#[test]
fn what_came_before_the_end_is_handed_out() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = rig.connect();
    rig.introduce(&mut client);
    client.write_all(&[request(), channel_data(b"last")].concat()).expect("sent");
    client.shutdown(std::net::Shutdown::Write).expect("half closed");
    assert_eq!(rig.until_messages(2).len(), 2);
    rig.until(|rig| rig.closed == [CloseReason::ByClient]);
    assert_eq!(client.read(&mut [0; 8]).expect("the other half"), 0);
}

#[test]
fn an_old_name_never_means_a_new_connection() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut first = rig.connect();
    let old = rig.introduce(&mut first);
    drop(first);
    rig.until(|rig| rig.closed.len() == 1);
    let mut second = rig.connect();
    let new = rig.introduce(&mut second);
    assert_eq!(old.index, new.index);
    assert_ne!(old.generation, new.generation);
    rig.streams.send_answer(rig.now_ns, old, &channel_data(b"for the first"));
    rig.streams.send_answer(rig.now_ns, new, &channel_data(b"for the second"));
    rig.turn();
    assert_eq!(read_frame(&mut second), b"for the second");
    assert_eq!(rig.streams.counters().dropped_closed, 1);
}

#[test]
fn a_stop_sends_what_waits_and_says_goodbye() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = rig.connect_tls();
    let socket = rig.introduce(&mut client);
    let silent = rig.connect();
    rig.until(|rig| rig.streams.counters().opening == 1);
    rig.streams.send_answer(rig.now_ns, socket, &channel_data(b"the last"));
    rig.streams.stop(rig.now_ns);
    assert_eq!(read_frame(&mut client), b"the last");
    assert_eq!(client.read(&mut [0; 8]).expect("close_notify, not a cut"), 0);
    rig.until(|rig| rig.streams.is_empty());
    assert_eq!(rig.closed, [CloseReason::ByRelay]);
    drop(silent);
    assert!(TcpStream::connect(rig.address).is_err(), "nobody listens any more");
}
