//! Datagrams that travel together: joined when sent, merged when received.

use super::*;

on_both!(
    equal_datagrams_arrive_as_one_run,
    what_differs_is_not_joined,
    a_run_may_be_sent_on_segment_by_segment,
    coalescing_delays_but_loses_nothing,
);

/// A driver whose listener takes what another one sends, and the other one with an open relay socket.
fn pair<D: Rig>(bind: &str) -> (D, SocketAddr, D) {
    let (sink, to) = driver::<D>(bind);
    let (mut source, _) = driver::<D>(bind);
    open(&mut source, relay(0), bind);
    (sink, to, source)
}

/// The next runs, until they have `count` datagrams: TOS, and the length of each datagram.
fn receive_runs(driver: &mut impl Rig, count: usize) -> Vec<(u8, Vec<u32>)> {
    let deadline = Instant::now() + PATIENCE;
    let mut runs: Vec<(u8, Vec<u32>)> = Vec::new();
    while runs.iter().map(|(_, run)| run.len()).sum::<usize>() < count && Instant::now() < deadline {
        for event in turn(driver, SILENCE) {
            if let Event::Datagram(run) = event {
                runs.push((run.tos, segments(&run).collect()));
            }
        }
    }
    runs
}

fn equal_datagrams_arrive_as_one_run<D: Rig>() {
    for bind in [V4, V6] {
        let (mut sink, to, mut source) = pair::<D>(bind);
        for _ in 0..8 {
            source.transmit(Egress::Relay(relay(0)), to, &[7; 1200], 0x2e, false);
        }
        source.transmit(Egress::Relay(relay(0)), to, &[7; 300], 0x2e, false);
        source.flush();
        let mut expected = vec![1200; 8];
        expected.push(300);
        assert_eq!(receive_runs(&mut sink, 9), [(0x2e, expected)]);
    }
}

// Empty datagrams would become one; ECN and DSCP belong to each datagram (RFC 8656 s. 14).
fn what_differs_is_not_joined<D: Rig>() {
    let (mut sink, to, mut source) = pair::<D>(V4);
    let sent = [(0, 0), (0, 0), (1, 100), (2, 100), (2, 100), (3, 100), (0xb8, 100), (0xb8, 60), (0xb8, 60)];
    for (tos, len) in sent {
        source.transmit(Egress::Relay(relay(0)), to, &vec![7; len], tos, false);
    }
    source.flush();
    let expected = [
        (0, vec![0]),
        (0, vec![0]),
        (1, vec![100]),
        (2, vec![100, 100]),
        (3, vec![100]),
        (0xb8, vec![100, 60]),
        (0xb8, vec![60]),
    ];
    assert_eq!(receive_runs(&mut sink, sent.len()), expected);
}

fn a_run_may_be_sent_on_segment_by_segment<D: Rig>() {
    let (mut middle, to, mut source) = pair::<D>(V4);
    let peers = [client(V4), client(V4)];
    for number in 0..9u8 {
        source.transmit(
            Egress::Relay(relay(0)),
            to,
            &vec![number; if number < 8 { 50 } else { 20 }],
            0,
            false,
        );
    }
    source.flush();
    let run = await_datagram(&mut middle);
    assert_eq!((run.len, run.segment_size), (8 * 50 + 20, 50));
    for (number, start) in (0..run.len).step_by(50).enumerate() {
        let transmit = Transmit {
            to: local(&peers[number % 2]),
            header: Some([0x40, 0, 0, number as u8]),
            payload_start: 4,
            payload_len: 50.min(run.len - start) - 4,
            ..echo_of(&run)
        };
        middle.forward(&run, start as usize, &transmit);
    }
    middle.flush();
    for number in 0..9u8 {
        let mut buffer = [0; 100];
        let len = peers[usize::from(number % 2)].recv(&mut buffer).expect("it arrives");
        let expected = [&[0x40, 0, 0, number][..], &vec![number; if number < 8 { 46 } else { 16 }]].concat();
        assert_eq!(buffer[..len], expected);
    }
}

fn coalescing_delays_but_loses_nothing<D: Rig>() {
    const COUNT: usize = 3000;
    let options = SocketOptions { coalesce: Duration::from_micros(200), ..SocketOptions::default() };
    let (mut driver, server) = driver_with::<D>(V4, options);
    make_busy(&mut driver);
    let sender = std::thread::spawn(move || {
        let client = client(V4);
        for number in 0..COUNT as u32 {
            client.send_to(&number.to_be_bytes(), server).expect("sent");
            std::thread::sleep(Duration::from_micros(20));
        }
    });
    let (mut next, mut turns) = (0u32, 0);
    let deadline = Instant::now() + PATIENCE;
    while (next as usize) < COUNT && Instant::now() < deadline {
        let events = turn(&mut driver, SILENCE);
        turns += usize::from(!events.is_empty());
        for event in events {
            let Event::Datagram(datagram) = event else { continue };
            assert_eq!(driver.bytes(&datagram), next.to_be_bytes());
            next += 1;
        }
    }
    sender.join().expect("the sender ends");
    assert_eq!(next as usize, COUNT);
    assert!(turns < COUNT * 3 / 4, "{turns} turns for {COUNT} datagrams: they came together");
    client(V4).send_to(b"late", server).expect("sent");
    assert_eq!(await_datagram(&mut driver).len, 4);
}

/// As if its thread used a whole processor: after a sample that lies in the future there is no other one.
fn make_busy(driver: &mut impl Rig) {
    const FUTURE_NS: u64 = u64::MAX / 2;
    for elapsed_ns in (0..100).map(|sample| sample * 5_000_000) {
        driver.base_mut().coalescer.sample(FUTURE_NS + elapsed_ns, elapsed_ns);
    }
    assert_eq!(driver.counters().coalesce_ns, 200_000);
}
