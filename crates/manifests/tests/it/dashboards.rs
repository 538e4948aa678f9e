//! Every metric that the dashboard and the alerts name is one that a proxy or the control plane has.

use std::collections::BTreeSet;
use std::fs;

use keywheel_manifests::directory;

/// Every word that begins like a metric of ours.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("keywheel_")).map(str::to_owned).collect()
}

/// What the tables of `docs/` list.
fn documented() -> BTreeSet<String> {
    let docs = directory().join("../docs");
    let of_proxies = fs::read_to_string(docs.join("configuration.md")).unwrap();
    let mut known = metrics(&of_proxies);
    let serving = fs::read_to_string(docs.join("serving.md")).unwrap();
    let (_, table) = serving.split_once("| metric, after `keywheel_control_`").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    for row in table.lines().filter_map(|line| line.strip_prefix("| `")) {
        let name = format!("keywheel_control_{}", row.split('`').next().unwrap());
        if row.contains("| histogram") {
            known.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        }
        known.insert(name);
    }
    assert!(known.len() > 20, "only {known:?} were found");
    known
}

#[test]
fn every_metric_that_they_name_is_there() {
    let known = documented();
    for file in ["dashboards/grafana.json", "dashboards/alerts.yaml"] {
        let named = metrics(&fs::read_to_string(directory().join(file)).unwrap());
        assert!(named.len() >= 8, "{file} names only {named:?}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
}

#[test]
fn the_dashboard_is_json_and_every_panel_asks_something() {
    let text = fs::read_to_string(directory().join("dashboards/grafana.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 8);
    for panel in panels {
        let targets = panel["targets"].as_array().unwrap();
        assert!(
            targets
                .iter()
                .all(|target| target["expr"].as_str().is_some_and(|expr| expr.contains("keywheel_")))
        );
        assert!(!targets.is_empty(), "{}", panel["title"]);
    }
}
