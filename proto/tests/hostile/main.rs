//! What strangers, and users who mean no good, can do to the core; and a client that asks much of it
//! without meaning harm. Row ids (Q4, Q6, ...) are those of `docs/threat-model.md`.

mod aioice;
#[path = "../conformance/lab.rs"]
#[allow(dead_code)]
mod lab;
mod limits;
mod logins;
