//! The proxies behind a relay: what each said last, and whether the upstream knows it. No I/O.
//!
//! The relay is itself a row in the upstream's proof. It acknowledges what it holds only while the upstream knows of every
//! proxy behind it: those then stand for themselves, and nobody is enforced by a relay's word alone.

use std::collections::BTreeMap;

use keywheel_api::ProxyReport;
use keywheel_api::ring::MAX_PROXY_REPORTS;
use keywheel_control::ring::proxies::{self, Report};
use keywheel_keyring::{Epoch, Millis};

/// A proxy that was silent for so long, in milliseconds, is the upstream's alone to remember.
const REMEMBERED: u64 = 15 * 60_000;
/// Proxies of one ring; the control plane remembers no more either.
const CAPACITY: usize = 50_000;

type Id = (String, String);

/// Who asks this relay.
#[derive(Debug, Default)]
pub struct Roster {
    proxies: BTreeMap<Id, Behind>,
}

#[derive(Debug)]
struct Behind {
    /// Its header, as it came.
    said: String,
    report: Report,
    heard: Millis,
    /// Whether the upstream knows that there is such a proxy.
    told: bool,
    /// Whether it acknowledged what the upstream has not heard.
    news: bool,
    /// Whether it was heard of since the upstream was told.
    heard_since: bool,
}

/// What a proxy's word is to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// There is such a proxy.
    New,
    /// It acknowledges more than it did.
    News,
    Nothing,
    /// It is no report.
    Unreadable,
}

/// A proxy's word on its way upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tell {
    id: Id,
    /// When the proxy said it.
    heard: Millis,
    pub report: ProxyReport,
}

impl Roster {
    #[must_use]
    pub fn count(&self) -> usize {
        self.proxies.len()
    }

    /// Takes what a proxy said of itself at a time.
    pub fn hear(&mut self, said: &str, at: Millis) -> Heard {
        let Ok(report) = proxies::parse(said.as_bytes()) else { return Heard::Unreadable };
        let id = (report.node.clone(), report.instance.clone());
        let standing =
            |report: &Report| (report.epoch, report.enforced, report.trust.clone(), report.via.clone());
        let Some(behind) = self.proxies.get_mut(&id) else {
            self.make_room();
            let behind = Behind {
                said: said.to_owned(),
                report,
                heard: at,
                told: false,
                news: true,
                heard_since: true,
            };
            self.proxies.insert(id, behind);
            return Heard::New;
        };
        if behind.heard > at {
            return Heard::Nothing;
        }
        let news = standing(&behind.report) != standing(&report);
        behind.said.clear();
        behind.said.push_str(said);
        (behind.report, behind.heard, behind.heard_since) = (report, at, true);
        behind.news |= news;
        if news || !behind.told { Heard::News } else { Heard::Nothing }
    }

    /// What to tell the upstream next: news first, with `all` everybody who was heard of since.
    #[must_use]
    pub fn due(&self, all: bool, now: Millis) -> Vec<Tell> {
        let due = self.proxies.iter().filter(|(_, behind)| behind.news || all && behind.heard_since);
        let tell = |(id, behind): (&Id, &Behind)| Tell {
            id: id.clone(),
            heard: behind.heard,
            report: ProxyReport { proxy: behind.said.clone(), ago_ms: now.saturating_since(behind.heard) },
        };
        due.take(MAX_PROXY_REPORTS).map(tell).collect()
    }

    /// The upstream knows this.
    pub fn told(&mut self, told: &[Tell]) {
        for Tell { id, heard, .. } in told {
            let Some(behind) = self.proxies.get_mut(id) else { continue };
            behind.told = true;
            // What it said meanwhile is yet to be told.
            if behind.heard == *heard {
                (behind.news, behind.heard_since) = (false, false);
            }
        }
    }

    #[must_use]
    pub fn is_told(&self, said: &str) -> bool {
        let Ok(report) = proxies::parse(said.as_bytes()) else { return true };
        self.proxies.get(&(report.node, report.instance)).is_none_or(|behind| behind.told)
    }

    /// Those that the upstream does not know of: when each was heard of, and its word.
    pub fn untold(&self) -> impl Iterator<Item = (Millis, &str)> {
        let untold = self.proxies.values().filter(|behind| !behind.told);
        untold.map(|behind| (behind.heard, behind.said.as_str()))
    }

