//! A client over TCP or TLS that says exactly what a test wants it to say.
//!
//! Whoever talks to it may hang up: that is an error for the test to judge. What is read of it by [`Read`] are the
//! bytes behind the last message, whatever they mean.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use rustls::{ClientConnection, StreamOwned};
use turnpike_proto::wire::framer::{self, Frame};
use turnpike_proto::wire::{MessageBuilder, attr, method};

use crate::message::{self, Answer, Login, Transactions, UDP, bare_allocate, binding};
use crate::{PASSWORD, PATIENCE, USER};

/// A client.
pub struct StreamClient {
    stream: Stream,
    /// What has come behind the last message.
    unread: Vec<u8>,
    /// What it logs in with.
    pub login: Login,
    transactions: Transactions,
}

enum Stream {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl StreamClient {
    /// A client of the usual user that connects, over TLS if it is told how.
    ///
    /// # Errors
    /// If nobody listens. A handshake fails with the first byte that is read or written.
    pub fn connect(server: SocketAddr, tls: Option<ClientConnection>) -> io::Result<StreamClient> {
        StreamClient::on(TcpStream::connect(server)?, tls)
    }

    /// The same on a connection that there is already.
    ///
    /// # Errors
    /// If the connection is over.
    pub fn on(socket: TcpStream, tls: Option<ClientConnection>) -> io::Result<StreamClient> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let stream = match tls {
            Some(tls) => Stream::Tls(Box::new(StreamOwned::new(tls, socket))),
            None => Stream::Tcp(socket),
        };
        let login = Login::new(USER, PASSWORD);
        Ok(StreamClient { stream, unread: Vec::new(), login, transactions: Transactions::new() })
    }

    /// Another user.
    #[must_use]
    pub fn named(mut self, user: &str, password: &str) -> StreamClient {
        self.login = Login::new(user, password);
        self
    }

    /// Its connection, without TLS.
    pub fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Tcp(socket) => socket,
            Stream::Tls(stream) => stream.get_ref(),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)?;
        self.flush()
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn finish(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Stream::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
        }
    }

    /// The next message with its padding; `None` at a regular end.
    ///
    /// # Errors
    /// Those of the connection, also if nothing comes.
    pub fn hear(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match framer::next(&self.unread) {
                Frame::Message { consumed, .. } => return Ok(Some(self.unread.drain(..consumed).collect())),
                Frame::Need(_) => {}
                Frame::Invalid => panic!("not a message: {:02x?}", self.unread),
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(len) => self.unread.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request; gives its answer.
    ///
    /// # Errors
    /// Those of the connection, its end before the answer included.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.say(request)?;
        loop {
            let message = self.hear()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            // Another one is data, or an indication, which may come at any time.
            if message.get(8..20) == request.get(8..20) {
                return Ok(Answer::of(message));
            }
        }
    }

    /// Asks for its own address, without credentials.
    ///
    /// # Errors
    /// As [`StreamClient::ask`].
    pub fn binding(&mut self) -> io::Result<Answer> {
        let request = MessageBuilder::request(method::BINDING, self.transactions.next_id());
        self.ask(&request.finish())
    }

    /// A signed request, after a challenge if there was none yet.
    ///
    /// # Errors
    /// As [`StreamClient::ask`].
    pub fn signed(
        &mut self,
        method: u16,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> io::Result<Vec<u8>> {
        if self.login.nonce.is_empty() {
            let bare = bare_allocate(self.transactions.next_id());
            let challenge = self.ask(&bare)?;
            self.login.heed(&challenge);
        }
        let request = MessageBuilder::request(method, self.transactions.next_id());
        Ok(self.login.sign(build(request)))
    }

    /// A signed request and its answer.
    ///
    /// # Errors
    /// As [`StreamClient::ask`].
    pub fn request(
        &mut self,
        method: u16,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> io::Result<Answer> {
        let request = self.signed(method, build)?;
        self.ask(&request)
    }

    /// Allocates; gives the answer, whatever it is.
    ///
    /// # Errors
    /// As [`StreamClient::ask`].
    pub fn try_allocate(&mut self, transport: [u8; 4]) -> io::Result<Answer> {
        self.request(method::ALLOCATE, |builder| builder.attribute(attr::REQUESTED_TRANSPORT, &transport))
    }

    /// Allocates for UDP; gives the relayed address.
    ///
    /// # Errors
    /// As [`StreamClient::ask`], and if it is refused.
    pub fn allocate(&mut self) -> io::Result<SocketAddr> {
        let answer = self.try_allocate(UDP)?;
        match answer.code {
            None => Ok(answer.relayed()),
            Some(code) => Err(io::Error::other(format!("Allocate was answered with {code}"))),
        }
    }

    /// Refreshes the allocation, or deletes it with 0.
    ///
    /// # Errors
    /// As [`StreamClient::ask`].
    pub fn refresh(&mut self, lifetime_secs: u32) -> io::Result<Answer> {
        self.request(method::REFRESH, |builder| builder.lifetime(lifetime_secs))
    }

    /// Installs a permission.
    ///
    /// # Errors
    /// As [`StreamClient::ask`].
    pub fn permit(&mut self, peer: SocketAddr) -> io::Result<Answer> {
        self.request(method::CREATE_PERMISSION, |builder| builder.xor_address(attr::XOR_PEER_ADDRESS, peer))
    }

    /// Binds channel 0x4000.
    ///
    /// # Errors
    /// As [`StreamClient::ask`].
    pub fn bind(&mut self, peer: SocketAddr) -> io::Result<Answer> {
        self.request(method::CHANNEL_BIND, |builder| binding(builder, 0x4000, peer))
    }

    /// ChannelData on channel 0x4000, padded (RFC 8656 s. 12.5).
    ///
    /// # Errors
    /// Those of the connection.
    pub fn channel_data(&mut self, data: &[u8]) -> io::Result<()> {
        let mut frame = message::channel_data(0x4000, data);
        frame.resize(frame.len().next_multiple_of(4), 0);
        self.say(&frame)
    }

    /// Has a TCP connection made with a peer (RFC 6062 s. 4.3).
    ///
    /// # Errors
    /// As [`StreamClient::ask`].
    pub fn connect_peer(&mut self, peer: SocketAddr) -> io::Result<Answer> {
        self.request(method::CONNECT, |builder| builder.xor_address(attr::XOR_PEER_ADDRESS, peer))
    }

    /// Becomes what carries a peer's connection (RFC 6062 s. 4.5).
    ///
    /// # Errors
    /// As [`StreamClient::ask`].
    pub fn bind_connection(&mut self, id: &[u8]) -> io::Result<Answer> {
        self.request(method::CONNECTION_BIND, |builder| builder.attribute(attr::CONNECTION_ID, id))
    }
}

impl Read for StreamClient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            return self.stream.read(buffer);
        }
        let len = self.unread.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.unread[..len]);
        self.unread.drain(..len);
        Ok(len)
    }
}

impl Write for StreamClient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => socket.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}
