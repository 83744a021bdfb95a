//! What the operator wants: one typed [`Config`], and where each value came from.
//!
//! ```text
//!   TOML file ─┐
//!   TURNPIKE_* ├─► layers ─► assign (text to type) ─► check (do they fit together?) ─► Config
//!   --flags  ──┘   later wins
//! ```
//!
//! The table in `options` is the only list of options: the struct, its defaults, the flags with
//! their help, the keys of the file, the environment variables and the reference page all come
//! from it. Every fault of every layer is reported, one line each, with its place.
//!
//! It decides nothing about sockets; `resolve` only answers which addresses this host has.

mod check;
pub mod coturn;
mod file;
mod host;
mod layers;
mod loader;
mod machine;
mod options;
mod parse;
mod plain;
mod quickstart;
mod reading;
mod reference;
mod report;
pub mod resolve;
mod secrets;
mod settings;
mod show;
mod streams;
mod strength;
mod types;

pub(crate) use parse::{bitrate, duration_secs};

pub use loader::{Loaded, Loader};
pub use options::{Config, Kind, OPTIONS, Spec};
pub(crate) use quickstart::random_hex;
pub use reading::Stuck;
pub use reference::reference_markdown;
pub use report::{Place, Problem, Problems};
pub use show::Shown;
pub use types::{
    AdminScope, AdminToken, DefaultFamily, ExternalAddress, Hidden, IoBackend, LogFormat, LogLevel, Offload,
    OffloadMode, PortRange, ProxyUdp, PublicAddress, Quickstart, Secret, TlsVersion, User,
};

#[cfg(test)]
mod tests;
