//! Clients of other makes, and the parts of RFC 8489 that few of them use.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use turnpike_proto::wire::attr;
use turnpike_testkit::PATIENCE;
use turnpike_testkit::python;

use super::lab::{CLIENT_V4, Lab, PEER_V4, RELAY_V4};
use super::process::{self, Outcome, Process};
use super::server::{ALLOW_PEERS, PASSWORD, REALM, SERVER, Server, USER};
use super::talker::{Answer, Style, Talker, peer_socket};

/// Between two of the peer's datagrams.
const INBOUND: Duration = Duration::from_millis(20);

/// coturn's NAT discovery asks by plain Binding requests and shows what it is told.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn natdiscovery_learns_its_address() {
    let name = "natdiscovery_learns_its_address";
    let Some(lab) = Lab::new(name) else { return };
    let Some(program) = process::find("turnutils_natdiscovery") else {
        return turnpike_testkit::skip(name, "turnutils_natdiscovery is not installed");
    };
    let server = Server::start(&lab, "");
    let mut command = lab.client.command(&program);
    command.args(["-m", "-L", &CLIENT_V4.to_string(), "-l", "40123", &RELAY_V4.to_string()]);
    let Outcome { output, .. } = Process::start(command).wait(PATIENCE);
    let log = server.stop();
    assert!(output.contains(&format!("UDP reflexive addr: {CLIENT_V4}:40123")), "{output}");
    assert!(log.count("answered") >= 1, "{}", log.0);
}

/// RFC 8489 s. 9.2.4 and 14.6: every answer carries MESSAGE-INTEGRITY-SHA256, made with the SHA-256 key.
#[track_caller]
fn assert_signed_with_sha256(answer: &Answer) {
    let bytes = &answer.bytes;
    let at = bytes.len() - 36;
    assert_eq!(bytes[at..at + 4], [0x00, 0x1C, 0, 32], "the last attribute of {answer:?}");
    let key = Sha256::digest(format!("{USER}:{REALM}:{PASSWORD}"));
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&key).expect("keys of any length");
    mac.update(&bytes[..at]);
    mac.verify_slice(&bytes[at + 4..]).expect("the server's integrity");
    assert!(answer.message().attribute(attr::MESSAGE_INTEGRITY).is_none());
}

/// A whole session of a client that speaks RFC 8489 with SHA-256.
fn session_with_sha256(lab: &Lab, style: Style) {
    let peer = peer_socket(&lab.peer, PEER_V4);
    let mut talker = Talker::new(&lab.client, SERVER);
    talker.style = style;
    let challenge = talker.challenge();
    // Bits 0 and 1, the least significant ones (RFC 8489 s. 18.1, verified errata), and both algorithms.
    assert!(talker.nonce.starts_with(b"obMatJos2AAAD"), "{:?}", String::from_utf8_lossy(&talker.nonce));
    assert_eq!(challenge.attribute(attr::PASSWORD_ALGORITHMS), [0, 2, 0, 0, 0, 1, 0, 0]);
    let allocated = talker.try_allocate();
    assert_signed_with_sha256(&allocated);
    assert_eq!(allocated.code, None);
    let bound = talker.bind(peer.local_addr().expect("it is bound"));
    assert_signed_with_sha256(&bound);
    talker.channel_data(b"data");
    let mut buffer = [0; 100];
    assert_eq!(peer.recv_from(&mut buffer).expect("it is relayed").0, 4);
    let deleted = talker.refresh(0);
    assert_signed_with_sha256(&deleted);
    // An error after authentication is signed too.
    let gone = talker.refresh(600);
    assert_eq!(gone.code, Some(437));
    assert_signed_with_sha256(&gone);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn s18_s22_s23_sha256_and_userhash_work() {
    let Some(lab) = Lab::new("s18_s22_s23_sha256_and_userhash_work") else { return };
    let server = Server::start(&lab, ALLOW_PEERS);
    session_with_sha256(&lab, Style::Sha256);
    // RFC 8489 s. 14.4: SHA-256 of user ":" realm.
    let hash = Sha256::digest(format!("{USER}:{REALM}")).to_vec();
    session_with_sha256(&lab, Style::UserHash(hash));
    let mut stranger = Talker::new(&lab.client, SERVER);
    stranger.style = Style::UserHash(Sha256::digest(format!("mallory:{REALM}")).to_vec());
    assert_eq!(stranger.try_allocate().code, Some(401));
    let log = server.stop();
    assert!(log.records().iter().all(|record| record.contains("user=\"alice\"")), "{}", log.0);
}

/// Python with aioice; else why not.
fn python_with_aioice() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("aioice-0.10.1");
    python::with_packages(&folder, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/aioice.txt"))
}

/// A call of aioice that lasts `seconds`, its channel refreshed every `refresh` seconds: the peer talks all
/// the time, and nothing that it says is lost.
fn aioice_call(name: &str, seconds: u64, refresh: u64) {
    let Some(lab) = Lab::new(name) else { return };
    let python = match python_with_aioice() {
        Ok(python) => python,
        Err(why) => return turnpike_testkit::skip(name, &why),
    };
    let server = Server::start(&lab, ALLOW_PEERS);
    let peer = peer_socket(&lab.peer, PEER_V4);
    let address = peer.local_addr().expect("it is bound");
    let mut command = lab.client.command(&python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/aioice_call.py"));
    command.args([RELAY_V4.to_string(), SERVER.port().to_string(), USER.into(), PASSWORD.into()]);
    command.args([PEER_V4.to_string(), address.port().to_string(), seconds.to_string(), refresh.to_string()]);
    let client = Process::start(command);

    let mut buffer = [0; 100];
    let (_, relayed) = peer.recv_from(&mut buffer).expect("aioice sends first");
    peer.set_nonblocking(true).expect("sockets can");
    let start = Instant::now();
    let mut sent = 0;
    let ended = (0u32..).any(|number| {
        peer.send_to(number.to_string().as_bytes(), relayed).expect("the namespace has a route");
        sent = u64::from(number) + 1;
        std::thread::sleep((INBOUND * (number + 1)).saturating_sub(start.elapsed()));
        let end =
            std::iter::from_fn(|| peer.recv_from(&mut buffer).ok().map(|(len, _)| &buffer[..len] == b"end"));
        { end }.any(|end| end) || start.elapsed() > Duration::from_secs(seconds + 30)
    });
    assert!(ended);
    let Outcome { code, output } = client.wait(PATIENCE);
    let log = server.stop();
    println!("{sent} sent to aioice within {:?}: {}", start.elapsed(), output.trim());
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains(&format!("received {sent} ")), "{sent} sent: {output}");
    assert_eq!(log.count("drop_no_permission_from_peer"), 0, "{}", log.0);
    assert_eq!(log.records().len(), 1, "{}", log.0);
}

/// With channels refreshed every 4 s instead of every 500: the same code paths in little time.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn c3_aioice_holds_a_call() {
    aioice_call("c3_aioice_holds_a_call", 20, 4);
}

/// Eleven minutes of real time, with aioice's own timers. Takes part only if `TURNPIKE_LONG_TESTS=1`; virtual
/// time shows the same in `proto/tests/hostile/aioice.rs`.
#[test]
#[ignore = "takes eleven minutes: TURNPIKE_LONG_TESTS=1 cargo xtask interop"]
fn c3_aioice_holds_a_call_of_eleven_minutes() {
    if std::env::var_os("TURNPIKE_LONG_TESTS").is_some_and(|on| on == "1") {
        aioice_call("c3_aioice_holds_a_call_of_eleven_minutes", 11 * 60, 500);
    }
}
