//! Which of the drivers moves the datagrams, and why that one.

use std::fmt;
use std::sync::OnceLock;

use crate::uring;

/// A driver for real sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring, Linux 6.1 and newer.
    IoUring,
    /// epoll, every Linux.
    Epoll,
}

impl Backend {
    /// The name, as in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Backend::IoUring => "io-uring",
            Backend::Epoll => "epoll",
        }
    }
}

/// A driver and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The driver that moves the datagrams.
    pub backend: Backend,
    /// Why this one, in words for the operator.
    pub why: String,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.backend.name(), self.why)
    }
}

/// The wanted driver, or with `None` the best one that works on this machine.
///
/// # Errors
/// Why io_uring, which was asked for, can't be used.
pub fn choose(wanted: Option<Backend>) -> Result<Choice, String> {
    let probed = if wanted == Some(Backend::Epoll) { Ok(()) } else { io_uring() };
    decide(wanted, probed)
}

/// Whether io_uring works here; tried once.
///
/// # Errors
/// Why it can't be used.
pub fn io_uring() -> Result<(), String> {
    static PROBED: OnceLock<Result<(), String>> = OnceLock::new();
    // On a thread of its own: a ring belongs to the thread that uses it.
    let probe = || match std::thread::Builder::new().name("probe".to_owned()).spawn(uring::probe) {
        Ok(thread) => thread.join().unwrap_or_else(|_| Err("the probe panicked".to_owned())),
        Err(error) => Err(format!("no thread to try it: {error}")),
    };
    PROBED.get_or_init(probe).clone()
}

/// [`choose`], once it is known whether io_uring works.
///
/// # Errors
/// Why io_uring, which was asked for, can't be used.
pub fn decide(wanted: Option<Backend>, probed: Result<(), String>) -> Result<Choice, String> {
    let choice = |backend, why: &str| Choice { backend, why: why.to_owned() };
    match (wanted, probed) {
        (Some(Backend::Epoll), _) => Ok(choice(Backend::Epoll, "as configured")),
        (Some(Backend::IoUring), Ok(())) => Ok(choice(Backend::IoUring, "as configured")),
        (Some(Backend::IoUring), Err(why)) => Err(why),
        (None, Ok(())) => Ok(choice(Backend::IoUring, "it works here")),
        (None, Err(why)) => Ok(choice(Backend::Epoll, &format!("no io_uring: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_io_uring_where_it_works_and_says_why_not() {
        let broken = || Err("too old".to_owned());
        let text = |wanted, probed| decide(wanted, probed).map(|choice| choice.to_string());
        assert_eq!(text(None, Ok(())), Ok("io-uring (it works here)".to_owned()));
        assert_eq!(text(None, broken()), Ok("epoll (no io_uring: too old)".to_owned()));
        assert_eq!(text(Some(Backend::Epoll), Ok(())), Ok("epoll (as configured)".to_owned()));
        assert_eq!(text(Some(Backend::IoUring), Ok(())), Ok("io-uring (as configured)".to_owned()));
        assert_eq!(text(Some(Backend::IoUring), broken()), Err("too old".to_owned()));
    }

    #[test]
    fn trying_twice_gives_the_same_answer() {
        assert_eq!(io_uring(), io_uring());
    }
}
