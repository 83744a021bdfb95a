//! A second reading of RFC 8489 s. 5, 6.3 and 14: slow, plain, and independent of the core's.

use std::net::{IpAddr, SocketAddr};

use turnpike_proto::limits::MAX_ATTRIBUTES;
use turnpike_proto::wire::{Class, attr};

/// A message as the reference sees it.
#[derive(Debug)]
pub struct Stun<'a> {
    /// Request, indication or answer.
    pub class: Class,
    /// Method, up to 0xFFF.
    pub method: u16,
    /// Transaction id.
    pub transaction: [u8; 12],
    /// Attributes that stand before the first of MESSAGE-INTEGRITY, its SHA-256 form and FINGERPRINT.
    pub attributes: Vec<(u16, &'a [u8])>,
    /// Whether either integrity attribute stands where it counts.
    pub integrity: bool,
    /// Whether there is a FINGERPRINT, which is right.
    pub fingerprint: bool,
    /// Whether all padding is zero.
    pub clean_padding: bool,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Header, length or the bounds of an attribute.
    Malformed,
    /// FINGERPRINT is wrong.
    Fingerprint,
}

/// Reads one message that fills `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Stun<'_>, Fault> {
    let header: &[u8; 20] = bytes.first_chunk().ok_or(Fault::Malformed)?;
    let [t0, t1, l0, l1, ..] = *header;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let cookie_ok = header[4..8] == [0x21, 0x12, 0xA4, 0x42];
    if t0 & 0xC0 != 0 || !cookie_ok || len % 4 != 0 || bytes.len() != 20 + len {
        return Err(Fault::Malformed);
    }
    // RFC 8489 s. 5, figure 3: M11-M7 C1 M6-M4 C0 M3-M0.
    let kind = u16::from_be_bytes([t0, t1]);
    let class = match (kind >> 8 & 1, kind >> 4 & 1) {
        (0, 0) => Class::Request,
        (0, _) => Class::Indication,
        (_, 0) => Class::Success,
        _ => Class::Error,
    };
    let method = kind & 0xF | (kind & 0xE0) >> 1 | (kind & 0x3E00) >> 2;
    let mut stun = Stun {
        class,
        method,
        transaction: header[8..].try_into().expect("12 of 20 bytes"),
        attributes: Vec::new(),
        integrity: false,
        fingerprint: false,
        clean_padding: true,
    };
    stun.read_attributes(bytes)?;
    Ok(stun)
}

impl<'a> Stun<'a> {
    /// The value of the first attribute of a kind, if that counts.
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| *value)
    }

    /// ERROR-CODE of an answer.
    pub fn code(&self) -> Option<u16> {
        self.get(attr::ERROR_CODE).map(|value| u16::from(value[2]) * 100 + u16::from(value[3]))
    }

    /// An XOR-encoded address in one of this message's attributes (RFC 8489 s. 14.2).
    pub fn address(&self, value: &[u8]) -> Option<SocketAddr> {
        let mut mask = [0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        mask[4..].copy_from_slice(&self.transaction);
        let [_, family, p0, p1, ip @ ..] = value else { return None };
        let unmasked: Vec<u8> = ip.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
        let ip: IpAddr = match (family, ip.len()) {
            (1, 4) => <[u8; 4]>::try_from(unmasked).ok()?.into(),
            (2, 16) => <[u8; 16]>::try_from(unmasked).ok()?.into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes([p0 ^ 0x21, p1 ^ 0x12])))
    }

    /// Every well-formed address of a kind.
    pub fn addresses(&self, kind: u16) -> Vec<SocketAddr> {
        self.attributes.iter().filter(|(k, _)| *k == kind).filter_map(|(_, v)| self.address(v)).collect()
    }

    fn read_attributes(&mut self, bytes: &'a [u8]) -> Result<(), Fault> {
        let (mut at, mut count, mut open, mut ended) = (20, 0, true, false);
        while at < bytes.len() {
            let [k0, k1, l0, l1] = *bytes[at..].first_chunk().ok_or(Fault::Malformed)?;
            let (kind, len) = (u16::from_be_bytes([k0, k1]), usize::from(u16::from_be_bytes([l0, l1])));
            let value = bytes.get(at + 4..at + 4 + len).ok_or(Fault::Malformed)?;
            let next = at + 4 + len.next_multiple_of(4);
            count += 1;
            if count > MAX_ATTRIBUTES {
                return Err(Fault::Malformed);
            }
            self.clean_padding &= bytes[at + 4 + len..next].iter().all(|byte| *byte == 0);
            match kind {
                // RFC 8489 s. 14.7: FINGERPRINT is the last attribute.
                _ if ended => {}
                attr::FINGERPRINT => {
                    let value: [u8; 4] = value.try_into().map_err(|_| Fault::Malformed)?;
                    if u32::from_be_bytes(value) != fingerprint(&bytes[..at]) {
                        return Err(Fault::Fingerprint);
                    }
                    (self.fingerprint, ended, open) = (true, true, false);
                }
                attr::MESSAGE_INTEGRITY if open => (self.integrity, open) = (true, false),
                attr::MESSAGE_INTEGRITY_SHA256 => (self.integrity, open) = (true, false),
                _ if open => self.attributes.push((kind, value)),
                _ => {}
            }
            at = next;
        }
        Ok(())
    }
}

/// FINGERPRINT of a message of which `before` is everything in front of it (RFC 8489 s. 14.7).
pub fn fingerprint(before: &[u8]) -> u32 {
    let len = (before.len() - 20 + 8) as u16;
    let [l0, l1] = len.to_be_bytes();
    let header = [before[0], before[1], l0, l1];
    // CRC-32 of ITU V.42, bit by bit.
    let crc = header.iter().chain(&before[4..]).fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 }
            },
        )
    });
    !crc ^ 0x5354_554E
}

/// Appends an attribute and counts it in the header's length.
pub fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    let len = (message.len() - 20) as u16;
    message[2..4].copy_from_slice(&len.to_be_bytes());
}
