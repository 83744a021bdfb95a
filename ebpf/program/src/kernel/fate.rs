//! What becomes of frames after the program has sent them: what was lost is taken back from the allocations' counts.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use turnpike_abi::{Charge, MAX_INTERFACES, Verdict, place_of};

use super::maps::KernelMaps;

/// The kernel knows no such device for the frame that was queued last, or does not take it.
#[inline(always)]
pub fn refused(place: u32) {
    let Some(books) = KernelMaps.books() else { return };
    let [first, second] = books.refuse(place);
    take_back(first, second, Verdict::DropRedirect);
}

/// `xdp:xdp_devmap_xmit`: a device was given a batch.
///
/// Arguments: source device, target device, frames sent, frames dropped, error.
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
pub fn device_took_a_batch(context: RawTracePointContext) -> i32 {
    let Some(books) = KernelMaps.books() else { return 0 };
    if books.open == 0 {
        // Another program's.
        return 0;
    }
    let (device, sent, dropped): (u64, i32, i32) = (context.arg(1), context.arg(2), context.arg(3));
    let Some(devices) = KernelMaps.devices() else { return 0 };
    let place = place_of(books.open, devices, device);
    if place >= MAX_INTERFACES {
        books.unplaced += dropped as u32 as u64;
        KernelMaps.add(Verdict::DropDeviceQueue, dropped as u32 as u64);
        return 0;
    }
    books.settle(place as u32, sent as u32, dropped as u32, |charge| KernelMaps.take_back(charge));
    KernelMaps.add(Verdict::DropDeviceQueue, dropped as u32 as u64);
    0
}

/// `xdp:xdp_redirect_err`: the kernel did not take the frame that was queued last.
///
/// Arguments: source device, program, target, error, kind of map, number of the map, key in it: the device's index.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
pub fn redirect_was_refused(context: RawTracePointContext) -> i32 {
    let Some(books) = KernelMaps.books() else { return 0 };
    if books.open == 0 {
        return 0;
    }
    let ifindex: u32 = context.arg(6);
    if let Some(place) = KernelMaps.place_of_device(ifindex) {
        refused(place);
    }
    0
}

/// `xdp:xdp_exception`: the driver could not do what a program said, with the frame that it saw last.
///
/// Arguments: device, program, what it said. Another program's frames count as ours for once, if ours has sent one back
/// since the last such event on this processor: there is no telling them apart.
#[raw_tracepoint(tracepoint = "xdp_exception")]
pub fn sending_back_failed(context: RawTracePointContext) -> i32 {
    let action: u32 = context.arg(2);
    if action == XDP_TX
        && let Some(books) = KernelMaps.books()
    {
        let [first, second] = books.refuse_back();
        take_back(first, second, Verdict::DropDeviceQueue);
    }
    0
}

#[inline(always)]
fn take_back(first: Charge, second: Charge, verdict: Verdict) {
    if first.is_none() {
        return;
    }
    KernelMaps.take_back(first);
    KernelMaps.take_back(second);
    KernelMaps.add(verdict, 1);
}
