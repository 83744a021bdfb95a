//! Messages with descriptors between two processes on this machine.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::{MAX_DESCRIPTORS, MAX_MESSAGE, Message, PATIENCE, TakeoverError};

/// Between two attempts where too many descriptors are on their way.
const PAUSE: Duration = Duration::from_millis(1);

/// One end of a connection that keeps messages apart (SOCK_SEQPACKET).
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Over a connected socket.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub fn new(socket: OwnedFd) -> io::Result<Channel> {
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
        }
        Ok(Channel(socket))
    }

    /// The user at the other end.
    pub(super) fn user(&self) -> io::Result<u32> {
        Ok(socket_peercred(&self.0)?.uid.as_raw())
    }

    /// Another bound on how long [`Channel::receive`] waits.
    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        Ok(set_socket_timeout(&self.0, Timeout::Recv, Some(patience))?)
    }

    /// Sends a message with descriptors, at most [`MAX_DESCRIPTORS`] of them.
    ///
    /// # Errors
    /// If the other process is gone, or takes nothing for too long.
    pub fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = postcard::to_allocvec(message).map_err(io::Error::other)?;
        let mut tries = PATIENCE.as_millis() / PAUSE.as_millis();
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::other("too many descriptors for one message"));
            }
            let sent =
                rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
            match sent {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                // The other process has not taken what was sent before.
                Err(rustix::io::Errno::TOOMANYREFS) if tries > 0 => {
                    tries -= 1;
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next message, with the descriptors that came along.
    ///
    /// # Errors
    /// If the other process is gone, says nothing for too long, or something that is no message.
    pub fn receive(&self) -> Result<(Message, Vec<OwnedFd>), TakeoverError> {
        let received = self.receive_with(RecvFlags::empty())?;
        received.ok_or_else(|| TakeoverError::Confused("says nothing".to_owned()))
    }

    /// The next message, if one is there.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub(super) fn look(&self) -> Result<Option<Message>, TakeoverError> {
        Ok(self.receive_with(RecvFlags::DONTWAIT)?.map(|(message, _)| message))
    }

    fn receive_with(&self, flags: RecvFlags) -> Result<Option<(Message, Vec<OwnedFd>)>, TakeoverError> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.0, &mut into, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(TakeoverError::System("the other process", error.into())),
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Err(TakeoverError::Confused("has gone".to_owned()));
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(TakeoverError::Unfit(
                "not every descriptor fits into this process: raise the limit on open files".to_owned(),
            ));
        }
        match postcard::from_bytes(&bytes[..received.bytes]) {
            Ok(message) => Ok(Some((message, descriptors))),
            Err(_) => Err(TakeoverError::Confused("speaks another language".to_owned())),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
