//! What goes over the wire, for the API, its clients and the OpenAPI document alike.
//!
//! Names are `snake_case` with units last. Bytes are payload bytes: what an application sent, without
//! TURN, UDP and IP headers. Rates and limits are bits of payload per second, per direction.

mod allocation;
mod event;
mod history;
mod refusal;
mod status;
mod talker;
mod token;
mod totals;
mod user;
mod verdict;

pub use allocation::{
    Allocation, AllocationDetail, AllocationId, AllocationPage, BadAllocationId, Channel, LimitChange,
    OffloadState, Permission, Snapshot, Tls, Traffic, TrafficByPath, Transport,
};
pub use event::{Event, Limited, LimitedWhy};
pub use history::{History, Sample};
pub use refusal::{Refusal, RefusalCount, Refusals};
pub use status::{
    Certificate, CertificateAudience, Config, ConfigOption, DataPath, Disconnected, DrainRequest, DrainState,
    InterfaceOffload, Listener, OffloadStatus, Readiness, RelayAddress, ReloadReport, Status, WorkerStatus,
};
pub use talker::{Talker, Talkers};
pub use token::TokenScopes;
pub use totals::{
    Counts, ErrorCount, FallbackCounts, HandshakeCount, Histogram, OffloadCounts, PortUse, SentByInterface,
    StreamCounts, TcpRelayCounts, Totals, TransportCount, WorkerLoad, WorkerTotals,
};
pub use user::{CredentialRequest, Credentials, Password, User, UserChange, UserPage, UserSource};
pub use verdict::{DropCause, DropReason, DropReasons};
