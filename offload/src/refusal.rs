//! Why the kernel did not take the program on an interface: in its own words, and with the name of whoever has the hook.
//!
//! `bpf(2)` gives a number only, whatever the driver has said. By netlink the same refusal comes with its words, so after
//! a refusal it is asked a second time, that way; it cannot take the place of a program that is there.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::programs::loaded_programs;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

use super::drivers::{self, Situation};
use super::ethtool;
use super::limits::ANSWER_PATIENCE;
use super::netlink::{Link, Netlink};
use super::probe;

/// `XDP_FLAGS_*` (linux/if_link.h).
const ONLY_IF_NONE: u32 = 1;
const REPLACE: u32 = 1 << 4;
/// `NLMSG_ERROR`, `NLM_F_ACK_TLVS` and `NLMSGERR_ATTR_MSG` (linux/netlink.h).
const ERROR: u16 = 2;
const HAS_ATTRIBUTES: u16 = 0x200;
const WORDS: u16 = 1;
/// `struct nlmsghdr`, and `struct nlmsgerr` behind it: the error, and the header of the question.
const HEADER: usize = 16;
const ERROR_SIZE: usize = 4 + HEADER;

/// The name of the program by which libxdp lets several share the hook.
const DISPATCHER: &str = "xdp_dispatcher";
/// Our own program's.
const OURS: &str = "turnpike";

/// A program at an interface's XDP hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The kernel's number of the program.
    pub id: u32,
    /// Its name; `None` if only CAP_SYS_ADMIN may know.
    pub name: Option<String>,
}

/// Why the kernel did not take the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error's number.
    pub number: Option<i32>,
    /// What the kernel or the driver says about it.
    pub words: Option<String>,
    /// Who is there, if somebody is.
    pub attached: Option<Attached>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number.map_or_else(
            || "the kernel gives no reason".to_owned(),
            |number| io::Error::from_raw_os_error(number).to_string(),
        );
        match (&self.attached, &self.words) {
            (Some(attached), _) if self.is_occupied() => write!(f, "{attached} is attached there already"),
            (_, Some(words)) => write!(f, "the kernel refuses the program: \"{words}\" ({number})"),
            (_, None) => write!(f, "the kernel refuses the program: {number}"),
        }
    }
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attached { id, name } = self;
        match name.as_deref() {
            Some(DISPATCHER) => {
                write!(f, "libxdp's dispatcher, which has the hook for its own ({DISPATCHER}, id {id}),")
            }
            Some(OURS) => write!(f, "the program of another Turnpike (id {id})"),
            Some(name) => write!(f, "another XDP program ({name}, id {id})"),
            None => write!(f, "another XDP program (id {id})"),
        }
    }
}

impl Attached {
    /// The program of that number; its name, if this process may know it.
    pub fn find(id: u32) -> Option<Attached> {
        // One that ends meanwhile is an error, and those behind it are there still.
        let mut programs = loaded_programs().filter_map(Result::ok);
        let name = programs.find(|program| program.id() == id)?.name_as_str().map(str::to_owned);
        Some(Attached { id, name }).filter(|_| id != 0)
    }

    /// Who has the hook of an interface.
    pub fn at(link: &Link) -> Option<Attached> {
        let id = link.xdp_program;
        (id != 0).then(|| Attached::find(id).unwrap_or(Attached { id, name: None }))
    }

    /// What to type so that the hook is free.
    pub fn advise(&self, device: &str) -> String {
        let id = self.id;
        match self.name.as_deref() {
            Some(DISPATCHER) => format!(
                "`xdp-loader status {device}` says which programs it runs, `xdp-loader unload {device} --all` takes \
                 them off"
            ),
            Some(OURS) => "stop that one, or name other interfaces by offload-interface".to_owned(),
            _ => format!(
                "`bpftool prog show id {id}` and `bpftool link` say whose it is, `ip link set dev {device} xdp off` \
                 takes it off unless a process holds it by a link"
            ),
        }
    }
}

