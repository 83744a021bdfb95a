//! Every bound of the administration, with its unit and its reason.
//!
//! The relay asks here as well, so that a call by HTTP and one inside the process are refused alike; a test holds the
//! published document against what the API takes at the most.

use std::num::NonZeroU32;

/// Allocations or users of a page: some hundred kilobytes of JSON.
pub const MAX_PAGE: u32 = 500;
/// Entries of a page for which no number is asked.
pub const USUAL_PAGE: u32 = 100;
/// Entries that a page may skip: more than there can be allocations or users.
pub const MAX_OFFSET: u32 = 10_000_000;
/// Talkers of an answer.
pub const MAX_TALKERS: u32 = 500;
/// Talkers where no number is asked.
pub const USUAL_TALKERS: u32 = 10;
/// Ages (seconds) and rates (bits per second) of a filter: what is higher is no allocation's.
pub const MAX_NUMBER: u64 = 1_000_000_000_000_000;
/// Characters of a filter or a search: what has more is in no name and no address.
pub const MAX_TEXT: usize = 600;
/// Limit of an allocation or of a user's allocations, bits of payload per second: more is a slip of the pen. The
/// option `max-bitrate` has the same.
pub const MAX_BITS_PER_SEC: u64 = 1_000_000_000_000;
/// Time until a drain ends what is left, seconds: a week, longer than anybody waits.
pub const MAX_DEADLINE_SECS: u64 = 604_800;
/// Lifetime of time-limited credentials, seconds: a year. What lives longer is a user.
pub const MAX_TTL_SECS: u64 = 31_536_000;
/// Name in time-limited credentials, bytes: with the expiry it has to fit into USERNAME.
pub const MAX_CREDENTIAL_USER_BYTES: usize = 400;
/// Name of a user, bytes: what USERNAME may hold (RFC 8489 s. 14.3: fewer than 509).
pub const MAX_NAME_BYTES: usize = 508;
/// Password of a user, bytes.
pub const MAX_PASSWORD_BYTES: usize = 1024;
/// Body of a request, bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// Streams of events at once: one for each open dashboard.
pub const MAX_EVENT_STREAMS: usize = 32;
/// Samples of the counters that are kept for charts, one each five seconds: a quarter of an hour.
pub const HISTORY_SAMPLES: usize = 180;
/// Users of the database; one that is larger should not be embedded.
pub const MAX_USERS: u64 = 100_000;

/// Threads that work for HTTP: it must never take more of the machine than this.
pub const SERVING_THREADS: usize = 2;
/// Threads for what blocks: the users' database.
pub const BLOCKING_THREADS: usize = 2;
/// Connections that wait to be accepted, as the standard library has it.
pub const MAX_BACKLOG: i32 = 128;
/// Connections at once; further ones are closed without an answer.
pub const MAX_CONNECTIONS: u16 = 256;
/// Of these, for the host itself: whoever floods the API from outside does not shut its operator out.
pub const CONNECTIONS_FOR_LOOPBACK: u16 = 16;
/// Connections of one source at once.
pub const CONNECTIONS_PER_SOURCE: u16 = 32;
/// Connections of the host itself at once: a proxy there speaks for many.
pub const CONNECTIONS_PER_LOOPBACK: u16 = 128;
/// All headers of a request together, bytes.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Headers of a request.
pub const MAX_HEADERS: usize = 64;
/// Token, bytes: longer ones are none of ours, and not worth hashing.
pub const MAX_TOKEN_BYTES: usize = 512;
/// Wrong tokens that a source may present at once.
pub const WRONG_TOKENS_AT_ONCE: NonZeroU32 = NonZeroU32::new(10).expect("ten is not zero");
/// Buckets in which wrong tokens are counted; two sources share one by chance only.
pub const STRANGER_BUCKETS: usize = 4096;
/// Certificate or key, bytes: a long chain is a tenth of it.
pub const MAX_TLS_FILE_BYTES: u64 = 1 << 20;
/// Refused calls written down per second.
pub const LOGGED_REFUSALS_PER_SEC: NonZeroU32 = NonZeroU32::new(1).expect("one is not zero");
/// Refused calls written down at once.
pub const LOGGED_REFUSALS_AT_ONCE: NonZeroU32 = NonZeroU32::new(20).expect("twenty is not zero");
/// Path in a line of the audit trail, bytes: more than the longest name with its escapes.
pub const MAX_LOGGED_PATH_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value of this key, wherever it stands in the document below this name.
    fn bounds(value: &serde_json::Value, name: &str, key: &str, found: &mut Vec<u64>) {
        match value {
            serde_json::Value::Object(map) => {
                let is_named = map.get("name").is_some_and(|own| own == name);
                let named = map.get(name).into_iter().chain(map.get("schema").filter(|_| is_named));
                found.extend(named.filter_map(|schema| schema.get(key)?.as_u64()));
                map.values().for_each(|value| bounds(value, name, key, found));
            }
            serde_json::Value::Array(values) => {
                values.iter().for_each(|value| bounds(value, name, key, found));
            }
            _ => {}
        }
    }

    #[test]
    fn the_published_document_has_these_bounds() {
        let document = serde_json::from_str(&crate::openapi()).expect("JSON");
        for (name, key, bounds_of_it) in [
            ("offset", "maximum", vec![u64::from(MAX_OFFSET)]),
            ("limit", "maximum", vec![u64::from(MAX_PAGE), u64::from(MAX_TALKERS)]),
            ("min_age_secs", "maximum", vec![MAX_NUMBER]),
            ("max_age_secs", "maximum", vec![MAX_NUMBER]),
            ("min_bits_per_sec", "maximum", vec![MAX_NUMBER]),
            ("max_bits_per_sec", "maximum", vec![MAX_NUMBER, MAX_BITS_PER_SEC]),
            ("deadline_secs", "maximum", vec![MAX_DEADLINE_SECS]),
            ("ttl_secs", "maximum", vec![MAX_TTL_SECS]),
            ("search", "maxLength", vec![MAX_TEXT as u64]),
            ("password", "maxLength", vec![MAX_PASSWORD_BYTES as u64]),
        ] {
            let mut found = Vec::new();
            bounds(&document, name, key, &mut found);
            assert!(!found.is_empty(), "{name} has no {key}");
            assert!(found.iter().all(|bound| bounds_of_it.contains(bound)), "{name}: {found:?}");
        }
    }
}
