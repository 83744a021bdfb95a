//! A client's connection to the server, over TCP or TLS: whole messages in, whole messages out, without
//! waiting for either.
//!
//! ```text
//!   send(message) ─► [TLS record] ─► queue ─flush─► socket     the queue grows while the server doesn't read;
//!   messages ◄─ frame ◄─ plain bytes ◄─ [TLS] ◄─receive─ socket     whoever sends looks at its length
//! ```

pub mod frame;
pub mod tls;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustls::ClientConnection;
use socket2::{Domain, Protocol, Socket, Type};

use self::frame::Frame;
use self::tls::TlsClient;
use super::mmsg::mono_ns;

/// Bytes that one read takes at most.
const READ_BYTES: usize = 1 << 16;
/// Bytes taken from one connection before the next one's turn.
const READ_PER_TURN: usize = 4 * READ_BYTES;
/// Memory of an empty queue that is worth giving back.
const KEPT_BYTES: usize = 1 << 14;

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nothing listens on the server's port.
    #[error("connection refused")]
    Refused,
    /// The server closed it in good order.
    #[error("the server closed the connection")]
    Closed,
    /// The operating system ended it.
    #[error("{0}")]
    System(String),
    /// The server's certificate is none that is taken.
    #[error("TLS: {0}")]
    Certificate(String),
    /// The handshake failed otherwise, or a record was bad.
    #[error("TLS: {0}")]
    Tls(String),
    /// What came is neither STUN nor ChannelData.
    #[error("the server sent what is neither STUN nor ChannelData")]
    Framing,
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::System(error.to_string()),
        }
    }
}

impl From<rustls::Error> for LinkError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(_) => Self::Certificate(error.to_string()),
            _ => Self::Tls(error.to_string()),
        }
    }
}

/// How a connection is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dial<'a> {
    /// The address that it comes from; `None` = as the kernel chooses.
    pub local: Option<IpAddr>,
    /// The interface that it is bound to (SO_BINDTODEVICE).
    pub device: Option<&'a str>,
    /// SO_RCVBUF, bytes; `None` = as the kernel thinks best.
    pub receive_buffer_bytes: Option<usize>,
    /// TLS inside of it, with these authorities and names; `None` = in the clear.
    pub tls: Option<&'a TlsClient>,
}

/// What connections of one thread share for reading: bytes, and where messages lie in them.
#[derive(Debug)]
pub struct Inbox {
    raw: Vec<u8>,
    plain: Vec<u8>,
    messages: Vec<Range<usize>>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { raw: vec![0; READ_BYTES], plain: Vec::with_capacity(READ_BYTES), messages: Vec::new() }
    }
}

impl Inbox {
    /// How many messages the last [`StreamLink::receive`] found.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it found none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// What the last [`StreamLink::receive_bytes`] found.
    pub fn bytes(&self) -> &[u8] {
        &self.plain
    }

    /// One of them, with its padding.
    pub fn message(&self, index: usize) -> &[u8] {
        &self.plain[self.messages[index].clone()]
    }
}

/// A connection that doesn't block.
#[derive(Debug)]
pub struct StreamLink {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// On its way to the socket, from `out_start` on.
    out: Vec<u8>,
    out_start: usize,
    /// The beginning of a message.
    partial: Vec<u8>,
    connected: bool,
    begun_ns: u64,
    opened_ns: Option<u64>,
    /// Whether its poller waits for room to write, too.
    pub(super) watched_for_writing: bool,
}

impl StreamLink {
    /// Begins to connect; [`Self::flush`] goes on with it when the socket is writable.
    ///
    /// # Errors
    /// If there is no socket, or the kernel knows at once that it can't be.
    pub fn connect(server: SocketAddr, dial: &Dial<'_>) -> Result<Self, LinkError> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(device) = dial.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(bytes) = dial.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        if let Some(ip) = dial.local {
            socket.bind(&SocketAddr::new(ip, 0).into())?;
        }
        let begun_ns = mono_ns();
        match socket.connect(&server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let tls = dial.tls.map(TlsClient::connection).transpose()?.map(Box::new);
        Ok(Self {
            socket: socket.into(),
            tls,
            out: Vec::new(),
            out_start: 0,
            partial: Vec::new(),
            connected: false,
            begun_ns,
            opened_ns: None,
            watched_for_writing: false,
        })
    }

