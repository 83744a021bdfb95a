//! The two routes of a channel: what the program does with the client's ChannelData, and with the peer's datagrams.

use turnpike_abi::{Route, RouteFlags, RouteKey, RouteTarget, Slots};
use turnpike_proto::OffloadBinding;

/// What of a binding's routes depends on the host's routing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Next hop towards the peer; not used if the peer is a relayed address of ours.
    pub to_peer: u16,
    /// Next hop towards the client.
    pub to_client: u16,
    /// The interface that the client is behind, as a bit.
    pub client_side: u16,
    /// The interface that the peer is behind, as a bit; 0 if the peer is a relayed address of ours.
    pub peer_side: u16,
}

/// What the two routes are found by.
pub fn keys(binding: &OffloadBinding) -> [RouteKey; 2] {
    [
        RouteKey::new(binding.client, binding.server, binding.channel),
        RouteKey::new(binding.peer, binding.relayed, 0),
    ]
}

/// The two routes.
///
/// A datagram holds for the interface by which its sender would be answered, and no other: the program
/// runs before the reverse path filter.
pub fn routes(binding: &OffloadBinding, place: Placement) -> [(RouteKey, Route); 2] {
    let [from_client, from_peer] = keys(binding);
    let (forth, back) = match binding.internal {
        true => (RouteFlags::HAIRPIN, RouteFlags::INTERNAL),
        false => (RouteFlags::default(), RouteFlags::default()),
    };
    let slots = Slots {
        allocation: binding.allocation.slot,
        allocation_generation: binding.allocation.generation,
        binding: binding.binding.slot,
        binding_generation: binding.binding.generation,
        next_hop: place.to_peer,
        ingress: place.client_side,
    };
    let to_peer =
        RouteTarget { source: binding.relayed, destination: binding.peer, channel: 0, flags: forth };
    let to_client = RouteTarget {
        source: binding.server,
        destination: binding.client,
        channel: binding.channel,
        flags: back,
    };
    let back_slots = Slots { next_hop: place.to_client, ingress: place.peer_side, ..slots };
    [
        (from_client, Route::new(&from_client, &to_peer, slots)),
        (from_peer, Route::new(&from_peer, &to_client, back_slots)),
    ]
}

#[cfg(test)]
mod tests {
    use turnpike_fixtures::{CLIENT_HOP, PEER_HOP, Scene};
    use turnpike_proto::{SlotName, UserNumber};

    use super::*;

    fn name(slot: u32) -> SlotName {
        SlotName { slot, generation: Scene::GENERATION }
    }

    /// What the program's own tests use, for all families.
    #[test]
    fn they_are_the_ones_that_the_program_is_tested_with() {
        for scene in Scene::all() {
            let expected = scene.world().routes;
            let place = Placement { to_peer: PEER_HOP, to_client: CLIENT_HOP, client_side: 2, peer_side: 2 };
            let direct = OffloadBinding {
                binding: name(0),
                allocation: name(0),
                client: scene.client(),
                server: scene.server(scene.client_v6),
                relayed: scene.relayed(),
                peer: scene.peer(),
                channel: Scene::TO_PEER,
                internal: false,
                user: UserNumber(1),
            };
            assert_eq!(routes(&direct, place)[..], expected[..2]);
            let hairpin = OffloadBinding {
                binding: name(1),
                peer: scene.other_relayed(),
                channel: Scene::TO_OTHER,
                internal: true,
                ..direct
            };
            let inside = Placement { to_peer: 0, ..place };
            let made = routes(&hairpin, inside);
            assert_eq!((made[0], made[1]), (expected[2], expected[5]));
        }
    }
}
