//! What `turnpike probe` says about each interface: whether the kernel data path would use it, and why not.
//!
//! Nothing is changed and nothing loaded: whether a driver takes the program shows when it is attached, which
//! [`attach`] does for those interfaces that somebody has named.

use std::fmt::Write;
use std::net::IpAddr;

use turnpike_driver::interfaces::LocalAddress;
use turnpike_offload::drivers::{self, Situation};
use turnpike_offload::features::{Features, Netdev};
use turnpike_offload::netlink::{Link, Netlink};
use turnpike_offload::probe::{self, Facts, Host};
use turnpike_offload::refusal::{self, Attached};
use turnpike_offload::{choose, rss, trial};

use crate::config::Config;
use crate::config::resolve::{self, resolve};
use crate::kernel::settings;

/// The part of the report on the kernel data path: what a configuration would lead to on this host, for the
/// caller and for a service with the capabilities of the shipped unit (deploy/systemd/turnpike.service).
pub fn report(config: &Config, host: &resolve::Host) -> String {
    let links = match Netlink::open().and_then(|mut netlink| netlink.links()) {
        Ok(links) => links,
        Err(error) => return format!("data path  userspace: cannot ask for interfaces: {error}\n"),
    };
    let mut netdev = Netdev::open().ok();
    let features = |ifindex| netdev.as_mut()?.features(ifindex).ok();
    describe(config, host, &links, &Host::detect(), features)
}

/// Tries whether these interfaces take the program; `false` with the report if one does not.
pub fn attach(devices: &[String]) -> (String, bool) {
    let (mut text, mut all) = (String::new(), true);
    for device in devices {
        let outcome = trial::attach(device);
        all &= outcome.is_ok();
        // A string takes everything.
        let _ = match outcome {
            Ok(more) => writeln!(text, "attach     {device}: taken, and taken off again; it {more}"),
            Err(why) => writeln!(text, "attach     {device}: no: {why}"),
        };
    }
    (text, all)
}

/// Addresses with the kernel's index of their interface.
fn by_index(links: &[Link], addresses: &[LocalAddress]) -> Vec<(u32, IpAddr)> {
    let index = |name: &str| links.iter().find(|link| link.name == name).map(|link| link.ifindex);
    addresses.iter().filter_map(|own| Some((index(&own.interface)?, own.ip))).collect()
}

/// `features` asks the kernel what an interface can do.
fn describe(
    config: &Config,
    host: &resolve::Host,
    links: &[Link],
    capable: &Host,
    mut features: impl FnMut(u32) -> Option<Features>,
) -> String {
    // Interfaces are judged for the service: which capabilities a shell has says nothing about them.
    let unit = Host { missing_capabilities: Vec::new(), ..capable.clone() };
    let addresses = resolve(config, host);
    let wishes = settings(config, &addresses, &addresses.listen).wishes;
    let chosen = choose::interfaces(&wishes, links, &by_index(links, &host.addresses), &unit);
    let mut text = String::new();
    for link in links {
        let is_chosen =
            chosen.as_ref().is_ok_and(|chosen| chosen.iter().any(|chosen| chosen.name == link.name));
        let facts = probe::facts_of(link, links, &unit);
        // A string takes everything.
        let _ = writeln!(
            text,
            "interface  {}",
            interface(link, &facts, features(facts.layers.device), is_chosen)
        );
        if !link.is_loopback {
            let attached = Attached::at(link);
            for line in more(&facts, &refusal::situation(&link.name, link.mtu), attached.as_ref()) {
                let _ = writeln!(text, "           {line}");
            }
        }
    }
    let path = match &chosen {
        Err(why) => format!("userspace: {why}"),
        Ok(chosen) => match chosen.iter().filter(|chosen| chosen.fit.is_ok()).count() {
            0 => "userspace: no interface can be used".to_owned(),
            _ => "kernel, if the drivers take the program; else userspace".to_owned(),
        },
    };
    let missing = &capable.missing_capabilities;
    let own = if missing.is_empty() {
        path.clone()
    } else {
        format!("userspace: this user's processes lack {}", missing.join(" and "))
    };
    let _ = writeln!(text, "data path  as this user: {own}");
    let _ = writeln!(text, "           under the shipped unit: {path}");
    text
}

fn interface(link: &Link, facts: &Facts, features: Option<Features>, is_chosen: bool) -> String {
    let kind = match &link.software {
        Some(kind) => format!("software ({kind})"),
        None => facts.driver.clone().unwrap_or_else(|| "driver unknown".to_owned()),
    };
    let judgement = match probe::verdict(facts) {
        Err(unfit) => format!("no: {unfit}"),
        Ok(()) if features.is_some_and(|features| !features.basic) => {
            "no: the kernel says that its driver has no native XDP".to_owned()
        }
        Ok(()) if is_chosen => "yes".to_owned(),
        Ok(()) => "possible; not used unless offload-interface names it".to_owned(),
    };
    let queues = facts.receive_queues;
    let advice = if queues == 1 && !link.is_loopback && link.software.is_none() {
        "; one receive queue: one core does all its work".to_owned()
    } else {
        rss::udp_hash(&link.name)
            .map_or_else(String::new, |hash| format!("; UDP {}", hash.explain(&link.name)))
    };
    format!("{}: {kind}, MTU {}, {queues} receive queues: {judgement}{advice}", link.name, facts.mtu)
}

