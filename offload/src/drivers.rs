//! What is known of drivers with native XDP, from their sources in Linux 5.15 to 6.18: what to type so that they take
//! the program, and what they do with it. Pure; docs/offload.md shows the same table.
//!
//! The kernel has the last word on all of this: [`super::refusal`] has what it says.

use super::ethtool::Channels;

/// A driver.
#[derive(Debug, PartialEq, Eq)]
pub struct Driver {
    /// Its name in `/sys/class/net/DEV/device/driver`, or the kind of software.
    pub name: &'static str,
    /// The largest MTU with which it takes a program that wants each frame in one piece, bytes; with pages of 4 KiB.
    pub largest_mtu: u32,
    /// Who may transmit what came in elsewhere (`XDP_REDIRECT`).
    pub transmits: Transmits,
    /// How many queues it wants.
    pub queues: Queues,
    /// Room in front of a frame, in words, for it is not always the same.
    pub headroom: &'static str,
    /// What surprises people, one sentence each; `DEV` stands for the interface.
    pub traps: &'static [&'static str],
}

/// From which processors frames can be redirected to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmits {
    /// All: they share queues where there are fewer.
    FromAll,
    /// Those whose number is below the number of queues: frames from others are lost.
    FromThoseWithAQueue,
}

impl Transmits {
    /// In words.
    pub const fn explain(self) -> &'static str {
        match self {
            Transmits::FromAll => "transmits from every processor",
            Transmits::FromThoseWithAQueue => "transmits only from processors with a queue of their own",
        }
    }
}

/// How many queues a driver wants before it takes a program, or so that it works well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// Any number.
    Any,
    /// At most half of those that do both may be in use: as many again transmit for the program.
    HalfOfCombined,
    /// As many that receive as that transmit, and at most half of those that there could be.
    HalfOfEach,
    /// None that only receive or only transmit.
    OnlyCombined,
    /// One for each processor.
    OneEach,
}

/// An interface and its host, as far as drivers care.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// The interface's name.
    pub device: String,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Its queues, if the driver says.
    pub channels: Option<Channels>,
    /// It merges packets (LRO), if the driver says.
    pub merges: Option<bool>,
    /// Processors that are running.
    pub processors: u32,
}

impl Situation {
    /// Its queues and the host's processors, in words; `None` if the driver doesn't say.
    pub fn queues(&self) -> Option<String> {
        let Channels { receive, transmit, combined, most_receive, most_transmit, most_combined } =
            self.channels?;
        let both = (most_combined > 0).then(|| format!("{combined} of at most {most_combined} that do both"));
        let each = (most_receive > 0 || most_transmit > 0).then(|| {
            format!("{receive} of at most {most_receive} that receive, {transmit} of {most_transmit} that transmit")
        });
        let all: Vec<String> = both.into_iter().chain(each).collect();
        let processors = self.processors;
        (!all.is_empty()).then(|| format!("{}; {processors} processors", all.join(", ")))
    }
}

/// What is known of the driver of that name.
pub fn find(name: &str) -> Option<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == name)
}

impl Driver {
    /// One line: what it can and what it wants.
    pub fn explain(&self) -> String {
        let Driver { largest_mtu, transmits, headroom, .. } = self;
        format!("MTU up to {largest_mtu}, {}, headroom {headroom}", transmits.explain())
    }

    /// What surprises people, for this interface.
    pub fn traps(&self, device: &str) -> Vec<String> {
        self.traps.iter().map(|trap| trap.replace("DEV", device)).collect()
    }

    /// What to type before it takes the program, or works well with it; each with its reason.
    pub fn advise(&self, situation: &Situation) -> Vec<String> {
        let Situation { device, mtu, channels, processors, .. } = situation;
        let mut advice = Vec::new();
        if *mtu > self.largest_mtu {
            let largest = self.largest_mtu;
            advice.push(format!("`ip link set dev {device} mtu {largest}`: {} takes no more", self.name));
        }
        advice.extend(merging(situation));
        if let Some(channels) = channels {
            advice.extend(self.queues.advise(device, channels, *processors));
        }
        advice
    }
}

/// No driver can do both.
pub fn merging(situation: &Situation) -> Option<String> {
    let device = &situation.device;
    (situation.merges == Some(true))
        .then(|| format!("`ethtool -K {device} lro off`: it merges packets, and drivers do not do both"))
}

