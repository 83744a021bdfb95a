//! The metrics: well-formed, complete, and as many whatever the load.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::header;

use super::{Api, METRICS};

async fn scrape(api: &Api) -> String {
    let said = api.ask("GET", "/metrics", Some(METRICS), "").await;
    assert_eq!(said.header(header::CONTENT_TYPE), "text/plain; version=0.0.4; charset=utf-8");
    said.text
}

/// Names of time series, with their labels.
fn series(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').expect("a value").0.to_owned()).collect()
}

#[tokio::test]
async fn every_sample_has_a_type_a_help_and_a_number() {
    let text = scrape(&Api::new(10)).await;
    let mut types = BTreeMap::new();
    let mut helps = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(types.insert(name, kind).is_none(), "{name} has two types");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help");
            assert!(helps.insert(name) && help.ends_with('.'), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            let name = series.split('{').next().expect("a name");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let kind =
                types.get(name).or_else(|| types.get(base?)).unwrap_or_else(|| panic!("{name} has no type"));
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{line}");
            assert!(name.starts_with("turnpike_") || name.starts_with("process_"), "{name}");
        }
    }
    assert_eq!(types.keys().copied().collect::<BTreeSet<_>>(), helps);
    for name in [
        "turnpike_build_info",
        "turnpike_relayed_packets_total",
        "turnpike_relayed_bytes_total",
        "turnpike_rate_drops_total",
        "turnpike_verdicts_total",
        "turnpike_drops_total",
        "turnpike_allocations",
        "turnpike_allocations_created_total",
        "turnpike_errors_total",
        "turnpike_authentications_total",
        "turnpike_offload_active",
        "turnpike_offload_routes",
        "turnpike_offload_resync_differences_total",
        "turnpike_offload_heartbeat_age_seconds",
        "turnpike_worker_busy_seconds_total",
        "turnpike_worker_coalesce_seconds",
        "turnpike_socket_drops_total",
        "turnpike_stream_connections",
        "turnpike_stream_connections_opening",
        "turnpike_stream_pauses_total",
        "turnpike_stream_paused_seconds_total",
        "turnpike_relay_ports_used",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(types.contains_key(name), "{name} is missing");
    }
}

#[tokio::test]
async fn numbers_are_those_of_the_totals() {
    let api = Api::new(10);
    let text = scrape(&api).await;
    for expected in [
        "turnpike_allocations{state=\"userspace\"} 6",
        "turnpike_allocations{state=\"offloaded\"} 4",
        "turnpike_stream_connections{transport=\"tls\"} 2",
        "turnpike_tls_handshakes_total{version=\"1.3\",kind=\"full\"} 2",
        "turnpike_allocations_created_total 10",
        "turnpike_allocations_limit 20000",
        "turnpike_errors_total{method=\"allocate\",code=\"401\"} 10",
        "turnpike_authentications_total{result=\"accepted\"} 40",
        "turnpike_relay_ports_limit{address=\"192.0.2.10\"} 16384",
        "turnpike_worker_turn_duration_seconds_bucket{worker=\"0\",le=\"+Inf\"} 0",
        "turnpike_ready 1",
    ] {
        assert!(text.lines().any(|line| line == expected), "no {expected} in\n{text}");
    }
    assert!(text.contains("turnpike_drops_total{path=\"kernel\",reason=\"drop_rate_to_peer\"}"));
    assert!(!text.contains("verdict=\"drop_"));
}

#[tokio::test]
async fn series_are_as_many_with_a_thousand_allocations_and_name_nobody() {
    let few = series(&scrape(&Api::new(2)).await);
    let text = scrape(&Api::new(1000)).await;
    assert_eq!(few, series(&text));
    assert!(few.len() < 200, "{}", few.len());
    for user in ["alice", "bob", "img", "198.51."] {
        assert!(!text.contains(user), "{user}");
    }
}

#[tokio::test]
async fn the_api_counts_itself() {
    let api = Api::new(1);
    api.ask("GET", "/v1/status", Some("wrong"), "").await;
    api.get("/v1/status").await;
    let text = scrape(&api).await;
    assert!(text.contains("turnpike_admin_wrong_tokens_total 1\n"), "{text}");
    assert!(text.contains("turnpike_admin_requests_total{code=\"4xx\"} 1\n"), "{text}");
    assert!(text.contains("turnpike_admin_requests_total{code=\"2xx\"} 1\n"), "{text}");
}

#[tokio::test]
async fn the_documentation_has_every_metric_and_every_path() {
    let page = include_str!("../../../docs/admin-api.md");
    let text = scrape(&Api::new(1)).await;
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE turnpike_")?.split(' ').next()) {
        assert!(page.contains(&format!("`turnpike_{name}`")), "turnpike_{name} is not in docs/admin-api.md");
    }
    let document: serde_json::Value = serde_json::from_str(&crate::openapi()).expect("a document");
    for path in document["paths"].as_object().expect("paths").keys() {
        assert!(page.contains(path.as_str()), "{path} is not in docs/admin-api.md");
    }
}