/// What is known of its driver, who has its hook, and what to type.
fn more(facts: &Facts, situation: &Situation, attached: Option<&Attached>) -> Vec<String> {
    let driver = facts.driver.as_deref().and_then(drivers::find);
    let mut lines = Vec::new();
    lines.extend(driver.map(|driver| format!("driver {}: {}", driver.name, driver.explain())));
    lines.extend(situation.queues().map(|queues| format!("queues: {queues}")));
    let advice = match driver {
        Some(driver) => driver.advise(situation),
        None => drivers::merging(situation).into_iter().collect(),
    };
    lines.extend(advice.into_iter().map(|advice| format!("type {advice}")));
    let traps = driver.map(|driver| driver.traps(&facts.name)).unwrap_or_default();
    lines.extend(traps.into_iter().map(|trap| format!("note: {trap}")));
    lines.extend(attached.map(|attached| format!("hook: {attached}: {}", attached.advise(&facts.name))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_driver::interfaces::LocalAddress;
    use turnpike_offload::ethtool::Channels;

    #[test]
    fn the_driver_and_whoever_has_the_hook_are_explained() {
        let facts =
            Facts { name: "eth7".to_owned(), driver: Some("ena".to_owned()), mtu: 9001, ..Facts::default() };
        let situation = Situation { device: "eth7".to_owned(), mtu: 9001, ..Situation::default() };
        let attached = Attached { id: 42, name: Some("xdp_dispatcher".to_owned()) };
        let text = more(&facts, &situation, Some(&attached)).join("\n");
        assert!(text.contains("driver ena: MTU up to 3498, transmits from every processor"), "{text}");
        assert!(text.contains("type `ip link set dev eth7 mtu 3498`"), "{text}");
        assert!(text.contains("note: EC2's default MTU"), "{text}");
        assert!(
            text.contains("hook: libxdp's dispatcher") && text.contains("`xdp-loader unload eth7"),
            "{text}"
        );
        let channels = Some(Channels { combined: 8, most_combined: 8, ..Channels::default() });
        let queues = Situation { channels, processors: 16, ..situation.clone() };
        let text = more(&facts, &queues, None).join("\n");
        assert!(text.contains("queues: 8 of at most 8 that do both; 16 processors"), "{text}");
        assert!(text.contains("type `ethtool -L eth7 combined 4`"), "{text}");
        let unknown = Facts { driver: Some("e100".to_owned()), ..facts };
        assert_eq!(more(&unknown, &situation, None), [""; 0]);
        let merges = Situation { merges: Some(true), ..situation };
        assert!(more(&unknown, &merges, None)[0].starts_with("type `ethtool -K eth7 lro off`"));
    }

    #[test]
    fn a_driver_without_native_xdp_is_told_apart() {
        let link = Link { ifindex: 9, name: "eth7".to_owned(), mtu: 1500, kind: 1, ..Link::default() };
        let host = Host { kernel: (6, 12), missing_capabilities: Vec::new() };
        let facts = probe::facts_of(&link, &[], &host);
        let says = |basic| interface(&link, &facts, Some(Features { basic, transmit: basic }), true);
        assert!(says(false).contains("no: the kernel says that its driver has no native XDP"));
        assert!(says(true).contains(": yes") && interface(&link, &facts, None, true).contains(": yes"));
    }

    #[test]
    fn each_interface_is_explained() {
        let ip = "192.0.2.1".parse().unwrap();
        let address = LocalAddress { interface: "wan77".to_owned(), ip, network: ip.into(), stable: true };
        let host =
            resolve::Host { addresses: vec![address], routed_v4: Some(ip), ..resolve::Host::default() };
        let link = |ifindex, name: &str| Link {
            ifindex,
            name: name.to_owned(),
            mtu: 1500,
            kind: 1,
            receive_queues: 1,
            ..Link::default()
        };
        let links = [
            Link { is_loopback: true, ..link(1, "lo") },
            link(2, "wan77"),
            Link { software: Some("veth".to_owned()), ..link(3, "veth0") },
        ];
        let fit = Host { kernel: (6, 12), missing_capabilities: Vec::new() };
        let text = describe(&Config::default(), &host, &links, &fit, |_| None);
        assert!(
            text.contains("interface  lo: driver unknown, MTU 1500, 1 receive queues: no: it is the loop")
        );
        assert!(text.contains("wan77: driver unknown, MTU 1500, 1 receive queues: yes; one receive queue"));
        assert!(text.contains("veth0: software (veth), MTU 1500, 1 receive queues: possible; not used"));
        assert!(text.contains("data path  as this user: kernel, if the drivers take the program"), "{text}");
        let poor = Host { missing_capabilities: vec!["CAP_BPF"], ..fit };
        let text = describe(&Config::default(), &host, &links, &poor, |_| None);
        assert!(text.contains("wan77: driver unknown, MTU 1500, 1 receive queues: yes;"), "{text}");
        assert!(text.contains("as this user: userspace: this user's processes lack CAP_BPF\n"), "{text}");
        assert!(text.contains("under the shipped unit: kernel, if the drivers"), "{text}");
    }
}
