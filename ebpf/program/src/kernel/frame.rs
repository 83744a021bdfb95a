//! A frame in the kernel: pointers into a packet, which the verifier watches.

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use turnpike_ebpf::Frame;

/// Larger than any frame in one piece, bytes, and small enough for the verifier's arithmetic.
const LARGEST: usize = 0x7fff;

/// The frame that the program was called for.
pub struct XdpFrame {
    context: *mut xdp_md,
    start: usize,
    end: usize,
}

impl XdpFrame {
    #[inline(always)]
    pub fn new(context: *mut xdp_md) -> XdpFrame {
        let mut frame = XdpFrame { context, start: 0, end: 0 };
        frame.look();
        frame
    }

    #[inline(always)]
    fn look(&mut self) {
        // SAFETY: the kernel calls the program with a valid context, which lives until it returns.
        let context = unsafe { &*self.context };
        self.start = context.data as usize;
        self.end = context.data_end as usize;
    }
}

// Loads and stores are written in assembly because most fields of a frame are not aligned to their
// size: Rust would split an unaligned access into bytes, which costs more than the rest of the path.
// eBPF's own accesses may be unaligned in a packet, where the machine allows it.
macro_rules! load {
    ($at:expr, $size:literal) => {{
        let value: u64;
        // SAFETY: the verifier refuses the program unless a comparison with the end of the packet
        // dominates this load and covers its bytes.
        unsafe {
            asm!(concat!("{0} = *(", $size, " *)({1} + 0)"), out(reg) value, in(reg) $at,
                options(pure, readonly, nostack, preserves_flags));
        }
        value
    }};
}

macro_rules! store {
    ($at:expr, $size:literal, $value:expr) => {{
        // SAFETY: as for loads; nothing else refers to the packet.
        unsafe {
            asm!(concat!("*(", $size, " *)({0} + 0) = {1}"), in(reg) $at, in(reg) $value as u64,
                options(nostack, preserves_flags));
        }
    }};
}

/// A value that the compiler knows nothing about.
#[inline(always)]
fn hidden(mut value: usize) -> usize {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack, preserves_flags)) };
    value
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn has(&self, bytes: usize) -> bool {
        // Hidden, or the compiler concludes one comparison from another, which the verifier can't.
        hidden(self.start + bytes) <= self.end
    }

    #[inline(always)]
    fn u8_at(&self, at: usize) -> u8 {
        load!(self.start + at, "u8") as u8
    }

    #[inline(always)]
    fn u16_at(&self, at: usize) -> u16 {
        load!(self.start + at, "u16") as u16
    }

    #[inline(always)]
    fn u32_at(&self, at: usize) -> u32 {
        load!(self.start + at, "u32") as u32
    }

    #[inline(always)]
    fn u64_at(&self, at: usize) -> u64 {
        load!(self.start + at, "u64")
    }

    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        // The verifier knows only the values that were compared: they must not be computed again.
        let at = hidden(at);
        if at > LARGEST {
            return None;
        }
        let pointer = hidden(self.start + at);
        if pointer + 1 > self.end {
            return None;
        }
        Some(load!(pointer, "u8") as u8)
    }

    #[inline(always)]
    fn set_u16(&mut self, at: usize, value: u16) {
        store!(self.start + at, "u16", value);
    }

    #[inline(always)]
    fn set_u32(&mut self, at: usize, value: u32) {
        store!(self.start + at, "u32", value);
    }

    #[inline(always)]
    fn set_u64(&mut self, at: usize, value: u64) {
        store!(self.start + at, "u64", value);
    }

    #[inline(always)]
    fn skip(&mut self, bytes: usize) {
        // Hidden, or it becomes an addition of what may be zero, whose result the verifier knows nothing about.
        self.start = hidden(self.start + bytes);
    }

    #[inline(always)]
    fn move_start(&mut self, by: i32) -> bool {
        // SAFETY: the context is the program's own; pointers into the packet are taken anew.
        let moved = by == 0 || unsafe { bpf_xdp_adjust_head(self.context, by) } == 0;
        self.look();
        moved
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: as in `look`.
        unsafe { (*self.context).ingress_ifindex }
    }
}
