//! One test per conformance row and behaviour, over the core alone. Row ids (S1, A7, ...) are those of
//! `docs/rfc-coverage.md`.

mod allocate;
mod lab;