impl Refusal {
    /// Whether it was refused because of somebody else.
    fn is_occupied(&self) -> bool {
        matches!(self.number, Some(libc::EBUSY | libc::EEXIST))
    }

    /// After a refusal by `bpf(2)`: who is there, and what else the kernel has to say. `mode` is `XDP_FLAGS_*_MODE`.
    pub(super) fn look(ifindex: u32, program: BorrowedFd<'_>, mode: u32, number: Option<i32>) -> Refusal {
        let link = Netlink::open().and_then(|mut netlink| netlink.links()).unwrap_or_default();
        let attached = link.iter().find(|link| link.ifindex == ifindex).and_then(Attached::at);
        // Without privileges there is nothing to hear.
        let words = match number {
            Some(libc::EPERM | libc::EACCES) => None,
            _ => ask(ifindex, program, mode).ok().flatten(),
        };
        Refusal { number, words, attached }
    }

    /// What to type, as far as it is known.
    pub fn advise(&self, device: &str, driver: Option<&str>, situation: &Situation) -> Vec<String> {
        if self.is_occupied()
            && let Some(attached) = &self.attached
        {
            return vec![attached.advise(device)];
        }
        let known = driver.and_then(drivers::find);
        let mut advice = match known {
            Some(driver) => driver.advise(situation),
            None => drivers::merging(situation).into_iter().collect(),
        };
        match self.number {
            Some(libc::EOPNOTSUPP) if self.words.is_none() && known.is_none() => advice.push(format!(
                "its driver{} has no native XDP: nothing helps but another interface, or `offload = \"off\"`",
                driver.map_or_else(String::new, |driver| format!(" {driver}"))
            )),
            Some(libc::EPERM | libc::EACCES) => {
                advice.push("CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed".to_owned());
            }
            _ => {}
        }
        if let (true, Some(driver)) = (advice.is_empty(), known) {
            advice = driver.traps(device);
        }
        advice
    }

    /// In one line, with what to type.
    pub fn explain(&self, device: &str) -> String {
        let probe::Facts { driver, mtu, .. } = probe::facts(device);
        let advice = self.advise(device, driver.as_deref(), &situation(device, mtu));
        match advice.is_empty() {
            true => self.to_string(),
            false => format!("{self}: {}", advice.join("; ")),
        }
    }
}

/// What drivers care about, of an interface of this host.
pub fn situation(device: &str, mtu: u32) -> Situation {
    Situation {
        device: device.to_owned(),
        mtu,
        channels: ethtool::channels(device),
        merges: ethtool::merges_packets(device),
        processors: probe::processors(),
    }
}

/// Asks by netlink for what `bpf(2)` has refused; gives the words of the refusal. Should it be taken after all, it is
/// taken off again: what is attached this way outlives the process.
fn ask(ifindex: u32, program: BorrowedFd<'_>, mode: u32) -> io::Result<Option<String>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_ext_ack(true)?;
    // Without the question itself: what follows is at a fixed place then.
    socket.set_cap_ack(true)?;
    SockRef::from(&socket).set_read_timeout(Some(ANSWER_PATIENCE))?;
    let number = program.as_raw_fd();
    let attach = vec![LinkXdp::Fd(number), LinkXdp::Flags(mode | ONLY_IF_NONE)];
    match outcome(&exchange(&socket, ifindex, attach)?) {
        Ok(()) => {
            let expected = LinkXdp::ExpectedFd(number as u32);
            let detach = vec![LinkXdp::Fd(-1), LinkXdp::Flags(mode | REPLACE), expected];
            exchange(&socket, ifindex, detach)?;
            Ok(None)
        }
        Err(words) => Ok(words),
    }
}

fn exchange(socket: &Socket, ifindex: u32, xdp: Vec<LinkXdp>) -> io::Result<Vec<u8>> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link.attributes = vec![LinkAttribute::Xdp(xdp)];
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::SetLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    Ok(answer)
}

