//! The kernel's side of the choice.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use aya_ebpf::macros::{map, sk_reuseport};
use aya_ebpf::maps::{Array, ReusePortSockArray};
use aya_ebpf::programs::SkReuseportContext;
use turnpike_abi::{Address, KNOWN_BUCKETS, Pinning};

const ETHER_IPV4: u32 = 0x0800_u16.to_be() as u32;
const ETHER_IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// Offsets of the source address in the IP header; the destination follows.
const V4_ADDRESSES: u32 = 12;
const V6_ADDRESSES: u32 = 8;
/// `BPF_HDR_START_NET`: offsets count from the IP header.
const FROM_IP_HEADER: u32 = 1;

#[map]
static PINNING: Array<Pinning> = Array::with_max_entries(1, 0);
/// Which senders have an allocation; userspace says so.
#[map]
static KNOWN: Array<u64> = Array::with_max_entries(KNOWN_BUCKETS / 8, BPF_F_MMAPABLE);
/// One socket for each worker, then one for the strangers of each; the loader sets how many.
#[map]
static SOCKETS: ReusePortSockArray = ReusePortSockArray::with_max_entries(1, 0);

/// Chooses the sender's slot, or the one for strangers beside it. Without a socket there the kernel chooses as it would
/// without us.
#[sk_reuseport]
pub fn pin(context: SkReuseportContext) -> u32 {
    if let Some(slot) = slot(&context) {
        let _ = SOCKETS.select_reuseport(&context, slot);
    }
    SK_PASS
}

#[inline(always)]
fn slot(context: &SkReuseportContext) -> Option<u32> {
    let pinning = PINNING.get(0)?;
    // The data begin with the UDP header, whatever is in front of it.
    let udp = context.data();
    if udp + size_of::<u32>() > context.data_end() {
        return None;
    }
    // SAFETY: both ports are in front of the end of the data.
    let ports = unsafe { (udp as *const u32).read() };
    let (remote, local) = match context.eth_protocol() {
        ETHER_IPV4 => {
            let [remote, local] = load::<[u32; 2]>(context, V4_ADDRESSES)?;
            (Address::from_v4_word(remote), Address::from_v4_word(local))
        }
        ETHER_IPV6 => {
            let [a, b, c, d] = load::<[u64; 4]>(context, V6_ADDRESSES)?;
            (Address::from_v6_words(a, b), Address::from_v6_words(c, d))
        }
        _ => return None,
    };
    let pin = pinning.pin(remote, local, ports);
    if pinning.keeps_apart == 0 {
        return Some(pin.slot);
    }
    // SAFETY: the entry stays where it is; userspace writes it as a whole.
    let known = unsafe { core::ptr::read_volatile(KNOWN.get(pin.word())?) };
    let is_stranger = pin.count(known) == 0;
    Some(pin.slot + if is_stranger { pinning.sockets } else { 0 })
}

/// Reads from the IP header. `T` has to be an array of integers: any bytes are a value of it.
#[inline(always)]
fn load<T: Copy>(context: &SkReuseportContext, at: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let size = size_of::<T>() as u32;
    // SAFETY: the context is the program's own, and the helper writes `size` bytes to a local of that size.
    let result = unsafe {
        bpf_skb_load_bytes_relative(context.as_ptr(), at, value.as_mut_ptr().cast(), size, FROM_IP_HEADER)
    };
    // SAFETY: the helper has written all of it.
    (result == 0).then(|| unsafe { value.assume_init() })
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
