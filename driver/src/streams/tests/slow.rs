//! Clients that read slowly, or not at all.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const PAYLOAD: usize = 1000;

fn frame(number: u32) -> Vec<u8> {
    let mut payload = vec![7; PAYLOAD];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

fn send(rig: &mut Rig, socket: ClientSocket, number: u32) {
    let [high, low] = (PAYLOAD as u16).to_be_bytes();
    rig.streams.send_media(rig.now_ns, socket, [&[0x40, 1, high, low], &frame(number)], 0);
}

/// Reads until the end: the numbers of the frames that came. Says so when the answer has come.
fn hear(client: &mut StreamClient, is_answered: &AtomicBool) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Ok(Some(message)) = client.hear() {
        let payload = &message[4..];
        if payload.len() == 8 {
            is_answered.store(true, Ordering::Relaxed);
            continue;
        }
        let number = u32::from_be_bytes(payload[..4].try_into().expect("four bytes"));
        assert_eq!(payload, frame(number));
        numbers.push(number);
    }
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)), "never a part of a frame");
    assert!(is_answered.load(Ordering::Relaxed), "answers are not dropped");
    numbers
}

/// Sends so many frames to a client that reads none, then lets it read: the numbers of those that came, and the
/// counters.
fn flood(tls: bool, frames: u32, age: Duration) -> (Vec<u32>, StreamCounters) {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let (mut client, socket) = rig.talking(tls);
    for number in 0..frames {
        send(&mut rig, socket, number);
        if number % 8 == 0 {
            rig.turn();
        }
    }
    rig.later(age);
    // An answer, queued behind all of it, comes whatever was dropped.
    rig.streams.send_answer(rig.now_ns, socket, &channel_data(&[0xff; 8]));
    rig.turn();
    let stop = AtomicBool::new(false);
    let numbers = std::thread::scope(|scope| {
        let (stop, rig) = (&stop, &mut rig);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                rig.turn();
                std::thread::sleep(Duration::from_micros(200));
            }
            // The end of what comes, for the reader.
            rig.streams.stop(rig.now_ns);
            while !rig.streams.is_empty() {
                rig.turn();
            }
        });
        hear(&mut client, stop)
    });
    let counters = rig.streams.counters();
    let counted =
        Dropped { full: counters.dropped_full, old: counters.dropped_old, closed: counters.dropped_closed };
    assert_eq!(rig.told, counted, "the worker heard of each");
    (numbers, counters)
}

#[test]
fn what_is_missing_is_what_was_counted_and_it_is_the_oldest() {
    for tls in [false, true] {
        let (numbers, counters) = flood(tls, 20_000, Duration::ZERO);
        assert!(counters.dropped_full > 0, "{counters:?}");
        assert_eq!(counters.dropped_old, 0);
        let missing = 20_000 - numbers.len() as u64;
        assert_eq!(missing, counters.dropped_full + counters.dropped_closed, "with TLS: {tls}");
        assert!(numbers.is_sorted());
        assert_eq!(numbers.last(), Some(&19_999), "the newest arrived");
    }
}

#[test]
fn media_that_has_waited_for_too_long_is_dropped_whole() {
    for tls in [false, true] {
        let (numbers, counters) = flood(tls, 20_000, Duration::from_millis(151));
        assert!(counters.dropped_old > 0, "{counters:?}");
        let missing = 20_000 - numbers.len() as u64;
        assert_eq!(missing, counters.dropped_full + counters.dropped_old + counters.dropped_closed);
    }
}

#[test]
fn a_client_that_never_reads_costs_its_neighbour_nothing() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let (mut stalled, mut reader) = (rig.connect(), rig.connect());
    let stalled_socket = rig.introduce(&mut stalled);
    let reader_socket = rig.introduce(&mut reader);
    for number in 0..20_000 {
        send(&mut rig, stalled_socket, number);
        if number % 100 == 0 {
            send(&mut rig, reader_socket, number);
            rig.turn();
            let payload = read_frame(&mut reader);
            assert_eq!(payload, frame(number));
        }
    }
    let counters = rig.streams.counters();
    assert!(counters.dropped_full > 10_000, "{counters:?}");
    let begun = 4 + PAYLOAD;
    assert!(rig.streams.queued <= (256 << 10) + begun, "memory is bounded");
    assert_eq!(rig.streams.counters().open_tcp, 2);
}

#[test]
fn answers_that_nobody_reads_end_the_connection() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = rig.connect();
    let socket = rig.introduce(&mut client);
    for _ in 0..200_000 {
        rig.streams.send_answer(rig.now_ns, socket, &channel_data(&[0; 100]));
        rig.turn();
        if !rig.closed.is_empty() {
            break;
        }
    }
    assert_eq!(rig.closed, [CloseReason::AnswersFull]);
    assert_eq!(rig.streams.queued, 0);
}

#[test]
fn epoll_is_asked_for_room_only_while_something_waits() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = rig.connect();
    let socket = rig.introduce(&mut client);
    rig.turn();
    let waits = |rig: &mut Rig| rig.streams.table.get_mut(socket).expect("open").waits_for_room;
    assert!(!waits(&mut rig));
    for number in 0..20_000 {
        send(&mut rig, socket, number);
        rig.turn();
        if waits(&mut rig) {
            break;
        }
    }
    assert!(waits(&mut rig));
    client.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let deadline = Instant::now() + PATIENCE;
    while waits(&mut rig) && Instant::now() < deadline {
        let _ = client.read(&mut [0; 65_536]);
        rig.turn();
    }
    assert!(!waits(&mut rig));
}

#[test]
fn a_slow_client_is_given_little_at_once_and_what_is_ahead_makes_media_older() {
    for tls in [false, true] {
        let mut rig = Rig::new(BOTH, StreamOptions::default());
        let (mut client, socket) = rig.talking(tls);
        let pace = |rig: &mut Rig| {
            let connection = rig.streams.table.get_mut(socket).expect("open");
            connection.pace.is_some().then(|| (connection.ahead_ns(), connection.piece(1 << 20)))
        };
        // Until the kernel takes no more.
        let mut number = 0;
        while pace(&mut rig).is_none() {
            send(&mut rig, socket, number);
            rig.turn();
            number += 1;
            assert!(number < 50_000);
        }
        assert_eq!(pace(&mut rig), Some((0, 4096)), "its pace is not known yet");
        // It takes a little in each millisecond, and more waits behind it.
        let deadline = Instant::now() + PATIENCE;
        while pace(&mut rig).is_some_and(|(ahead_ns, _)| ahead_ns == 0) {
            assert!(Instant::now() < deadline, "{:?}", rig.streams.counters());
            client.read_exact(&mut [0; 1 << 10]).expect("there is a lot");
            (0..8).for_each(|_| send(&mut rig, socket, number));
            rig.later(Duration::from_millis(1));
            rig.turn();
        }
        let (ahead_ns, piece) = pace(&mut rig).expect("more waits");
        assert!(ahead_ns > 0 && (2048..=16 << 10).contains(&piece), "{ahead_ns} ns, {piece} bytes");
    }
}
