//! What is wrong, from what was seen. Pure.

use std::collections::BTreeSet;

use keywheel_api::{
    FollowsCanary, Promote, Proxy, ProxyState, Ring, RingSigningKey, SigningKeyState, Timestamp,
};
use serde::Serialize;

use super::super::key::{span, when};
use super::envoy::{Calls, Plugin, Seen, Told, label};
use crate::args::duration;
use crate::output::counted;

/// A clock that differs by more than this makes deadlines come early or late, in milliseconds.
const SKEW: u64 = 2_000;
/// A proxy hears of the control plane at least every 25 seconds.
const OLD_RING: u64 = 120;
/// As its filter tells of it, where what it asks may be a relay, in seconds.
const OLD_HELD_RING: u64 = 60;
/// What is to be promoted is so within a second of its time; clocks may differ, in seconds.
const LATE: i64 = 60;
/// A proxy that is silent for less is not taken for gone, in seconds.
const MAY_BE_SILENT: u64 = 60;
const NAMED: usize = 5;

/// What was seen.
pub(super) struct Facts {
    pub(super) now: Timestamp,
    pub(super) ring: Ring,
    /// The ring's canary, if it has one and the token may see it.
    pub(super) canary: Option<Ring>,
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
    findings.extend(proxies(&facts.ring, facts.now));
    findings.extend(canary(facts));
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

fn proxies(ring: &Ring, now: Timestamp) -> Vec<Finding> {
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
    }
    let expired = in_state(ProxyState::Expired);
    // Who refuses everything by himself holds up no proof.
    let count = ring.proxies.len() - expired.len();
    let of = format!("{} of {count} enforce revision {}", current.len(), ring.revision);
    if count > 0 && current.len() == count {
        findings.push(good(about, of.clone()));
    }
    // It is said once, beside the worst of those that do not.
    let mut of = Some(format!("{of}; "));
    if !unproven.is_empty() {
        let of = of.take().unwrap_or_default();
        findings.push(problem(
            about,
            format!(
                "{of}{} silent, and may still accept what was revoked: {}",
                counted(unproven.len(), "is", "are"),
                names(&unproven)
            ),
            &format!(
                "find out whether they run; those that are gone for good: {}",
                forget(&ring.name, &unproven, now)
            ),
        ));
    }
    if !lagging.is_empty() {
        let of = of.take().unwrap_or_default();
        findings.push(warning(
            about,
            format!("{of}{} behind: {}", counted(lagging.len(), "lags", "lag"), names(&lagging)),
            "ask again in a moment; who stays behind has a busy worker, or does not trust who signs: see its keywheel_ring_rejected",
        ));
    }
    if !expired.is_empty() {
        let refuse = format!(
            "{} every request, not having heard anything for too long: {}",
            counted(expired.len(), "refuses", "refuse"),
            names(&expired)
        );
        let todo = format!(
            "if they run, mend their way to the control plane; those that are gone for good: {}",
            forget(&ring.name, &expired, now)
        );
        findings.push(warning(about, refuse, &todo));
    }
    let old: Vec<_> = current.iter().copied().filter(|proxy| proxy.age_seconds > OLD_RING).collect();
    if !old.is_empty() {
        findings.push(warning(
            about,
            format!("{} not heard a fresh word for minutes: {}", counted(old.len(), "has", "have"), names(&old)),
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
            format!(
                "{} another version of the filter than {here}: {}",
                counted(others.len(), "runs", "run"),
                names(&others)
            ),
            "they work together; bring them to one version when you can",
        ));
    }
    findings
}

/// The command that forgets these proxies, and none that was heard of since.
fn forget(ring: &str, silent: &[&Proxy], now: Timestamp) -> String {
    let since =
        |proxy: &&Proxy| u64::try_from(now.duration_since(proxy.last_seen).as_secs()).unwrap_or_default();
    let shortest = silent.iter().map(since).min().unwrap_or_default().max(MAY_BE_SILENT);
    // In the largest unit that there is one of, down: a round number, and all of them are silent for longer.
    let unit =
        [24 * 60 * 60, 60 * 60, 60].into_iter().find(|unit| shortest >= *unit).unwrap_or(MAY_BE_SILENT);
    format!("`keywheel ring forget {ring} --silent-for {}`", span(shortest / unit * unit))
}

