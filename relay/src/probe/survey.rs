//! What `turnpike probe` says about each interface: whether the kernel data path would use it, and why not.
//!
//! Nothing is changed and nothing loaded: whether a driver takes the program shows when it is attached.

use std::fmt::Write;

use turnpike_offload::netlink::{Link, Netlink};
use turnpike_offload::probe::{self, Host};
use turnpike_offload::{choose, rss};

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
    describe(config, host, &links, &Host::detect())
}

fn describe(config: &Config, host: &resolve::Host, links: &[Link], capable: &Host) -> String {
    // Interfaces are judged for the service: which capabilities a shell has says nothing about them.
    let unit = Host { missing_capabilities: Vec::new(), ..capable.clone() };
    let addresses = resolve(config, host);
    let wishes = settings(config, &addresses, &addresses.listen).wishes;
    let chosen = choose::interfaces(&wishes, links, &host.addresses, &unit);
    let mut text = String::new();
    for link in links {
        let is_chosen =
            chosen.as_ref().is_ok_and(|chosen| chosen.iter().any(|chosen| chosen.name == link.name));
        // A string takes everything.
        let _ = writeln!(text, "interface  {}", interface(link, links, &unit, is_chosen));
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

fn interface(link: &Link, links: &[Link], host: &Host, is_chosen: bool) -> String {
    let facts = probe::facts_of(link, links, host);
    let kind = match &link.software {
        Some(kind) => format!("software ({kind})"),
        None => facts.driver.clone().unwrap_or_else(|| "driver unknown".to_owned()),
    };
    let judgement = match probe::verdict(&facts) {
        Err(unfit) => format!("no: {unfit}"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_driver::interfaces::LocalAddress;

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
        let text = describe(&Config::default(), &host, &links, &fit);
        assert!(
            text.contains("interface  lo: driver unknown, MTU 1500, 1 receive queues: no: it is the loop")
        );
        assert!(text.contains("wan77: driver unknown, MTU 1500, 1 receive queues: yes; one receive queue"));
        assert!(text.contains("veth0: software (veth), MTU 1500, 1 receive queues: possible; not used"));
        assert!(text.contains("data path  as this user: kernel, if the drivers take the program"), "{text}");
        let poor = Host { missing_capabilities: vec!["CAP_BPF"], ..fit };
        let text = describe(&Config::default(), &host, &links, &poor);
        assert!(text.contains("wan77: driver unknown, MTU 1500, 1 receive queues: yes;"), "{text}");
        assert!(text.contains("as this user: userspace: this user's processes lack CAP_BPF\n"), "{text}");
        assert!(text.contains("under the shipped unit: kernel, if the drivers"), "{text}");
    }
}
