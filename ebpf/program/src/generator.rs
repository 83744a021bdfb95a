//! The kernel's side of the benchmark's sender and sink.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;

/// Flows at most.
const MAX_FLOWS: u32 = 64;
/// Words of a frame that are written anew each time: the kernel takes the same memory again and again, and
/// a relay has been there. Ethernet, IPv4, UDP and ChannelData, and the first bytes of the payload.
const WORDS: usize = 6;
/// What payloads begin with, so that the sink knows them.
const MARK: u64 = u64::from_ne_bytes(*b"turnpike");

/// Where the sender is.
#[repr(C)]
struct Turn {
    /// Flows, which take turns.
    flows: u32,
    /// Whose turn it is.
    next: u32,
}

/// What the sink looks for.
#[repr(C)]
struct Expected {
    /// Length of the frame, bytes.
    length: u32,
    /// Where [`MARK`] is.
    offset: u32,
}

#[map]
static HEADERS: Array<[u64; WORDS]> = Array::with_max_entries(MAX_FLOWS, 0);
#[map]
static TURN: Array<Turn> = Array::with_max_entries(1, 0);
#[map]
static EXPECTED: Array<Expected> = Array::with_max_entries(1, 0);
#[map]
static RECEIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Sends the frame of the flow whose turn it is.
#[xdp]
pub fn send(context: XdpContext) -> u32 {
    let Some(turn) = TURN.get_ptr_mut(0) else { return XDP_DROP };
    // SAFETY: the map's memory; one thread runs this program.
    let turn = unsafe { &mut *turn };
    let Some(headers) = HEADERS.get(turn.next) else { return XDP_DROP };
    turn.next = if turn.next + 1 < turn.flows { turn.next + 1 } else { 0 };
    let (start, end) = (context.data(), context.data_end());
    if start + 8 * WORDS > end {
        return XDP_DROP;
    }
    for (i, word) in headers.iter().enumerate() {
        // SAFETY: in front of the end of the frame.
        unsafe { ((start + 8 * i) as *mut u64).write_unaligned(*word) };
    }
    XDP_TX
}

/// Counts and drops the sender's frames as they have to arrive; everything else goes on.
#[xdp]
pub fn sink(context: XdpContext) -> u32 {
    let Some(expected) = EXPECTED.get(0) else { return XDP_PASS };
    let (start, end) = (context.data(), context.data_end());
    let mark = start + (expected.offset & 0x3f) as usize;
    if start + expected.length as usize != end || mark + size_of::<u64>() > end {
        return XDP_PASS;
    }
    // SAFETY: in front of the end of the frame.
    if unsafe { (mark as *const u64).read_unaligned() } != MARK {
        return XDP_PASS;
    }
    if let Some(received) = RECEIVED.get_ptr_mut(0) {
        // SAFETY: the map's memory of this processor.
        unsafe { *received += 1 };
    }
    XDP_DROP
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
