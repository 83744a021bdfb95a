//! Target `operations`: any sequence of what clients, peers, the host and the operator may do.
//!
//! Well-formed messages in any order, with time passing and ports failing between them; the
//! `world` checks each step (conformance A14, R2, P2, P3, C3, Q8).

use turnpike_proto::limits::SECOND_NS;
use turnpike_proto::wire::{MessageBuilder, TransactionId, attr, channel, method};

use super::input::Input;
use super::world::{Host, PEERS, Style, World};

/// Steps of one run: longer ones say nothing new.
const MAX_STEPS: usize = 200;
/// Pauses worth trying, seconds: around every lifetime there is.
const PAUSES: [u16; 16] = [0, 1, 5, 29, 30, 39, 40, 150, 299, 300, 301, 599, 600, 601, 1800, 3601];
/// Payload lengths worth trying, bytes.
const LENGTHS: [usize; 12] = [0, 1, 3, 4, 100, 1200, 65_471, 65_475, 65_503, 65_507, 65_508, 65_527];

/// The first byte is the operator's choices, then come the steps.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(input.u8());
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut world, &mut input);
    }
    world.finish();
}

pub(crate) fn step(world: &mut World, input: &mut Input<'_>) {
    let kind = input.below(20);
    let client = input.below(world.clients());
    match kind {
        0 => world.challenge(client),
        1 | 2 => allocate(world, client, input),
        3 => refresh(world, client, input),
        4 | 5 => permit(world, client, input),
        6 | 7 => bind(world, client, input),
        8 | 9 => send(world, client, input),
        10 | 11 => channel_data(world, client, input),
        12 | 13 => peer_data(world, client, input),
        14 => {
            let peer = world.to_local(world.peer(input.below(PEERS.len() + 4)));
            world.icmp(client, peer, [input.below(13) as u8, input.u8()], u32::from(input.u16()));
        }
        15 | 16 => {
            let pause = u64::from(input.choose(&PAUSES)) * SECOND_NS;
            let (less, ticks) = (u64::from(input.u8() & 1), input.u8() & 1 == 0);
            world.sleep(pause.saturating_sub(less), ticks);
        }
        17 => world.repeat(client),
        18 => host(world, input),
        _ => operate(world, client, input),
    }
}

/// A signed request with the client's next transaction id, or its last one again.
fn request(
    world: &mut World,
    client: usize,
    input: &mut Input<'_>,
    method: u16,
    build: impl FnOnce(MessageBuilder, &World, &mut Input<'_>) -> MessageBuilder,
) {
    let how = input.u8();
    let style = match how & 0xF {
        0 => Style::Wrong,
        1 => Style::Other,
        2..8 => Style::Sha256,
        _ => Style::Md5,
    };
    let id: TransactionId = world.transaction(client, how & 0xE0 == 0xE0);
    let builder = MessageBuilder::request(method, id).fingerprint(how & 0x10 != 0);
    let builder = build(builder, world, input);
    let bytes = world.sign(client, style, builder);
    world.client_sends(client, &bytes, 0);
}

fn allocate(world: &mut World, client: usize, input: &mut Input<'_>) {
    let token = world.token();
    request(world, client, input, method::ALLOCATE, |mut builder, _, input| {
        builder = builder.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let options = input.u8();
        match options & 7 {
            0 | 1 => {}
            2 => builder = builder.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0]),
            3 => builder = builder.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]),
            4 | 5 => builder = builder.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
            6 => builder = builder.attribute(attr::RESERVATION_TOKEN, &token),
            _ => builder = builder.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[1, 0, 0, 0]),
        }
        match options >> 3 & 3 {
            0 | 1 => {}
            2 => builder = builder.attribute(attr::EVEN_PORT, &[0x80]),
            _ => builder = builder.attribute(attr::EVEN_PORT, &[0]),
        }
        if options & 0x20 != 0 { builder.lifetime(u32::from(input.choose(&PAUSES))) } else { builder }
    });
}

