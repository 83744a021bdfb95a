//! What runs here, and how.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Transport;

/// What runs here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// When it started, in seconds since 1970.
    pub started_unix_secs: u64,
    /// Time since then, seconds.
    pub uptime_secs: u64,
    /// The realm that clients log in to.
    pub realm: String,
    /// Addresses that clients may talk to.
    pub listeners: Vec<Listener>,
    /// Where connections to listeners for TLS go that are not TURN's (`tls-fallback`), if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "127.0.0.1:8443")]
    pub tls_fallback: Option<SocketAddr>,
    /// The certificates in force.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// From where it sends to peers.
    pub relay_addresses: Vec<RelayAddress>,
    /// Who moves packets in userspace.
    pub data_path: DataPath,
    /// Who moves packets in the kernel.
    pub offload: OffloadStatus,
    /// One entry for each worker.
    pub workers: Vec<WorkerStatus>,
    /// Allocations that live.
    pub allocations: u64,
    /// Whether new allocations are refused.
    pub drain: DrainState,
    /// Whether it takes new allocations, and why not.
    pub readiness: Readiness,
    /// Records of its log that were lost since the start, because whoever reads stderr did not keep up.
    pub log_records_dropped: u64,
    /// Events that were lost since the start on their way to `/v1/events`: workers wait for nobody.
    pub events_dropped: u64,
}

/// Where clients reach the relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Listener {
    /// Address and port.
    #[schema(value_type = String, example = "192.0.2.10:3478")]
    pub address: SocketAddr,
    /// How clients talk to it there.
    pub transport: Transport,
}

/// A certificate in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// Whom it is shown to.
    pub audience: CertificateAudience,
    /// The file with the certificate and those above it, PEM.
    pub cert_file: String,
    /// The file with the private key, PEM.
    pub key_file: String,
    /// Names and addresses that it is for; a wildcard begins with `*.`.
    pub names: Vec<String>,
    /// Until when it is valid, in seconds since 1970.
    pub expires_unix_secs: i64,
    /// When its files were last read and could be used, in seconds since 1970.
    pub loaded_unix_secs: i64,
    /// Why the files, as they are now, are not in force, if they aren't: the certificate from before is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// Who sees a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CertificateAudience {
    /// TURN clients over TLS.
    Clients,
    /// Whoever uses the API, the metrics or the dashboard.
    Admin,
}

/// From where the relay sends to peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelayAddress {
    /// The address of this host.
    #[schema(value_type = String, example = "192.0.2.10")]
    pub address: IpAddr,
    /// What clients are told instead, behind a NAT.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<IpAddr>,
    /// The first of the ports that relayed transport addresses have there.
    pub first_port: u16,
    /// The last of them.
    pub last_port: u16,
}

/// Who moves packets in userspace, and why this one was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DataPath {
    /// `io-uring` or `epoll`.
    pub name: String,
    /// The reason, for people.
    pub why: String,
}

/// The kernel's data path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OffloadStatus {
    /// At least one interface forwards in the kernel.
    pub active: bool,
    /// Why it is as it is, for people.
    pub why: String,
    /// Each interface that was looked at.
    pub interfaces: Vec<InterfaceOffload>,
    /// Routes in the kernel now: two for each channel.
    pub routes: u64,
    /// Routes that its maps have room for.
    pub max_routes: u64,
    /// Seconds since the thread that keeps the kernel's routes gave its last sign of life, one each second: absent
    /// without a kernel data path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_age_secs: Option<u64>,
}

/// The kernel's data path on one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceOffload {
    /// The interface, as `ip link` calls it.
    pub name: String,
    /// The program is attached.
    pub attached: bool,
    /// `native` or `generic`, where it is attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Why it is not, where it isn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What is sent by it goes through the kernel: the program is attached, and the interface does not lose what it is
    /// given.
    pub forwards: bool,
    /// Datagrams that the program has sent by it.
    pub sent: u64,
    /// Of these, those that the interface lost: they are in no other count of what was relayed.
    pub lost: u64,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerStatus {
    /// Its number, from 0.
    pub index: u32,
    /// Allocations of its clients that live now.
    pub allocations: u64,
    /// Sockets towards peers that it has open now.
    pub relay_sockets: u64,
    /// Share of the last second in which it was not asleep, 0 to 1.
    pub busy_ratio: f64,
}

/// Whether the relay takes new allocations, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether new allocations are welcome.
    pub ready: bool,
    /// Why not, one sentence each.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Config {
    /// Each option, in the order of the documentation.
    pub options: Vec<ConfigOption>,
}

/// One option.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigOption {
    /// The word of command line and file.
    pub name: String,
    /// Its values as they would be written; none for a switch that is off. Secrets are `***`.
    pub values: Vec<String>,
    /// Its values are secrets, and masked.
    #[serde(default)]
    pub secret: bool,
    /// A reload applies a change of it.
    #[serde(default)]
    pub reloadable: bool,
}

/// How to drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// After this time all allocations that still live are ended. Without it they live on.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 604_800)]
    pub deadline_secs: Option<u64>,
}

/// Whether new allocations are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainState {
    /// Whether new allocations are refused.
    pub draining: bool,
    /// Since when, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_unix_secs: Option<u64>,
    /// When the allocations that still live are ended, in seconds since 1970; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_unix_secs: Option<u64>,
    /// Allocations that live.
    pub allocations: u64,
    /// Where clients are sent instead (300 Try Alternate); without one they get 508.
    #[schema(value_type = Vec<String>)]
    #[serde(default)]
    pub alternate_servers: Vec<SocketAddr>,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReloadReport {
    /// Options whose change is in force.
    pub applied: Vec<String>,
    /// Options that were changed, and need a restart.
    pub restart_needed: Vec<String>,
    /// What is worth knowing, one line each.
    pub warnings: Vec<String>,
}

/// What a disconnect did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Disconnected {
    /// Allocations that were ended.
    pub allocations: u64,
}
