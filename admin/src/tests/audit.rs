//! The audit trail: who changed what, from where, and what came of it; no token's text.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::{ADMIN, Api, CREDENTIALS, READ};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panicked").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects this thread's records until the guard is dropped.
fn listen() -> (Sink, tracing::subscriber::DefaultGuard) {
    let sink = Sink::default();
    let writer = sink.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    (sink, tracing::subscriber::set_default(subscriber))
}

impl Sink {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().expect("nobody panicked").clone()).expect("text");
        text.lines().filter(|line| line.contains(" audit: ")).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn each_changing_call_names_token_source_and_outcome() {
    let api = Api::new(1);
    let id = api.some_id().await;
    let (log, _guard) = listen();
    api.get("/v1/status").await;
    api.ask("PATCH", &format!("/v1/allocations/{id}"), Some(ADMIN), r#"{"max_bits_per_sec":5000}"#).await;
    api.ask("POST", "/v1/drain", Some(ADMIN), r#"{"deadline_secs":60}"#).await;
    api.ask("DELETE", "/v1/drain", Some(READ), "").await;
    api.ask("DELETE", "/v1/users/nobody", Some(ADMIN), "").await;
    api.ask("PUT", "/v1/users/zoe", Some(ADMIN), r#"{"password":"open-sesame"}"#).await;
    api.ask("POST", "/v1/credentials", Some(CREDENTIALS), r#"{"user":"zoe"}"#).await;
    let lines = log.lines();
    let expected: [&[&str]; 5] = [
        &["method=\"PATCH\"", &id, "details=\"max_bits_per_sec=5000\"", "status=200 outcome=\"done\""],
        &["method=\"POST\" path=\"/v1/drain\"", "deadline_secs=60", "outcome=\"done\""],
        &["method=\"DELETE\" path=\"/v1/drain\"", "scopes=\"read\"", "status=403 outcome=\"refused\""],
        &["path=\"/v1/users/nobody\"", "status=404 outcome=\"refused\""],
        &["path=\"/v1/users/zoe\"", "new=true password=changed", "status=201 outcome=\"done\""],
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        let all = expected.iter().chain(&["source=127.0.0.1", "token=\""]);
        all.for_each(|part| assert!(line.contains(part), "{part}: {line}"));
        assert!(!line.contains(ADMIN) && !line.contains(READ) && !line.contains("sesame"), "{line}");
    }
    // What `printf %s TOKEN | sha256sum` begins with.
    assert!(lines[0].contains(&format!("token=\"{}\" scopes=\"admin\"", fingerprint(ADMIN))), "{}", lines[0]);
}

fn fingerprint(token: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(token).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn wrong_tokens_are_written_down_at_a_bounded_rate_and_without_their_text() {
    let api = Api::new(1);
    let (log, _guard) = listen();
    for guess in 0..1000 {
        api.ask("POST", "/v1/drain", Some(&format!("guess-{guess}")), "").await;
    }
    let lines = log.lines();
    // Twenty at once, then one a second; this test may be slow.
    assert!((20..200).contains(&lines.len()), "{}", lines.len());
    assert!(lines.iter().all(|line| line.contains("WARN") && line.contains("source=127.0.0.1")), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("guess-")), "{lines:?}");
}
