//! Clients that have to wait before what they send is taken.

use super::*;

const PAUSE: Duration = Duration::from_secs(1);

/// From now on messages are to wait.
fn pause(rig: &mut Rig, time: Duration) {
    rig.pause_until_ns = rig.now_ns + time.as_nanos() as u64;
}

fn frames(numbers: Range<u8>) -> Vec<u8> {
    numbers.flat_map(|number| channel_data(&[number; 5])).collect()
}

/// ChannelData as it is handed out: without its padding.
fn expected(numbers: Range<u8>) -> Vec<Vec<u8>> {
    numbers.map(|number| channel_data(&[number; 5])[..9].to_vec()).collect()
}

#[test]
fn what_waits_comes_in_its_order_and_nothing_is_read_before() {
    for tls in [false, true] {
        let mut rig = Rig::new(BOTH, StreamOptions::default());
        let (mut client, _) = rig.talking(tls);
        pause(&mut rig, PAUSE);
        client.say(&frames(0..3)).expect("sent");
        rig.until(|rig| rig.streams.counters().pauses == 1);
        client.say(&frames(3..6)).expect("sent");
        rig.later(PAUSE - Duration::from_millis(1));
        for _ in 0..50 {
            rig.turn();
        }
        assert!(rig.messages.is_empty() && rig.streams.held > 0);
        assert_eq!(rig.streams.poll_timeout(), Some(rig.pause_until_ns), "the worker is woken for it");
        rig.later(Duration::from_millis(1));
        assert_eq!(rig.until_messages(6), expected(0..6), "with TLS: {tls}");
        let counters = rig.streams.counters();
        assert_eq!((counters.pauses, counters.paused_ns, rig.streams.held), (1, PAUSE.as_nanos() as u64, 0));
    }
}

/// Writes until the system takes no more; how many frames that were, the last perhaps in part.
fn stuff(rig: &mut Rig, client: &mut TcpStream, payload: usize) -> Vec<u8> {
    client.set_nonblocking(true).expect("an option");
    let mut sent = Vec::new();
    let frame = channel_data(&vec![7; payload]);
    let deadline = Instant::now() + PATIENCE;
    let mut idle_turns = 0;
    while idle_turns < 50 {
        assert!(Instant::now() < deadline, "{} bytes were taken", sent.len());
        let offset = sent.len() % frame.len();
        match client.write(&frame[offset..]) {
            Ok(count) => {
                sent.extend_from_slice(&frame[offset..offset + count]);
                idle_turns = 0;
            }
            Err(_) => idle_turns += 1,
        }
        rig.turn();
    }
    sent
}

#[test]
fn whoever_sends_without_end_is_slowed_by_tcp_and_loses_nothing() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = rig.connect();
    rig.introduce(&mut client);
    pause(&mut rig, PAUSE);
    let sent = stuff(&mut rig, &mut client, 1000);
    assert!(rig.streams.held <= 64 << 10, "{} bytes are held", rig.streams.held);
    assert_eq!(rig.impatient, 0);
    rig.later(PAUSE);
    let whole = sent.len() / 1004;
    let messages = rig.until_messages(whole);
    assert!(messages.iter().all(|message| message.len() == 1004));
    // The rest of the frame that was cut.
    client.set_nonblocking(false).expect("an option");
    client.write_all(&channel_data(&[7; 1000])[sent.len() % 1004..]).expect("sent");
    rig.until_messages(1);
    assert_eq!((rig.streams.held, rig.streams.unfinished), (0, 0));
}

#[test]
fn a_paused_connection_that_breaks_is_over_at_once() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = rig.connect();
    rig.introduce(&mut client);
    pause(&mut rig, PAUSE);
    client.write_all(&frames(0..3)).expect("sent");
    rig.until(|rig| rig.streams.counters().pauses == 1);
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(client);
    rig.until(|rig| rig.closed == [CloseReason::Broken]);
    assert_eq!((rig.streams.held, rig.streams.unfinished), (0, 0));
    assert!(rig.streams.is_empty() && rig.messages.is_empty());
}

#[test]
fn what_came_before_the_end_is_handed_out_after_the_pause() {
    for tls in [false, true] {
        let mut rig = Rig::new(BOTH, StreamOptions::default());
        // Kept: closing a socket with something unread would be a reset.
        let (mut client, _) = rig.talking(tls);
        pause(&mut rig, PAUSE);
        client.say(&frames(0..3)).expect("sent");
        client.finish().expect("connected");
        rig.until(|rig| rig.streams.counters().pauses == 1);
        rig.later(PAUSE);
        assert_eq!(rig.until_messages(3), expected(0..3));
        rig.until(|rig| rig.closed == [CloseReason::ByClient]);
        assert_eq!(rig.streams.held, 0);
    }
}

#[test]
fn whoever_is_behind_for_long_catches_up() {
    let mut rig = Rig::new(BOTH, StreamOptions::default());
    let mut client = rig.connect();
    rig.introduce(&mut client);
    for second in 0..=30 {
        pause(&mut rig, PAUSE);
        client.write_all(&frames(0..1)).expect("sent");
        rig.until(|rig| rig.streams.counters().pauses == second + 1);
        assert_eq!(rig.impatient, 0, "after {second} s");
        rig.later(PAUSE);
    }
    pause(&mut rig, PAUSE);
    client.write_all(&frames(0..2)).expect("sent");
    rig.until(|rig| rig.impatient == 33 && rig.streams.held == 0);
    // All that had been sent was read: from now on there is patience again.
    rig.turn();
    client.write_all(&frames(0..1)).expect("sent");
    rig.until(|rig| rig.streams.counters().pauses == 32);
    assert_eq!(rig.impatient, 33);
    rig.streams.stop(rig.now_ns);
    rig.until(|rig| rig.streams.is_empty());
    assert_eq!(rig.streams.held, 0);
}