    /// The socket, to be polled.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The client's address.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// From the first step to a connection, TLS included, that messages can pass; ns.
    pub fn opened_after_ns(&self) -> Option<u64> {
        self.opened_ns.map(|at_ns| at_ns - self.begun_ns)
    }

    /// Bytes that the socket hasn't taken yet.
    pub fn queued(&self) -> usize {
        self.out.len() - self.out_start
    }

    /// Whether [`Self::flush`] should be called when the socket is writable.
    pub fn wants_write(&self) -> bool {
        !self.connected || self.queued() > 0
    }

    /// Queues one message and its padding (RFC 8656 section 12.5: to 4 bytes, zeros). TLS makes one record of it.
    pub fn send(&mut self, message: &[u8]) {
        const ZEROS: [u8; 3] = [0; 3];
        self.queue(message, &ZEROS[..message.len().next_multiple_of(4) - message.len()]);
    }

    /// Queues bytes as they are: a data connection's (RFC 6062 section 4.3).
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.queue(bytes, &[]);
    }

    fn queue(&mut self, message: &[u8], padding: &[u8]) {
        match &mut self.tls {
            None => {
                self.out.extend_from_slice(message);
                self.out.extend_from_slice(padding);
            }
            Some(tls) => {
                let parts = [io::IoSlice::new(message), io::IoSlice::new(padding)];
                let written = tls.writer().write_vectored(&parts).expect("its buffer has no limit");
                debug_assert_eq!(written, message.len() + padding.len());
            }
        }
        self.encrypt();
    }

    /// Takes what TLS has for the server into the queue.
    fn encrypt(&mut self) {
        let Some(tls) = self.tls.as_mut().filter(|_| self.connected) else { return };
        while tls.wants_write() {
            tls.write_tls(&mut self.out).expect("a Vec takes everything");
        }
        if self.opened_ns.is_none() && !tls.is_handshaking() {
            self.opened_ns = Some(mono_ns());
        }
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// If the connection is over.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        if !self.connected && !self.finish_connecting()? {
            return Ok(());
        }
        while self.out_start < self.out.len() {
            match self.socket.write(&self.out[self.out_start..]) {
                Ok(count) => self.out_start += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        if self.out_start == self.out.len() {
            self.out.clear();
            self.out.shrink_to(KEPT_BYTES);
            self.out_start = 0;
        } else if self.out_start > self.out.len() / 2 {
            self.out.drain(..self.out_start);
            self.out_start = 0;
        }
        Ok(())
    }

    fn finish_connecting(&mut self) -> Result<bool, LinkError> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error.into());
        }
        if self.socket.peer_addr().is_err() {
            return Ok(false);
        }
        self.connected = true;
        if self.tls.is_none() {
            self.opened_ns = Some(mono_ns());
        }
        self.encrypt();
        Ok(true)
    }

    /// Reads what there is, up to a bound, and finds the whole messages in it. With an error, too, the
    /// inbox has what came before.
    ///
    /// # Errors
    /// If the connection is over.
    pub fn receive(&mut self, inbox: &mut Inbox) -> Result<(), LinkError> {
        let outcome = self.receive_bytes(inbox);
        let framed = self.split(inbox);
        // What came says more than that nothing else does.
        framed.and(outcome)
    }

    /// Reads what there is, up to a bound, as bytes of no form. With an error, too, the inbox has what came before.
    ///
    /// # Errors
    /// If the connection is over.
    pub fn receive_bytes(&mut self, inbox: &mut Inbox) -> Result<(), LinkError> {
        inbox.messages.clear();
        inbox.plain.clear();
        inbox.plain.append(&mut self.partial);
        self.read(inbox)
    }

    fn read(&mut self, inbox: &mut Inbox) -> Result<(), LinkError> {
        let mut taken = 0;
        while taken < READ_PER_TURN {
            match self.socket.read(&mut inbox.raw) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => {
                    taken += count;
                    self.take(count, inbox)?;
                    if count < inbox.raw.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.flush()
    }

    /// The plain bytes of what was read.
    fn take(&mut self, count: usize, inbox: &mut Inbox) -> Result<(), LinkError> {
        let Inbox { raw, plain, .. } = inbox;
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(&raw[..count]);
            return Ok(());
        };
        let mut rest = &raw[..count];
        while !rest.is_empty() {
            tls.read_tls(&mut rest)?;
            let state = tls.process_new_packets()?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            if plain.len() > start {
                tls.reader().read_exact(&mut plain[start..])?;
            }
            if state.peer_has_closed() {
                return Err(LinkError::Closed);
            }
        }
        self.encrypt();
        Ok(())
    }

    fn split(&mut self, inbox: &mut Inbox) -> Result<(), LinkError> {
        let mut at = 0;
        loop {
            match frame::first(&inbox.plain[at..]) {
                Frame::Whole(length) => {
                    inbox.messages.push(at..at + length);
                    at += length;
                }
                Frame::Incomplete => break,
                Frame::Invalid => return Err(LinkError::Framing),
            }
        }
        self.partial.extend_from_slice(&inbox.plain[at..]);
        Ok(())
    }
}

