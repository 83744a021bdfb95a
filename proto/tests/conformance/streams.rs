//! Clients over TCP and TLS: what is the same as over UDP, and what a connection changes (RFC 8656 s. 3.1, 15, 16).

use turnpike_proto::addr::{TlsInfo, TlsVersion, Transport};
use turnpike_proto::stats::{EndReason, UserspaceDrop};
use turnpike_proto::wire::{MessageBuilder, TransactionId, attr, method};
use turnpike_proto::{ClientSocket, Input, Origin, Received, Verdict};

use crate::lab::{Client, Lab, PEER, Setup, addr};

const CLIENT: &str = "203.0.113.5:1000";
const CHANNEL: u16 = 0x4001;

fn connection(index: u32, generation: u32) -> ClientSocket {
    ClientSocket { index, generation }
}

fn both() -> [Client; 2] {
    [Transport::Tcp, Transport::Tls]
        .map(|transport| Client::new(CLIENT).over_stream(transport, connection(7, 3)))
}

fn channel_data(payload: &[u8]) -> Vec<u8> {
    [&turnpike_proto::wire::channel::header(CHANNEL, payload.len() as u16), payload].concat()
}

// RFC 8656 s. 12.5
#[test]
fn c6_over_a_stream_channel_data_is_padded_with_zeros() {
    for mut client in both() {
        let mut lab = Lab::new();
        let relayed = client.allocate(&mut lab);
        client.bind(&mut lab, CHANNEL, PEER).expect_success();
        for len in 0..9 {
            let data = vec![0xAB; len];
            let sent = lab.peer_data(PEER, relayed, &data);
            let padding = vec![0; len.next_multiple_of(4) - len];
            assert_eq!(sent[0].payload, [channel_data(&data), padding].concat());
        }
    }
}

// RFC 8656 s. 16: neither DSCP nor ECN of the peer's datagram
#[test]
fn h3_nothing_of_a_peers_ip_header_reaches_a_stream() {
    let mut client = Client::new(CLIENT).over_tcp();
    let mut lab = Lab::new();
    let relayed = client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    lab.take_sent();
    lab.peer_sends(addr(PEER), relayed, b"as a Data indication", 0xB9);
    client.bind(&mut lab, CHANNEL, PEER).expect_success();
    lab.peer_sends(addr(PEER), relayed, b"as ChannelData", 0xB9);
    assert!(lab.take_sent().iter().all(|sent| sent.tos == 0));
}

#[test]
fn a13_a_closed_connection_ends_its_allocation_at_once() {
    for mut client in both() {
        let mut lab = Lab::with(Setup { user_quota: 1, ports: (50_000, 50_000), ..Setup::default() });
        client.allocate(&mut lab);
        client.bind(&mut lab, CHANNEL, PEER).expect_success();
        lab.input(client.worker, Input::ClientGone(client.path()));
        assert_eq!((lab.ended.len(), lab.ended[0].reason), (1, EndReason::ConnectionClosed));
        assert_eq!(lab.ended[0].five_tuple, client.path().five_tuple);
        assert_eq!(lab.held(), (0, 0));
        lab.assert_empty();
        // Quota and the only port are free again, for the same address over a new connection.
        client.socket = connection(7, 4);
        client.allocate(&mut lab);
    }
}

#[test]
fn a_connection_closed_while_its_port_is_being_opened_leaves_nothing() {
    let mut lab = Lab::new();
    let mut client = Client::new(CLIENT).over_tcp();
    client.challenge(&mut lab);
    let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    lab.hold_ports = true;
    client.send_unanswered(&mut lab, &request);
    lab.input(client.worker, Input::ClientGone(client.path()));
    lab.hold_ports = false;
    lab.open_pending();
    assert!(lab.take_sent().is_empty() && lab.ended.is_empty());
    lab.assert_empty();
}

