//! Streams of events: what they bring, and that they end.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::ServiceExt;
use turnpike_testkit::PATIENCE;

use super::{ADMIN, Api, READ};
use crate::ManagedRelay;
use crate::limits::MAX_EVENT_STREAMS;

/// A stream as a browser has it.
struct Stream {
    body: Body,
    text: String,
}

impl Stream {
    async fn open(api: &Api) -> Result<Self, StatusCode> {
        let request = Request::get("/v1/events")
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, format!("Bearer {READ}"));
        let request = request.body(Body::empty()).expect("a request");
        let response = api.router.clone().oneshot(request).await.expect("a router always answers");
        if response.status() != StatusCode::OK {
            return Err(response.status());
        }
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Ok(Self { body: response.into_body(), text: String::new() })
    }

    /// Reads until a text was seen; false if the stream ended before.
    async fn read_until(&mut self, wanted: &str) -> bool {
        let reading = async {
            while !self.text.contains(wanted) {
                let Some(frame) = self.body.frame().await else {
                    return false;
                };
                let data = frame.expect("a stream has no errors").into_data().expect("data");
                self.text.push_str(std::str::from_utf8(&data).expect("text"));
            }
            true
        };
        let seen = timeout(PATIENCE, reading).await;
        seen.unwrap_or_else(|_| panic!("no {wanted:?} ever comes"))
    }
}

#[tokio::test]
async fn a_stream_brings_what_happens_and_totals() {
    let api = Api::new(2);
    let id = api.some_id().await;
    let mut stream = Stream::open(&api).await.expect("a stream");
    assert!(stream.read_until("event: totals\ndata: {\"event\":\"totals\",\"as_of_unix_millis\":").await);
    let created = api.fake.create();
    assert!(stream.read_until("event: created").await && stream.read_until(&created.to_string()).await);
    let path = format!("/v1/allocations/{id}");
    api.ask("PATCH", &path, Some(ADMIN), r#"{"max_bits_per_sec":77}"#).await;
    assert!(stream.read_until("event: limited").await);
    assert!(stream.read_until("\"why\":\"changed\",\"max_bits_per_sec\":77").await);
    api.ask("DELETE", &path, Some(ADMIN), "").await;
    assert!(
        stream.read_until("event: ended").await && stream.read_until("\"reason\":\"disconnected\"").await
    );
}

#[tokio::test]
async fn a_reader_that_lags_is_told_how_much_it_lost() {
    let api = Api::new(1);
    let mut stream = Stream::open(&api).await.expect("a stream");
    assert!(stream.read_until("event: totals").await);
    for _ in 0..1500 {
        api.fake.create();
    }
    assert!(stream.read_until("event: lagged\ndata: {\"lost\":476}").await);
    assert!(stream.read_until("event: created").await);
}

#[tokio::test]
async fn streams_end_when_the_server_stops() {
    let api = Api::new(1);
    let mut stream = Stream::open(&api).await.expect("a stream");
    assert!(stream.read_until("event: totals").await);
    api.stop.send_replace(true);
    assert!(!stream.read_until("never sent").await);
    let mut late = Stream::open(&api).await.expect("a stream that is over already");
    assert!(!late.read_until("never sent").await);
}

#[tokio::test]
async fn there_is_a_bound_on_streams_and_closed_ones_make_room() {
    let api = Api::new(1);
    let mut streams = Vec::new();
    for _ in 0..MAX_EVENT_STREAMS {
        streams.push(Stream::open(&api).await.expect("a stream"));
    }
    assert_eq!(Stream::open(&api).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(
        api.ask("GET", "/v1/events", Some(READ), "").await.problem(503, "too_many_streams"),
        "there are 32 streams already"
    );
    streams.pop();
    assert!(Stream::open(&api).await.is_ok());
    assert!(api.fake.readiness().ready);
}
