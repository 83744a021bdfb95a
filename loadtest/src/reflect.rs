//! `reflect`: the cheapest thing that looks like a TURN server. It grants every Allocate,
//! CreatePermission, ChannelBind and Refresh without credentials and sends ChannelData back to its
//! sender. It measures how much the generator itself can send and check; it relays nothing.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use stun_types::message::{Message, MessageClass, MessageWrite, MessageWriteExt, MessageWriteVec};
use turn_types::attribute::{Lifetime, XorRelayedAddress};
use turn_types::message::{ALLOCATE, REFRESH};

use crate::engine::mmsg::{Poller, thread_cpu_ns};
use crate::engine::open_socket;
use crate::engine::receive::RecvBatch;
use crate::modes::{Fault, stop_flag};

/// Receive queue of each socket, bytes.
const SOCKET_BUFFER_BYTES: usize = 32 << 20;
/// Room for the payloads of a self-test.
const DATAGRAM_BYTES: usize = 2048;
/// Longest wait before a look at the stop flag, ns.
const TURN_NS: u64 = 50_000_000;

/// Options of `reflect`.
#[derive(Debug, Clone, Args)]
pub struct ReflectArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Leave out every N-th ChannelData message (0 = none)
    #[arg(long, default_value_t = 0)]
    pub drop_every: u64,
}

/// Runs until a signal.
pub fn execute(args: &ReflectArgs) -> Result<ExitCode, Fault> {
    let socket = open_socket(args.listen, None, SOCKET_BUFFER_BYTES).map_err(|error| error.to_string())?;
    let address = socket.local_addr().map_err(|error| error.to_string())?;
    println!("reflecting on {address}");
    let stop = stop_flag();
    let reflected = serve(&socket, args.drop_every, &stop).map_err(|error| error.to_string())?;
    let cpu_ns = thread_cpu_ns();
    println!("reflected {reflected} packets, {} CPU ns each", cpu_ns / reflected.max(1));
    Ok(ExitCode::SUCCESS)
}

/// Reflects on one socket until `stop`; the number of ChannelData messages sent back.
pub fn serve(socket: &UdpSocket, drop_every: u64, stop: &Arc<AtomicBool>) -> io::Result<u64> {
    let mut poller = Poller::new()?;
    poller.add(socket.as_fd(), 0)?;
    let mut batch = RecvBatch::new(DATAGRAM_BYTES);
    let mut ready = Vec::new();
    let (mut data, mut reflected) = (0u64, 0u64);
    while !stop.load(Ordering::Relaxed) {
        ready.clear();
        poller.wait(TURN_NS, &mut ready);
        let Ok(count) = batch.recv(socket.as_fd()) else { continue };
        for index in 0..count {
            let is_data = batch.datagram(index).is_some_and(|d| d.first().is_some_and(|b| b >> 6 == 1));
            if is_data {
                data += 1;
            } else {
                answer(socket, &batch, index);
            }
            let drop = is_data && drop_every > 0 && data.is_multiple_of(drop_every);
            batch.keep(index, is_data && !drop);
        }
        reflected += batch.send_back(socket.as_fd()) as u64;
    }
    Ok(reflected)
}

fn answer(socket: &UdpSocket, batch: &RecvBatch, index: usize) {
    let (Some(data), Some(source)) = (batch.datagram(index), batch.source(index)) else { return };
    let Ok(request) = Message::from_bytes(data) else { return };
    if !request.has_class(MessageClass::Request) {
        return;
    }
    let mut response = Message::builder_success(&request, MessageWriteVec::new());
    if request.has_method(ALLOCATE) {
        let relayed = XorRelayedAddress::new(source, request.transaction_id());
        response.push_attribute_unchecked(&relayed);
    }
    if request.has_method(ALLOCATE) || request.has_method(REFRESH) {
        let lifetime = request.attribute::<Lifetime>().map_or(0, |lifetime| lifetime.seconds());
        response.push_attribute_unchecked(&Lifetime::new(lifetime));
    }
    response.add_fingerprint().expect("the answer has no FINGERPRINT yet");
    // A lost answer is asked for again.
    let _ = socket.send_to(&response.finish(), source);
}