// A number that is used again must not carry one user's data to another
#[test]
fn a13_nothing_of_an_earlier_connection_reaches_a_later_one() {
    let mut lab = Lab::new();
    let mut before = Client::new(CLIENT).over_stream(Transport::Tcp, connection(7, 3));
    before.allocate(&mut lab);
    before.bind(&mut lab, CHANNEL, PEER).expect_success();

    // The same address and port, the same index, before anybody has said that the first one is closed.
    let mut after = Client::named(CLIENT, "bob", "builder").over_stream(Transport::Tcp, connection(7, 4));
    let send = MessageBuilder::indication(method::SEND, TransactionId([1; 12]))
        .xor_address(attr::XOR_PEER_ADDRESS, addr(PEER))
        .attribute(attr::DATA, b"stranger")
        .finish();
    after.send_unanswered(&mut lab, &channel_data(b"stranger"));
    after.send_unanswered(&mut lab, &send);
    assert_eq!(lab.verdicts(Verdict::DropStale), 2);

    // Its first request ends what the other one left, and it gets its own.
    let relayed = after.allocate(&mut lab);
    assert_eq!((lab.ended.len(), lab.ended[0].reason), (1, EndReason::ConnectionClosed));
    assert_eq!(&*lab.ended[0].user, "alice");
    assert!(lab.peer_data(PEER, relayed, b"for the first").is_empty(), "no permission is inherited");

    // Late news of the first connection change nothing.
    lab.input(0, Input::ClientGone(before.path()));
    after.refresh(&mut lab, 600).expect_success();
}

// A connection is one worker's, so there is nothing to hand over and nobody to ask
#[test]
fn one_five_tuple_on_two_workers_is_two_connections() {
    let mut lab = Lab::new();
    let mut first = Client::new(CLIENT).over_tcp();
    let mut second = Client::new(CLIENT).over_tcp().on_worker(1);
    first.allocate(&mut lab);
    second.allocate(&mut lab);
    lab.input(0, Input::ClientGone(first.path()));
    second.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

// RFC 8656 s. 7.2: what is relayed is UDP, however the client is connected, unless it asks for TCP and may (X1)
#[test]
fn a2_a_stream_relays_udp_and_is_told_its_own_address() {
    for mut client in both() {
        let mut lab = Lab::new();
        let answer = client.allocate_with(&mut lab, |b| b);
        let mapped = answer.expect_success().message().xor_address(attr::XOR_MAPPED_ADDRESS);
        assert_eq!(mapped, Some(Ok(addr(CLIENT))));
        assert_eq!(lab.created[0].five_tuple.transport, client.transport);
    }
}

#[test]
fn s25_a_stale_nonce_is_a_438_and_the_fresh_one_goes_on_by_the_same_connection() {
    let mut lab = Lab::new();
    let mut client = Client::new(CLIENT).over_tcp();
    let relayed = client.allocate(&mut lab);
    for _ in 0..7 {
        lab.sleep(550);
        let answer = client.refresh(&mut lab, 600);
        if answer.code == Some(438) {
            client.nonce = answer.message().attribute(attr::NONCE).expect("a fresh nonce").to_vec();
            client.refresh(&mut lab, 600).expect_success();
        }
    }
    assert!(lab.ended.is_empty());
    client.permit(&mut lab, PEER).expect_success();
    assert_eq!(lab.peer_data(PEER, relayed, b"still there").len(), 1);
}

// RFC 8489 s. 6.2.2: no client repeats over a stream, but if one does, it is no second effect
#[test]
fn s26_a_transaction_repeated_over_a_stream_has_one_effect() {
    let mut lab = Lab::with(Setup { user_quota: 1, ..Setup::default() });
    let mut client = Client::new(CLIENT).over_tcp();
    client.challenge(&mut lab);
    let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    let first = client.exchange(&mut lab, &request).expect_success().relayed();
    assert_eq!(client.exchange(&mut lab, &request).expect_success().relayed(), first);
    let delete = client.signed(method::REFRESH, |b| b.lifetime(0));
    assert_eq!(client.exchange(&mut lab, &delete).expect_success().lifetime(), 0);
    assert_eq!(client.exchange(&mut lab, &delete).expect_success().lifetime(), 0);
    assert_eq!((lab.created.len(), lab.ended.len()), (1, 1));
    lab.assert_empty();
}

// RFC 8656 s. 3.1
#[test]
fn o6_data_goes_both_ways_over_a_stream_as_over_udp() {
    for mut client in both() {
        let mut lab = Lab::new();
        let relayed = client.allocate(&mut lab);
        client.permit(&mut lab, PEER).expect_success();
        let sent = client.send_indication(&mut lab, PEER, b"odd");
        assert_eq!((sent[0].to, &sent[0].payload[..]), (addr(PEER), &b"odd"[..]));
        let sent = &lab.peer_data(PEER, relayed, b"odd")[0];
        assert_eq!(sent.data_indication(), (addr(PEER), b"odd".to_vec()));
        // RFC 8489 s. 14: a STUN message is padded as it is, on a stream as in a datagram.
        assert!(sent.payload.len().is_multiple_of(4));
        client.bind(&mut lab, CHANNEL, PEER).expect_success();
        let sent = client.channel_data(&mut lab, CHANNEL, b"odder");
        assert_eq!((sent[0].to, &sent[0].payload[..]), (addr(PEER), &b"odder"[..]));
    }
}

// RFC 8656 s. 15: DF is what Send says, whatever the packets of the connection are
#[test]
fn h2_dont_fragment_is_heeded_over_a_stream_of_either_family() {
    for address in [CLIENT, "[2001:db8:5::1]:1000"] {
        let mut lab = Lab::new();
        let mut client = Client::new(address).over_tcp();
        client.allocate(&mut lab);
        client.permit(&mut lab, PEER).expect_success();
        let send = MessageBuilder::indication(method::SEND, TransactionId([1; 12]))
            .xor_address(attr::XOR_PEER_ADDRESS, addr(PEER))
            .attribute(attr::DONT_FRAGMENT, &[])
            .attribute(attr::DATA, b"whole")
            .finish();
        lab.take_sent();
        lab.client_sends(0, client.path(), &send, 0);
        assert!(lab.take_one().dont_fragment);
        assert!(!client.send_indication(&mut lab, PEER, b"in pieces")[0].dont_fragment);
    }
}

// What fits into a peer's datagram fits into a stream, as long as the message's length does
#[test]
fn d2_the_largest_datagrams_go_over_a_stream() {
    let mut lab = Lab::new();
    let mut client = Client::new(CLIENT).over_tcp();
    let relayed = client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    let data = vec![0xAB; 65_507];
    let sent = lab.peer_data(PEER, relayed, &data);
    let indication = turnpike_proto::wire::Message::parse(&sent[0].payload).expect("well-formed");
    assert_eq!(indication.data(), Some(&data[..]));
    client.bind(&mut lab, CHANNEL, PEER).expect_success();
    let sent = lab.peer_data(PEER, relayed, &data);
    assert_eq!(sent[0].payload, [channel_data(&data), vec![0]].concat());
    let sent = client.channel_data(&mut lab, CHANNEL, &data);
    assert_eq!(sent[0].payload, data);
    // One byte more fits into the frame, but into no datagram.
    assert!(client.channel_data(&mut lab, CHANNEL, &[0; 65_508]).is_empty());
    assert_eq!(lab.verdicts(Verdict::DropTooLarge), 1);
}

#[test]
fn d3_what_no_stun_message_can_hold_is_dropped_over_a_stream() {
    let mut lab = Lab::new();
    let mut client = Client::new("[2001:db8:5::1]:1000").over_tcp();
    let answer =
        client.allocate_with(&mut lab, |b| b.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]));
    let relayed = answer.expect_success().relayed();
    let peer = crate::lab::PEER_V6;
    client.permit(&mut lab, peer).expect_success();
    // Header 20, XOR-PEER-ADDRESS 24, DATA 4: 65,504 bytes of data are left of 65,552.
    assert_eq!(lab.peer_data(peer, relayed, &[0xAB; 65_504])[0].payload.len(), 65_552);
    assert!(lab.peer_data(peer, relayed, &[0xAB; 65_505]).is_empty());
    assert_eq!(lab.verdicts(Verdict::DropTooLarge), 1);
}

