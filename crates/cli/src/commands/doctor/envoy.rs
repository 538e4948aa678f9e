//! What an Envoy's admin interface tells of the filter in it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::args::Connection;
use crate::failure::Failure;
use crate::http::{client, innermost, is_url};

const PATIENCE: Duration = Duration::from_secs(10);

/// Of the filter, and of how the clusters answer that it may ask.
const STATS: &str = r"^wasmcustom\.keywheel_|^cluster\..*\.upstream_(cx_connect_fail|cx_none_healthy|rq_401|rq_403|rq_404|rq_5xx|rq_pending_failure_eject)$";

/// One Envoy.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) version: String,
    pub(super) plugins: Vec<Plugin>,
    pub(super) clusters: BTreeMap<String, Calls>,
    /// What the filter tells of each ring.
    pub(super) rings: BTreeMap<String, Told>,
    /// It may leave out statistics, so that one that is not there says nothing.
    pub(super) picks_stats: bool,
}

/// A filter of ours in one of its listeners.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plugin {
    pub(super) ring: String,
    pub(super) trust: Vec<String>,
    pub(super) clusters: Vec<String>,
    pub(super) mode: Option<String>,
    pub(super) fails_open: bool,
    /// After how long without news it refuses every request, as it is written there.
    pub(super) refuses_after: Option<String>,
}

/// The filter's statistics of one ring, since Envoy started.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The gauges are there from the first whole ring on, which may be at revision 0.
    pub(super) revision: Option<u64>,
    pub(super) age_seconds: u64,
    /// Calls that failed.
    pub(super) failures: u64,
    /// How many documents it refused, by reason.
    pub(super) rejected: BTreeMap<String, u64>,
}

/// What became of the calls to a cluster, since Envoy started.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) failed_connections: u64,
    /// Calls for which it knew no address.
    pub(super) without_address: u64,
    pub(super) unauthorized: u64,
    pub(super) forbidden: u64,
    pub(super) not_found: u64,
    /// Calls that were answered with 5xx, or broke off: Envoy counts them alike.
    pub(super) broken: u64,
}

/// What it says, or why it says nothing.
pub(super) async fn look(url: &str, connection: &Connection) -> Result<Result<Seen, String>, Failure> {
    let url = url.trim_end_matches('/');
    if !is_url(url) {
        return Err(Failure::EnvoyUrl(url.to_owned()));
    }
    let http = client(connection, url)?.timeout(PATIENCE).build();
    let http = match http {
        Ok(http) => http,
        Err(error) => return Ok(Err(innermost(&error))),
    };
    let read = async |request: reqwest::RequestBuilder| -> Result<Value, String> {
        let answer = request.send().await;
        let answer =
            answer.and_then(reqwest::Response::error_for_status).map_err(|error| innermost(&error))?;
        answer.json().await.map_err(|error| innermost(&error))
    };
    let ask = async |path: &str| read(http.get(format!("{url}{path}"))).await;
    let looking = async {
        let (info, dump) = (ask("/server_info").await?, ask("/config_dump").await?);
        let clusters = ask("/clusters?format=json").await?;
        let stats = http.get(format!("{url}/stats")).query(&[("format", "json"), ("filter", STATS)]);
        let stats = read(stats).await?;
        Ok(seen(&info, &dump, &clusters, &stats))
    };
    Ok(looking.await)
}

fn seen(info: &Value, dump: &Value, clusters: &Value, stats: &Value) -> Seen {
    let mut plugins = Vec::new();
    find(dump, &mut plugins);
    let stats = stats["stats"].as_array().into_iter().flatten();
    // Histograms have no name here. Envoy leaves a 0 of some out.
    let stats: BTreeMap<&str, u64> = stats
        .filter_map(|stat| Some((stat["name"].as_str()?, stat["value"].as_u64().unwrap_or_default())))
        .collect();
    let statuses = clusters["cluster_statuses"].as_array().into_iter().flatten();
    let clusters = statuses.filter_map(|cluster| {
        let name = cluster["name"].as_str()?;
        let observed = cluster["observability_name"].as_str().unwrap_or(name);
        Some((name.to_owned(), calls(&observed.replace(':', "_"), &stats)))
    });
    Seen {
        // <commit>/<version>/<status>/<build>/<tls>
        version: info["version"].as_str().and_then(|text| text.split('/').nth(1)).unwrap_or("?").to_owned(),
        plugins,
        clusters: clusters.collect(),
        rings: rings(&stats),
        picks_stats: dump["configs"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|part| part.pointer("/bootstrap/stats_config/stats_matcher").is_some()),
    }
}

/// The name under which the statistics tell of a ring, as the filter writes it.
pub(super) fn label(ring: &str) -> String {
    ring.replace('.', "_")
}

