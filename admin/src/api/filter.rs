//! Which allocations a list shows, and in which order.

use std::cmp::Ordering;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::limits::{MAX_NUMBER, MAX_OFFSET, MAX_PAGE, MAX_TEXT, USUAL_PAGE};
use crate::model::{Allocation, AllocationPage, Snapshot, Transport};
use crate::problem::Problem;

/// What to list. All filters must match.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// A part of the user's name, of an address or of the id, in any case.
    #[param(max_length = 600)]
    search: Option<String>,
    /// The full name of the user, or the part of it that quotas count.
    #[param(max_length = 600)]
    user: Option<String>,
    /// The client: an IP address, a network (`192.0.2.0/24`), or an address with a port.
    #[param(max_length = 600)]
    client: Option<String>,
    /// A peer with a permission: an IP address or a network.
    #[param(max_length = 600)]
    peer: Option<String>,
    /// How the client talks to the server.
    #[param(inline)]
    transport: Option<Transport>,
    /// Whether the kernel forwards for it.
    offloaded: Option<bool>,
    /// Only those created at least this long ago, seconds.
    #[param(minimum = 0, maximum = 1_000_000_000_000_000_i64)]
    min_age_secs: Option<u64>,
    /// Only those created at most this long ago, seconds.
    #[param(minimum = 0, maximum = 1_000_000_000_000_000_i64)]
    max_age_secs: Option<u64>,
    /// At least this many bits of payload per second, both directions together.
    #[param(minimum = 0, maximum = 1_000_000_000_000_000_i64)]
    min_bits_per_sec: Option<u64>,
    /// At most this many bits of payload per second, both directions together.
    #[param(minimum = 0, maximum = 1_000_000_000_000_000_i64)]
    max_bits_per_sec: Option<u64>,
    /// By what to sort; the default is `created`.
    #[param(inline)]
    sort: Option<Sort>,
    /// In which direction; the default is `desc`.
    #[param(inline)]
    order: Option<Order>,
    /// Allocations in the answer; the default is 100.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// How many to skip. Between two pages the world moves on: there is no promise to see each
    /// allocation exactly once, except when sorting by `id`, where only what began or ended is
    /// shifted.
    #[param(minimum = 0, maximum = 10_000_000)]
    offset: Option<u32>,
}

/// By what to sort.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Sort {
    /// When it was created.
    #[default]
    Created,
    /// Payload bytes so far, both directions.
    Traffic,
    /// Payload bits per second now, both directions.
    Rate,
    /// Datagrams that its limit dropped.
    Drops,
    /// When it will expire.
    Expires,
    /// The user's name.
    User,
    /// The client's address.
    Client,
    /// The allocation's number: by worker, and as they were created.
    Id,
}

/// In which direction.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    /// Smallest first.
    Asc,
    /// Largest first.
    #[default]
    Desc,
}

/// A query whose values can be.
#[derive(Debug)]
pub struct Filter {
    query: ListQuery,
    search: Option<String>,
    client: Option<Place>,
    peer: Option<IpNet>,
    limit: usize,
    offset: usize,
}

#[derive(Debug, PartialEq)]
enum Place {
    Net(IpNet),
    Socket(SocketAddr),
}

impl ListQuery {
    /// Checks the values.
    ///
    /// # Errors
    /// Names the first parameter that can't be.
    pub fn checked(self) -> Result<Filter, Problem> {
        for (name, text) in
            [("search", &self.search), ("user", &self.user), ("client", &self.client), ("peer", &self.peer)]
        {
            if text.as_ref().is_some_and(|text| text.chars().count() > MAX_TEXT) {
                return Err(Problem::query(format!("{name} has at most {MAX_TEXT} characters")));
            }
        }
        for (name, value) in [
            ("min_age_secs", self.min_age_secs),
            ("max_age_secs", self.max_age_secs),
            ("min_bits_per_sec", self.min_bits_per_sec),
            ("max_bits_per_sec", self.max_bits_per_sec),
        ] {
            within(name, value.unwrap_or(0), 0, MAX_NUMBER)?;
        }
        let limit = within("limit", self.limit.unwrap_or(USUAL_PAGE), 1, MAX_PAGE)?;
        let offset = within("offset", self.offset.unwrap_or(0), 0, MAX_OFFSET)?;
        let client = self.client.as_deref().map(|text| {
            place(text)
                .ok_or_else(|| Problem::query("client is an address, a network, or an address with a port"))
        });
        let peer = self
            .peer
            .as_deref()
            .map(|text| net(text).ok_or_else(|| Problem::query("peer is an address or a network")));
        Ok(Filter {
            search: self.search.as_deref().map(str::to_lowercase),
            client: client.transpose()?,
            peer: peer.transpose()?,
            limit: limit as usize,
            offset: offset as usize,
            query: self,
        })
    }
}