/// What waits in the ring's canary, and what it waits for.
fn canary(facts: &Facts) -> Option<Finding> {
    let about = "canary";
    let (follows, name) = facts.ring.follows.as_ref().zip(facts.ring.has_canary.as_ref())?;
    let FollowsCanary { promote, waiting, next_at, pause_seconds: _ } = follows;
    let Some(next_at) = next_at.filter(|_| *waiting > 0) else {
        return Some(good(about, format!("nothing waits in {name}")));
    };
    let ring = &facts.ring.name;
    let waits = format!("{} in {name}", counted(*waiting, "version waits", "versions wait"));
    let at_once = format!("`keywheel ring promote {ring}` brings all of them to {ring} at once");
    if facts.now.duration_since(next_at).as_secs() > LATE {
        return Some(problem(
            about,
            format!("{waits}, though the pause of the first was over at {}", when(next_at)),
            &format!("the control plane's log says why it promotes nothing; {at_once}"),
        ));
    }
    let until = format!("the first until {} at the latest", when(next_at));
    let (Promote::WhenEnforced, Some(canary)) = (promote, &facts.canary) else {
        return Some(good(about, format!("{waits}, {until}")));
    };
    let is_there = |proxy: &Proxy| matches!(proxy.state, ProxyState::Current | ProxyState::Lagging);
    if !canary.proxies.iter().any(is_there) {
        return Some(warning(
            about,
            format!("{waits}, {until}, since none of its proxies is there to enforce them"),
            &format!("start the proxies that follow {name}; {at_once}"),
        ));
    }
    let behind = |proxy: &&Proxy| {
        matches!(proxy.state, ProxyState::Lagging | ProxyState::Unproven) && proxy.enforced < canary.revision
    };
    let behind: Vec<_> = canary.proxies.iter().filter(behind).collect();
    Some(if behind.is_empty() {
        good(about, format!("{waits}, {until}"))
    } else {
        warning(
            about,
            format!("{waits}, {until}, since proxies of it lag or are silent: {}", names(&behind)),
            &format!("`keywheel doctor {name}` says what to do about them; {at_once}"),
        )
    })
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
            format!(
                "{} not trust {}, which signs: {}",
                counted(without.len(), "does", "do"),
                active.id,
                names(&without)
            ),
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
        format!("{} overdue: {shown}{}", counted(keys.len(), "key is", "keys are"), more(keys.len())),
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
            format!("its filter is configured for another ring: {other}")
        };
        return vec![problem(
            url,
            what,
            "look for refused listeners in its log; envoy/envoy.yaml is complete",
        )];
    }
    let mut findings: Vec<_> =
        plugins.iter().flat_map(|plugin| of_plugin(url, plugin, seen, facts)).collect();
    let told = seen.rings.get(&label(&facts.ring.name));
    match told.and_then(|told| Some((told, told.revision?))) {
        Some((told, revision)) => {
            findings.extend(of_held(url, &plugins, told, revision, seen, facts));
            if findings.is_empty() {
                let ring = &facts.ring.name;
                findings.push(good(
                    url,
                    format!("Envoy {} enforces ring {ring} at revision {revision}", seen.version),
                ));
            }
        }
        None if told.is_none() && seen.picks_stats => findings.push(warning(
            url,
            format!(
                "Envoy {} is configured for ring {}; whether it enforces it cannot be seen: no statistic of the filter is there",
                seen.version, facts.ring.name
            ),
            "let its `stats_matcher` include the prefix `wasmcustom.keywheel_`, and look again",
        )),
        None => findings.push(without_ring(url, &plugins, told, seen, facts)),
    }
    findings
}

/// It answers nobody.
fn without_ring(url: &str, plugins: &[&Plugin], told: Option<&Told>, seen: &Seen, facts: &Facts) -> Finding {
    let observes = plugins.iter().all(|plugin| plugin.mode.as_deref() == Some("observe"));
    let follows = if observes { "can judge no request" } else { "answers each request with 503" };
    let symptoms = symptoms(plugins, told, seen);
    let what = format!("it has no ring, and {follows}: {}", told_of(&symptoms));
    // What its configuration lacks has a finding of its own, and is the cause of what is seen.
    let explained = plugins.iter().any(|plugin| {
        let asks_in_vain = !plugin.clusters.is_empty() && missing(plugin, seen).eq(&plugin.clusters);
        asks_in_vain || !trusts(plugin, facts)
    });
    let todo = if explained { "mend its configuration, as said beside this" } else { symptoms[0].todo };
    problem(url, what, todo)
}

