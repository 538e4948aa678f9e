//! Whether an old version may end before its deadline because nobody uses it. Pure: no clock and no store.
//!
//! Silence is no proof. It counts as unused only if every VM that may be alive has reported without a gap
//! for the whole quiet period, and none of them saw it. Whoever waits in vain waits until the deadline, no longer.

use keywheel_api::rotation::{MAX_NAMED_VMS, ReportingVm};
use keywheel_api::time::timestamp;
use keywheel_api::{Evidence, WaitsFor};
use keywheel_keyring::Millis;
use keywheel_keyring::usage::MINUTE;

use crate::ring::proxies::Seen;

/// How far behind reports may be: a VM without anything to count says so every minute.
pub const LAG: u64 = 5 * MINUTE;
/// A VM that was not heard of for so long counts as gone. Its proxy, were it alive, would call its ring stale by
/// now.
pub const GONE: u64 = 24 * 60 * MINUTE;

/// What is known of the reports of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reports {
    pub node: String,
    pub instance: String,
    pub vm: String,
    /// Batches that never came.
    pub missing: u64,
    pub covered_from: Millis,
    pub covered_to: Millis,
    pub received_at: Millis,
}

/// An old version, and what its rotation asks for.
#[derive(Debug, Clone, Copy)]
pub struct Old {
    /// Since when the new version is accepted.
    pub overlaps_since: Millis,
    /// The beginning of the newest minute in which a request with it was seen, refused ones included.
    pub last_used: Option<Millis>,
    /// Milliseconds.
    pub quiet_period: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Retire(Evidence),
    /// Every reason there is.
    Wait(Vec<WaitsFor>),
}

/// Whether a VM counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Liveness {
    Live,
    /// It may be alive.
    Silent,
    Gone,
}

/// Judges by the reports of every VM of the ring.
#[must_use]
pub fn judge(old: &Old, vms: &[Reports], now: Millis) -> Verdict {
    let with = |liveness| vms.iter().filter(move |vm| self::liveness(vm, now) == liveness);
    // All of them have reported up to here.
    let quiet_to = with(Liveness::Live).map(|vm| vm.covered_to).min();
    let mut reasons = Vec::new();
    if let Some(first) = with(Liveness::Silent).min_by_key(|vm| vm.covered_to) {
        let vms = with(Liveness::Silent).count() as u64;
        reasons.push(WaitsFor::Silent { vms, first: named(first, first.covered_to) });
    }
    let Some(quiet_to) = quiet_to else {
        reasons.push(WaitsFor::NoReports);
        return Verdict::Wait(reasons);
    };
    let quiet_from = Millis(quiet_to.0.saturating_sub(old.quiet_period));
    if old.overlaps_since > quiet_from {
        // Reports are always some way behind.
        let until = Millis(now.0.saturating_add(old.overlaps_since.saturating_since(quiet_from)));
        reasons.push(WaitsFor::TooEarly { until: timestamp(until) });
    }
    // Somewhere in that minute.
    if let Some(last) = old.last_used.filter(|last| last.0.saturating_add(MINUTE) > quiet_from.0) {
        reasons.push(WaitsFor::Used { last: timestamp(last) });
    }
    // A VM that has always reported did not exist before its first report.
    let gaps = || with(Liveness::Live).filter(|vm| vm.missing > 0 && vm.covered_from > quiet_from);
    if let Some(first) = gaps().max_by_key(|vm| vm.covered_from) {
        let vms = gaps().count() as u64;
        reasons.push(WaitsFor::Gap { vms, first: named(first, first.covered_from) });
    }
    if !reasons.is_empty() {
        return Verdict::Wait(reasons);
    }
    Verdict::Retire(Evidence {
        quiet_from: timestamp(quiet_from),
        quiet_to: timestamp(quiet_to),
        last_used_at: old.last_used.map(timestamp),
        vms: with(Liveness::Live).count() as u64,
        reported: with(Liveness::Live).take(MAX_NAMED_VMS).map(|vm| named(vm, vm.covered_to)).collect(),
        gone: with(Liveness::Gone).count() as u64,
    })
}

