//! The kernel's side of the seams, and the entry points.

mod fate;
mod frame;
mod maps;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use turnpike_ebpf::Action;

use frame::XdpFrame;
use maps::{DEVS, KernelMaps};

/// The fast path, on each offloaded interface.
#[xdp]
pub fn turnpike(context: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(context.ctx);
    match turnpike_ebpf::handle(&mut frame, &KernelMaps) {
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
        Action::SendBack => XDP_TX,
        Action::Redirect(ifindex, place) => DEVS.redirect(ifindex, 0).unwrap_or_else(|_| {
            fate::refused(place);
            XDP_DROP
        }),
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in the path panics: a call to this would not pass the verifier.
    loop {}
}