/// `Err` with the kernel's words, if it has any, where the answer is an error.
fn outcome(answer: &[u8]) -> Result<(), Option<String>> {
    let u16_at = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let code = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (u16_at(4), code) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(_)) if u16_at(6).is_some_and(|flags| flags & HAS_ATTRIBUTES != 0) => {
            Err(words(answer))
        }
        _ => Err(None),
    }
}

fn words(answer: &[u8]) -> Option<String> {
    let attributes = NlasIterator::new(answer.get(HEADER + ERROR_SIZE..)?);
    let found = attributes.map_while(Result::ok).find(|attribute| attribute.kind() == WORDS)?;
    // For one line of a log, whatever a driver writes.
    let text = String::from_utf8_lossy(found.value());
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: i32, flags: u16, text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + ERROR_SIZE];
        bytes[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[HEADER..HEADER + 4].copy_from_slice(&code.to_ne_bytes());
        bytes.extend((4 + text.len() as u16).to_ne_bytes());
        bytes.extend(WORDS.to_ne_bytes());
        bytes.extend(text);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_kernels_words_are_read_in_one_line() {
        let text = answer(-95, HAS_ATTRIBUTES, b"hv_netvsc: XDP: not support LRO\nreally\0");
        assert_eq!(outcome(&text), Err(Some("hv_netvsc: XDP: not support LRO really".to_owned())));
        assert_eq!(outcome(&answer(-95, 0, b"not an attribute")), Err(None));
        assert_eq!(outcome(&answer(0, 0, b"")), Ok(()));
        for length in 0..text.len() - 4 {
            assert_eq!(outcome(&text[..length]), Err(None), "{length}");
        }
    }

    #[test]
    fn who_has_the_hook_is_named_with_what_to_type() {
        let attached = |name: Option<&str>| Attached { id: 42, name: name.map(str::to_owned) };
        let refusal = |name| Refusal {
            number: Some(libc::EBUSY),
            words: Some("XDP program already attached".to_owned()),
            attached: Some(attached(name)),
        };
        let advise = |name| refusal(name).advise("eth7", None, &Situation::default()).join("; ");
        let text = refusal(Some("xdp_dispatcher")).to_string();
        assert!(text.contains("libxdp's dispatcher") && text.contains("id 42"), "{text}");
        assert!(advise(Some("xdp_dispatcher")).contains("`xdp-loader unload eth7 --all`"));
        assert_eq!(
            refusal(Some("filter")).to_string(),
            "another XDP program (filter, id 42) is attached there already"
        );
        assert!(advise(Some("filter")).contains("`bpftool prog show id 42`"));
        assert!(advise(None).contains("`ip link set dev eth7 xdp off`"));
        assert!(refusal(Some("turnpike")).to_string().contains("another Turnpike"));
    }

    #[test]
    fn a_refusal_is_told_in_the_kernels_words_with_what_the_driver_wants() {
        let refusal = Refusal {
            number: Some(libc::ERANGE),
            words: Some("Peer MTU is too large to set XDP".to_owned()),
            attached: None,
        };
        let text = refusal.to_string();
        assert!(
            text.starts_with("the kernel refuses the program: \"Peer MTU is too large to set XDP\" ("),
            "{text}"
        );
        let large = Situation { device: "eth7".to_owned(), mtu: 9000, ..Situation::default() };
        assert!(refusal.advise("eth7", Some("ena"), &large)[0].contains("`ip link set dev eth7 mtu 3498`"));
        // Nothing is wrong that we could see: what is known to go wrong.
        let small = Situation { mtu: 1500, ..large };
        assert!(refusal.advise("eth7", Some("ixgbe"), &small).join(" ").contains("SR-IOV"));
        let without = Refusal { number: Some(libc::EOPNOTSUPP), words: None, attached: None };
        let advice = without.advise("eth7", Some("e1000e"), &small);
        assert!(advice[0].contains("its driver e1000e has no native XDP"), "{advice:?}");
    }
}
