//! What is wrong with an Envoy, from its configuration, its filter's figures and its clusters'.

use std::collections::BTreeSet;

use super::Facts;
use crate::args::duration;
use crate::commands::doctor::envoy::{Calls, Plugin, Seen, Told, label};
use crate::commands::doctor::finding::{Finding, good, problem, warning};
use crate::commands::key::span;
use crate::output::counted;

/// As its filter tells of it, where what it asks may be a relay, in seconds.
const OLD_HELD_RING: u64 = 60;

pub(super) fn of_envoy(url: &str, seen: &Seen, facts: &Facts) -> Vec<Finding> {
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
    let cause = cause(plugins, told, seen);
    let what = format!("it has no ring, and {follows}: {}", cause.what);
    // What its configuration lacks has a finding of its own, and is the cause of what is seen.
    let explained = plugins.iter().any(|plugin| {
        let asks_in_vain = !plugin.clusters.is_empty() && missing(plugin, seen).eq(&plugin.clusters);
        asks_in_vain || !trusts(plugin, facts)
    });
    let todo = if explained { "mend its configuration, as said beside this" } else { cause.todo };
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
        let Symptom { what, todo } = cause(plugins, Some(told), seen);
        let why = format!("the last news of it is {} old: {what}", span(told.age_seconds));
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

/// All that shows, and what to do about the most telling of it, which comes first. It is counted since Envoy started, so
/// that what was mended since may be in it.
fn cause(plugins: &[&Plugin], told: Option<&Told>, seen: &Seen) -> Symptom {
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
    if let Some(first) = symptoms.first() {
        let what: Vec<_> = symptoms.iter().map(|symptom| symptom.what.as_str()).collect();
        return Symptom { what: what.join(", "), todo: first.todo };
    }
    match told {
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
    }
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

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use keywheel_api::ProxyState;

    use super::super::tests::{KEY, amiss, facts, proxy};
    use super::super::{Envoy, judge};
    use super::*;
    use crate::commands::doctor::finding::Level;

    /// One that enforces what there is.
    pub(in super::super) fn envoy(plugin: Plugin) -> Envoy {
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

    pub(in super::super) fn sound() -> Plugin {
        Plugin {
            ring: "production".into(),
            trust: vec![KEY.into()],
            clusters: vec!["keywheel".into()],
            mode: None,
            fails_open: false,
            refuses_after: None,
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
