//! What systemd is told (sd_notify): by a thread of its own, since its socket may take nothing for a while.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use sd_notify::NotifyState;
use tracing::warn;
use turnpike_offload::link::Keeper;

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

/// What waits to be sent.
enum Message {
    News(News),
    /// A descriptor to be kept for the next process, and its name.
    Keep(String, OwnedFd),
    /// Descriptors of that name are not to be kept any more.
    Forget(String),
}

/// Where systemd keeps descriptors while no process of ours runs (`FileDescriptorStoreMax`); it closes them when the
/// service is stopped, and hands them to the next process when it is started again.
pub(crate) struct DescriptorStore;

impl Keeper for DescriptorStore {
    fn keep(&self, name: String, link: OwnedFd) {
        if !send(Message::Keep(name, link)) {
            warn!("systemd takes no notifications: the next process has to attach its program anew");
        }
    }

    fn forget(&self, name: String) {
        if !send(Message::Forget(name.clone())) {
            warn!(name, "systemd takes no notifications: it may go on to keep this descriptor");
        }
    }
}

/// Tells systemd, if it started us; never waits.
pub(crate) fn tell(news: News) {
    // The watchdog's news are repeated.
    if !send(Message::News(news)) && news != News::Alive {
        warn!(?news, "systemd takes no notifications");
    }
}

/// `false` if there is no room; without systemd there is nobody to miss it.
fn send(message: Message) -> bool {
    static QUEUE: OnceLock<Option<SyncSender<Message>>> = OnceLock::new();
    QUEUE.get_or_init(start).as_ref().is_none_or(|queue| queue.try_send(message).is_ok())
}

fn start() -> Option<SyncSender<Message>> {
    std::env::var_os("NOTIFY_SOCKET")?;
    let (sender, receiver) = sync_channel(MAX_NEWS);
    let send = move || {
        for message in receiver {
            let sent = match message {
                Message::News(news) => sd_notify::notify(&states(news)),
                Message::Keep(name, descriptor) => sd_notify::notify_with_fds(
                    &[NotifyState::FdStore, NotifyState::FdName(&name)],
                    &[descriptor.as_fd()],
                ),
                Message::Forget(name) => {
                    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)])
                }
            };
            if let Err(error) = sent {
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
