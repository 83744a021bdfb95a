//! One test per conformance row and behaviour, over the core alone. Row ids (S1, A7, ...) are those of
//! `docs/rfc-coverage.md`.

mod allocate;
mod auth;
mod channel;
mod credentials;
mod data;
mod dual;
mod ending;
mod expiry;
mod external;
mod header;
mod limits;
mod offload;
mod operate;
mod permission;
mod proxied;
mod refresh;
mod refusals;
mod reservation;
mod security;
mod streams;
mod stun;
mod tcp;

use turnpike_testkit::rig as lab;
