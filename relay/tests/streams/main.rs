//! Clients over TCP and TLS on workers with real sockets, on both drivers. None of it needs root.
//!
//! ```text
//!   relay: workers on threads, each with a listener of its own ─► calls:     UDP relayed for them
//!                                                                tcp_relay: TCP relayed (RFC 6062)
//! ```

mod calls;
mod relay;
mod tcp_relay;