// Q4, Q7: nobody forges a connection's source, but work is work
#[test]
fn q7_the_limits_on_strangers_and_failed_logins_hold_for_streams() {
    let mut lab = Lab::new();
    let ask = |lab: &mut Lab, port: u16| {
        let client = Client::new(&format!("203.0.113.5:{port}"));
        let mut client = client.over_stream(Transport::Tcp, connection(port.into(), 1));
        let request = MessageBuilder::request(method::ALLOCATE, client.transaction())
            .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .finish();
        lab.client_sends(0, client.path(), &request, 0);
    };
    (1..=3000).for_each(|port| ask(&mut lab, port));
    assert!(lab.take_sent().len() < 2000);
    assert!(lab.verdicts(Verdict::DropUnauthenticatedRate) > 1000);

    let mut lab = Lab::new();
    let mut wrong = Client::named(CLIENT, "alice", "wrong").over_tcp();
    wrong.challenge(&mut lab);
    for _ in 0..500 {
        let request =
            wrong.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
        lab.client_sends(0, wrong.path(), &request, 0);
    }
    assert!(lab.take_sent().len() < 250);
    Client::new("203.0.113.6:1000").over_tcp().allocate(&mut lab);
}

// A challenge over a stream is no weapon, however small its request: it says all that RFC 8489 has
#[test]
fn q4_a_challenge_over_a_stream_is_never_cut_short() {
    let small = MessageBuilder::request(method::ALLOCATE, TransactionId([1; 12]))
        .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .finish();
    let algorithms = |client: Client| {
        let answer = client.exchange(&mut Lab::new(), &small);
        answer.message().has(attr::PASSWORD_ALGORITHMS)
    };
    assert!(!algorithms(Client::new(CLIENT)));
    assert!(both().into_iter().all(algorithms));
}