impl Drop for StreamLink {
    /// Says goodbye (RFC 8446 section 6.1); whether it arrives is of no importance.
    fn drop(&mut self) {
        if let Some(tls) = self.tls.as_mut().filter(|_| self.opened_ns.is_some()) {
            tls.send_close_notify();
            self.encrypt();
            let _ = self.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A Binding success and 5 bytes on a channel.
    fn two_messages() -> Vec<u8> {
        let mut stream = vec![0x01, 0x01, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        stream.extend([7; 12]);
        stream.extend([0x40, 0x01, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0]);
        stream
    }

    fn connected() -> (StreamLink, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut link =
            StreamLink::connect(listener.local_addr().expect("bound"), &Dial::default()).expect("begun");
        let (server, _) = listener.accept().expect("a connection");
        while link.wants_write() {
            link.flush().expect("open");
        }
        (link, server)
    }

    /// Receives until there are so many messages, or the connection ends.
    fn receive(link: &mut StreamLink, wanted: usize) -> (Vec<Vec<u8>>, Option<LinkError>) {
        let (mut inbox, mut found) = (Inbox::default(), Vec::new());
        while found.len() < wanted {
            let outcome = link.receive(&mut inbox);
            found.extend((0..inbox.len()).map(|index| inbox.message(index).to_vec()));
            if let Err(error) = outcome {
                return (found, Some(error));
            }
        }
        (found, None)
    }

    #[test]
    fn messages_are_whole_however_they_are_cut() {
        let (mut link, mut server) = connected();
        server.set_nodelay(true).expect("set");
        let sent = two_messages();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || {
            copy.iter().for_each(|byte| server.write_all(&[*byte]).expect("written"));
            server.write_all(&[&copy[..], &copy[..]].concat()).expect("written");
        });
        let (found, error) = receive(&mut link, 6);
        assert_eq!((found.concat(), error), (sent.repeat(3), None));
        writer.join().expect("ends");
        assert_eq!(receive(&mut link, 1).1, Some(LinkError::Closed));
    }

    // RFC 6062 section 4.3: after ConnectionBind's answer
    #[test]
    fn bytes_of_a_data_connection_are_no_messages() {
        let (mut link, mut server) = connected();
        link.send_bytes(&[0xff; 5]);
        link.flush().expect("open");
        server.write_all(&[0xfe; 7]).expect("written");
        let mut got = [0; 5];
        server.read_exact(&mut got).expect("5 bytes, no padding");
        drop(server);
        let (mut inbox, mut found) = (Inbox::default(), Vec::new());
        let error = loop {
            let outcome = link.receive_bytes(&mut inbox);
            found.extend_from_slice(inbox.bytes());
            if let Err(error) = outcome {
                break error;
            }
        };
        assert_eq!((got, found, error), ([0xff; 5], vec![0xfe; 7], LinkError::Closed));
    }

    #[test]
    fn what_came_before_garbage_is_kept() {
        let (mut link, mut server) = connected();
        server.write_all(&[&two_messages()[..], &[0xff; 4]].concat()).expect("written");
        let (found, error) = receive(&mut link, 3);
        assert_eq!((found.len(), error), (2, Some(LinkError::Framing)));
    }

    // RFC 8656 section 12.5.
    #[test]
    fn a_message_is_padded_with_zeros_and_waits_while_nobody_reads() {
        let (mut link, mut server) = connected();
        link.send(&[0x40, 0, 0, 1, 9]);
        link.flush().expect("open");
        let mut got = [1; 8];
        server.read_exact(&mut got).expect("8 bytes");
        assert_eq!(got, [0x40, 0, 0, 1, 9, 0, 0, 0]);
        let message = vec![0x40; 60_000];
        while link.queued() < 1 << 20 {
            link.send(&message);
            link.flush().expect("open");
        }
        assert!(link.wants_write());
    }
}
