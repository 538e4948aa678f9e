//! What an Envoy's admin interface tells of the filter in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::args::Connection;
use crate::failure::Failure;
use crate::http::{client, innermost, is_url};

const PATIENCE: Duration = Duration::from_secs(10);

/// One Envoy.
pub(super) struct Seen {
    pub(super) version: String,
    pub(super) plugins: Vec<Plugin>,
    pub(super) clusters: BTreeSet<String>,
    /// How many documents it refused, by reason.
    pub(super) rejected: BTreeMap<String, u64>,
}

/// A filter of ours in one of its listeners.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plugin {
    pub(super) ring: String,
    pub(super) trust: Vec<String>,
    pub(super) clusters: Vec<String>,
    pub(super) mode: Option<String>,
    pub(super) fails_open: bool,
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
    let ask = async |path: &str| -> Result<Value, String> {
        let answer = http.get(format!("{url}{path}")).send().await;
        let answer =
            answer.and_then(reqwest::Response::error_for_status).map_err(|error| innermost(&error))?;
        answer.json().await.map_err(|error| innermost(&error))
    };
    let looking = async {
        let (info, dump) = (ask("/server_info").await?, ask("/config_dump").await?);
        let clusters = ask("/clusters?format=json").await?;
        let stats = ask("/stats?format=json&filter=keywheel_ring_rejected").await?;
        Ok(seen(&info, &dump, &clusters, &stats))
    };
    Ok(looking.await)
}

fn seen(info: &Value, dump: &Value, clusters: &Value, stats: &Value) -> Seen {
    let mut plugins = Vec::new();
    find(dump, &mut plugins);
    let names = clusters["cluster_statuses"].as_array().into_iter().flatten();
    Seen {
        // <commit>/<version>/<status>/<build>/<tls>
        version: info["version"].as_str().and_then(|text| text.split('/').nth(1)).unwrap_or("?").to_owned(),
        plugins,
        clusters: names.filter_map(|cluster| cluster["name"].as_str()).map(str::to_owned).collect(),
        rejected: rejected(stats),
    }
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
    })
}

/// `wasmcustom.keywheel_ring_rejected.ring.<ring>.reason.<reason>`
fn rejected(stats: &Value) -> BTreeMap<String, u64> {
    let stats = stats["stats"].as_array().into_iter().flatten();
    let counts = stats.filter_map(|stat| {
        let reason = stat["name"].as_str()?.rsplit_once(".reason.")?.1.to_owned();
        Some((reason, stat["value"].as_u64()?)).filter(|(_, count)| *count > 0)
    });
    let mut rejected = BTreeMap::new();
    for (reason, count) in counts {
        *rejected.entry(reason).or_insert(0) += count;
    }
    rejected
}
