//! The kernel's side of the seams, and the entry points.

mod frame;
mod maps;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::{raw_tracepoint, xdp};
use aya_ebpf::programs::{RawTracePointContext, XdpContext};
use turnpike_abi::Verdict;
use turnpike_ebpf::{Action, Maps};

use frame::XdpFrame;
use maps::{DEVS, KernelMaps};

/// The fast path, on each offloaded interface.
#[xdp]
pub fn turnpike(context: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(context.ctx);
    match turnpike_ebpf::handle(&mut frame, &KernelMaps) {
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
        // Through the map even to the interface it came from: veth loses XDP_TX frames when its far
        // end has GRO and no program.
        Action::Redirect(ifindex) => DEVS.redirect(ifindex, 0).unwrap_or_else(|_| {
            KernelMaps.count(Verdict::DropRedirect);
            XDP_DROP
        }),
    }
}

/// `xdp:xdp_devmap_xmit`: a redirected frame has not been sent before the device took it.
///
/// Arguments: source device, target device, frames sent, frames dropped, error.
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
pub fn count_device_drops(context: RawTracePointContext) -> i32 {
    let drops: i32 = context.arg(3);
    if drops > 0 {
        KernelMaps.add(Verdict::DropDeviceQueue, drops as u64);
    }
    0
}

/// `xdp:xdp_redirect_err`: the device would not take frames at all.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
pub fn count_redirect_errors(context: RawTracePointContext) -> i32 {
    let _ = context.as_ptr();
    KernelMaps.add(Verdict::DropRedirect, 1);
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in the path panics: a call to this would not pass the verifier.
    loop {}
}