/// Everything that is a Wasm plugin and whose configuration names a ring.
fn find(value: &Value, plugins: &mut Vec<Plugin>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| find(item, plugins)),
        Value::Object(fields) => {
            // A listener stands in the dump as it was given, and again as it runs.
            if fields.contains_key("vm_config")
                && let Some(plugin) = plugin(value)
                && !plugins.contains(&plugin)
            {
                plugins.push(plugin);
            }
            fields.values().for_each(|field| find(field, plugins));
        }
        _ => {}
    }
}

fn plugin(config: &Value) -> Option<Plugin> {
    let given = &config["configuration"]["value"];
    // Istio hands JSON over in a string.
    let parsed = given.as_str().and_then(|text| serde_json::from_str(text).ok());
    let own = parsed.as_ref().unwrap_or(given);
    let texts = |value: &Value| {
        let items = value.as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    Some(Plugin {
        ring: own["ring"].as_str()?.to_owned(),
        trust: texts(&own["control"]["trust"]),
        clusters: texts(&own["control"]["clusters"]),
        mode: own["mode"].as_str().map(str::to_owned),
        fails_open: config["failure_policy"] == "FAIL_OPEN" || config["fail_open"] == true,
        refuses_after: own["stale"]["after"]
            .as_str()
            .filter(|_| own["stale"]["then"] == "refuse")
            .map(str::to_owned),
    })
}

/// `wasmcustom.keywheel_ring_rejected.ring.<ring>.reason.<reason>`
fn rings(stats: &BTreeMap<&str, u64>) -> BTreeMap<String, Told> {
    let mut rings: BTreeMap<String, Told> = BTreeMap::new();
    for (name, value) in stats {
        let Some((metric, labels)) =
            name.strip_prefix("wasmcustom.keywheel_").and_then(|name| name.split_once(".ring."))
        else {
            continue;
        };
        let (ring, further) = labels.split_once('.').unwrap_or((labels, ""));
        let told = rings.entry(ring.to_owned()).or_default();
        match (metric, further.strip_prefix("reason.")) {
            ("ring_revision", _) => told.revision = Some(*value),
            ("ring_age_seconds", _) => told.age_seconds = *value,
            ("refresh_failures", _) => told.failures = *value,
            ("ring_rejected", Some(reason)) if *value > 0 => {
                told.rejected.insert(reason.to_owned(), *value);
            }
            _ => {}
        }
    }
    rings
}

fn calls(cluster: &str, stats: &BTreeMap<&str, u64>) -> Calls {
    let of = |what: &str| {
        let name = format!("cluster.{cluster}.upstream_{what}");
        stats.get(name.as_str()).copied().unwrap_or_default()
    };
    let without_address = of("cx_none_healthy");
    Calls {
        failed_connections: of("cx_connect_fail"),
        without_address,
        unauthorized: of("rq_401"),
        forbidden: of("rq_403"),
        not_found: of("rq_404"),
        // Envoy answers for who cannot be reached with a 503 of its own.
        broken: of("rq_5xx").saturating_sub(without_address + of("rq_pending_failure_eject")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_ring_and_each_cluster_has_its_own() {
        let stats = json!({"stats": [
            {"name": "wasmcustom.keywheel_ring_revision.ring.a_b", "value": 0},
            {"name": "wasmcustom.keywheel_ring_age_seconds.ring.a_b", "value": 4},
            {"name": "wasmcustom.keywheel_refresh_failures.ring.other", "value": 3},
            {"name": "wasmcustom.keywheel_ring_rejected.ring.other.reason.gap", "value": 2},
            {"name": "wasmcustom.keywheel_requests.ring.other.outcome.ring_unavailable", "value": 9},
            {"name": "cluster.outbound|7071||keywheel.upstream_cx_connect_fail", "value": 5},
            {"name": "cluster.outbound|7071||keywheel.upstream_rq_5xx", "value": 9},
            {"name": "cluster.outbound|7071||keywheel.upstream_rq_pending_failure_eject", "value": 5},
            {"name": "cluster.a_b.upstream_rq_401", "value": 1},
            {"histograms": {}},
        ]});
        let clusters = json!({"cluster_statuses": [
            {"name": "outbound|7071||keywheel", "observability_name": "outbound|7071||keywheel"},
            {"name": "a:b"},
        ]});
        let seen = seen(&json!({"version": "c/1.40.0/Clean"}), &json!({}), &clusters, &stats);
        let (a, other) = (&seen.rings[&label("a.b")], &seen.rings["other"]);
        assert_eq!((a.revision, a.age_seconds, a.failures), (Some(0), 4, 0));
        assert_eq!((other.revision, other.failures), (None, 3));
        assert_eq!(other.rejected, BTreeMap::from([("gap".to_owned(), 2)]));
        let calls = &seen.clusters["outbound|7071||keywheel"];
        assert_eq!((calls.failed_connections, calls.broken), (5, 4));
        assert_eq!(seen.clusters["a:b"].unauthorized, 1);
        assert!(!seen.picks_stats);
    }
}