fn refresh(world: &mut World, client: usize, input: &mut Input<'_>) {
    request(world, client, input, method::REFRESH, |builder, _, input| {
        let builder = match input.below(4) {
            0 => builder.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0]),
            1 => builder.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]),
            _ => builder,
        };
        builder.lifetime(u32::from(input.choose(&PAUSES)))
    });
}

fn permit(world: &mut World, client: usize, input: &mut Input<'_>) {
    request(world, client, input, method::CREATE_PERMISSION, |builder, world, input| {
        (0..input.below(4)).fold(builder, |builder, _| {
            builder.xor_address(attr::XOR_PEER_ADDRESS, world.peer(input.below(PEERS.len() + 4)))
        })
    });
}

fn bind(world: &mut World, client: usize, input: &mut Input<'_>) {
    request(world, client, input, method::CHANNEL_BIND, |builder, world, input| {
        let [n0, n1] = number(input).to_be_bytes();
        builder
            .attribute(attr::CHANNEL_NUMBER, &[n0, n1, 0, 0])
            .xor_address(attr::XOR_PEER_ADDRESS, world.peer(input.below(PEERS.len() + 4)))
    });
}

fn send(world: &mut World, client: usize, input: &mut Input<'_>) {
    let id = world.transaction(client, false);
    let peer = world.peer(input.below(PEERS.len() + 4));
    let payload = vec![0xAB; input.choose(&LENGTHS)];
    let mut builder = MessageBuilder::indication(method::SEND, id)
        .xor_address(attr::XOR_PEER_ADDRESS, peer)
        .attribute(attr::DATA, &payload);
    let flags = input.u8();
    if flags & 1 == 1 {
        builder = builder.attribute(attr::DONT_FRAGMENT, &[]);
    }
    world.client_sends(client, &builder.finish(), flags);
}

fn channel_data(world: &mut World, client: usize, input: &mut Input<'_>) {
    let (number, len, padding) = (number(input), input.choose(&LENGTHS), input.below(8));
    let mut bytes = channel::header(number, len as u16).to_vec();
    // Up to three bytes of padding, up to four that are missing.
    bytes.resize((4 + len + padding).saturating_sub(4).max(4), 0xCD);
    world.client_sends(client, &bytes, padding as u8);
}

fn peer_data(world: &mut World, client: usize, input: &mut Input<'_>) {
    let peer = world.to_local(world.peer(input.below(PEERS.len() + 4)));
    let payload = vec![0xEF; input.choose(&LENGTHS)];
    world.peer_sends(client, peer, &payload, input.u8());
}

/// Mostly legal channel numbers, few of them.
fn number(input: &mut Input<'_>) -> u16 {
    input.choose(&[0x4000, 0x4001, 0x4002, 0x4003, 0x4FFF, 0x5000, 0x7FFF, 0x3FFF])
}

fn host(world: &mut World, input: &mut Input<'_>) {
    let what = input.u8();
    world.release_held();
    world.host = match what % 8 {
        0..3 => Host { hold: true, ..Host::default() },
        3 => Host { exhausted: true, ..Host::default() },
        4 | 5 => Host { occupied: input.u8(), ..Host::default() },
        _ => Host::default(),
    };
}

fn operate(world: &mut World, client: usize, input: &mut Input<'_>) {
    match input.below(16) {
        0 => world.shut_down(),
        1 => world.drain(true),
        2 | 3 => world.drain(false),
        4 => world.change_policy(true),
        5 => world.change_policy(false),
        6 => world.kernel.hold = true,
        7 => world.release_kernel(),
        8..=10 => world.odd_kernel(input.u8().into(), input.u8().into()),
        11 => world.disconnect(client),
        12 => world.limit(client, u64::from(input.u16()) * 100),
        13 => world.astray = input.u8() & 1 == 1,
        14 => world.hang_up(client),
        _ => world.check_counts(),
    }
}
