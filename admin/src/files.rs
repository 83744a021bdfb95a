//! Files of secrets, keys and configuration: only regular ones are read, and only so much of them.
//!
//! Opening a FIFO waits until somebody writes to it, and a device may never end; nothing that a running
//! relay reads may do either. A mount that hangs is beyond this: callers give the whole reading a time.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// The content of a regular file, wiped when dropped.
///
/// # Errors
/// If it is no regular file, has more than `max_bytes`, or can't be read.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    // Before it is opened, too: opening alone does things to some devices.
    check(&std::fs::metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    check(&metadata)?;
    read_at_most(file, metadata.len(), max_bytes)
}

/// Everything that a source gives, if it is not more than `max_bytes`. `expected_bytes` is a hint.
///
/// # Errors
/// If it has more, or can't be read.
pub fn read_at_most(source: File, expected_bytes: u64, max_bytes: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    // Enough at once: growing would leave copies of a secret behind in freed memory.
    let expected = usize::try_from(expected_bytes.min(max_bytes)).unwrap_or(0);
    let mut content = Zeroizing::new(Vec::with_capacity(expected + 1));
    source.take(max_bytes + 1).read_to_end(&mut content)?;
    if content.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {max_bytes} bytes")));
    }
    Ok(content)
}

fn check(metadata: &Metadata) -> io::Result<()> {
    match metadata.is_file() {
        true => Ok(()),
        false => Err(io::Error::other(format!("it is a {}, not a regular file", kind(metadata.file_type())))),
    }
}

fn kind(file: FileType) -> &'static str {
    match file {
        _ if file.is_dir() => "folder",
        _ if file.is_fifo() => "FIFO or pipe",
        _ if file.is_socket() => "socket",
        _ => "device",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("good"), "12345678").expect("written");
        assert_eq!(read(&path("good"), 8).expect("read").as_slice(), b"12345678");
        assert!(read(&path("good"), 7).is_err_and(|error| error.to_string().contains("more than 7 bytes")));
        std::os::unix::fs::symlink(path("good"), path("link")).expect("linked");
        assert!(read(&path("link"), 8).is_ok(), "secrets of Kubernetes are links");

        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, mode, 0)
            .expect("a FIFO");
        let _socket = UnixListener::bind(path("socket")).expect("a socket");
        for (name, kind) in [("fifo", "FIFO"), ("socket", "socket"), (".", "folder")] {
            let error = read(&path(name), 8).expect_err(name).to_string();
            assert!(error.contains(kind) && error.contains("not a regular file"), "{error}");
        }
        let error = read(Path::new("/dev/zero"), 8).expect_err("a device").to_string();
        assert!(error.contains("device"), "{error}");
    }
}
