//! A pipe that nobody reads.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, Write, pipe};
use std::os::fd::OwnedFd;

/// The writing end of a pipe into which nothing fits; and the reading end, which keeps it open.
pub fn full_pipe() -> (File, PipeReader) {
    let (reader, mut writer) = pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("pipes can");
    for portion in [4096, 1] {
        while let Ok(1..) = writer.write(&vec![b'x'; portion]) {}
    }
    assert_eq!(writer.write(b"x").map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "it is full");
    rustix::io::ioctl_fionbio(&writer, false).expect("pipes can");
    (File::from(OwnedFd::from(writer)), reader)
}
