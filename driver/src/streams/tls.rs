//! One connection's TLS: records to bytes and back, in the worker that reads and writes them.

use std::sync::Arc;

use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{AlertDescription, Error, HandshakeKind, ProtocolVersion};
use turnpike_proto::addr::{Alpn, TlsInfo, TlsVersion};

use super::counters::CloseReason;

/// More than a record adds to its plaintext: header, nonce or content type, tag, and a KeyUpdate in front.
const RECORD_OVERHEAD: usize = 128;
/// Plaintext of the longest record (RFC 8446 s. 5.1).
pub(super) const RECORD_BYTES: usize = 16 << 10;

/// The server's side of one TLS connection.
pub(super) struct Session {
    connection: UnbufferedServerConnection,
    /// What the handshake has agreed on, once it is over.
    info: Option<TlsInfo>,
    /// There was a fault, and its alert given out: from then on rustls must not be asked for anything.
    has_failed: bool,
}

/// What came of a piece of input.
pub(super) struct Progress {
    /// Bytes of the input that are done with, from its front; the others have to be there again the next time.
    pub(super) consumed: usize,
    /// The client has said that nothing more comes (close_notify).
    pub(super) is_over: bool,
    /// The first fault; what is to be sent holds the alert for it.
    pub(super) fault: Option<CloseReason>,
}

impl Session {
    /// For a new connection.
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Session, CloseReason> {
        let connection = UnbufferedServerConnection::new(config).map_err(|error| reason(&error))?;
        Ok(Session { connection, info: None, has_failed: false })
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(super) fn info(&self) -> Option<TlsInfo> {
        self.info
    }

    fn agreed(&self) -> Option<TlsInfo> {
        let version = match self.connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => TlsVersion::V12,
            ProtocolVersion::TLSv1_3 => TlsVersion::V13,
            _ => return None,
        };
        let cipher_suite = self.connection.negotiated_cipher_suite()?.suite().into();
        let alpn = self.connection.alpn_protocol();
        let alpn = Alpn::ALL.into_iter().find(|known| alpn == Some(known.name().as_bytes()));
        Some(TlsInfo { version, cipher_suite, alpn })
    }

    /// Handles records that came, decrypting them in place; appends plaintext, and records to be sent.
    pub(super) fn read(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        records: &mut Vec<u8>,
    ) -> Progress {
        let mut progress = Progress { consumed: 0, is_over: false, fault: None };
        // Calls that give out what is to be said about a fault.
        let mut alerts_left: Option<u32> = None;
        loop {
            alerts_left = alerts_left.map(|left| left - 1);
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut incoming[progress.consumed..]);
            let mut is_done = alerts_left == Some(0);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                // Never offered, but nothing of it may stay behind.
                Ok(ConnectionState::ReadEarlyData(mut early)) => {
                    while let Some(Ok(record)) = early.next_record() {
                        discard += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(records, RECORD_OVERHEAD, |room| data.encode(room).map_err(missing));
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => progress.is_over = true,
                Ok(ConnectionState::Closed) => (progress.is_over, is_done) = (true, true),
                Ok(_) => is_done = true,
                Err(_) if self.has_failed => is_done = true,
                Err(error) => {
                    self.has_failed = true;
                    progress.fault = Some(reason(&error));
                    alerts_left = Some(records_of_fault(&error));
                }
            }
            progress.consumed += discard;
            if is_done {
                if self.info.is_none() && !self.connection.is_handshaking() {
                    self.info = self.agreed();
                }
                return progress;
            }
        }
    }

    /// Encrypts into records that are appended. `rest` is what [`Session::read`] has left; `false` if TLS can't send
    /// any more.
    pub(super) fn write(&mut self, rest: &mut Vec<u8>, plain: &[u8], records: &mut Vec<u8>) -> bool {
        let overhead = (plain.len() / RECORD_BYTES + 1) * RECORD_OVERHEAD;
        self.when_writable(rest, records, |traffic, records| {
            append(records, plain.len() + overhead, |room| traffic.encrypt(plain, room).map_err(required))
        })
    }

    /// Says that nothing more comes.
    pub(super) fn close(&mut self, rest: &mut Vec<u8>, records: &mut Vec<u8>) {
        self.when_writable(rest, records, |traffic, records| {
            append(records, RECORD_OVERHEAD, |room| traffic.queue_close_notify(room).map_err(required))
        });
    }

    fn when_writable(
        &mut self,
        rest: &mut Vec<u8>,
        records: &mut Vec<u8>,
        write: impl FnOnce(&mut WriteTraffic<'_, rustls::server::ServerConnectionData>, &mut Vec<u8>) -> bool,
    ) -> bool {
        // Whatever stands before it (a ticket, a close_notify of the client's) is soon over.
        const STATES: usize = 8;
        let mut write = Some(write).filter(|_| !self.has_failed);
        for _ in 0..STATES {
            if write.is_none() {
                return false;
            }
            let UnbufferedStatus { discard, state, .. } = self.connection.process_tls_records(rest);
            let mut written = None;
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    written = write.take().map(|write| write(&mut traffic, records));
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(records, RECORD_OVERHEAD, |room| data.encode(room).map_err(missing));
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {}
                _ => written = Some(false),
            }
            rest.drain(..discard);
            if let Some(written) = written {
                return written;
            }
        }
        false
    }
}

/// Appends what `fill` writes into the room that it is given; it is asked again if that is too small.
fn append(
    records: &mut Vec<u8>,
    room: usize,
    mut fill: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> bool {
    let start = records.len();
    let mut room = room;
    loop {
        records.resize(start + room, 0);
        match fill(&mut records[start..]) {
            Ok(written) => {
                records.truncate(start + written);
                return true;
            }
            Err(Some(required)) if required > room => room = required,
            Err(_) => {
                records.truncate(start);
                return false;
            }
        }
    }
}

fn missing(error: EncodeError) -> Option<usize> {
    match error {
        EncodeError::InsufficientSize(size) => Some(size.required_size),
        EncodeError::AlreadyEncoded => None,
    }
}

fn required(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// How many records rustls may have for a fault: its alert, and what a handshake had said before. Where the input is
/// not even understood there is the alert alone, and rustls must not look at that input again.
fn records_of_fault(error: &Error) -> u32 {
    match error {
        Error::InvalidMessage(_)
        | Error::DecryptError
        | Error::PeerSentOversizedRecord
        | Error::PeerMisbehaved(_) => 1,
        _ => 8,
    }
}

fn reason(error: &Error) -> CloseReason {
    match error {
        Error::NoApplicationProtocol => CloseReason::TlsAlpn,
        Error::InvalidMessage(_) => CloseReason::NotTls,
        Error::PeerIncompatible(_) => CloseReason::TlsIncompatible,
        Error::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => {
            CloseReason::ByClient
        }
        Error::AlertReceived(_) => CloseReason::TlsRefused,
        _ => CloseReason::TlsOther,
    }
}
