//! Who is asking: the long-term credential mechanism (RFC 8489 s. 9.2) over static users and REST secrets.
//!
//! Decides whether a request comes from somebody we know, and with what it has to be answered.
//! Keeps no state before that: nonces are checked by recomputing them. It doesn't decide what
//! the user may do, nor to whom a 5-tuple belongs.
//!
//! ```text
//!   no integrity ─► 401 │ parts missing ─► 400 │ algorithms disagree ─► 400
//!   unknown user, wrong realm or key ─► 401, all after the same work │ old nonce ─► 438 │ Identity
//! ```

mod authenticator;
mod claims;
mod credentials;
mod image;
mod key;
mod nonce;
#[cfg(test)]
mod tests;

pub use authenticator::{Authenticator, OtherRealm, Rejection};
pub(crate) use credentials::claimed_user;
pub use credentials::{Credentials, Identity, StoredKeys, rest_password};
pub use key::{Algorithm, BadCredential, Key, check_realm, prepare_name};
