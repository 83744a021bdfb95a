//! What happens, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::extract::NoQuery;
use crate::guard::{Needs, Read};
use crate::limits::MAX_EVENT_STREAMS;
use crate::model::Event;
use crate::problem::{Problem, Problems};
use crate::state::{AppState, told_to_stop};

/// How often the totals are sent.
const TOTALS_PERIOD: Duration = Duration::from_secs(1);

/// Server-sent events: `created`, `ended`, `limited`, `refused`, each second `totals`, and `lagged` with the number
/// of events that a slow reader lost. The data is JSON, see the schema `Event`.
#[utoipa::path(
    get, path = "/v1/events", tag = "operation", security(("token" = ["read"])),
    responses((status = 200, description = "A stream", body = String, content_type = "text/event-stream"), Problems)
)]
pub async fn events(
    _: Needs<Read>,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Problem> {
    let Ok(permit) = Arc::clone(&shared.streams).try_acquire_owned() else {
        let detail = format!("there are {MAX_EVENT_STREAMS} streams already");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", detail)
            .with(header::RETRY_AFTER, "5"));
    };
    let mut seconds = interval(TOTALS_PERIOD);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let watching = Watching {
        events: shared.relay.subscribe(),
        stopping: shared.stopping.clone(),
        seconds,
        shared,
        _permit: permit,
    };
    let stream = unfold(watching, |mut watching| async move {
        let sent = watching.next().await?;
        Some((Ok(sent), watching))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

/// One stream.
struct Watching {
    events: broadcast::Receiver<Arc<Event>>,
    stopping: watch::Receiver<bool>,
    seconds: Interval,
    shared: Arc<AppState>,
    _permit: OwnedSemaphorePermit,
}

impl Watching {
    /// The next event; none when the server stops or the relay is gone.
    async fn next(&mut self) -> Option<Sent> {
        tokio::select! {
            biased;
            () = told_to_stop(&mut self.stopping) => None,
            _ = self.seconds.tick() => Some(Sent::default().event("totals").data(self.shared.totals_event())),
            event = self.events.recv() => match event {
                Ok(event) => Some(describe(&event)),
                Err(RecvError::Lagged(lost)) => {
                    Some(Sent::default().event("lagged").data(format!("{{\"lost\":{lost}}}")))
                }
                Err(RecvError::Closed) => None,
            },
        }
    }
}

fn describe(event: &Event) -> Sent {
    let name = match event {
        Event::Created { .. } => "created",
        Event::Ended { .. } => "ended",
        Event::Limited(_) => "limited",
        Event::Refused(_) => "refused",
        Event::Totals(_) => "totals",
    };
    let data = serde_json::to_string(event).expect("an event has nothing that JSON can't say");
    Sent::default().event(name).data(data)
}
