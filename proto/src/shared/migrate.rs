//! What all workers share, into another process and out of one.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Alternates, Reservation, Shared};
use crate::addr::RelayedAddr;
use crate::io::Now;
use crate::limits::MAX_USERNAME;
use crate::migrate::images::{ForeignImage, Record, ReservationImage, Secret, SharedImage, plausible};
use crate::migrate::{Snapshot, SnapshotBytes, SnapshotError, encode};

impl Shared {
    /// The first part of a snapshot. What the operator decides is not in it: the process that adopts has its own
    /// configuration.
    pub fn export(&self, now: Now) -> SnapshotBytes {
        let held = self.reservations.lock();
        let reservation = |(token, it): (&[u8; 8], &Reservation)| ReservationImage {
            token: *token,
            relay: it.relay,
            port: it.lease.port(),
            user: Arc::clone(&it.user),
            expires_ns: it.expires_ns,
        };
        let reservations = held.by_token.iter().map(reservation).collect();
        let foreign = self.relays.foreign_ports().into_iter();
        let Alternates { v4, v6 } = *self.alternates.load_full();
        let image = SharedImage {
            seed: Secret(*self.auth.seed()),
            limiter: self.limiter.image(now),
            reservations,
            foreign: foreign.map(|(relay, ports)| ForeignImage { relay, ports }).collect(),
            alternates: [v4, v6].map(|server| server.map(Into::into)),
        };
        encode(&[Record::Shared(Box::new(image))])
    }

    /// Ports reserved for a RESERVATION-TOKEN that has not come yet, in their local form: a socket keeps each of them.
    pub fn reserved_ports(&self) -> Vec<RelayedAddr> {
        let held = self.reservations.lock();
        held.by_token.values().map(Reservation::address).collect()
    }

    /// Goes on with what the workers of another process have shared; to be done before any of their sections is
    /// adopted. [`Settings::seed`](crate::settings::Settings::seed) has to be the snapshot's. `has_socket` says whether
    /// the socket that keeps a reserved port has come along, or was about to be bound; the token is worth nothing
    /// without it.
    ///
    /// # Errors
    /// If no relay can have been in such a state.
    pub fn adopt(
        &self,
        snapshot: &Snapshot,
        has_socket: impl Fn(RelayedAddr) -> bool,
    ) -> Result<(), SnapshotError> {
        let image = &*snapshot.shared;
        if *self.auth.seed() != image.seed.0 {
            return Err(SnapshotError::Contradiction("it is another relay's"));
        }
        self.limiter.adopt(&image.limiter);
        let [v4, v6] = image.alternates.map(|server| server.map(Into::into));
        [v4, v6].into_iter().flatten().for_each(|server| self.set_alternate(Some(server)));
        for reserved in &image.reservations {
            self.adopt_reservation(reserved, &has_socket)?;
        }
        for ForeignImage { relay, ports } in &image.foreign {
            self.adopt_foreign(*relay, ports)?;
        }
        Ok(())
    }

    fn adopt_reservation(
        &self,
        image: &ReservationImage,
        has_socket: impl Fn(RelayedAddr) -> bool,
    ) -> Result<(), SnapshotError> {
        let expires_ns = plausible(image.expires_ns)?;
        if image.user.len() > MAX_USERNAME {
            return Err(SnapshotError::Contradiction("a user's name is too long"));
        }
        let Some(lease) = self.relays.claim_port(image.relay, image.port) else { return Ok(()) };
        let user = Arc::clone(&image.user);
        let reservation = Reservation { relay: image.relay, lease, user, expires_ns };
        if has_socket(reservation.address()) {
            self.reservations.hold(image.token, reservation);
        }
        Ok(())
    }

    fn adopt_foreign(&self, relay: IpAddr, ports: &[(u64, u16)]) -> Result<(), SnapshotError> {
        for (until_ns, port) in ports {
            let until_ns = plausible(*until_ns)?;
            if let Some(lease) = self.relays.claim_port(relay, *port) {
                lease.leave_to_others(until_ns);
            }
        }
        Ok(())
    }
}