#[test]
fn what_tls_has_agreed_on_is_shown_as_long_as_the_allocation_lives_and_in_its_record() {
    let mut lab = Lab::new();
    let info = TlsInfo {
        version: TlsVersion::V13,
        cipher_suite: 0x1302,
        alpn: Some(turnpike_proto::addr::Alpn::Turn),
    };
    let [mut tcp, mut tls] = both();
    tls.tls = Some(info);
    tcp.address = addr("203.0.113.6:1000");
    for (mut client, expected) in [(tcp, None), (tls, Some(info))] {
        client.allocate(&mut lab);
        let (views, _) = lab.workers[0].inspect(None, 10);
        assert_eq!(views.iter().map(|view| view.tls).collect::<Vec<_>>(), [expected]);
        client.refresh(&mut lab, 0).expect_success();
        assert_eq!(lab.ended.pop().expect("a record").tls, expected);
    }
}

#[test]
fn allocations_are_counted_by_transport() {
    let mut lab = Lab::new();
    let [mut tcp, mut tls] = both();
    let mut udp = Client::new(CLIENT);
    for client in [&mut udp, &mut tcp, &mut tls] {
        client.allocate(&mut lab);
    }
    lab.input(0, Input::ClientGone(tcp.path()));
    let counts = &lab.workers[0].counts().transports;
    let of = Transport::ALL.map(|transport| (counts.live(transport), counts.created(transport)));
    assert_eq!(of, [(1, 1), (0, 1), (1, 1)]);
}

/// A client with a bandwidth limit and a channel.
fn limited(client: &mut Client, bits_per_sec: u64) -> Lab {
    let mut setup = Setup::default();
    setup.config.max_bitrate_bits = bits_per_sec;
    let mut lab = Lab::with(setup);
    client.allocate(&mut lab);
    client.bind(&mut lab, CHANNEL, PEER).expect_success();
    lab
}

/// Sends until no more passes.
fn use_up(lab: &mut Lab, client: &Client) {
    while !client.channel_data(lab, CHANNEL, &[0; 1000]).is_empty() {}
}

// RFC 8656 s. 5: what exceeds the limit may be dropped; a stream's client can be made to wait instead
#[test]
fn t5_a_stream_waits_for_its_limit_and_a_datagram_does_not() {
    for mut client in both() {
        let mut lab = limited(&mut client, 1_000_000);
        use_up(&mut lab, &client);
        let until_ns = lab.waits_until_ns.take().expect("it waits");
        // Of 12,500 bytes at once 500 are left: 4 ms for as many more at 1 Mbit/s, told to the millisecond.
        let wait_ns = until_ns - lab.now.mono_ns;
        assert!((4_000_000..=5_000_000).contains(&wait_ns), "{wait_ns} ns");
        lab.sleep_ns(wait_ns - 2_000_000);
        assert!(client.send_indication(&mut lab, PEER, &[0; 1000]).is_empty());
        let again_ns = lab.waits_until_ns.take().expect("Send indications wait for the same");
        assert!(again_ns.abs_diff(until_ns) <= 1_000_000);
        lab.sleep_ns(2_000_000);
        assert_eq!(client.channel_data(&mut lab, CHANNEL, &[0; 1000]).len(), 1);
        assert_eq!(lab.verdicts(Verdict::DropRateToPeer), 0);
        client.refresh(&mut lab, 0).expect_success();
        assert_eq!(lab.ended[0].to_peer.userspace.rate_drops, 0, "nothing was dropped");
    }
    let mut client = Client::new(CLIENT);
    let mut lab = limited(&mut client, 1_000_000);
    use_up(&mut lab, &client);
    assert_eq!((lab.waits_until_ns, lab.verdicts(Verdict::DropRateToPeer)), (None, 1));
}

