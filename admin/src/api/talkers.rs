//! Who sends most.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::extract::Query;
use crate::guard::{Needs, Read};
use crate::limits::{MAX_TALKERS, USUAL_TALKERS};
use crate::model::{Snapshot, Talker, Talkers};
use crate::problem::{Problem, Problems};
use crate::state::AppState;

/// How many to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TalkersQuery {
    /// Users in the answer; the default is 10.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// The users with the highest rates, each with all of its allocations, from a snapshot that is at most a
/// second old.
#[utoipa::path(
    get, path = "/v1/talkers", tag = "allocations", security(("token" = ["read"])),
    params(TalkersQuery),
    responses((status = 200, description = "The highest rate first", body = Talkers), Problems)
)]
pub async fn talkers(
    _: Needs<Read>,
    Query(query): Query<TalkersQuery>,
    State(shared): State<Arc<AppState>>,
) -> Result<Json<Talkers>, Problem> {
    let limit = query.limit.unwrap_or(USUAL_TALKERS);
    if !(1..=MAX_TALKERS).contains(&limit) {
        return Err(Problem::query(format!("limit is 1 to {MAX_TALKERS}")));
    }
    let snapshot = shared.relay.snapshot().await?;
    Ok(Json(by_user(&snapshot, limit as usize)))
}

fn by_user(snapshot: &Snapshot, limit: usize) -> Talkers {
    let mut users: HashMap<&str, Talker> = HashMap::new();
    for allocation in &snapshot.allocations {
        let talker = users.entry(&allocation.quota_user).or_insert_with(|| Talker {
            user: Arc::clone(&allocation.quota_user),
            allocations: 0,
            allocations_offloaded: 0,
            to_peer_bits_per_sec: 0,
            to_client_bits_per_sec: 0,
        });
        talker.allocations += 1;
        talker.allocations_offloaded += u64::from(allocation.offload.active);
        talker.to_peer_bits_per_sec += allocation.to_peer_bits_per_sec;
        talker.to_client_bits_per_sec += allocation.to_client_bits_per_sec;
    }
    let total = users.len() as u64;
    let mut talkers: Vec<Talker> = users.into_values().collect();
    // The same order each time, also among equals.
    talkers.sort_unstable_by(|one, other| {
        (Reverse(rate(one)), &one.user).cmp(&(Reverse(rate(other)), &other.user))
    });
    talkers.truncate(limit);
    Talkers { as_of_unix_millis: snapshot.as_of_unix_millis, total, talkers }
}

fn rate(talker: &Talker) -> u64 {
    talker.to_peer_bits_per_sec.saturating_add(talker.to_client_bits_per_sec)
}
