//! Turnpike against coturn, measured in one interleaved run, and what the core costs by itself.
//!
//! ```text
//!   compare: rounds ─► scenarios ─► servers ─► measure ─► Sample ─► results ─► table, JSON, Markdown, HTML
//!                                     │           ├── generator: clients (client ns), peer (peer ns)
//!                                     │           ├── streams, handshakes: clients over TCP and TLS
//!                                     │           ├── stalled: calls over UDP beside clients that never read
//!                                     │           ├── frames: the same in the kernel, for the fastest
//!                                     │           └── cpu: the whole machine's time, and the server's
//!                                     └── lab: namespaces, veth, offloads; server (relay ns)
//!   flood:   the same lab, with forged packets beside live calls ─► a table
//!   hot:     the core alone, for criterion and callgrind
//! ```
//!
//! It knows the servers only from outside: their command lines, their ports, their log, and what
//! the kernel tells about them in /proc. It decides in which order and surroundings they are measured, and when a
//! number is none (a load that was not sent, a machine that was busy); what is sent and what counts as lost is
//! `turnpike-loadtest`'s.
//!
//! Begin with [`cli`], which names the commands, then [`compare`], which keeps the rounds; [`scenario`] and [`server`]
//! say what is measured, [`results`] what is kept of it.

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
pub mod room;
pub mod scenario;
pub mod search;
pub mod server;
pub mod stalled;
pub mod streams;
pub mod xdp;
