use super::*;

const LIMIT: usize = usize::MAX;

fn envelope(index: u32, to: &str) -> Envelope {
    Envelope {
        sender: Sender::Relay { index, generation: 1 },
        to: to.parse().expect("a socket address"),
        source: None,
        tos: 0,
        dont_fragment: false,
    }
}

fn a() -> Envelope {
    envelope(0, "192.0.2.1:1000")
}

fn push(batch: &mut Batch, envelope: Envelope, len: usize) {
    push_limited(batch, envelope, len, LIMIT);
}

fn push_limited(batch: &mut Batch, envelope: Envelope, len: usize, longest_joined: usize) {
    let payload = batch.copy(&vec![0; len]);
    batch.push(envelope, None, payload, longest_joined);
}

/// The sizes of the datagrams of each message, in the order of sending.
fn sizes(batch: &mut Batch) -> Vec<Vec<usize>> {
    batch.sort();
    let sizes = |message: &JoinedMessage| batch.parts(message).map(Part::len).collect();
    (0..batch.count()).map(|place| sizes(batch.message(place))).collect()
}

fn built(lens: &[usize]) -> Vec<Vec<usize>> {
    let mut batch = Batch::new();
    lens.iter().for_each(|&len| push(&mut batch, a(), len));
    sizes(&mut batch)
}

#[test]
fn equal_sizes_join_and_a_shorter_one_ends_the_message() {
    assert_eq!(built(&[100, 100, 100]), [[100, 100, 100]]);
    assert_eq!(built(&[100, 100, 40, 40]), [vec![100, 100, 40], vec![40]]);
    assert_eq!(built(&[40, 100, 100]), [vec![40], vec![100, 100]]);
    assert_eq!(built(&[100, 99, 100]), [vec![100, 99], vec![100]]);
}

#[test]
fn empty_datagrams_travel_alone() {
    assert_eq!(built(&[0, 0, 0]), [[0], [0], [0]]);
    assert_eq!(built(&[10, 0, 10]), [[10], [0], [10]]);
}

#[test]
fn a_message_has_bounds_in_count_and_bytes() {
    let many = built(&[1; 130]);
    assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 2]);
    let large = built(&[1400; 60]);
    assert_eq!(large.iter().map(Vec::len).collect::<Vec<_>>(), [46, 14]);
    assert!(large.iter().all(|message| message.iter().sum::<usize>() <= MAX_MESSAGE_BYTES));
    assert_eq!(built(&[65_507, 65_507]).len(), 2);
}

#[test]
fn flows_join_although_others_come_in_between() {
    let mut batch = Batch::new();
    let b = envelope(0, "192.0.2.1:1001");
    let other_socket = envelope(1, "192.0.2.1:1000");
    for _ in 0..3 {
        for envelope in [a(), other_socket, b] {
            push(&mut batch, envelope, 160);
        }
    }
    assert_eq!(sizes(&mut batch), [[160; 3]; 3]);
}

#[test]
fn source_tos_and_df_keep_datagrams_apart() {
    let source = Some("192.0.2.9:3478".parse().expect("a socket address"));
    for other in [
        Envelope { tos: 0x01, ..a() },
        Envelope { tos: 0xb8, ..a() },
        Envelope { dont_fragment: true, ..a() },
        Envelope { source, ..a() },
    ] {
        let mut batch = Batch::new();
        for envelope in [a(), other, other, a()] {
            push(&mut batch, envelope, 50);
        }
        // Not two and two: the last one must not overtake those before it.
        assert_eq!(sizes(&mut batch), [vec![50], vec![50, 50], vec![50]], "{other:?}");
    }
}

#[test]
fn datagrams_over_the_limit_travel_alone() {
    let mut batch = Batch::new();
    for len in [1473, 1473, 1472, 1472, 1473] {
        push_limited(&mut batch, a(), len, 1472);
    }
    assert_eq!(sizes(&mut batch), [vec![1473], vec![1473], vec![1472, 1472], vec![1473]]);
    batch.clear();
    (0..3).for_each(|_| push_limited(&mut batch, a(), 10, 0));
    assert_eq!(sizes(&mut batch).len(), 3, "0 joins nothing");
}

