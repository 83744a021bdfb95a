//! What the path needs of a frame.

/// An Ethernet frame. Numbers are read and written as they lie in memory, whatever their alignment.
///
/// Reading or writing is only allowed where [`Frame::has`] has said that the bytes are there; in the
/// kernel the verifier refuses a program that doesn't ask.
pub trait Frame {
    /// Whether there are at least this many bytes.
    fn has(&self, bytes: usize) -> bool;

    /// One byte.
    fn u8_at(&self, at: usize) -> u8;
    /// Two bytes.
    fn u16_at(&self, at: usize) -> u16;
    /// Four bytes.
    fn u32_at(&self, at: usize) -> u32;
    /// Eight bytes.
    fn u64_at(&self, at: usize) -> u64;

    /// One byte at an offset that is not constant, if it is there.
    fn byte(&self, at: usize) -> Option<u8>;

    /// Writes two bytes.
    fn set_u16(&mut self, at: usize, value: u16);
    /// Writes four bytes.
    fn set_u32(&mut self, at: usize, value: u32);
    /// Writes eight bytes.
    fn set_u64(&mut self, at: usize, value: u64);

    /// Counts offsets from so many bytes further on, until the start is moved. Nothing else changes, but everything has
    /// to be asked for with [`Frame::has`] again.
    fn skip(&mut self, bytes: usize);

    /// Moves the start: forwards by a positive number of bytes, backwards by a negative one.
    ///
    /// Afterwards everything has to be asked for with [`Frame::has`] again, and offsets count from the start. `false` if
    /// there is no room: then nothing has changed.
    fn move_start(&mut self, by: i32) -> bool;

    /// Index of the interface it came in on.
    fn ingress(&self) -> u32;
}

/// Offsets and sizes in a frame, bytes.
pub(crate) mod at {
    pub(crate) const TO_MAC: usize = 0;
    pub(crate) const ETHER_TYPE: usize = 12;
    /// VLAN tag (IEEE 802.1Q s. 9.3), between the MAC addresses and the type. With [`super::Frame::skip`] of so many
    /// bytes everything behind it has the place that it has without one.
    pub(crate) const TAG_SIZE: usize = 4;
    /// The tag's control information.
    pub(crate) const TAG_CONTROL: usize = 14;
    /// Ethernet header.
    pub(crate) const IP: usize = 14;

    pub(crate) const V4_VERSION: usize = IP;
    pub(crate) const V4_LENGTH: usize = IP + 2;
    pub(crate) const V4_IDENTIFICATION: usize = IP + 4;
    pub(crate) const V4_FRAGMENT: usize = IP + 6;
    pub(crate) const V4_TTL: usize = IP + 8;
    pub(crate) const V4_PROTOCOL: usize = IP + 9;
    pub(crate) const V4_CHECKSUM: usize = IP + 10;
    pub(crate) const V4_SOURCE: usize = IP + 12;
    pub(crate) const V4_DESTINATION: usize = IP + 16;
    pub(crate) const V4_UDP: usize = IP + 20;

    pub(crate) const V6_VERSION: usize = IP;
    pub(crate) const V6_LENGTH: usize = IP + 4;
    pub(crate) const V6_NEXT_HEADER: usize = IP + 6;
    pub(crate) const V6_HOP_LIMIT: usize = IP + 7;
    pub(crate) const V6_SOURCE: usize = IP + 8;
    pub(crate) const V6_DESTINATION: usize = IP + 24;
    pub(crate) const V6_UDP: usize = IP + 40;

    /// UDP header.
    pub(crate) const UDP_SIZE: usize = 8;
    /// ChannelData header (RFC 8656 s. 12.4).
    pub(crate) const CHANNEL_SIZE: usize = 4;
}
