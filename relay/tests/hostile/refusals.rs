//! Ways to be refused, each induced, and found by its reason and user in log, metrics and API.

use std::net::{SocketAddr, TcpStream, UdpSocket};

use serde_json::Value;
use turnpike_proto::auth::{Key, rest_password};
use turnpike_proto::wire::{MessageBuilder, attr, method};
use turnpike_testkit::eventually;
use turnpike_testkit::http::{TOKEN, exchange};

use super::lab::{Lab, PEER_V4, RELAYED_V4};
use super::server::{ALLOW_PEERS, Log, PASSWORD, REALM, SERVER, Server, USER};
use super::talker::{Talker, UDP};

const SECRET: &str = "north-star-and-moon";
const PORTS: std::ops::RangeInclusive<u16> = 50_000..=50_003;
const ADMIN: &str = "127.0.0.1:8080";
const REFUSED_PEER: &str = "10.0.0.20:9";

/// What the operator has to find: user, method, code, reason, and a word about it.
type Expected = (&'static str, &'static str, u16, &'static str, Option<&'static str>);

const EXPECTED: [Expected; 11] = [
    ("carol", "allocate", 401, "wrong-key", None),
    ("dave", "allocate", 401, "expired-credential", Some("expired ")),
    ("alice", "allocate", 401, "wrong-realm", None),
    ("mallory", "allocate", 401, "unknown-user", None),
    ("alice", "create_permission", 403, "peer-denied", Some("--allow-peer 10.0.0.20")),
    ("alice", "channel_bind", 400, "channel-conflict", Some("channel 0x4000")),
    ("alice", "allocate", 486, "user-quota", Some("2 of 2")),
    ("bob", "refresh", 441, "wrong-user", None),
    ("bob", "allocate", 486, "total-quota", Some("3 of 3")),
    ("bob", "allocate", 508, "no-port", None),
    ("bob", "allocate", 508, "draining", None),
];

/// An Allocate whose log-in names this realm.
fn log_in_to(lab: &Lab, realm: &str) {
    let mut talker = Talker::new(&lab.client, SERVER);
    talker.challenge();
    let request = MessageBuilder::request(method::ALLOCATE, talker.id())
        .attribute(attr::REQUESTED_TRANSPORT, &UDP)
        .attribute(attr::USERNAME, USER.as_bytes())
        .attribute(attr::REALM, realm.as_bytes())
        .attribute(attr::NONCE, &talker.nonce)
        .finish_signed(&Key::md5(USER, realm, PASSWORD).expect("good credentials"));
    assert_eq!(talker.ask(&request).code, Some(401));
}

fn fail_to_log_in(lab: &Lab) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a date").as_secs();
    let (valid, expired) = (format!("{}:carol", now + 3600), format!("{}:dave", now - 3600));
    let attempts = [
        (&*valid, rest_password("south-star", &valid).to_string()),
        (&*expired, rest_password(SECRET, &expired).to_string()),
        ("mallory", "guess".to_owned()),
    ];
    for (user, password) in attempts {
        let answer = Talker::new(&lab.client, SERVER).named(user, &password).try_allocate();
        assert_eq!(answer.code, Some(401), "{user}");
    }
    log_in_to(lab, &format!("other.{REALM}"));
}

fn ask_for_too_much(lab: &Lab) {
    let as_bob = || Talker::new(&lab.client, SERVER).named("bob", "builder of the bridge");
    let mut alice = [(); 3].map(|()| Talker::new(&lab.client, SERVER));
    let taken = [alice[0].allocate().port(), alice[1].allocate().port()];
    assert_eq!(alice[0].permit(REFUSED_PEER.parse().expect("an address")).code, Some(403));
    assert_eq!(alice[0].bind(SocketAddr::new(PEER_V4, 4000)).code, None);
    assert_eq!(alice[0].bind(SocketAddr::new(PEER_V4, 4001)).code, Some(400));
    assert_eq!(alice[2].try_allocate().code, Some(486));
    alice[1].user = "bob".into();
    alice[1].password = "builder of the bridge".into();
    assert_eq!(alice[1].refresh(600).code, Some(441));

    let mut bob = as_bob();
    bob.allocate();
    assert_eq!(as_bob().try_allocate().code, Some(486));
    bob.refresh(0);
    let _others: Vec<UdpSocket> =
        PORTS.filter(|port| !taken.contains(port)).map(|port| hold(lab, port)).collect();
    assert_eq!(as_bob().try_allocate().code, Some(508));
    assert_eq!(admin(lab, "POST", "/v1/drain").0, 200);
    assert_eq!(as_bob().try_allocate().code, Some(508));
}