#[test]
fn the_header_counts_as_part_of_the_size() {
    let mut batch = Batch::new();
    batch.push(a(), Some([0x40, 0, 0, 6]), Payload::Received(7..13), LIMIT);
    batch.push(a(), None, Payload::Received(100..110), LIMIT);
    batch.push(a(), Some([0x40, 0, 0, 7]), Payload::Received(20..27), LIMIT);
    assert_eq!(sizes(&mut batch), [vec![10, 10], vec![11]]);
    let message = *batch.message(0);
    assert_eq!((message.segment_bytes, message.segments), (10, 2));
}

#[test]
fn messages_of_one_socket_and_df_are_a_run() {
    let mut batch = Batch::new();
    let df = Envelope { dont_fragment: true, ..a() };
    for (envelope, len) in [(envelope(5, "192.0.2.1:1"), 1), (a(), 1), (a(), 2), (df, 3), (a(), 4)] {
        push(&mut batch, envelope, len);
    }
    assert!(batch.has_dont_fragment());
    batch.sort();
    let mut runs = Vec::new();
    let mut start = 0;
    while start < batch.count() {
        let run = batch.run_from(start);
        start = run.end;
        runs.push(run);
    }
    assert_eq!(runs, [0..2, 2..3, 3..4, 4..5]);
    assert_eq!(batch.message(4).envelope.sender, Sender::Relay { index: 5, generation: 1 });
}

/// What a receiver sees of each flow is what was pushed into it, whatever the mixture.
#[test]
fn order_within_a_flow_is_kept() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for round in 0..200 {
        let mut batch = Batch::new();
        let mut expected: HashMap<(Sender, SocketAddr), Vec<usize>> = HashMap::new();
        for number in 0..random(300) as usize {
            let tos = random(2) as u8;
            let envelope =
                Envelope { tos, ..envelope(random(3) as u32, &format!("192.0.2.1:{}", 1 + random(3))) };
            let len = [0, 10, 10, 10, 20][random(5) as usize];
            let start = number * 100;
            batch.push(envelope, None, Payload::Received(start..start + len), LIMIT);
            expected.entry((envelope.sender, envelope.to)).or_default().push(start);
        }
        batch.sort();
        let mut seen: HashMap<(Sender, SocketAddr), Vec<usize>> = HashMap::new();
        for place in 0..batch.count() {
            let message = batch.message(place);
            let flow = seen.entry((message.envelope.sender, message.envelope.to)).or_default();
            let lens: Vec<usize> = batch.parts(message).map(Part::len).collect();
            let (last, others) = lens.split_last().expect("a message has a datagram");
            assert!(others.iter().all(|len| *len == message.segment_bytes && *len > 0), "round {round}");
            assert!(*last <= message.segment_bytes);
            for part in batch.parts(message) {
                let Payload::Received(range) = &part.payload else { panic!("all were received") };
                flow.push(range.start);
            }
        }
        assert_eq!(seen, expected, "round {round}");
    }
}

#[test]
fn it_is_full_at_its_bound_and_empty_after_clearing() {
    let mut batch = Batch::new();
    (0..MAX_QUEUED).for_each(|_| push(&mut batch, a(), 1));
    assert!(batch.is_full());
    batch.clear();
    assert!(batch.is_empty());
    assert_eq!(sizes(&mut batch), Vec::<Vec<usize>>::new());
}

#[test]
fn copies_are_bounded_kept_until_sent_and_given_back() {
    let mut batch = Batch::new();
    let mut ranges = Vec::new();
    while !batch.is_full() {
        let payload = batch.copy(&[ranges.len() as u8; 60_000]);
        let Payload::Copied(range) = &payload else { panic!("it was copied") };
        ranges.push(range.clone());
        batch.push(a(), None, payload, LIMIT);
    }
    assert_eq!(ranges.len(), MAX_COPIED_BYTES.div_ceil(60_000));
    for (number, range) in ranges.iter().enumerate() {
        assert!(batch.copied(range).iter().all(|byte| *byte == number as u8));
    }
    batch.release_memory();
    assert_eq!(batch.copied(&ranges[0])[0], 0, "not while it is queued");
    batch.clear();
    batch.release_memory();
    assert!(!batch.is_full() && batch.copies.capacity() == 0);
}
