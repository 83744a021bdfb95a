//! One final record per allocation, true to what was relayed, and forged by nobody.

use serde_json::Value;
use turnpike_proto::auth::{Key, rest_password};
use turnpike_proto::wire::{MessageBuilder, attr, method};

use super::lab::{Lab, PEER_V4};
use super::server::{ALLOW_PEERS, Log, REALM, SERVER, Server};
use super::talker::{Talker, UDP, peer_socket};

const SECRET: &str = "north-star";

/// Names that a service with the secret, or a client of such a service, may choose.
const HOSTILE: &[&str] = &[
    "bob\" allocation ended user=\"root",
    "bob, reason=deleted to_peer_bytes=0",
    "%n%s%x",
    "'; DROP TABLE users; --",
    "{\"level\":\"ERROR\",\"message\":\"forged\"}",
    "\\n2026-01-01T00:00:00Z ERROR forged",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "bøb ☎",
];

/// Names that are no OpaqueString: they don't even authenticate.
const REFUSED: &[&str] =
    &["bob\n2026 ERROR forged", "bob\r\nforged", "bob\0", "bob\u{1b}[2J", "bob\u{2028}forged"];

fn full_name(user: &str) -> String {
    format!("{}:{user}", u32::MAX)
}

/// Runs one allocation of each name, with data both ways, and gives the log.
fn run(lab: &Lab, format: &str) -> Log {
    let config = format!("{ALLOW_PEERS}auth-secret = [\"{SECRET}\"]\nlog-format = \"{format}\"\n");
    let server = Server::start(lab, &config);
    let peer = peer_socket(&lab.peer, PEER_V4);
    for user in HOSTILE {
        let name = full_name(user);
        let mut talker = Talker::new(&lab.client, SERVER).named(&name, &rest_password(SECRET, &name));
        let relayed = talker.allocate();
        assert_eq!(talker.bind(peer.local_addr().expect("it is bound")).code, None);
        let mut buffer = [0; 100];
        for _ in 0..3 {
            talker.channel_data(b"to the peer");
            assert_eq!(peer.recv_from(&mut buffer).expect("it is relayed").0, 11);
        }
        peer.send_to(b"back", relayed).expect("the namespace has a route");
        assert_eq!(talker.hear().expect("it is relayed").len(), 4 + 4);
        assert_eq!(talker.refresh(0).code, None);
    }
    for user in REFUSED {
        refuse(lab, &full_name(user));
    }
    // It still is there when the server stops.
    Talker::new(&lab.client, SERVER).allocate();
    server.stop()
}

/// A login with a name for which no key can be made.
fn refuse(lab: &Lab, name: &str) {
    let mut talker = Talker::new(&lab.client, SERVER);
    talker.challenge();
    let key = Key::md5("bob", REALM, "guess").expect("good credentials");
    let request = MessageBuilder::request(method::ALLOCATE, talker.id())
        .attribute(attr::REQUESTED_TRANSPORT, &UDP)
        .attribute(attr::USERNAME, name.as_bytes())
        .attribute(attr::REALM, REALM.as_bytes())
        .attribute(attr::NONCE, &talker.nonce)
        .finish_signed(&key);
    assert_eq!(talker.ask(&request).code, Some(401), "{name:?}");
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q16_json_records_are_one_object_each_and_true() {
    let Some(lab) = Lab::new("q16_json_records_are_one_object_each_and_true") else { return };
    let log = run(&lab, "json");
    let lines: Vec<&str> = log.0.lines().filter(|line| !line.starts_with("turnpike ready")).collect();
    let objects: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
        .collect();
    assert!(objects.iter().all(|object| object["level"] != "ERROR"), "{}", log.0);
    let records: Vec<&Value> =
        objects.iter().filter(|object| object["message"] == "allocation ended").collect();
    assert_eq!(records.len(), HOSTILE.len() + 1, "{}", log.0);
    for (record, user) in records.iter().zip(HOSTILE) {
        assert_eq!(record["user"], full_name(user));
        let numbers = [
            "to_peer_packets",
            "to_peer_bytes",
            "to_peer_rate_drops",
            "to_client_packets",
            "to_client_bytes",
        ]
        .map(|key| record[key].as_u64().unwrap_or_else(|| panic!("{key} in {record}")));
        assert_eq!(numbers, [3, 33, 0, 1, 4], "{record}");
        assert_eq!((&record["reason"], &record["transport"]), (&"deleted".into(), &"udp".into()));
        assert!(
            record["client"].as_str().is_some_and(|client| client.starts_with("10.77.1.10:")),
            "{record}"
        );
        assert!(
            record["relayed"].as_str().is_some_and(|relayed| relayed.starts_with("10.77.2.2:")),
            "{record}"
        );
        assert!(record["duration_ms"].as_u64().is_some_and(|duration| duration < 60_000), "{record}");
    }
    let last = records.last().expect("there are records");
    assert_eq!((&last["user"], &last["reason"]), (&"alice".into(), &"shutdown".into()));
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q16_text_records_are_one_line_each() {
    let Some(lab) = Lab::new("q16_text_records_are_one_line_each") else { return };
    let log = run(&lab, "text");
    let is_record = |line: &&str| line.contains("INFO") || line.contains("WARN");
    let strays: Vec<&str> = log
        .0
        .lines()
        .filter(|line| !line.starts_with("turnpike ready"))
        .filter(|line| !is_record(line))
        .collect();
    assert_eq!(strays, [""; 0], "every line is a record of the server's own:\n{}", log.0);
    let records = log.records();
    assert_eq!(records.len(), HOSTILE.len() + 1, "{}", log.0);
    for (record, user) in records.iter().zip(HOSTILE) {
        // Quoted, with quotes in it escaped: what follows can't be taken for another field.
        let named = format!(" user={:?} quota_user={user:?} client=10.77.1.10:", full_name(user));
        assert!(record.contains(&named), "{record}");
        assert!(record.contains("to_peer_packets=3 to_peer_bytes=33"), "{record}");
        assert!(record.ends_with("reason=\"deleted\""), "{record}");
    }
}
