//! What is wrong, from what was seen. Pure.

use keywheel_api::{Proxy, ProxyState, Ring, RingSigningKey, SigningKeyState};
use serde::Serialize;

use super::envoy::{Plugin, Seen};

/// A clock that differs by more than this makes deadlines come early or late, in milliseconds.
const SKEW: u64 = 2_000;
/// A proxy hears of the control plane at least every 25 seconds.
const OLD_RING: u64 = 120;
const NAMED: usize = 5;

/// What was seen.
pub(super) struct Facts {
    pub(super) ring: Ring,
    pub(super) signing_keys: Vec<RingSigningKey>,
    /// Keys of the ring whose rotation is overdue.
    pub(super) overdue: Vec<String>,
    /// The checks that `/readyz` says failed.
    pub(super) not_ready: Vec<String>,
    pub(super) listener: RingListener,
    pub(super) envoys: Vec<Envoy>,
}

pub(super) enum RingListener {
    Failed(String),
    /// It does not take what this command shows, which says nothing of what proxies show.
    KeepsOut(String),
    /// By so many milliseconds its clock is ahead of this machine's.
    Serves {
        ahead: i64,
    },
}

pub(super) struct Envoy {
    pub(super) url: String,
    pub(super) seen: Result<Seen, String>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) about: String,
    pub(super) what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) todo: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Good,
    Warning,
    Problem,
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = control_plane(facts);
    findings.push(ring_listener(&facts.listener));
    findings.extend(proxies(&facts.ring));
    findings.extend(trust(facts));
    findings.extend(overdue(&facts.overdue));
    for envoy in &facts.envoys {
        findings.extend(match &envoy.seen {
            Ok(seen) => of_envoy(&envoy.url, seen, facts),
            Err(cause) => vec![problem(
                &envoy.url,
                format!("its admin interface does not answer: {cause}"),
                "give --envoy the address of `admin` in its configuration, from where that can be reached",
            )],
        });
    }
    findings
}

fn control_plane(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.not_ready.is_empty() {
        findings.push(good(
            "control plane",
            format!("ready, ring {} at revision {}", facts.ring.name, facts.ring.revision),
        ));
    } else {
        findings.push(problem(
            "control plane",
            format!("not ready: {}", facts.not_ready.join(", ")),
            "its log names the cause; docs/databases.md says what it needs of the database",
        ));
    }
    if facts.ring.held {
        findings.push(problem(
            "control plane",
            "the ring is a restored copy that is published to nobody".into(),
            "merge what was revoked since with `keywheel restore` (docs/backup.md)",
        ));
    }
    findings
}

fn ring_listener(listener: &RingListener) -> Finding {
    match listener {
        RingListener::Failed(cause) => problem(
            "ring listener",
            cause.clone(),
            "proxies cannot fetch the ring there: look at --ring-listen, TLS, and the token or certificate that they use",
        ),
        RingListener::KeepsOut(cause) => problem(
            "ring listener",
            format!("doctor is not let in, so this says nothing of proxies: {cause}"),
            "give --ring-token-file a token for it, or --client-cert and --client-key, and look again",
        ),
        // A page may have been kept for a while, by a relay for hours; none is signed before its time.
        RingListener::Serves { ahead } if u64::try_from(*ahead).is_ok_and(|ahead| ahead > SKEW) => warning(
            "ring listener",
            format!("its page is signed {} s ahead of this machine's clock", ahead / 1000),
            "synchronise both by NTP: deadlines are kept by each proxy's own clock",
        ),
        RingListener::Serves { .. } => good("ring listener", "serves a signed page that verifies".into()),
    }
}

fn proxies(ring: &Ring) -> Vec<Finding> {
    let about = "proxies";
    let in_state = |state| ring.proxies.iter().filter(|proxy| proxy.state == state).collect::<Vec<_>>();
    let (current, lagging) = (in_state(ProxyState::Current), in_state(ProxyState::Lagging));
    let unproven = in_state(ProxyState::Unproven);
    let mut findings = Vec::new();
    if ring.proxies.is_empty() {
        findings.push(warning(
            about,
            "none has asked for the ring".into(),
            "start Envoy with envoy/envoy.yaml; if it runs, look at its cluster for the control plane and at its log",
        ));
    } else {
        findings.push(good(
            about,
            format!("{} of {} enforce revision {}", current.len(), ring.proxies.len(), ring.revision),
        ));
    }
    if !lagging.is_empty() {
        findings.push(warning(
            about,
            format!("{} lag behind: {}", lagging.len(), names(&lagging)),
            "ask again in a moment; who stays behind has a busy worker, or does not trust who signs: see its keywheel_ring_rejected",
        ));
    }
    if !unproven.is_empty() {
        findings.push(problem(
            about,
            format!("{} are silent, and may still accept what was revoked: {}", unproven.len(), names(&unproven)),
            "find out whether they run; those that are gone for good: `keywheel ring forget --silent-for 24h`",
        ));
    }
    let old: Vec<_> = current.iter().copied().filter(|proxy| proxy.age_seconds > OLD_RING).collect();
    if !old.is_empty() {
        findings.push(warning(
            about,
            format!("{} have not heard a fresh word for minutes: {}", old.len(), names(&old)),
            "their calls end before an answer comes: a proxy or firewall between may cut requests that wait 25 s",
        ));
    }
    let here = env!("CARGO_PKG_VERSION");
    let others: Vec<_> = ring
        .proxies
        .iter()
        .filter(|proxy| proxy.filter.strip_prefix("relay-").unwrap_or(&proxy.filter) != here)
        .collect();
    if !others.is_empty() {
        findings.push(warning(
            about,
            format!("{} run another version of the filter than {here}: {}", others.len(), names(&others)),
            "they work together; bring them to one version when you can",
        ));
    }
    findings
}

