//! Target `request`: arbitrary datagrams from several clients; many of them signed by the harness, so
//! that any combination of attributes gets past authentication (conformance S4 to S8, S13, Q12, Q13).

use turnpike_proto::limits::SECOND_NS;
use turnpike_proto::wire::{MessageBuilder, attr, channel, method};

use super::input::Input;
use super::reference;
use super::world::{PEERS, Style, World};

/// Datagrams of one run: longer ones say nothing new.
const MAX_STEPS: usize = 64;
/// Attributes that a request may have besides those that come from raw bytes.
const ATTRIBUTES: [u16; 24] = [
    attr::USERNAME,
    attr::ERROR_CODE,
    attr::CHANNEL_NUMBER,
    attr::LIFETIME,
    attr::DATA,
    attr::REALM,
    attr::NONCE,
    attr::XOR_RELAYED_ADDRESS,
    attr::REQUESTED_ADDRESS_FAMILY,
    attr::EVEN_PORT,
    attr::REQUESTED_TRANSPORT,
    attr::DONT_FRAGMENT,
    attr::PASSWORD_ALGORITHM,
    attr::USERHASH,
    attr::RESERVATION_TOKEN,
    attr::ADDITIONAL_ADDRESS_FAMILY,
    attr::PASSWORD_ALGORITHMS,
    attr::ICMP,
    attr::SOFTWARE,
    attr::CONNECTION_ID,
    attr::CHANGE_REQUEST,
    attr::MOBILITY_TICKET,
    attr::ORIGIN,
    attr::XOR_PEER_ADDRESS,
];

/// The first byte is the operator's choices, then come the datagrams.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(input.u8());
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let kind = input.below(16);
        let client = input.below(world.clients());
        match kind {
            0 => raw(&mut world, client, &mut input),
            1 => world.challenge(client),
            2 => world.repeat(client),
            3 => world.sleep(u64::from(input.u8()) * 5 * SECOND_NS, input.u8() & 1 == 0),
            4 => {
                let peer = world.to_local(world.peer(input.below(PEERS.len() + 4)));
                let len = input.u8().into();
                world.peer_sends(client, peer, input.take(len), input.u8());
            }
            5 | 6 => channel_data(&mut world, client, &mut input),
            7 => world.check_counts(),
            8 => allocate(&mut world, client),
            _ => message(&mut world, client, &mut input),
        }
    }
    world.finish();
}

fn raw(world: &mut World, client: usize, input: &mut Input<'_>) {
    let len = input.u16() % 1500;
    let bytes = input.take(len.into());
    world.client_sends(client, bytes, 0);
}

fn channel_data(world: &mut World, client: usize, input: &mut Input<'_>) {
    let (number, len) = (0x3FFE + input.u16() % 0x4010, input.u8());
    let payload = input.take(len.into());
    let claimed = payload.len() as i16 + i16::from(input.u8() as i8 / 32);
    let mut bytes = channel::header(number, claimed as u16).to_vec();
    bytes.extend(payload);
    world.client_sends(client, &bytes, input.u8());
}

/// What lets later datagrams have an effect.
fn allocate(world: &mut World, client: usize) {
    let id = world.transaction(client, false);
    let builder = MessageBuilder::request(method::ALLOCATE, id);
    let builder = builder.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    let bytes = world.sign(client, Style::Md5, builder);
    world.client_sends(client, &bytes, 0);
}

/// A message with the input's attributes, in front of the credentials and behind them.
fn message(world: &mut World, client: usize, input: &mut Input<'_>) {
    let (flags, kind) = (input.u8(), input.below(16));
    let id = world.transaction(client, flags & 0xE0 == 0xE0);
    let method = match kind {
        0..4 => method::ALLOCATE,
        4 => method::REFRESH,
        5..8 => method::CREATE_PERMISSION,
        8..11 => method::CHANNEL_BIND,
        11 => method::BINDING,
        12 => input.u16() % 0x1000,
        _ => method::SEND,
    };
    let mut builder = match kind {
        13.. => MessageBuilder::indication(method, id),
        _ => MessageBuilder::request(method, id),
    };
    if kind < 4 && flags & 8 != 0 {
        builder = builder.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    }
    for _ in 0..input.below(12) {
        builder = attribute(world, builder, input);
    }
    builder = builder.fingerprint(flags & 0x10 != 0);
    let style = match flags & 7 {
        0 => None,
        1 => Some(Style::Wrong),
        2 => Some(Style::Other),
        3 => Some(Style::Sha256),
        _ => Some(Style::Md5),
    };
    let mut bytes = match style.filter(|_| kind < 13) {
        Some(style) => world.sign(client, style, builder),
        None => builder.finish(),
    };
    // RFC 8489 s. 14.5: what stands behind the integrity has no effect.
    for _ in 0..input.below(4) {
        let (kind, len) = (input.choose(&ATTRIBUTES), input.below(24));
        reference::append(&mut bytes, kind, input.take(len));
    }
    world.client_sends(client, &bytes, flags);
}

fn attribute(world: &World, builder: MessageBuilder, input: &mut Input<'_>) -> MessageBuilder {
    let choice = input.below(36);
    match ATTRIBUTES.get(choice) {
        Some(kind) => {
            let len = input.below(40);
            builder.attribute(*kind, input.take(len))
        }
        None if choice < 30 => {
            let peer = world.peer(input.below(PEERS.len() + 4));
            builder.xor_address(attr::XOR_PEER_ADDRESS, peer)
        }
        None if choice < 32 => builder.attribute(attr::CHANNEL_NUMBER, &[0x40, input.u8() % 4, 0, 0]),
        None if choice < 34 => builder.attribute(attr::DATA, b"data"),
        None => {
            let (kind, len) = (input.u16(), input.u8());
            builder.attribute(kind, input.take(len.into()))
        }
    }
}
