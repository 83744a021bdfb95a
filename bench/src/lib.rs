//! Turnpike against coturn, measured in one interleaved run, and what the core costs by itself.
//!
//! ```text
//!   compare: rounds ─► scenarios ─► servers ─► measure ─► Sample ─► results ─► table, JSON, Markdown, HTML
//!                                     │           ├── generator: clients (client ns), peer (peer ns)
//!                                     │           ├── streams, handshakes: clients over TCP and TLS
//!                                     │           ├── frames: the same in the kernel, for the fastest
//!                                     │           └── cpu: the whole machine's time, and the server's
//!                                     └── lab: namespaces, veth, offloads; server (relay ns)
//!   flood:   the same lab, with forged packets beside live calls ─► a table
//!   hot:     the core alone, for criterion and callgrind
//! ```
//! It knows the servers only from outside: their command lines, their ports, their log, and what
//! the kernel tells about them in /proc.

pub mod affinity;
pub mod certificate;
pub mod cli;
pub mod compare;
pub mod cpu;
pub mod fault;
pub mod flood;
pub mod frames;
pub mod generator;
pub mod handshakes;
pub mod hot;
pub mod lab;
pub mod machine;
pub mod measure;
pub mod report;
pub mod results;
pub mod scenario;
pub mod search;
pub mod server;
pub mod streams;
pub mod xdp;