/// Adds a silent VM for each proxy that holds the ring and does not report: it may still accept the old version. Whether
/// it is gone for good is for an operator to say, who forgets it. Of a proxy that is there, all of whose VMs report, those
/// that it had before are left out.
#[must_use]
pub fn with_proxies(mut reports: Vec<Reports>, proxies: &[Seen], now: Millis) -> Vec<Reports> {
    for seen in proxies.iter().filter(|seen| !seen.is_expired(now)) {
        let proxy = &seen.report;
        let is_its_own = |vm: &Reports| (&vm.node, &vm.instance) == (&proxy.node, &proxy.instance);
        let live = |vm: &Reports| is_its_own(vm) && liveness(vm, now) == Liveness::Live;
        let reporting = reports.iter().filter(|vm| live(vm)).count();
        if reporting >= proxy.vms as usize && reporting > 0 {
            reports.retain(|vm| !is_its_own(vm) || live(vm));
            continue;
        }
        let heard = reports.iter().filter(|vm| is_its_own(vm)).map(|vm| vm.covered_to).max();
        if reporting > 0 && !seen.is_silent(now) {
            // Those of its VMs that are missing are among the reports, as silent ones, or report for the first time soon.
            continue;
        }
        reports.push(Reports {
            node: proxy.node.clone(),
            instance: proxy.instance.clone(),
            vm: "-".into(),
            missing: 0,
            covered_from: seen.first_seen,
            covered_to: heard.unwrap_or(seen.first_seen),
            // Not longer ago, or it would count as gone.
            received_at: Millis(now.0.saturating_sub(GONE)),
        });
    }
    reports
}

fn liveness(vm: &Reports, now: Millis) -> Liveness {
    // What a proxy covers is by its own clock, when its report came by ours.
    let behind = now.saturating_since(vm.received_at.min(vm.covered_to));
    match now.saturating_since(vm.received_at) {
        silent if silent > GONE => Liveness::Gone,
        _ if behind > LAG => Liveness::Silent,
        _ => Liveness::Live,
    }
}