fn within<N: PartialOrd + Display>(name: &str, value: N, least: N, most: N) -> Result<N, Problem> {
    if (&least..=&most).contains(&&value) {
        return Ok(value);
    }
    Err(Problem::query(format!("{name} is {least} to {most}")))
}

fn place(text: &str) -> Option<Place> {
    text.parse().map(Place::Socket).ok().or_else(|| net(text).map(Place::Net))
}

fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl Filter {
    /// The page of a snapshot.
    pub fn page(&self, snapshot: &Snapshot) -> AllocationPage {
        let now_secs = snapshot.as_of_unix_millis / 1000;
        let mut matching: Vec<&Allocation> =
            snapshot.allocations.iter().filter(|allocation| self.matches(allocation, now_secs)).collect();
        let count = matching.len();
        let order = |one: &&Allocation, other: &&Allocation| self.compare(one, other);
        // Only the page has to be in order: sorting all is what would be slow.
        let end = (self.offset + self.limit).min(count);
        if end < count {
            matching.select_nth_unstable_by(end, order);
        }
        let mut first = matching.into_iter().take(end).collect::<Vec<_>>();
        first.sort_unstable_by(order);
        AllocationPage {
            as_of_unix_millis: snapshot.as_of_unix_millis,
            total: snapshot.allocations.len() as u64,
            matching: count as u64,
            offset: self.offset as u64,
            allocations: first.into_iter().skip(self.offset).cloned().collect(),
        }
    }

    fn matches(&self, allocation: &Allocation, now_secs: u64) -> bool {
        let query = &self.query;
        let age_secs = now_secs.saturating_sub(allocation.created_unix_secs);
        let rate = rate(allocation);
        query.transport.is_none_or(|transport| transport == allocation.transport)
            && query.offloaded.is_none_or(|offloaded| offloaded == allocation.offload.active)
            && query.min_age_secs.is_none_or(|least| age_secs >= least)
            && query.max_age_secs.is_none_or(|most| age_secs <= most)
            && query.min_bits_per_sec.is_none_or(|least| rate >= least)
            && query.max_bits_per_sec.is_none_or(|most| rate <= most)
            && query
                .user
                .as_deref()
                .is_none_or(|user| *user == *allocation.user || *user == *allocation.quota_user)
            && self.client.as_ref().is_none_or(|client| match client {
                Place::Net(net) => net.contains(&allocation.client.ip()),
                Place::Socket(address) => *address == allocation.client,
            })
            && self.peer.is_none_or(|net| allocation.peers.iter().any(|peer| net.contains(peer)))
            && self.search.as_deref().is_none_or(|text| has_text(allocation, text))
    }

    fn compare(&self, one: &Allocation, other: &Allocation) -> Ordering {
        let sorted = match self.query.sort.unwrap_or_default() {
            Sort::Created => one.created_unix_secs.cmp(&other.created_unix_secs),
            Sort::Traffic => bytes(one).cmp(&bytes(other)),
            Sort::Rate => rate(one).cmp(&rate(other)),
            Sort::Drops => rate_drops(one).cmp(&rate_drops(other)),
            Sort::Expires => one.expires_unix_secs.cmp(&other.expires_unix_secs),
            Sort::User => one.quota_user.cmp(&other.quota_user),
            Sort::Client => one.client.cmp(&other.client),
            Sort::Id => Ordering::Equal,
        };
        // The same order each time, also among equals.
        let sorted = sorted.then(one.id.cmp(&other.id));
        match self.query.order.unwrap_or_default() {
            Order::Asc => sorted,
            Order::Desc => sorted.reverse(),
        }
    }
}

fn rate(allocation: &Allocation) -> u64 {
    allocation.to_peer_bits_per_sec.saturating_add(allocation.to_client_bits_per_sec)
}

fn bytes(allocation: &Allocation) -> u64 {
    allocation.to_peer.total().bytes.saturating_add(allocation.to_client.total().bytes)
}

fn rate_drops(allocation: &Allocation) -> u64 {
    allocation.to_peer.total().rate_drops.saturating_add(allocation.to_client.total().rate_drops)
}

