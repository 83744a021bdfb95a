//! STUN and TURN error codes (RFC 8489 s. 14.8, RFC 8656 s. 19, RFC 6062 s. 6.3).

/// Declares [`ErrorCode`] with number and reason phrase side by side.
macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $reason:literal;)*) => {
        /// An error code that this server answers with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[$doc])* $variant = $code,)* }

        impl ErrorCode {
            /// Every code, ascending.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The reason phrase. Those of 401 and 420 travel in answers to strangers: at most 4 and 8 bytes (Q4).
            pub const fn reason(self) -> &'static str {
                match self { $(ErrorCode::$variant => $reason,)* }
            }
        }
    };
}

error_codes! {
    /// Use the ALTERNATE-SERVER (RFC 8489 s. 10).
    TryAlternate = 300, "Try Alternate";
    /// The request is malformed.
    BadRequest = 400, "Bad Request";
    /// Credentials are missing or wrong.
    Unauthenticated = 401, "Auth";
    /// Refused by policy.
    Forbidden = 403, "Forbidden";
    /// An unknown comprehension-required attribute.
    UnknownAttribute = 420, "Unknown";
    /// No allocation on this 5-tuple, or already one.
    AllocationMismatch = 437, "Allocation Mismatch";
    /// The nonce is no longer valid.
    StaleNonce = 438, "Stale Nonce";
    /// REQUESTED-ADDRESS-FAMILY is not offered here.
    AddressFamilyNotSupported = 440, "Address Family not Supported";
    /// The 5-tuple belongs to another user.
    WrongCredentials = 441, "Wrong Credentials";
    /// REQUESTED-TRANSPORT is not offered here.
    UnsupportedTransport = 442, "Unsupported Transport Protocol";
    /// The peer's family is not one of the allocation's.
    PeerAddressFamilyMismatch = 443, "Peer Address Family Mismatch";
    /// There is a connection with this peer already (RFC 6062 s. 6.3).
    ConnectionAlreadyExists = 446, "Connection Already Exists";
    /// The peer did not take the connection (RFC 6062 s. 6.3).
    ConnectionFailed = 447, "Connection Timeout or Failure";
    /// A quota is used up.
    AllocationQuotaReached = 486, "Allocation Quota Reached";
    /// No port, or no room for more state.
    InsufficientCapacity = 508, "Insufficient Capacity";
}

impl ErrorCode {
    /// The number, 300 to 699.
    pub const fn code(self) -> u16 {
        self as u16
    }
}
