//! What all requests share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

use crate::audit::Audit;
use crate::history::History;
use crate::limits::MAX_EVENT_STREAMS;
use crate::managed::ManagedRelay;
use crate::model::{Event, Totals};
use crate::strangers::Strangers;
use crate::token::Tokens;

/// Totals are read at most this often for all streams together.
const TOTALS_AGE: Duration = Duration::from_millis(900);

/// The relay, and what is needed to decide who may ask it.
pub struct AppState {
    /// The relay that is administered.
    pub relay: Arc<dyn ManagedRelay>,
    /// The tokens in force, which a reload replaces.
    pub tokens: ArcSwap<Tokens>,
    /// Names that may be in a Host header, lower case, besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Who presented wrong tokens.
    pub strangers: Strangers,
    /// The record of each changing call.
    pub audit: Audit,
    /// How long a request may take, from its headers to its answer.
    pub request_time: Duration,
    /// Streams of events that may still be opened.
    pub streams: Arc<Semaphore>,
    /// Becomes true when everything has to end.
    pub stopping: watch::Receiver<bool>,
    /// What this API counts of itself.
    pub counts: ApiCounts,
    /// The last minutes of the counters.
    pub history: History,
    totals: Mutex<Option<(Instant, Arc<str>)>>,
}

impl AppState {
    /// Shared by all requests to one relay.
    pub fn new(
        relay: Arc<dyn ManagedRelay>,
        tokens: Tokens,
        hosts: Vec<String>,
        request_time: Duration,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            relay,
            tokens: ArcSwap::from_pointee(tokens),
            hosts: hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect(),
            strangers: Strangers::new(),
            audit: Audit::new(),
            request_time,
            streams: Arc::new(Semaphore::new(MAX_EVENT_STREAMS)),
            stopping,
            counts: ApiCounts::default(),
            history: History::default(),
            totals: Mutex::new(None),
        }
    }

    /// The totals as the data of an event, written once for all streams.
    pub fn totals_event(&self) -> Arc<str> {
        let mut cached = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, text)) = &*cached
            && at.elapsed() < TOTALS_AGE
        {
            return Arc::clone(text);
        }
        let totals: Totals = self.relay.totals();
        let text: Arc<str> = serde_json::to_string(&Event::Totals(Box::new(totals)))
            .expect("totals have nothing that JSON can't say")
            .into();
        *cached = Some((Instant::now(), Arc::clone(&text)));
        text
    }
}

/// Returns when everything stops, also if nobody is left to say so.
pub async fn told_to_stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// What the API counts of itself.
#[derive(Debug, Default)]
pub struct ApiCounts {
    /// Requests by the first digit of their status; the first two are never counted.
    pub answers: [AtomicU64; 6],
    /// Requests with a token that is none of ours.
    pub wrong_tokens: AtomicU64,
    /// Connections that were refused because there were too many.
    pub refused_connections: AtomicU64,
}

impl ApiCounts {
    /// Counts an answer.
    pub fn answered(&self, status: u16) {
        if let Some(count) = self.answers.get(usize::from(status / 100)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}