impl Queues {
    fn advise(self, device: &str, channels: &Channels, processors: u32) -> Option<String> {
        let Channels { receive, transmit, combined, most_transmit, most_combined, .. } = *channels;
        match self {
            Queues::HalfOfCombined if 2 * combined > most_combined && most_combined > 1 => {
                let half = most_combined / 2;
                Some(format!(
                    "`ethtool -L {device} combined {half}`: as many queues again have to be free for the program"
                ))
            }
            Queues::HalfOfEach if receive != transmit || 2 * transmit > most_transmit => {
                let half = (most_transmit / 2).max(1);
                Some(format!(
                    "`ethtool -L {device} rx {half} tx {half}`: as many have to receive as transmit, and as many \
                     again to be free for the program"
                ))
            }
            Queues::OnlyCombined if receive != 0 || transmit != 0 => {
                let number = combined.max(receive).max(1).min(most_combined.max(1));
                Some(format!(
                    "`ethtool -L {device} rx 0 tx 0 combined {number}`: queues have to do both, receive and transmit"
                ))
            }
            Queues::OneEach if combined != 0 && combined < processors && most_combined >= processors => {
                Some(format!(
                    "`ethtool -L {device} combined {processors}`: what processors without a queue of their own \
                     redirect to it is lost"
                ))
            }
            Queues::OneEach if combined != 0 && combined < processors => Some(format!(
                "it has {most_combined} queues at most for {processors} processors: let interrupts of all \
                 interfaces go to the first {most_combined} (`/proc/irq/*/smp_affinity_list`), or what the others \
                 redirect to it is lost"
            )),
            _ => None,
        }
    }
}

/// With pages of 4 KiB: what is left of one beside headroom and what the stack has at its end.
const ONE_PAGE: u32 = 3506;
/// With receive buffers of 3 KiB.
const THREE_KIB: u32 = 3046;

const LEGACY_RX: &str = "with the private flag legacy-rx there is no headroom, and longer headers go to userspace: \
                         `ethtool --set-priv-flags DEV legacy-rx off`";

