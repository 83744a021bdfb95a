//! The program `turnpike`: joins the core to sockets, the kernel data path, and its operators.
//!
//! ```text
//!   cli ─► config ─► start ─► setup ─► workers ◄─ orders, questions ─ control ◄─ REST API, signals, ctl
//!                             kernel ─────┘ └─ status, events ───────────┘
//! ```
//!
//! It decides what the options mean, how many workers there are and when they end, what operators are told, and how
//! what they want reaches a worker that waits for nobody. It decides nothing about TURN (`turnpike-proto`), moves no
//! bytes itself (`turnpike-driver`), chooses no interface (`turnpike-offload`), and speaks no HTTP but as a client
//! (`turnpike-admin`).
//!
//! Begin with [`cli`], which names the commands, then [`start`], which keeps the order from a configuration to exit
//! code 0; [`worker`] is the loop in which everything happens, [`control`] what everybody else goes through.

#![forbid(unsafe_code)]

pub mod banner;
pub mod cli;
pub mod config;
pub mod control;
pub mod credentials;
mod ctl;
pub mod health;
pub mod import;
mod kernel;
mod limits;
pub mod logging;
pub mod network;
mod patience;
pub mod probe;
mod service_manager;
pub mod setup;
pub mod start;
pub mod takeover;
pub mod tls;
pub mod worker;
