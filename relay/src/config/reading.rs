//! Reading the files of a configuration, so that none of them can stop the relay.
//!
//! Only regular files of a bounded size are read. At the start, a pipe that was handed over as a descriptor
//! (`/dev/stdin`, or `<(...)` of a shell) will do, too; nobody can write it a second time for a reload. The
//! whole reading has a time limit, since a mount may hang.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use turnpike_admin::files;
use zeroize::{Zeroize, Zeroizing};

use crate::limits::MAX_FILE_BYTES;
use crate::patience::within;

/// How long all files together may take.
const READING: Duration = Duration::from_secs(5);
/// Where a shell and the kernel show descriptors as files.
const DESCRIPTORS: [&str; 3] = ["/dev/stdin", "/dev/fd/", "/proc/self/fd/"];

/// A file gave neither content nor an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{:?}: nothing came within {} s; is it a pipe without a writer, or on a mount that hangs?", file.display(), READING.as_secs())]
pub struct Stuck {
    /// The file that was not read.
    pub file: PathBuf,
}

/// How a loader reads.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Whether it was read once: then pipes are empty.
    has_read: AtomicBool,
    /// What is being read, for the message when it takes too long.
    current: Mutex<PathBuf>,
    /// A thread reads, or hangs.
    is_reading: AtomicBool,
}

impl Reader {
    /// Reads the text of a file of bounded size; wiped when dropped.
    pub(super) fn text(&self, path: &Path) -> io::Result<Zeroizing<String>> {
        self.begin(path);
        let is_pipe = || std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
        let mut content = match is_descriptor(path) && is_pipe() {
            true if self.has_read.load(Ordering::Relaxed) => {
                return Err(io::Error::other("it is a pipe, which can be read at the start only"));
            }
            true => files::read_at_most(File::open(path)?, MAX_FILE_BYTES, MAX_FILE_BYTES)?,
            false => files::read(path, MAX_FILE_BYTES)?,
        };
        String::from_utf8(std::mem::take(&mut *content)).map(Zeroizing::new).map_err(|error| {
            error.into_bytes().zeroize();
            io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8")
        })
    }

    /// Everything has been read once.
    pub(super) fn end(&self) {
        self.has_read.store(true, Ordering::Relaxed);
    }

    /// Does `work`, which reads, on a thread of its own, and waits a few seconds for it. As long as such a thread
    /// hangs, there is no other one.
    pub(super) fn in_time<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stuck> {
        self.in_time_of(READING, work)
    }

    fn in_time_of<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stuck> {
        if self.is_reading.swap(true, Ordering::Relaxed) {
            return Err(self.stuck());
        }
        let reader = Arc::clone(self);
        let read = move || {
            let done = work();
            reader.is_reading.store(false, Ordering::Relaxed);
            done
        };
        within(limit, "config", read).map_err(|_| self.stuck())
    }

    /// Notes what is read next, for the message if it does not come.
    pub(super) fn begin(&self, path: &Path) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = path.to_owned();
    }

    fn stuck(&self) -> Stuck {
        Stuck { file: self.current.lock().unwrap_or_else(PoisonError::into_inner).clone() }
    }
}

fn is_descriptor(path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    DESCRIPTORS.iter().any(|folder| path.starts_with(folder.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::config::Loader;

    const SHORT: Duration = Duration::from_secs(2);

    fn fifo(folder: &Path) -> PathBuf {
        let path = folder.join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("coreutils");
        assert!(made.success());
        path
    }

    #[test]
    fn a_fifo_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = Reader::default().text(&fifo(folder.path())).expect_err("a FIFO").to_string();
        assert!(error.contains("FIFO"), "{error}");
    }

    #[test]
    fn a_fifo_among_the_secrets_is_a_fault_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("turnpike.toml");
        let text = format!("auth-secret-file = [{:?}]\n", fifo(folder.path()).display().to_string());
        std::fs::write(&config, text).expect("written");
        let problems = Loader::new(Some(config), []).load().expect_err("nobody writes").to_string();
        assert!(problems.contains("fifo\" can't be read: it is a FIFO"), "{problems}");
    }

    #[test]
    fn a_pipe_handed_over_as_a_descriptor_is_read_at_the_start_only() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(b"user = [\"alice:correct horse battery\"]\n").expect("it fits");
        drop(writer);
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        let loader = Loader::new(Some(path), []);
        assert_eq!(loader.load().expect("a good configuration").config.users.len(), 1);
        let again = loader.load().expect_err("there is nothing left").to_string();
        assert!(again.contains("at the start only"), "{again}");
    }

    #[test]
    fn a_file_that_gives_nothing_is_named_and_left_behind() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        let reading = Arc::new(Reader::default());
        let load = |limit| {
            let (reader, path) = (Arc::clone(&reading), path.clone());
            reading.in_time_of(limit, move || reader.text(&path).is_ok()).expect_err("it hangs")
        };
        let stuck = load(SHORT);
        assert_eq!(stuck.file, path);
        assert!(stuck.to_string().contains("nothing came within"), "{stuck}");
        // No second thread, however often somebody asks.
        assert_eq!(load(Duration::from_secs(3600)), stuck);
        drop(writer);
    }
}