/// It has a ring, which may be an old one.
fn of_held(
    url: &str,
    plugins: &[&Plugin],
    told: &Told,
    revision: u64,
    seen: &Seen,
    facts: &Facts,
) -> Vec<Finding> {
    let of = format!("revision {revision} of ring {}", facts.ring.name);
    let enforces = if revision < facts.ring.revision {
        format!("it enforces {of}, and the control plane is at {}", facts.ring.revision)
    } else {
        format!("it enforces {of}")
    };
    // A pushed ring is as old as the last push.
    let asks = plugins.iter().any(|plugin| !plugin.clusters.is_empty());
    let limits = plugins.iter().filter_map(|plugin| duration(plugin.refuses_after.as_deref()?).ok());
    let refuses = limits.min().is_some_and(|limit| told.age_seconds >= limit.as_secs());
    if refuses || asks && told.age_seconds > OLD_HELD_RING {
        let symptoms = symptoms(plugins, Some(told), seen);
        let why = format!("the last news of it is {} old: {}", span(told.age_seconds), told_of(&symptoms));
        let todo = symptoms[0].todo;
        return vec![if refuses {
            problem(url, format!("it has {of}, and answers each request with 503, since {why}"), todo)
        } else {
            warning(url, format!("{enforces}; {why}"), todo)
        }];
    }
    let mut findings = Vec::new();
    if revision < facts.ring.revision {
        let todo = if asks {
            "ask again in a moment; if it stays behind, its log says why it takes no change"
        } else {
            "`keywheel ring push` brings it there"
        };
        findings.push(warning(url, enforces, todo));
    }
    for (reason, count) in &told.rejected {
        findings.push(warning(
            url,
            format!("{} since it started", refused_as(reason, *count)),
            "docs/configuration.md, metrics, says what each reason means; what rises still is a fault, or an attack",
        ));
    }
    findings
}

/// What shows why it gets no ring, or no news of it.
struct Symptom {
    what: String,
    todo: &'static str,
}

/// The most telling first, and never none. All are counted since Envoy started, so that what was mended since may be
/// among them.
fn symptoms(plugins: &[&Plugin], told: Option<&Told>, seen: &Seen) -> Vec<Symptom> {
    let rejected = told.into_iter().flat_map(|told| &told.rejected);
    let mut symptoms: Vec<_> = rejected
        .map(|(reason, count)| Symptom {
            what: refused_as(reason, *count),
            todo: match reason.as_str() {
                "untrusted_signer" => "put what `keywheel ring trust` prints into `control.trust`",
                _ => "docs/configuration.md, metrics, says what each reason means",
            },
        })
        .collect();
    let clusters: BTreeSet<&String> = plugins.iter().flat_map(|plugin| &plugin.clusters).collect();
    let asked = clusters.iter().filter_map(|name| Some(of_calls(name, seen.clusters.get(*name)?)));
    let mut ranked: Vec<_> = asked.flat_map(|symptoms| symptoms.into_iter().enumerate()).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    symptoms.extend(ranked.into_iter().filter_map(|(_, symptom)| symptom));
    if symptoms.is_empty() {
        symptoms.push(match told {
            _ if clusters.is_empty() => Symptom {
                what: "it asks nobody, so it is to be pushed".into(),
                todo: "push it (`keywheel ring push`), or name a cluster in `control.clusters`",
            },
            Some(told) if told.failures > 0 => Symptom {
                what: format!("{} for it failed", counted(told.failures, "call", "calls")),
                todo: "its log has a line of the filter that says why",
            },
            _ => Symptom {
                what: "nothing shows that it tried to get it".into(),
                todo: "if it has just started, ask again in a moment; if not, its log says what became of the module",
            },
        });
    }
    symptoms
}

