//! What is no snapshot is refused, whatever was done to it.

use turnpike_proto::migrate::{FORMAT, Scope, Seal, Snapshot, SnapshotError};

use crate::lab::{Client, Lab, Luggage, PEER, Setup};

fn snapshot() -> (Lab, Vec<u8>) {
    let mut lab = Lab::with(Setup { slots: Some((4, 4)), ..Setup::default() });
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    let bytes = lab.snapshot().to_vec();
    (lab, bytes)
}

fn refusal(bytes: &[u8]) -> SnapshotError {
    Snapshot::open(bytes).err().expect("refused")
}

#[test]
fn a_snapshot_cut_off_anywhere_is_refused() {
    let (_, bytes) = snapshot();
    assert!(Snapshot::open(&bytes).is_ok());
    for len in 0..bytes.len() {
        let why = refusal(&bytes[..len]);
        assert!(matches!(why, SnapshotError::Damaged | SnapshotError::Foreign), "{len}: {why}");
    }
}

#[test]
fn a_snapshot_with_any_bit_flipped_is_refused() {
    let (_, mut bytes) = snapshot();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        refusal(&bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(Snapshot::open(&bytes).is_ok());
}

#[test]
fn other_bytes_are_foreign() {
    for bytes in [&b""[..], b"TURNPIKE", b"SQLite format 3\0", &[0; 100], &[0xff; 4096]] {
        assert_eq!(refusal(bytes), SnapshotError::Foreign);
    }
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let (_, mut bytes) = snapshot();
    bytes[8..10].copy_from_slice(&(FORMAT + 1).to_le_bytes());
    assert_eq!(refusal(&bytes), SnapshotError::Format(FORMAT + 1));
}

/// With a digest that fits.
fn sealed(parts: &[&[u8]]) -> Vec<u8> {
    let (mut seal, mut bytes) = Seal::begin();
    for part in parts {
        seal.add(part);
        bytes.extend(*part);
    }
    bytes.extend(seal.end());
    bytes
}

#[test]
fn parts_in_another_order_are_a_contradiction() {
    let (mut lab, _) = snapshot();
    let shared = lab.shared.export(lab.now);
    let (worker, _) = lab.workers[0].export(lab.now, Scope::All, None);
    assert!(Snapshot::open(&sealed(&[&shared, &worker])).is_ok());
    for parts in [&[&worker[..], &shared][..], &[&shared, &shared], &[&worker], &[]] {
        assert!(matches!(refusal(&sealed(parts)), SnapshotError::Contradiction(_)));
    }
    assert_eq!(refusal(&sealed(&[&shared, &[9; 7]])), SnapshotError::Damaged);
}

#[test]
fn a_state_that_says_the_same_twice_is_a_contradiction() {
    let (mut lab, _) = snapshot();
    let shared = lab.shared.export(lab.now);
    let parts = lab.workers[0].export_all(lab.now, Scope::All);
    let allocations = parts.last().expect("the last part has them").to_vec();
    let mut twice: Vec<&[u8]> = vec![&shared];
    twice.extend(parts.iter().map(|part| &part[..]));
    twice.push(&allocations);
    let adopted = lab.adopt(Setup::default(), &sealed(&twice), &Luggage::default());
    assert!(matches!(adopted, Err(SnapshotError::Contradiction(_))));
}

#[test]
fn a_failed_export_leaves_the_original_serving() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let relayed = client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    drop(lab.snapshot());
    assert_eq!(client.channel_data(&mut lab, 0x4000, b"up").len(), 1);
    assert_eq!(lab.peer_data(PEER, relayed, b"down").len(), 1);
    client.refresh(&mut lab, 600).expect_success();
}
