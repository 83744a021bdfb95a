//! What systemd is told (sd_notify): by a thread of its own, since its socket may take nothing for a while.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use sd_notify::NotifyState;
use tracing::warn;

use crate::limits::MAX_NEWS;

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Clients are served.
    Ready,
    /// Reading the configuration again, since this CLOCK_MONOTONIC, microseconds.
    Reloading(u64),
    /// On the way to the end.
    Stopping,
    /// What `systemctl status` shows.
    Status(&'static str),
    /// For the watchdog: all workers turn.
    Alive,
}

/// Tells systemd, if it started us; never waits.
pub(crate) fn tell(news: News) {
    static QUEUE: OnceLock<Option<SyncSender<News>>> = OnceLock::new();
    let Some(queue) = QUEUE.get_or_init(start) else { return };
    // The watchdog's news are repeated.
    if queue.try_send(news).is_err() && news != News::Alive {
        warn!(?news, "systemd takes no notifications");
    }
}

fn start() -> Option<SyncSender<News>> {
    std::env::var_os("NOTIFY_SOCKET")?;
    let (sender, receiver) = sync_channel(MAX_NEWS);
    let send = move || {
        for news in receiver {
            if let Err(error) = sd_notify::notify(&states(news)) {
                warn!("systemd was not notified: {error}");
            }
        }
    };
    match thread::Builder::new().name("systemd".to_owned()).spawn(send) {
        Ok(_) => Some(sender),
        Err(error) => {
            warn!("systemd will not be notified: {error}");
            None
        }
    }
}

fn states(news: News) -> Vec<NotifyState<'static>> {
    match news {
        News::Ready => vec![NotifyState::Ready],
        News::Reloading(usec) => vec![NotifyState::Reloading, NotifyState::MonotonicUsec(usec.into())],
        News::Stopping => vec![NotifyState::Stopping],
        News::Status(text) => vec![NotifyState::Status(text)],
        News::Alive => vec![NotifyState::Watchdog],
    }
}