/// Every driver that we know of.
pub const DRIVERS: &[Driver] = &[
    Driver {
        name: "bnxt_en",
        largest_mtu: 3502,
        transmits: Transmits::FromAll,
        queues: Queues::OnlyCombined,
        headroom: "256 bytes",
        traps: &[
            "a refusal says nothing: the reason is in `dmesg`",
            "it closes and opens the device whenever a program comes, goes or is replaced: the link pauses each time",
        ],
    },
    Driver {
        name: "ena",
        largest_mtu: 3498,
        transmits: Transmits::FromAll,
        queues: Queues::HalfOfCombined,
        headroom: "256 bytes",
        traps: &["EC2's default MTU of 9001 is too large: lower it on both ends, or in the VPC's route"],
    },
    Driver {
        name: "gve",
        largest_mtu: 2032,
        transmits: Transmits::FromAll,
        queues: Queues::HalfOfEach,
        headroom: "2 bytes in queue format GQI, 256 in DQO",
        traps: &[
            "with queue format GQI there is no room for a longer header: what goes to clients stays in userspace \
             (`pass_headroom`); with DQO and a kernel that has XDP for it there is",
            "before Linux 6.4 it has no XDP",
        ],
    },
    Driver {
        name: "hv_netvsc",
        largest_mtu: ONE_PAGE,
        transmits: Transmits::FromAll,
        queues: Queues::Any,
        headroom: "256 bytes",
        traps: &[
            "with accelerated networking frames come in by the virtual function (mlx5_core or mana), which takes the \
             program along with the interface: it, too, has to take it",
            "without accelerated networking each frame is copied before the program sees it",
            "before Linux 5.19 it can't transmit what came in elsewhere",
        ],
    },
    Driver {
        name: "i40e",
        largest_mtu: THREE_KIB,
        transmits: Transmits::FromThoseWithAQueue,
        queues: Queues::OneEach,
        headroom: "192 to 256 bytes",
        traps: &[LEGACY_RX],
    },
    Driver {
        name: "ice",
        largest_mtu: THREE_KIB,
        transmits: Transmits::FromAll,
        queues: Queues::Any,
        headroom: "192 to 256 bytes",
        traps: &[
            "without its firmware package (DDP) it has no XDP: install the package with `ice.pkg` \
             (`firmware-misc-nonfree` on Debian) and load the driver again",
            "it wants a queue for at least every second processor",
        ],
    },
    Driver {
        name: "igb",
        largest_mtu: THREE_KIB,
        transmits: Transmits::FromAll,
        queues: Queues::Any,
        headroom: "at most 192 bytes",
        traps: &[LEGACY_RX],
    },
    Driver {
        name: "ixgbe",
        largest_mtu: 3050,
        transmits: Transmits::FromAll,
        queues: Queues::Any,
        headroom: "at most 192 bytes",
        traps: &[
            LEGACY_RX,
            "a refusal says nothing: it takes no program together with virtual functions (SR-IOV), DCB or LRO, nor \
             with more than 128 processors",
        ],
    },
    Driver {
        name: "mlx5_core",
        largest_mtu: 3498,
        transmits: Transmits::FromThoseWithAQueue,
        queues: Queues::OneEach,
        headroom: "256 bytes",
        traps: &[
            "a refusal says nothing: the reason is in `dmesg`",
            "it takes no program while the card merges packets: `ethtool -K DEV lro off rx-gro-hw off`",
        ],
    },
    Driver {
        name: "veth",
        largest_mtu: ONE_PAGE,
        transmits: Transmits::FromAll,
        queues: Queues::Any,
        headroom: "256 bytes",
        traps: &[
            "the other end has to compute checksums and have GRO: `ethtool -K DEV tx off gro on` there",
            "the MTU that counts is the other end's, too",
        ],
    },
    Driver {
        name: "virtio_net",
        largest_mtu: ONE_PAGE,
        transmits: Transmits::FromAll,
        queues: Queues::Any,
        headroom: "256 bytes",
        traps: &[
            "the hypervisor has to let the guest switch off merging and checksum offload (`ctrl_guest_offloads`), or \
             they have to be off: in QEMU `guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_csum=off`",
            "with fewer spare queues than processors it transmits under a lock, more slowly: more of them are the \
             hypervisor's to give (`queues=`, `vectors=`)",
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn situation(mtu: u32, channels: Channels) -> Situation {
        Situation {
            device: "eth7".to_owned(),
            mtu,
            channels: Some(channels),
            merges: Some(false),
            processors: 8,
        }
    }

    fn combined(combined: u32, most_combined: u32) -> Channels {
        Channels { combined, most_combined, ..Channels::default() }
    }

    #[track_caller]
    fn advice(driver: &str, situation: &Situation) -> String {
        find(driver).expect("it is known").advise(situation).join("\n")
    }

    #[test]
    fn a_card_of_ec2_wants_a_smaller_mtu_and_half_of_its_queues() {
        let text = advice("ena", &situation(9001, combined(8, 8)));
        assert!(text.contains("`ip link set dev eth7 mtu 3498`"), "{text}");
        assert!(text.contains("`ethtool -L eth7 combined 4`"), "{text}");
        assert_eq!(advice("ena", &situation(1500, combined(4, 8))), "");
    }

    #[test]
    fn a_card_of_google_wants_as_many_queues_each_way() {
        let channels = |receive, transmit| Channels {
            receive,
            transmit,
            most_receive: 16,
            most_transmit: 16,
            ..Channels::default()
        };
        assert!(advice("gve", &situation(1460, channels(16, 16))).contains("`ethtool -L eth7 rx 8 tx 8`"));
        assert!(advice("gve", &situation(1460, channels(4, 8))).contains("`ethtool -L eth7 rx 8 tx 8`"));
        assert_eq!(advice("gve", &situation(1460, channels(8, 8))), "");
    }

    #[test]
    fn processors_without_a_queue_are_told_of() {
        for driver in ["i40e", "mlx5_core"] {
            let text = advice(driver, &situation(1500, combined(4, 64)));
            assert!(text.contains("`ethtool -L eth7 combined 8`") && text.contains("is lost"), "{text}");
            assert!(advice(driver, &situation(1500, combined(4, 4))).contains("the first 4"));
            assert_eq!(advice(driver, &situation(1500, combined(8, 64))), "");
        }
    }

    #[test]
    fn separate_queues_and_merging_are_told_of() {
        let separate = Channels { receive: 4, transmit: 4, most_combined: 8, ..Channels::default() };
        let merging = Situation { merges: Some(true), ..situation(1500, separate) };
        let text = advice("bnxt_en", &merging);
        assert!(text.contains("`ethtool -L eth7 rx 0 tx 0 combined 4`"), "{text}");
        assert!(text.contains("`ethtool -K eth7 lro off`"), "{text}");
        let unknown = Situation { channels: None, merges: None, ..situation(1500, separate) };
        assert_eq!(advice("bnxt_en", &unknown), "");
    }

    #[test]
    fn queues_and_processors_are_told_together() {
        let text = situation(1500, combined(4, 64)).queues().expect("the driver says");
        assert_eq!(text, "4 of at most 64 that do both; 8 processors");
        let each =
            Channels { receive: 2, transmit: 1, most_receive: 16, most_transmit: 8, ..Channels::default() };
        let text = situation(1500, each).queues().expect("the driver says");
        assert_eq!(text, "2 of at most 16 that receive, 1 of 8 that transmit; 8 processors");
        assert_eq!(Situation::default().queues(), None);
    }

    #[test]
    fn the_documentation_has_every_driver() {
        let page = include_str!("../../docs/offload.md");
        for Driver { name, largest_mtu, transmits, headroom, .. } in DRIVERS {
            let who = match transmits {
                Transmits::FromAll => "all",
                Transmits::FromThoseWithAQueue => "those with a queue",
            };
            let row = format!("| `{name}` | {largest_mtu} | {who} | {headroom} |");
            assert!(page.contains(&row), "{row}");
        }
    }

    #[test]
    fn traps_name_the_interface() {
        let traps = find("igb").expect("it is known").traps("eth7").join("\n");
        assert!(traps.contains("`ethtool --set-priv-flags eth7 legacy-rx off`"), "{traps}");
        assert_eq!(find("e100"), None);
    }
}