fn has_text(allocation: &Allocation, lower_case: &str) -> bool {
    allocation.user.to_lowercase().contains(lower_case)
        || allocation.client.to_string().contains(lower_case)
        || allocation.relayed.iter().any(|address| address.to_string().contains(lower_case))
        || allocation.peers.iter().any(|peer| peer.to_string().contains(lower_case))
        || allocation.id.to_string().contains(lower_case)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AllocationId, OffloadState, Traffic, TrafficByPath};

    fn allocation(number: u64) -> Allocation {
        Allocation {
            id: AllocationId(number),
            user: format!("99:User{number}").into(),
            quota_user: format!("User{number}").into(),
            transport: if number.is_multiple_of(2) { Transport::Udp } else { Transport::Tcp },
            tls: None,
            client: SocketAddr::from(([198, 51, 100, number as u8], 4000)),
            server: SocketAddr::from(([192, 0, 2, 1], 3478)),
            proxy: None,
            relayed: vec![SocketAddr::from(([192, 0, 2, 1], 50_000 + number as u16))],
            relayed_transport: Transport::Udp,
            connections: 0,
            peers: vec![IpAddr::from([203, 0, 113, number as u8])],
            created_unix_secs: 1000 - number,
            expires_unix_secs: 2000,
            to_peer: TrafficByPath {
                userspace: Traffic { packets: 1, bytes: number * 10, rate_drops: 0 },
                kernel: Traffic { packets: 1, bytes: number, rate_drops: 0 },
            },
            to_client: TrafficByPath::default(),
            stream_drops: 0,
            to_peer_bits_per_sec: number * 100,
            to_client_bits_per_sec: 1,
            max_bits_per_sec: 0,
            permissions: 1,
            channels: 0,
            offload: OffloadState::default(),
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot { as_of_unix_millis: 1_000_000, serial: 1, allocations: (0..100).map(allocation).collect() }
    }

    /// The numbers of the allocations on a page.
    fn numbers(query: &str) -> Vec<u64> {
        let query: axum::extract::Query<ListQuery> =
            axum::extract::Query::try_from_uri(&format!("/?{query}").parse().expect("a path"))
                .expect("a query");
        let filter = query.0.checked().expect("it can be");
        filter.page(&snapshot()).allocations.iter().map(|allocation| allocation.id.0).collect()
    }

    #[test]
    fn filters_find_what_they_say() {
        assert_eq!(numbers("user=User7"), [7]);
        assert_eq!(numbers("user=99:User7"), [7]);
        assert_eq!(numbers("client=198.51.100.9"), [9]);
        assert_eq!(numbers("client=198.51.100.9:4000"), [9]);
        assert_eq!(numbers("client=198.51.100.9:4001"), [0_u64; 0]);
        assert_eq!(numbers("client=198.51.100.8/31&sort=id&order=asc"), [8, 9]);
        assert_eq!(numbers("peer=203.0.113.5"), [5]);
        assert_eq!(numbers("min_age_secs=99"), [99]);
        assert_eq!(numbers("max_age_secs=0"), [0]);
        assert_eq!(numbers("min_bits_per_sec=9901"), [99]);
        assert_eq!(numbers("max_bits_per_sec=1"), [0]);
        assert_eq!(numbers("transport=tcp&limit=500").len(), 50);
        assert_eq!(numbers("offloaded=true"), [0_u64; 0]);
        assert_eq!(numbers("search=uSER42"), [42]);
        assert_eq!(numbers("search=:50042"), [42]);
        assert_eq!(numbers("search=0000000000000063"), [99]);
    }

    #[test]
    fn pages_follow_each_other_in_order() {
        assert_eq!(numbers("sort=traffic&limit=3"), [99, 98, 97]);
        assert_eq!(numbers("sort=traffic&limit=3&offset=3"), [96, 95, 94]);
        assert_eq!(numbers("sort=rate&order=asc&limit=2&offset=98"), [98, 99]);
        assert_eq!(numbers("limit=2&offset=100"), [0_u64; 0]);
        assert_eq!(numbers("limit=2"), [0, 1], "the youngest first");
        assert_eq!(numbers("sort=expires&order=asc&limit=2"), [0, 1], "equals by number");
        assert_eq!(numbers("sort=user&order=asc&limit=3"), [0, 1, 10]);
    }

    #[test]
    fn values_that_cannot_be_are_named() {
        for (query, name) in [
            ("limit=0", "limit"),
            ("limit=501", "limit"),
            ("offset=10000001", "offset"),
            ("min_age_secs=1000000000000001", "min_age_secs"),
            ("client=nobody", "client"),
            ("peer=1.2.3.4:5", "peer"),
        ] {
            let query: axum::extract::Query<ListQuery> =
                axum::extract::Query::try_from_uri(&format!("/?{query}").parse().expect("a path"))
                    .expect("a query");
            let problem = format!("{:?}", query.0.checked().expect_err("it can't be"));
            assert!(problem.contains(name), "{problem}");
        }
    }
}
