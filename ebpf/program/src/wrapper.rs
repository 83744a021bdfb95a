//! The benchmark's wrapper.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::XdpContext;

/// Bytes of the packet that are restored, a multiple of eight: all headers of any family.
const HEADERS: usize = 72;

/// The original packet.
#[repr(C)]
struct Template {
    /// Length of the whole frame, bytes.
    length: u32,
    /// Offset of a 16-bit field that gets a random value, or 0.
    field: u32,
    /// Ones for the bits that are random; their number plus one is the number of flows.
    mask: u32,
    /// By how much [`shift`] moves the start of the frame.
    shift: i32,
    /// The headers.
    headers: [u64; HEADERS / 8],
}

#[map]
static TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);
/// Entry 0 is the program under test.
#[map]
static UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Restores the packet and calls the program under test.
#[xdp]
pub fn restore(context: XdpContext) -> u32 {
    let Some(template) = TEMPLATE.get(0) else { return XDP_ABORTED };
    let length = opaque(context.data_end() as u64 - context.data() as u64);
    let by = length as i32 - template.length as i32;
    // SAFETY: the context is the program's own; pointers into the packet are taken afterwards.
    if by != 0 && unsafe { bpf_xdp_adjust_head(context.ctx, by) } != 0 {
        return XDP_ABORTED;
    }
    let (start, end) = (context.data(), context.data_end());
    if start + HEADERS > end {
        return XDP_ABORTED;
    }
    for (i, word) in template.headers.iter().enumerate() {
        // SAFETY: within the headers, which were compared with the end of the packet.
        unsafe { ((start + 8 * i) as *mut u64).write(*word) };
    }
    if template.field != 0 {
        let field = start + (template.field & 0x3f) as usize;
        if field + 2 > end {
            return XDP_ABORTED;
        }
        // SAFETY: the field was compared with the end of the packet, the helper takes nothing.
        unsafe { (field as *mut u16).write((bpf_get_prandom_u32() & template.mask) as u16) };
    }
    // SAFETY: a tail call either doesn't return, or does nothing.
    let _ = unsafe { UNDER_TEST.tail_call(&context, 0) };
    XDP_ABORTED
}

/// The program to compare with.
#[xdp]
pub fn nothing(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Moves the start of the frame, which makes the wrapper move it back: both cost the same.
#[xdp]
pub fn shift(context: XdpContext) -> u32 {
    let Some(template) = TEMPLATE.get(0) else { return XDP_ABORTED };
    // SAFETY: the context is the program's own, and the packet is not looked at.
    unsafe { bpf_xdp_adjust_head(context.ctx, template.shift) };
    XDP_PASS
}

/// Hides a value from the compiler, which would otherwise subtract pointers in 32 bits.
fn opaque(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