/// In the order in which they tell: who answered is there, and what an answer says goes before its absence.
fn of_calls(cluster: &str, calls: &Calls) -> [Option<Symptom>; 6] {
    let symptom = |count: u64, what: String, todo| (count > 0).then_some(Symptom { what, todo });
    let answered = |status: u16, count: u64, todo| {
        let what = format!("cluster `{cluster}` answered {} with {status}", counted(count, "call", "calls"));
        symptom(count, what, todo)
    };
    let Calls { failed_connections, without_address, unauthorized, forbidden, not_found, broken } = *calls;
    [
        answered(
            401,
            unauthorized,
            "have Envoy send a token of role `proxy`, or show a certificate, that the listener takes: docs/serving.md, Envoy; for a relay docs/relay.md",
        ),
        answered(
            403,
            forbidden,
            "have Envoy send a token of role `proxy` that is not limited to other rings: docs/serving.md, Envoy",
        ),
        answered(
            404,
            not_found,
            "the server there has no such ring: look at `ring` in the configuration, at the cluster's address, and at the ring of a relay",
        ),
        symptom(
            without_address,
            format!(
                "no address was known for {} to cluster `{cluster}`",
                counted(without_address, "call", "calls")
            ),
            "look at the host name in the cluster, and whether it resolves where Envoy runs",
        ),
        symptom(
            failed_connections,
            format!(
                "{} to cluster `{cluster}` failed",
                counted(failed_connections, "connection", "connections")
            ),
            "start what listens there, or mend the cluster's address, its TLS, or what is between",
        ),
        symptom(
            broken,
            format!("{} to cluster `{cluster}` broke off or got 5xx", counted(broken, "call", "calls")),
            "the log of the server there says why; a relay without a ring answers 503, and a listener with TLS breaks off who comes without",
        ),
    ]
}

fn told_of(symptoms: &[Symptom]) -> String {
    symptoms.iter().map(|symptom| symptom.what.as_str()).collect::<Vec<_>>().join(", ")
}