fn trust(facts: &Facts) -> Option<Finding> {
    let active = facts.signing_keys.iter().find(|key| key.state == SigningKeyState::Active)?;
    let without: Vec<_> = facts
        .ring
        .proxies
        .iter()
        .filter(|proxy| proxy.state != ProxyState::Expired)
        .filter(|proxy| proxy.trust.as_ref().is_some_and(|trust| !trust.contains(&active.id)))
        .collect();
    Some(if without.is_empty() {
        good("signing keys", format!("{} signs, and no proxy is known not to trust it", active.id))
    } else {
        problem(
            "signing keys",
            format!("{} do not trust {}, which signs: {}", without.len(), active.id, names(&without)),
            "add the key to their `control.trust` (`keywheel ring trust` prints it): until then they take no change",
        )
    })
}

fn overdue(keys: &[String]) -> Option<Finding> {
    if keys.is_empty() {
        return None;
    }
    let shown = keys.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    Some(warning(
        "rotations",
        format!("{} keys are overdue: {shown}{}", keys.len(), more(keys.len())),
        "deposit their next versions (`keywheel key deposit`), or rotate them",
    ))
}

fn of_envoy(url: &str, seen: &Seen, facts: &Facts) -> Vec<Finding> {
    let plugins: Vec<&Plugin> = seen.plugins.iter().filter(|plugin| plugin.ring == facts.ring.name).collect();
    if plugins.is_empty() {
        let other = seen.plugins.iter().map(|plugin| plugin.ring.as_str()).collect::<Vec<_>>().join(", ");
        let what = if other.is_empty() {
            "no listener of it runs the filter".to_owned()
        } else {
            format!("its filter enforces another ring: {other}")
        };
        return vec![problem(
            url,
            what,
            "look for refused listeners in its log; envoy/envoy.yaml is complete",
        )];
    }
    let mut findings = Vec::new();
    for plugin in plugins {
        findings.extend(of_plugin(url, plugin, seen, facts));
    }
    for (reason, count) in &seen.rejected {
        findings.push(warning(
            url,
            format!("{count} documents were refused as `{reason}` since it started"),
            "docs/configuration.md, metrics, says what each reason means; what rises still is a fault, or an attack",
        ));
    }
    if findings.is_empty() {
        findings.push(good(url, format!("Envoy {} enforces ring {}", seen.version, facts.ring.name)));
    }
    findings
}

fn of_plugin(url: &str, plugin: &Plugin, seen: &Seen, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if plugin.fails_open {
        findings.push(problem(
            url,
            "a module that fails lets every request through (FAIL_OPEN)".into(),
            "set `failure_policy: FAIL_RELOAD`",
        ));
    }
    if !facts.ring.trust.iter().any(|key| plugin.trust.contains(key)) {
        findings.push(problem(
            url,
            "it trusts no key that signs this ring".into(),
            "put what `keywheel ring trust` prints into `control.trust`",
        ));
    }
    for cluster in plugin.clusters.iter().filter(|cluster| !seen.clusters.contains(cluster.as_str())) {
        findings.push(problem(
            url,
            format!("there is no cluster `{cluster}`, which the filter is to ask for the ring"),
            "define it, or name the right one in `control.clusters`; in Istio a Sidecar may hide it",
        ));
    }
    if plugin.mode.as_deref() == Some("observe") {
        findings.push(warning(
            url,
            "it observes only: no request is refused".into(),
            "set `mode: enforce` once what it counts is what you expect",
        ));
    }
    findings
}

fn names(proxies: &[&Proxy]) -> String {
    let names: Vec<_> = proxies.iter().take(NAMED).map(|proxy| proxy.node.as_str()).collect();
    names.join(", ") + &more(proxies.len())
}

fn more(count: usize) -> String {
    if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() }
}

fn good(about: &str, what: String) -> Finding {
    Finding { level: Level::Good, about: about.into(), what, todo: None }
}

fn warning(about: &str, what: String, todo: &str) -> Finding {
    Finding { level: Level::Warning, about: about.into(), what, todo: Some(todo.into()) }
}

