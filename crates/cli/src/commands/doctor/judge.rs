//! What is wrong, from what was seen. Pure.

mod of_envoy;

use keywheel_api::{
    FollowsCanary, Promote, Proxy, ProxyState, Ring, RingSigningKey, SigningKeyState, Timestamp,
};

use super::super::key::{span, when};
use super::envoy::Seen;
use super::finding::{Finding, NAMED, good, more, names, problem, warning};
use crate::output::counted;

/// A clock that differs by more than this makes deadlines come early or late, in milliseconds.
const SKEW: u64 = 2_000;
/// A proxy hears of the control plane at least every 25 seconds.
const OLD_RING: u64 = 120;
/// What is to be promoted is so within a second of its time; clocks may differ, in seconds.
const LATE: i64 = 60;
/// A proxy that is silent for less is not taken for gone, in seconds.
const MAY_BE_SILENT: u64 = 60;

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

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = control_plane(facts);
    findings.push(ring_listener(&facts.listener));
    findings.extend(proxies(&facts.ring, facts.now));
    findings.extend(canary(facts));
    findings.extend(trust(facts));
    findings.extend(overdue(&facts.overdue));
    for envoy in &facts.envoys {
        findings.extend(match &envoy.seen {
            Ok(seen) => of_envoy::of_envoy(&envoy.url, seen, facts),
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

#[cfg(test)]
mod tests {
    use super::of_envoy::tests::{envoy, sound};
    use super::*;
    use crate::commands::doctor::finding::Level;

    const NOW: &str = "2026-01-01T00:03:20Z";
    pub(super) const KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    pub(super) fn proxy(node: &str, state: ProxyState) -> Proxy {
        let said = serde_json::json!({
            "node": node, "instance": "1", "filter": env!("CARGO_PKG_VERSION"), "vms": 3, "epoch": null,
            "stored": 7, "enforced": 7, "age_seconds": 1, "state": state, "trust": ["0011223344556677"],
            "first_seen": "2026-01-01T00:00:00Z", "last_seen": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value(said).unwrap()
    }

    pub(super) fn facts(proxies: Vec<Proxy>) -> Facts {
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

    /// What is not good of it.
    pub(super) fn amiss(facts: &Facts) -> Vec<(Level, String)> {
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
}