fn named(vm: &Reports, at: Millis) -> ReportingVm {
    let Reports { node, instance, vm, .. } = vm;
    ReportingVm { node: node.clone(), instance: instance.clone(), vm: vm.clone(), at: timestamp(at) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_790_000_000_000);
    const HOUR: u64 = 60 * MINUTE;

    fn ago(span: u64) -> Millis {
        Millis(NOW.0 - span)
    }

    fn vm(name: &str) -> Reports {
        Reports {
            node: "edge".into(),
            instance: "0a".into(),
            vm: name.into(),
            missing: 0,
            covered_from: ago(9 * HOUR),
            covered_to: ago(MINUTE),
            received_at: ago(MINUTE),
        }
    }

    fn old() -> Old {
        Old { overlaps_since: ago(5 * HOUR), last_used: Some(ago(3 * HOUR)), quiet_period: 2 * HOUR }
    }

    fn proxy(instance: &str, vms: u32, last_seen: Millis) -> Seen {
        let header = format!(
            "node=edge&instance={instance}&filter=0.1.0&vms={vms}&epoch=&stored=0&enforced=0&age=0&refuse=3600"
        );
        let report = crate::ring::proxies::parse(header.as_bytes()).unwrap();
        Seen { report, first_seen: ago(9 * HOUR), last_seen }
    }

    #[test]
    fn a_proxy_that_does_not_report_may_still_use_it() {
        let judged = |reports: Vec<Reports>, proxies: &[Seen]| {
            let reports = with_proxies(reports, proxies, NOW);
            match judge(&old(), &reports, NOW) {
                Verdict::Retire(evidence) => Ok((evidence.vms, evidence.gone)),
                Verdict::Wait(reasons) => Err(reasons.len()),
            }
        };
        assert_eq!(judged(vec![vm("1")], &[]), Ok((1, 0)));
        assert_eq!(judged(vec![vm("1")], &[proxy("0a", 1, NOW)]), Ok((1, 0)));
        assert_eq!(judged(vec![vm("1")], &[proxy("0a", 1, NOW), proxy("0b", 1, NOW)]), Err(1), "a new one");
        let dead = Reports { received_at: ago(HOUR), covered_to: ago(HOUR), ..vm("2") };
        assert_eq!(judged(vec![vm("1"), dead.clone()], &[]), Err(1));
        assert_eq!(
            judged(vec![vm("1"), dead.clone()], &[proxy("0a", 1, NOW)]),
            Ok((1, 0)),
            "it was replaced"
        );
        assert_eq!(judged(vec![vm("1"), dead], &[proxy("0a", 2, NOW)]), Err(1));
        // For as long as it has not refused every request by itself.
        let gone = Reports { instance: "0b".into(), received_at: ago(30 * HOUR), ..vm("1") };
        assert_eq!(judged(vec![vm("1"), gone.clone()], &[]), Ok((1, 1)));
        assert_eq!(judged(vec![vm("1"), gone.clone()], &[proxy("0b", 1, ago(HOUR))]), Err(1));
        assert_eq!(judged(vec![vm("1"), gone], &[proxy("0b", 1, ago(2 * HOUR))]), Ok((1, 1)));
    }

    #[track_caller]
    fn waits(old: Old, vms: &[Reports]) -> Vec<&'static str> {
        let Verdict::Wait(reasons) = judge(&old, vms, NOW) else { panic!("it retires") };
        let name = |reason: &WaitsFor| match reason {
            WaitsFor::TooEarly { .. } => "too early",
            WaitsFor::NoReports => "no reports",
            WaitsFor::Used { .. } => "used",
            WaitsFor::Silent { .. } => "silent",
            WaitsFor::Gap { .. } => "gap",
            WaitsFor::Canary { .. } => "canary",
        };
        reasons.iter().map(name).collect()
    }

    #[test]
    fn it_retires_when_all_have_reported_and_none_saw_it() {
        let mut young = vm("2");
        (young.covered_from, young.covered_to) = (ago(10 * MINUTE), ago(2 * MINUTE));
        let Verdict::Retire(evidence) = judge(&old(), &[vm("1"), young], NOW) else { panic!("it waits") };
        assert_eq!((evidence.vms, evidence.gone), (2, 0), "a VM that is new has no gap before its beginning");
        assert_eq!(evidence.quiet_to, timestamp(ago(2 * MINUTE)), "up to where all have reported");
        assert_eq!(evidence.quiet_from, timestamp(ago(2 * MINUTE + 2 * HOUR)));
        let never = Old { last_used: None, ..old() };
        assert!(matches!(judge(&never, &[vm("1")], NOW), Verdict::Retire(_)));
    }

    #[test]
    fn a_missing_report_is_not_evidence_of_no_use() {
        assert_eq!(waits(old(), &[]), ["no reports"]);
        let silent = Reports { covered_to: ago(6 * MINUTE), received_at: ago(6 * MINUTE), ..vm("2") };
        assert_eq!(waits(old(), &[vm("1"), silent.clone()]), ["silent"]);
        assert_eq!(waits(old(), &[silent]), ["silent", "no reports"]);
        let behind = Reports { covered_to: ago(HOUR), ..vm("2") };
        assert_eq!(waits(old(), &[vm("1"), behind]), ["silent"], "it reports what is long past");
        let gap = Reports { missing: 1, covered_from: ago(HOUR), ..vm("2") };
        assert_eq!(waits(old(), &[vm("1"), gap.clone()]), ["gap"]);
        let healed = Reports { covered_from: ago(3 * HOUR), ..gap };
        assert!(matches!(judge(&old(), &[vm("1"), healed], NOW), Verdict::Retire(_)), "a gap of long ago");
    }

    #[test]
    fn a_vm_is_gone_after_a_day_and_the_evidence_says_so() {
        let gone = Reports { covered_to: ago(GONE + 1), received_at: ago(GONE + 1), ..vm("2") };
        let Verdict::Retire(evidence) = judge(&old(), &[vm("1"), gone], NOW) else { panic!("it waits") };
        assert_eq!((evidence.vms, evidence.gone), (1, 1));
    }

    #[test]
    fn use_and_a_short_overlap_wait_and_every_reason_is_told() {
        let quiet_from = 2 * HOUR + MINUTE;
        for (last, want) in
            [(quiet_from, false), (quiet_from + MINUTE - 1, false), (quiet_from + MINUTE, true)]
        {
            let old = Old { last_used: Some(ago(last)), ..old() };
            assert_eq!(matches!(judge(&old, &[vm("1")], NOW), Verdict::Retire(_)), want, "{last}");
        }
        let busy = Old { overlaps_since: ago(HOUR), last_used: Some(ago(0)), ..old() };
        let gap = Reports { missing: 1, covered_from: ago(HOUR), ..vm("2") };
        let silent = Reports { received_at: ago(HOUR), ..vm("3") };
        assert_eq!(waits(busy, &[vm("1"), gap, silent]), ["silent", "too early", "used", "gap"]);
    }
}