fn refused_as(reason: &str, count: u64) -> String {
    format!("{} refused as `{reason}`", counted(count, "document was", "documents were"))
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
    if !trusts(plugin, facts) {
        findings.push(problem(
            url,
            "it trusts no key that signs this ring".into(),
            "put what `keywheel ring trust` prints into `control.trust`",
        ));
    }
    for cluster in missing(plugin, seen) {
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

fn trusts(plugin: &Plugin, facts: &Facts) -> bool {
    facts.ring.trust.iter().any(|key| plugin.trust.contains(key))
}

/// Clusters that it is to ask and that are not there.
fn missing<'a>(plugin: &'a Plugin, seen: &'a Seen) -> impl Iterator<Item = &'a String> {
    plugin.clusters.iter().filter(|cluster| !seen.clusters.contains_key(*cluster))
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
    use std::collections::BTreeMap;

    use super::*;

    const NOW: &str = "2026-01-01T00:03:20Z";
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
            now: NOW.parse().unwrap(),
            canary: None,
            ring: serde_json::from_value(ring).unwrap(),
            signing_keys: serde_json::from_value(signing_key).unwrap(),
            overdue: Vec::new(),
            not_ready: Vec::new(),
            listener: RingListener::Serves { ahead: -300 },
            envoys: Vec::new(),
        }
    }

    /// One that enforces what there is.
    fn envoy(plugin: Plugin) -> Envoy {
        let told = Told { revision: Some(7), age_seconds: 3, ..Told::default() };
        Envoy { url: "http://127.0.0.1:9901".into(), seen: Ok(seen(plugin, Calls::default(), Some(told))) }
    }

    fn seen(plugin: Plugin, calls: Calls, told: Option<Told>) -> Seen {
        Seen {
            version: "1.40.0".into(),
            plugins: vec![plugin],
            clusters: BTreeMap::from([("keywheel".to_owned(), calls)]),
            rings: told.into_iter().map(|told| ("production".to_owned(), told)).collect(),
            picks_stats: false,
        }
    }

    fn sound() -> Plugin {
        Plugin {
            ring: "production".into(),
            trust: vec![KEY.into()],
            clusters: vec!["keywheel".into()],
            mode: None,
            fails_open: false,
            refuses_after: None,
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
            matches!(&found[..], [(Level::Problem, silent), (Level::Warning, lag), (Level::Warning, expired)]
            if lag.contains("edge-2") && silent.contains("edge-3") && expired.contains("edge-4")),
            "{found:?}"
        );
    }

    #[test]
    fn a_count_that_is_not_whole_is_not_called_good_and_is_said_once() {
        for (states, amiss, said) in [
            (&[ProxyState::Lagging][..], true, "0 of 1 enforce revision 7; 1 lags behind: edge"),
            (&[ProxyState::Unproven], true, "0 of 1 enforce revision 7; 1 is silent"),
            (&[ProxyState::Lagging, ProxyState::Unproven], true, "0 of 2 enforce revision 7; 1 is silent"),
            (&[ProxyState::Current, ProxyState::Lagging], true, "1 of 2 enforce revision 7; 1 lags behind"),
            (&[ProxyState::Expired], true, "1 refuses every request"),
            // Who refuses everything enforces what he must.
            (&[ProxyState::Current, ProxyState::Expired], false, "1 of 1 enforce revision 7"),
        ] {
            let findings = proxies(
                &facts(states.iter().map(|state| proxy("edge", *state)).collect()).ring,
                NOW.parse().unwrap(),
            );
            let found: Vec<_> = findings.iter().filter(|finding| finding.what.contains(said)).collect();
            assert!(matches!(found[..], [one] if (one.level != Level::Good) == amiss), "{findings:?}");
            let counts = findings.iter().filter(|finding| finding.what.contains(" enforce revision "));
            assert!(counts.count() <= 1, "{findings:?}");
        }
    }

    #[test]
    fn who_has_no_ring_is_told_why_and_what_to_do() {
        let failed = |told: Told| Some(Told { failures: 7, ..told });
        let rejected = |reason: &str| {
            failed(Told { rejected: BTreeMap::from([(reason.to_owned(), 3)]), ..Told::default() })
        };
        let calls = Calls::default;
        for (calls, told, what, todo) in [
            (
                Calls { unauthorized: 7, ..calls() },
                failed(Told::default()),
                "cluster `keywheel` answered 7 calls with 401",
                "token of role `proxy`",
            ),
            // It was not there at first.
            (
                Calls { unauthorized: 1, failed_connections: 2, ..calls() },
                failed(Told::default()),
                "answered 1 call with 401, 2 connections to cluster `keywheel` failed",
                "certificate",
            ),
            (
                Calls { forbidden: 1, ..calls() },
                failed(Told::default()),
                "with 403",
                "limited to other rings",
            ),
            (Calls { not_found: 1, ..calls() }, failed(Told::default()), "with 404", "no such ring"),
            (Calls { without_address: 1, ..calls() }, failed(Told::default()), "no address", "resolves"),
            (
                Calls { failed_connections: 1, ..calls() },
                failed(Told::default()),
                "1 connection to",
                "listens",
            ),
            (Calls { broken: 1, ..calls() }, failed(Told::default()), "got 5xx", "a relay without a ring"),
            (calls(), failed(Told::default()), "7 calls for it failed", "its log"),
            (calls(), None, "nothing shows that it tried", "just started"),
            (
                calls(),
                rejected("untrusted_signer"),
                "3 documents were refused as `untrusted_signer`",
                "ring trust",
            ),
            (calls(), rejected("wrong_ring"), "refused as `wrong_ring`", "docs/configuration.md"),
        ] {
            let mut facts = facts(vec![proxy("edge-1", ProxyState::Current)]);
            facts.envoys.push(Envoy { url: "http://edge".into(), seen: Ok(seen(sound(), calls, told)) });
            let findings = judge(&facts);
            let found: Vec<_> = findings.iter().filter(|finding| finding.about == "http://edge").collect();
            let [found] = found[..] else { panic!("{what}: {found:?}") };
            assert_eq!(found.level, Level::Problem, "{what}");
            assert!(
                found.what.starts_with("it has no ring, and answers each request with 503: "),
                "{found:?}"
            );
            assert!(found.what.contains(what) && found.todo.as_ref().unwrap().contains(todo), "{found:?}");
        }
    }

    #[test]
    fn a_configuration_that_can_bring_no_ring_is_the_cause() {
        let nowhere = Plugin { clusters: vec!["nowhere".into()], ..sound() };
        let stranger = Plugin { trust: vec!["AAAA".into()], ..sound() };
        for (plugin, cause) in [(nowhere, "no cluster `nowhere`"), (stranger, "trusts no key")] {
            let mut facts = facts(vec![proxy("edge-1", ProxyState::Current)]);
            let calls = Calls { broken: 4, ..Calls::default() };
            facts.envoys.push(Envoy { url: "http://edge".into(), seen: Ok(seen(plugin, calls, None)) });
            let findings = judge(&facts);
            let found: Vec<_> = findings.iter().filter(|finding| finding.about == "http://edge").collect();
            let [first, second] = found[..] else { panic!("{cause}: {found:?}") };
            assert!(first.what.contains(cause) && second.what.contains("no ring"), "{found:?}");
            assert!(second.todo.as_ref().unwrap().contains("mend its configuration"), "{second:?}");
        }
    }

    #[test]
    fn what_an_envoy_holds_is_judged() {
        let held = |revision, age_seconds| Told { revision: Some(revision), age_seconds, ..Told::default() };
        let refuses = |after: &str| Plugin { refuses_after: Some(after.into()), ..sound() };
        let pushed = || Plugin { clusters: Vec::new(), ..sound() };
        let away = || Calls { failed_connections: 9, ..Calls::default() };
        let calls = Calls::default;
        for (plugin, calls, told, level, what) in [
            (
                sound(),
                calls(),
                held(7, 30),
                Level::Good,
                "Envoy 1.40.0 enforces ring production at revision 7",
            ),
            // The control plane was asked before.
            (sound(), calls(), held(8, 0), Level::Good, "at revision 8"),
            // It cannot be reached now and then; what counts is the news.
            (sound(), away(), held(7, 30), Level::Good, "at revision 7"),
            (
                sound(),
                calls(),
                held(5, 3),
                Level::Warning,
                "revision 5 of ring production, and the control plane is at 7",
            ),
            (
                sound(),
                away(),
                held(7, 90),
                Level::Warning,
                "is 1m30s old: 9 connections to cluster `keywheel` failed",
            ),
            (refuses("1h"), away(), held(5, 90), Level::Warning, "the control plane is at 7; the last news"),
            (refuses("1h"), away(), held(7, 3600), Level::Problem, "answers each request with 503, since"),
            (pushed(), calls(), held(7, 3600), Level::Good, "at revision 7"),
            (pushed(), calls(), held(6, 3600), Level::Warning, "the control plane is at 7"),
        ] {
            let mut facts = facts(vec![proxy("edge-1", ProxyState::Current)]);
            facts.envoys.push(Envoy { url: "http://edge".into(), seen: Ok(seen(plugin, calls, Some(told))) });
            let findings = judge(&facts);
            let found: Vec<_> = findings.iter().filter(|finding| finding.about == "http://edge").collect();
            assert!(matches!(found[..], [one] if one.level == level && one.what.contains(what)), "{found:?}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_not_called_enforced() {
        let mut facts = facts(vec![proxy("edge-1", ProxyState::Current)]);
        let seen = Seen { picks_stats: true, ..seen(sound(), Calls::default(), None) };
        facts.envoys.push(Envoy { url: "http://edge".into(), seen: Ok(seen) });
        let found = amiss(&facts);
        assert!(
            matches!(&found[..], [(Level::Warning, what)] if what.contains("is configured for ring production")),
            "{found:?}"
        );
    }

    #[test]
    fn refused_documents_show_where_the_ring_is_enforced() {
        let mut facts = facts(vec![proxy("edge-1", ProxyState::Current)]);
        let rejected = BTreeMap::from([("gap".to_owned(), 1)]);
        let told = Told { revision: Some(7), rejected, ..Told::default() };
        let seen = seen(sound(), Calls::default(), Some(told));
        facts.envoys.push(Envoy { url: "http://edge".into(), seen: Ok(seen) });
        let found = amiss(&facts);
        assert!(matches!(&found[..], [(Level::Warning, what)] if what.contains("`gap`")), "{found:?}");
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
    fn what_is_to_be_forgotten_fits_the_silence() {
        let todo = |last_seen: &[&str]| {
            let silent = last_seen
                .iter()
                .map(|at| Proxy { last_seen: at.parse().unwrap(), ..proxy("edge", ProxyState::Unproven) });
            let mut findings = judge(&facts(silent.collect())).into_iter();
            findings.find(|finding| finding.level == Level::Problem).unwrap().todo.unwrap()
        };
        for (last_seen, fits) in [
            (&["2026-01-01T00:00:00Z"][..], "forget production --silent-for 3m`"),
            (&["2026-01-01T00:00:00Z", "2025-12-01T00:00:00Z"], "--silent-for 3m`"),
            (&["2025-12-31T22:10:00Z"], "--silent-for 1h`"),
            (&["2025-12-01T23:10:00Z"], "--silent-for 30d`"),
            // Clocks that differ do not make it a rule that is refused.
            (&["2026-01-01T00:03:00Z"], "--silent-for 1m`"),
            (&["2026-01-01T00:05:00Z"], "--silent-for 1m`"),
        ] {
            let todo = todo(last_seen);
            assert!(todo.ends_with(fits), "{last_seen:?}: {todo}");
        }
    }

    #[test]
    fn what_waits_in_a_canary_is_told_and_so_is_who_holds_it_up() {
        let found = |waiting: u64, promote: &str, next_at: &str, proxies: Option<Vec<Proxy>>| {
            let mut facts = facts(vec![proxy("edge-1", ProxyState::Current)]);
            let next_at = (waiting > 0).then_some(next_at);
            let follows = serde_json::json!({
                "promote": promote, "pause_seconds": 900, "waiting": waiting, "next_at": next_at,
            });
            facts.ring.follows = serde_json::from_value(follows).unwrap();
            facts.ring.has_canary = Some("ahead".into());
            facts.canary = proxies.map(|proxies| Ring {
                name: "ahead".into(),
                revision: 8,
                proxies,
                ..facts.ring.clone()
            });
            let finding = canary(&facts).unwrap();
            assert_eq!(finding.level == Level::Good, finding.todo.is_none());
            (finding.level, finding.what)
        };
        let (soon, past) = ("2026-01-01T00:10:00Z", "2026-01-01T00:02:00Z");
        let enforces = Proxy { enforced: 8, ..proxy("ahead-1", ProxyState::Current) };
        let lags = proxy("ahead-2", ProxyState::Lagging);
        let silent = proxy("ahead-3", ProxyState::Unproven);
        let knew = Proxy { enforced: 8, ..proxy("ahead-4", ProxyState::Unproven) };
        let (enforced, soak) = ("when_enforced", "after_pause");
        for (waiting, promote, next_at, proxies, level, word) in [
            (0, enforced, soon, vec![], Level::Good, "nothing waits in ahead"),
            (
                1,
                enforced,
                soon,
                vec![enforces.clone(), knew.clone()],
                Level::Good,
                "1 version waits in ahead",
            ),
            (
                2,
                enforced,
                soon,
                vec![],
                Level::Warning,
                "2 versions wait in ahead, the first until 2026-01-01 00:10",
            ),
            (2, enforced, soon, vec![knew], Level::Warning, "none of its proxies is there"),
            (2, enforced, soon, vec![enforces.clone(), lags], Level::Warning, "silent: ahead-2"),
            (2, enforced, soon, vec![enforces, silent], Level::Warning, "silent: ahead-3"),
            (2, soak, soon, vec![], Level::Good, "2 versions wait"),
            (1, soak, past, vec![], Level::Problem, "was over at 2026-01-01 00:02"),
        ] {
            let (found, what) = found(waiting, promote, next_at, Some(proxies));
            assert!(found == level && what.contains(word), "{found:?} {what}");
        }
        assert_eq!(found(2, enforced, soon, None).0, Level::Good, "nothing is known of its proxies");
    }

    #[test]
    fn one_is_one_and_two_are_two() {
        let lagging = |count| vec![proxy("edge", ProxyState::Lagging); count];
        assert_eq!(amiss(&facts(lagging(1)))[0].1, "0 of 1 enforce revision 7; 1 lags behind: edge");
        assert_eq!(amiss(&facts(lagging(2)))[0].1, "0 of 2 enforce revision 7; 2 lag behind: edge, edge");
    }

    #[test]
    fn who_is_not_let_in_says_nothing_of_proxies() {
        let mut facts = facts(vec![proxy("edge-1", ProxyState::Current)]);
        facts.listener = RingListener::KeepsOut("it asks for a token".into());
        let found = judge(&facts).into_iter().find(|finding| finding.level == Level::Problem).unwrap();
        assert!(found.what.contains("doctor is not let in") && !found.todo.unwrap().contains("proxies"));
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
