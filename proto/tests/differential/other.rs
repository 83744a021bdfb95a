//! The other implementation, with the little driver it needs.

use std::net::SocketAddr;

use turn_server_proto::api::{Transmit, TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer;
use turn_server_proto::types::stun::TransportType;
use turn_server_proto::types::{AddressFamily, Instant};

use super::{REALM, SERVER, USERS, addr};

/// `turn-server-proto` in virtual time.
pub struct Other {
    server: TurnServer,
    elapsed_ns: i64,
    next_port: u16,
    relayed: Vec<SocketAddr>,
}

impl Other {
    pub fn new() -> Self {
        let mut server = TurnServer::new(TransportType::Udp, addr(SERVER), REALM.into());
        for (user, password) in USERS {
            server.add_user(user.into(), password.into());
        }
        Self { server, elapsed_ns: 0, next_port: 50_000, relayed: Vec::new() }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.elapsed_ns)
    }

    pub fn sleep(&mut self, secs: u64) {
        self.elapsed_ns += secs as i64 * 1_000_000_000;
        self.poll();
    }

    /// A datagram arrives; gives what left: source, destination, payload.
    pub fn receive(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
    ) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let now = self.now();
        let received = Transmit::new(bytes.to_vec(), TransportType::Udp, from, to);
        let mut sent: Vec<_> =
            self.server.recv(received, now).map(|built| built.build()).into_iter().collect();
        self.poll();
        while let Some(transmit) = self.server.poll_transmit(now) {
            sent.push(transmit);
        }
        sent.into_iter().map(|transmit| (transmit.from, transmit.to, transmit.data)).collect()
    }

    fn poll(&mut self) {
        let now = self.now();
        loop {
            match self.server.poll(now) {
                TurnServerPollRet::AllocateSocket {
                    transport,
                    listen_addr,
                    client_addr,
                    allocation_transport,
                    family,
                } => {
                    let ip = if family == AddressFamily::IPV4 { "192.0.2.1" } else { "2001:db8::1" };
                    let address = SocketAddr::new(ip.parse().expect("an IP"), self.next_port);
                    self.next_port += 1;
                    self.relayed.push(address);
                    self.server.allocated_socket(
                        transport,
                        listen_addr,
                        client_addr,
                        allocation_transport,
                        family,
                        Ok(address),
                        now,
                    );
                }
                TurnServerPollRet::SocketClose { listen_addr, .. } => {
                    self.relayed.retain(|address| *address != listen_addr);
                }
                TurnServerPollRet::WaitUntil(_) => return,
                other => panic!("nothing was asked over TCP: {other:?}"),
            }
        }
    }
}