    /// The revision that the relay acknowledges, which holds `head`.
    #[must_use]
    pub fn acknowledged(&self, epoch: Epoch, head: u64) -> u64 {
        let untold = self.proxies.values().filter(|behind| !behind.told).map(|behind| &behind.report);
        let enforced = |report: &Report| if report.epoch == Some(epoch) { report.enforced } else { 0 };
        untold.map(enforced).fold(head, u64::min)
    }

    /// Forgets who was silent for long, and whom the upstream knows.
    pub fn forget(&mut self, now: Millis) {
        self.proxies.retain(|_, behind| !behind.told || now.saturating_since(behind.heard) < REMEMBERED);
    }

    fn make_room(&mut self) {
        if self.proxies.len() < CAPACITY {
            return;
        }
        let known = self.proxies.iter().filter(|(_, behind)| behind.told);
        let oldest = known.min_by_key(|(_, behind)| behind.heard).map(|(id, _)| id.clone());
        if let Some(oldest) = oldest {
            self.proxies.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: &str = "0199a3b4-0000-7000-8000-000000000001";

    fn said(instance: &str, enforced: u64) -> String {
        format!(
            "node=edge&instance={instance}&filter=0.1.0&vms=2&epoch={EPOCH}&stored={enforced}&enforced={enforced}&age=0"
        )
    }

    fn epoch() -> Epoch {
        EPOCH.parse().unwrap()
    }

    #[test]
    fn a_relay_acknowledges_nothing_for_a_proxy_that_the_upstream_does_not_know_of() {
        let mut roster = Roster::default();
        assert_eq!(roster.acknowledged(epoch(), 12), 12, "nobody is behind it");
        assert_eq!(roster.hear(&said("a1", 0), Millis(1)), Heard::New);
        assert_eq!(roster.acknowledged(epoch(), 12), 0);
        assert_eq!(roster.hear(&said("a1", 11), Millis(2)), Heard::News, "it is still untold");
        assert_eq!(roster.acknowledged(epoch(), 12), 11);
        let later = "0199a3b4-0000-7000-8000-000000000002".parse().unwrap();
        assert_eq!(roster.acknowledged(later, 12), 0, "on another scale");
        let due = roster.due(false, Millis(9));
        assert_eq!(due[0].report, ProxyReport { proxy: said("a1", 11), ago_ms: 7 });
        roster.told(&due);
        assert!(roster.is_told(&said("a1", 3)));
        assert_eq!(roster.acknowledged(epoch(), 12), 12, "it stands for itself");
    }

    #[test]
    fn what_is_said_while_the_upstream_is_told_is_told_next() {
        let mut roster = Roster::default();
        roster.hear(&said("a1", 1), Millis(1));
        let due = roster.due(false, Millis(1));
        assert_eq!(roster.hear(&said("a1", 2), Millis(2)), Heard::News);
        roster.told(&due);
        assert_eq!(roster.due(false, Millis(2))[0].report.proxy, said("a1", 2));
        roster.told(&roster.due(false, Millis(2)));
        assert_eq!(roster.due(true, Millis(3)), []);
        assert_eq!(roster.hear(&said("a1", 2), Millis(4)), Heard::Nothing);
        assert_eq!(roster.due(false, Millis(5)), [], "no news");
        assert_eq!(roster.due(true, Millis(5)).len(), 1, "it is still there");
        assert_eq!(roster.hear(&said("a1", 3), Millis(6)), Heard::News);
        assert_eq!(roster.hear(&said("a1", 1), Millis(5)), Heard::Nothing, "it came late");
        assert_eq!(roster.hear("nonsense", Millis(6)), Heard::Unreadable);
    }

    #[test]
    fn only_whom_the_upstream_knows_is_forgotten() {
        let mut roster = Roster::default();
        roster.hear(&said("a1", 1), Millis(0));
        roster.told(&roster.due(false, Millis(0)));
        roster.hear(&said("b2", 1), Millis(0));
        roster.forget(Millis(REMEMBERED));
        assert_eq!(roster.untold().map(|(_, said)| said.to_owned()).collect::<Vec<_>>(), [said("b2", 1)]);
        assert_eq!(roster.count(), 1);
    }
}