fn problem(about: &str, what: String, todo: &str) -> Finding {
    Finding { level: Level::Problem, about: about.into(), what, todo: Some(todo.into()) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    fn proxy(node: &str, state: ProxyState) -> Proxy {
        let said = serde_json::json!({
            "node": node, "instance": "1", "filter": env!("CARGO_PKG_VERSION"), "vms": 3, "epoch": null,
            "stored": 7, "enforced": 7, "age_seconds": 1, "state": state, "trust": ["0011223344556677"],
            "first_seen": "2026-01-01T00:00:00Z", "last_seen": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value(said).unwrap()
    }

    fn facts(proxies: Vec<Proxy>) -> Facts {
        let ring = serde_json::json!({
            "name": "production", "epoch": "0199a3b4-0000-7000-8000-000000000001", "revision": 7,
            "key_prefix": "kw_live_", "entries": 3, "trust": [KEY], "created_at": "2026-01-01T00:00:00Z",
            "proxies": proxies,
        });
        let signing_key = serde_json::json!([{
            "id": "0011223344556677", "public_key": KEY, "state": "active",
            "created_at": "2026-01-01T00:00:00Z", "changed_at": "2026-01-01T00:00:00Z",
        }]);
        Facts {
            ring: serde_json::from_value(ring).unwrap(),
            signing_keys: serde_json::from_value(signing_key).unwrap(),
            overdue: Vec::new(),
            not_ready: Vec::new(),
            listener: RingListener::Serves { ahead: -300 },
            envoys: Vec::new(),
        }
    }

    fn envoy(plugin: Plugin) -> Envoy {
        let seen = Seen {
            version: "1.40.0".into(),
            plugins: vec![plugin],
            clusters: BTreeSet::from(["keywheel".to_owned()]),
            rejected: BTreeMap::new(),
        };
        Envoy { url: "http://127.0.0.1:9901".into(), seen: Ok(seen) }
    }

    fn sound() -> Plugin {
        Plugin {
            ring: "production".into(),
            trust: vec![KEY.into()],
            clusters: vec!["keywheel".into()],
            mode: None,
            fails_open: false,
        }
    }

    /// What is not good of it.
    fn amiss(facts: &Facts) -> Vec<(Level, String)> {
        let findings = judge(facts).into_iter().filter(|finding| finding.level != Level::Good);
        findings
            .map(|finding| {
                assert!(finding.todo.is_some(), "it does not say what to do: {}", finding.what);
                (finding.level, finding.what)
            })
            .collect()
    }

    #[test]
    fn nothing_is_amiss_where_all_is_well() {
        let mut facts = facts(vec![proxy("edge-1", ProxyState::Current)]);
        facts.envoys.push(envoy(sound()));
        assert_eq!(amiss(&facts), []);
    }

    #[test]
    fn who_does_not_obey_is_named() {
        let facts = facts(vec![
            proxy("edge-1", ProxyState::Current),
            proxy("edge-2", ProxyState::Lagging),
            proxy("edge-3", ProxyState::Unproven),
            proxy("edge-4", ProxyState::Expired),
        ]);
        let found = amiss(&facts);
        assert!(
            matches!(&found[..], [(Level::Warning, lag), (Level::Problem, silent)]
            if lag.contains("edge-2") && silent.contains("edge-3")),
            "{found:?}"
        );
    }

    #[test]
    fn a_proxy_that_does_not_trust_who_signs_is_a_problem() {
        let mut edge = proxy("edge-1", ProxyState::Current);
        edge.trust = Some(vec!["ffffffffffffffff".into()]);
        let found = amiss(&facts(vec![edge]));
        assert!(matches!(&found[..], [(Level::Problem, what)] if what.contains("edge-1")), "{found:?}");
    }

    #[test]
    fn a_clock_that_is_off_shows() {
        let mut facts = facts(vec![proxy("edge-1", ProxyState::Current)]);
        facts.listener = RingListener::Serves { ahead: -90_000 };
        assert!(amiss(&facts).is_empty(), "it was kept");
        facts.listener = RingListener::Serves { ahead: 90_000 };
        let found = amiss(&facts);
        assert!(matches!(&found[..], [(Level::Warning, what)] if what.contains("90 s")), "{found:?}");
    }

    #[test]
    fn what_is_unsafe_in_a_configuration_is_found() {
        let cases = [
            (Plugin { fails_open: true, ..sound() }, Level::Problem, "FAIL_OPEN"),
            (Plugin { trust: vec!["AAAA".into()], ..sound() }, Level::Problem, "trusts no key"),
            (Plugin { clusters: vec!["nowhere".into()], ..sound() }, Level::Problem, "nowhere"),
            (Plugin { mode: Some("observe".into()), ..sound() }, Level::Warning, "observes only"),
            (Plugin { ring: "staging".into(), ..sound() }, Level::Problem, "staging"),
        ];
        for (plugin, level, word) in cases {
            let mut facts = facts(vec![proxy("edge-1", ProxyState::Current)]);
            facts.envoys.push(envoy(plugin));
            let found = amiss(&facts);
            assert!(
                matches!(&found[..], [(found, what)] if *found == level && what.contains(word)),
                "{found:?}"
            );
        }
    }
}