/// Another program's socket on a relay port, as soon as the server has closed its own.
fn hold(lab: &Lab, port: u16) -> UdpSocket {
    let bound = eventually(|| lab.relay.enter(|| UdpSocket::bind((RELAYED_V4, port))).ok());
    bound.expect("the server gives its port back")
}

fn admin(lab: &Lab, method: &str, path: &str) -> (u16, String) {
    let stream = lab.relay.enter(|| TcpStream::connect(ADMIN)).expect("the administration listens");
    exchange(stream, method, path, if method == "GET" { "" } else { "{}" })
}

/// Whether the API lists it, with its user.
fn is_listed(refusals: &Value, (user, method, code, reason, words): &Expected) -> bool {
    refusals["refusals"].as_array().expect("a list").iter().any(|refusal| {
        let said = [&refusal["detail"], &refusal["remedy"]].map(|value| value.as_str().unwrap_or_default());
        (&refusal["user"], &refusal["method"], &refusal["reason"])
            == (&(*user).into(), &(*method).into(), &(*reason).into())
            && refusal["code"] == *code
            && refusal["client"].as_str().is_some_and(|client| client.starts_with("10.77.1.10:"))
            && words.is_none_or(|words| said.iter().any(|text| text.starts_with(words)))
    })
}

fn is_logged(log: &Log, (user, method, code, reason, words): &Expected) -> bool {
    let parts = [
        format!("user=\"{user}\""),
        "client=10.77.1.10:".to_owned(),
        format!("method=\"{method}\""),
        format!("code={code}"),
        format!("reason=\"{reason}\""),
        words.unwrap_or_default().to_owned(),
    ];
    log.0.lines().any(|line| parts.iter().all(|part| line.contains(part)))
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn each_refusal_is_found_in_log_metrics_and_api_with_user_and_reason() {
    let Some(lab) = Lab::new("each_refusal_is_found_in_log_metrics_and_api_with_user_and_reason") else {
        return;
    };
    let config = format!(
        "{ALLOW_PEERS}auth-secret = [\"{SECRET}\"]\nuser = [\"{USER}:{PASSWORD}\", \"bob:builder of the bridge\"]\n\
         user-quota = 2\ntotal-quota = 3\nport-range = \"{}-{}\"\nadmin = \"{ADMIN}\"\nadmin-token = [\"{TOKEN}\"]\n",
        PORTS.start(),
        PORTS.end()
    );
    let server = Server::start(&lab, &config);
    fail_to_log_in(&lab);
    ask_for_too_much(&lab);

    // A worker reports four times a second.
    let refusals = eventually(|| {
        let (status, body) = admin(&lab, "GET", "/v1/refusals");
        assert_eq!(status, 200, "{body}");
        let refusals: Value = serde_json::from_str(&body).expect("JSON");
        EXPECTED.iter().all(|expected| is_listed(&refusals, expected)).then_some(refusals)
    });
    let refusals = refusals.expect("all are listed");
    let (_, page) = admin(&lab, "GET", "/metrics");
    for expected @ (_, method, code, reason, _) in &EXPECTED {
        let metric =
            format!("turnpike_refusals_total{{method=\"{method}\",code=\"{code}\",reason=\"{reason}\"}} ");
        assert!(page.contains(&metric), "{expected:?}:\n{page}");
        let is_counted =
            |total: &Value| (&total["method"], &total["reason"]) == (&(*method).into(), &(*reason).into());
        assert!(refusals["totals"].as_array().expect("a list").iter().any(is_counted), "{expected:?}");
    }
    assert!(!page.contains("carol") && !page.contains("10.77.1.10"), "no label names anybody");
    let log = server.stop();
    for expected in &EXPECTED {
        assert!(is_logged(&log, expected), "{expected:?}:\n{}", log.0);
    }
    assert!(!log.0.contains(SECRET) && !log.0.contains("south-star") && !log.0.contains(TOKEN), "{}", log.0);
    let drained = log.0.lines().find(|line| line.contains("audit"));
    assert!(
        drained.is_some_and(|line| line.contains("path=\"/v1/drain\"") && line.contains("source=127.0.0.1"))
    );
}
