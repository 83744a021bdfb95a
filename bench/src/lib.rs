//! Turnpike against coturn, measured in one interleaved run, and what the core costs by itself.
//!
//! ```text
//!   compare: rounds ─► scenarios ─► servers ─► measure ─► Sample ─► results ─► table, JSON, Markdown, HTML
//!                                     │           ├── load generator (client ns), peer (peer ns)
//!                                     │           └── cpu: the whole machine's time, and the server's
//!                                     └── lab: namespaces, veth, offloads (relay ns)
//!   hot:     the core alone, for criterion and callgrind
//! ```
//! It knows the servers only from outside: their command lines, their UDP ports, their log, and what
//! the kernel tells about them in /proc.
