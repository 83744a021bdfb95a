//! What `turnpike run` makes of its options: a kernel data path, or the reason why there is none.

use std::net::SocketAddr;
use std::sync::Arc;

use tracing::info;
use turnpike_driver::Waker;
use turnpike_proto::{Plane, Verdict, WorkerId};

use turnpike_offload::link::Inherited;
use turnpike_offload::status::StatusCell;
use turnpike_offload::xdp::Mode;
use turnpike_offload::{Offload, Outbox, Settings, Wishes, sizes};

use crate::banner::DataPath;
use crate::config::resolve::{Addresses, Awaited};
use crate::config::{self, Config};
use crate::service_manager::DescriptorStore;

/// Last channel number (RFC 8656 s. 12), and of RFC 5766 s. 11.
const LAST_CHANNEL: u16 = 0x4fff;
const LAST_OLD_CHANNEL: u16 = 0x7fff;

/// The kernel data path of this process, or none.
pub struct KernelPath {
    offload: Option<Offload>,
    status: Arc<StatusCell>,
}

impl KernelPath {
    /// Starts it as configured. `listeners` are the addresses that sockets are bound to.
    ///
    /// # Errors
    /// With `offload = "require"`: why it is not, or not everywhere, where it was wanted.
    pub fn start(
        config: &Config,
        addresses: &Addresses,
        listeners: &[SocketAddr],
    ) -> Result<KernelPath, String> {
        // Whoever does not use them here takes them off their interfaces.
        let inherited = Inherited::take(Arc::new(DescriptorStore));
        if config.offload == config::Offload::Off {
            return Ok(KernelPath::none(match config.quickstart {
                Some(_) => "a trial leaves the network interfaces alone; --offload auto would use the kernel",
                None => "offload is off",
            }));
        }
        if config.no_udp {
            return Ok(KernelPath::none("no-udp: the kernel forwards for clients over UDP only"));
        }
        let is_required = config.offload == config::Offload::Require;
        match Offload::start(settings(config, addresses, listeners), inherited) {
            Ok(offload) => {
                let status = Arc::clone(offload.status());
                let now = status.read();
                if is_required && !(now.active && now.interfaces.iter().all(|own| own.attached)) {
                    offload.stop();
                    return Err(now.why);
                }
                Ok(KernelPath { offload: Some(offload), status })
            }
            Err(why) if is_required => Err(why),
            Err(why) => Ok(KernelPath::none(why)),
        }
    }

    fn none(why: impl Into<String>) -> KernelPath {
        KernelPath { offload: None, status: Arc::new(StatusCell::off(why)) }
    }

    /// The slots for the core.
    pub fn plane(&self) -> Option<Arc<Plane>> {
        self.offload.as_ref().map(|offload| Arc::clone(offload.plane()))
    }

    /// A worker's end of the queue to it, or `None` if there is no kernel data path.
    pub fn outbox(&self, worker: WorkerId, waker: Arc<dyn Waker>) -> Option<Outbox> {
        self.offload.as_ref().map(|offload| offload.outbox(worker, waker))
    }

    /// What others may know.
    pub fn status(&self) -> &Arc<StatusCell> {
        &self.status
    }

    /// Which data path is active now, and why.
    pub fn data_path(&self) -> DataPath {
        let status = self.status.read();
        DataPath { name: if status.active { "kernel" } else { "userspace" }, why: status.why }
    }

    /// Ends it, after the workers. Gives what the program forwarded, datagrams.
    pub fn stop(self) -> u64 {
        let Some(offload) = self.offload else { return 0 };
        offload.stop();
        let verdicts = self.status.read().verdicts;
        if !verdicts.is_empty() {
            let counts: Vec<String> =
                verdicts.iter().map(|(verdict, count)| format!("{}={count}", verdict.name())).collect();
            info!(frames = counts.join(" "), "what the kernel's program did");
        }
        let sent = |verdict: &Verdict| matches!(verdict, Verdict::ChannelToPeer | Verdict::ChannelToClient);
        verdicts.iter().filter(|(verdict, _)| sent(verdict)).map(|(_, count)| count).sum()
    }
}

/// What a configuration asks for.
pub fn settings(config: &Config, addresses: &Addresses, listeners: &[SocketAddr]) -> Settings {
    let awaited = addresses.awaited.iter().filter_map(|awaited| match awaited {
        Awaited::Relay(ip) | Awaited::Public(_, ip) => Some(*ip),
        _ => None,
    });
    let relays: Vec<_> = addresses.relays().map(|relay| relay.local).chain(awaited).collect();
    let sizes = sizes(config.port_range.all(), relays.len(), config.total_quota.map(u32::from));
    Settings {
        wishes: Wishes {
            named: config.offload_interface.clone(),
            listeners: listeners.to_vec(),
            relays,
            ports: config.port_range.all(),
            shield: !config.no_offload_shield,
            last_channel: if config.rfc5766_channel_numbers { LAST_OLD_CHANNEL } else { LAST_CHANNEL },
        },
        mode: match config.offload_mode {
            config::OffloadMode::Native => Mode::Native,
            config::OffloadMode::Generic => Mode::Generic,
        },
        sizes,
        workers: config.workers.get(),
    }
}
