//! One name for each thing that can happen to a packet, in either plane.

/// Declares [`Verdict`] together with its name table, so that the two cannot drift apart.
macro_rules! verdicts {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a packet was sent, answered, dropped, or left to the other plane.
        ///
        /// Userspace, the kernel program, metrics, logs and the API use these names and no others.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Verdict { $($(#[$doc])* $variant,)* }

        impl Verdict {
            /// Every verdict, in the order of its number.
            pub const ALL: &'static [Verdict] = &[$(Verdict::$variant,)*];

            /// The verdict's name in metrics, logs and the API (`snake_case`).
            pub const fn name(self) -> &'static str {
                match self { $(Verdict::$variant => $name,)* }
            }
        }
    };
}

verdicts! {
    /// ChannelData from a client went to its peer (RFC 8656 s. 12.6).
    ChannelToPeer = "channel_to_peer",
    /// A peer's datagram went to the client as ChannelData (RFC 8656 s. 12.7).
    ChannelToClient = "channel_to_client",
    /// A Send indication's data went to its peer (RFC 8656 s. 11.2).
    SendToPeer = "send_to_peer",
    /// A peer's datagram went to the client as a Data indication (RFC 8656 s. 11.4).
    DataToClient = "data_to_client",
    /// An ICMP error went to the client as a Data indication (RFC 8656 s. 11.6).
    IcmpToClient = "icmp_to_client",
    /// A request was answered, with success or an error.
    Answered = "answered",
    /// A Binding indication: it keeps a NAT's mapping open and asks for nothing (RFC 8489 s. 2).
    KeepAlive = "keep_alive",

    /// Neither STUN nor ChannelData: the first byte belongs to another protocol (RFC 7983 s. 7).
    DropNotTurn = "drop_not_turn",
    /// A STUN message whose header, length or attributes are not well-formed (RFC 8489 s. 6.3).
    DropMalformed = "drop_malformed",
    /// The datagram was larger than a receive buffer and arrived cut short.
    DropTruncated = "drop_truncated",
    /// FINGERPRINT is present and wrong (RFC 8489 s. 14.7).
    DropFingerprint = "drop_fingerprint",
    /// A method we do not know, or a class its method does not allow (RFC 8489 s. 6.3).
    DropUnsupported = "drop_unsupported",
    /// A STUN response, which a server never asked for (RFC 8489 s. 6.3.3).
    DropResponse = "drop_response",
    /// An indication with an unknown comprehension-required attribute (RFC 8489 s. 6.3.2).
    DropUnknownAttribute = "drop_unknown_attribute",
    /// An indication or ChannelData from a 5-tuple without an allocation (RFC 8656 s. 5).
    DropNoAllocation = "drop_no_allocation",
    /// ChannelData on a channel that is not bound, or no longer (RFC 8656 s. 12.6).
    DropUnboundChannel = "drop_unbound_channel",
    /// ChannelData whose length field exceeds its datagram (RFC 8656 s. 12.6).
    DropChannelLength = "drop_channel_length",
    /// A Send indication without XOR-PEER-ADDRESS or DATA (RFC 8656 s. 11.2).
    DropBadSend = "drop_bad_send",
    /// Data to a peer without a permission (RFC 8656 s. 11.2).
    DropNoPermissionToPeer = "drop_no_permission_to_peer",
    /// Data from a peer without a permission (RFC 8656 s. 11.4).
    DropNoPermissionFromPeer = "drop_no_permission_from_peer",
    /// Data to a peer that the peer policy refuses.
    DropPeerDenied = "drop_peer_denied",
    /// The allocation's bandwidth limit towards its peers was exceeded.
    DropRateToPeer = "drop_rate_to_peer",
    /// The allocation's bandwidth limit towards its client was exceeded.
    DropRateToClient = "drop_rate_to_client",
    /// An unauthenticated request above its source's rate of answers.
    DropUnauthenticatedRate = "drop_unauthenticated_rate",
    /// A Binding request above its source's rate of answers.
    DropBindingRate = "drop_binding_rate",
    /// A stranger's request above what one worker answers strangers, or any while that worker can't keep up.
    DropStrangerBudget = "drop_stranger_budget",
    /// A request without credentials that no client sends: neither an Allocate with REQUESTED-TRANSPORT nor
    /// about an allocation that there is (RFC 8656 s. 5 and 7.1).
    DropNoCredentials = "drop_no_credentials",
    /// A request that repeats one still being worked on (RFC 8489 s. 6.3.1).
    DropRetransmission = "drop_retransmission",
    /// A datagram for an allocation that has just ended.
    DropStale = "drop_stale",
    /// The payload does not fit into one datagram towards its receiver.
    DropTooLarge = "drop_too_large",
    /// The operating system refused to send (buffer full, unreachable, ...).
    DropSendFailed = "drop_send_failed",
    /// The operating system dropped it before we saw it: the socket's receive buffer was full.
    DropSocketOverflow = "drop_socket_overflow",
    /// Data that had waited in a socket for longer than `max-queue-delay`.
    DropLate = "drop_late",
    /// It came to another worker than its allocation's, whose queue for such datagrams was full.
    DropForwardQueue = "drop_forward_queue",
    /// A header of the PROXY protocol from somebody whom `proxy-protocol-from` does not name.
    DropProxyUntrusted = "drop_proxy_untrusted",
    /// A trusted proxy's datagram without a header of the PROXY protocol, or with one that can't be used.
    DropProxyHeader = "drop_proxy_header",
    /// The kernel program had made room for a header and then found the frame too short to write it.
    DropRewrite = "drop_rewrite",
    /// The kernel knew no device for a redirected frame, or refused it.
    DropRedirect = "drop_redirect",
    /// A device's transmit queue did not take a redirected frame.
    DropDeviceQueue = "drop_device_queue",

    /// Not UDP over IP, or too short to be.
    PassNotUdp = "pass_not_udp",
    /// In a VLAN, or in none, in which no interface of ours is; or with two tags.
    PassVlan = "pass_vlan",
    /// IPv4 options or IPv6 extension headers.
    PassIpOptions = "pass_ip_options",
    /// A fragment: ports and lengths belong to the whole datagram.
    PassFragment = "pass_fragment",
    /// The destination address or port is none of the relay's, or the kernel program is switched off.
    PassNotOurs = "pass_not_ours",
    /// The frame came in on an interface that is not offloaded, or that its route was not made for.
    PassInterface = "pass_interface",
    /// The destination MAC address is not the interface's own.
    PassMac = "pass_mac",
    /// The source is one of our own addresses, loopback, multicast or broadcast.
    PassSource = "pass_source",
    /// The lengths of frame, IP packet and UDP datagram contradict each other.
    PassLength = "pass_length",
    /// The IPv4 header checksum is wrong.
    PassHeaderChecksum = "pass_header_checksum",
    /// From a client, but not ChannelData (RFC 7983 s. 7): STUN, or another protocol.
    PassNotChannel = "pass_not_channel",
    /// ChannelData that is longer than its datagram, or padded by more than three bytes (RFC 8656 s. 12.5).
    PassChannelLength = "pass_channel_length",
    /// ChannelData padded with something else than zeros.
    PassPadding = "pass_padding",
    /// The kernel program has no route for it.
    PassNoRoute = "pass_no_route",
    /// Its route may be used by the hairpin step only, never from the wire.
    PassInternal = "pass_internal",
    /// The lease of its channel binding or allocation is over.
    PassLease = "pass_lease",
    /// Its route belongs to an earlier user of the slot.
    PassGeneration = "pass_generation",
    /// TTL or hop limit is used up.
    PassTtl = "pass_ttl",
    /// No UDP checksum, where IPv6 needs one (RFC 8200 s. 8.1).
    PassNoChecksum = "pass_no_checksum",
    /// The next hop is not known, or just being changed.
    PassNextHop = "pass_next_hop",
    /// Too large for the next hop: userspace fragments.
    PassMtu = "pass_mtu",
    /// The driver left no room in front of the frame for a longer header.
    PassHeadroom = "pass_headroom",
    /// Whoever looks after the kernel program's maps has given no sign of life for too long.
    PassUnattended = "pass_unattended",
}

impl Verdict {
    /// How many verdicts there are: the size of a counter array indexed by `verdict as usize`.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether the packet ended here without reaching anybody.
    pub const fn is_drop(self) -> bool {
        self as u8 >= Verdict::DropNotTurn as u8 && !self.is_pass()
    }

    /// Whether the kernel program left the packet, unchanged and uncharged, to userspace.
    ///
    /// Such a packet is counted a second time there, by what userspace makes of it.
    pub const fn is_pass(self) -> bool {
        self as u8 >= Verdict::PassNotUdp as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_tell_drops_apart() {
        for (i, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, i);
            assert_eq!(verdict.is_drop(), verdict.name().starts_with("drop_"), "{verdict:?}");
            assert_eq!(verdict.is_pass(), verdict.name().starts_with("pass_"), "{verdict:?}");
            assert!(Verdict::ALL[i + 1..].iter().all(|other| other.name() != verdict.name()));
        }
    }
}