#[test]
fn t5_what_would_wait_for_ever_and_who_can_not_wait_is_dropped_and_counted() {
    for mut client in both() {
        // 3000 bytes at once, which take 24 s to come back.
        let mut lab = limited(&mut client, 1000);
        use_up(&mut lab, &client);
        let wait_ns = lab.waits_until_ns.take().expect("it waits") - lab.now.mono_ns;
        assert!((8_000_000_000..=8_001_000_000).contains(&wait_ns), "{wait_ns} ns");
        assert!(client.channel_data(&mut lab, CHANNEL, &[0; 3001]).is_empty());
        assert_eq!((lab.waits_until_ns, lab.verdicts(Verdict::DropRateToPeer)), (None, 1));
        let data = channel_data(&[0; 1000]);
        let received = Received { origin: Origin::Client(client.path()), bytes: &data, tos: 0 };
        lab.input(client.worker, Input::Received(received));
        assert_eq!(lab.verdicts(Verdict::DropRateToPeer), 2);
        client.refresh(&mut lab, 0).expect_success();
        assert_eq!(lab.ended[0].to_peer.userspace.rate_drops, 2);
    }
}

#[test]
fn what_does_not_reach_a_stream_is_counted_for_its_allocation_and_no_other() {
    let mut lab = Lab::new();
    let mut client = Client::new(CLIENT).over_stream(Transport::Tcp, connection(7, 3));
    client.allocate(&mut lab);
    let later = Client::new(CLIENT).over_stream(Transport::Tcp, connection(7, 4));
    let server = &mut lab.workers[0];
    server.count_stream_drops(&client.path(), UserspaceDrop::StreamQueueAge, 5);
    server.count_stream_drops(&client.path(), UserspaceDrop::StreamQueueFull, 2);
    server.count_stream_drops(&later.path(), UserspaceDrop::StreamQueueFull, 10);
    server.count_userspace(UserspaceDrop::StreamClosed, 1);
    let all = server.counts().userspace_drops;
    assert_eq!(UserspaceDrop::ALL.map(|drop| all.of(drop)), [12, 5, 1, 0, 0, 0]);
    lab.input(client.worker, Input::ClientGone(client.path()));
    let own = lab.ended[0].stream_drops;
    assert_eq!((UserspaceDrop::ALL.map(|drop| own.of(drop)), own.total()), ([2, 5, 0, 0, 0, 0], 7));
}

// Over UDP a client repeats what was dropped; over a stream it would wait for ever
#[test]
fn q4_a_stream_whose_request_a_limit_drops_is_closed() {
    let allocate = |client: &mut Client| {
        MessageBuilder::request(method::ALLOCATE, client.transaction())
            .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .finish()
    };
    let binding =
        |client: &mut Client| MessageBuilder::request(method::BINDING, client.transaction()).finish();
    for (make, verdict, burst) in [
        (&allocate as &dyn Fn(&mut Client) -> Vec<u8>, Verdict::DropUnauthenticatedRate, 1000),
        (&binding, Verdict::DropStrangerBudget, 4000),
    ] {
        let mut lab = Lab::new();
        let mut client = Client::new(CLIENT).over_stream(Transport::Tcp, connection(7, 3));
        let mut datagrams = Client::new(CLIENT);
        let mut answers = 0;
        while lab.closed_streams.is_empty() {
            let request = make(&mut client);
            lab.client_sends(client.worker, client.path(), &request, 0);
            answers += lab.take_sent().len();
            assert!(answers <= 2 * burst, "the limit holds for streams, too");
        }
        assert_eq!(lab.verdicts(verdict), 1);
        assert_eq!(lab.closed_streams, [client.path()]);
        for _ in 0..100 {
            let request = make(&mut datagrams);
            lab.client_sends(datagrams.worker, datagrams.path(), &request, 0);
        }
        assert_eq!(lab.closed_streams.len(), 1, "there is nothing to close of a datagram's sender");
    }
}

#[test]
fn q7_failed_logins_by_streams_are_limited_and_an_allocation_outlives_them() {
    let mut lab = Lab::new();
    let mut holder = Client::new(CLIENT).over_stream(Transport::Tcp, connection(7, 3));
    holder.allocate(&mut lab);
    let mut guessing = Client::named(CLIENT, "bob", "guess").over_stream(Transport::Tls, connection(8, 1));
    guessing.challenge(&mut lab);
    let mut answers = 0;
    while lab.closed_streams.is_empty() {
        let request =
            guessing.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
        lab.client_sends(guessing.worker, guessing.path(), &request, 0);
        answers += lab.take_sent().len();
        assert!(answers <= 100, "the limit holds for streams, too");
    }
    assert_eq!(lab.closed_streams, [guessing.path()]);
    assert!(lab.verdicts(Verdict::DropUnauthenticatedRate) >= 1);
    holder.refresh(&mut lab, 600).expect_success();
}
