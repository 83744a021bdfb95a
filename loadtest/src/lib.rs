//! Turnpike's load-test harness: measures what a TURN server loses, delays and refuses.
pub mod credentials;
pub mod engine;
pub mod session;
pub mod stun_client;
