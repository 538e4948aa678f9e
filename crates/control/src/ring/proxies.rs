//! What proxies last said about themselves, in the header of every call, and what that proves.
//!
//! Anybody who may read the ring may write that header, so a proof is as good as the proxies' tokens or
//! certificates are.
//!
//! A proxy that asks for the first time is written down before it is answered: whoever is asked later
//! whether all proxies enforce a revision, after a restart or on another replica, knows of it. What it
//! says afterwards is kept in memory and written from time to time. Should that be lost, less is proven
//! than was, never more.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keywheel_api::time::timestamp;
use keywheel_api::{Proof, Proxy, ProxyName, ProxyState};
use keywheel_keyring::{Epoch, Millis, SignerId};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, warn};

use crate::canary::Group;
use crate::store::{Store, StoreError};

/// The request header: `node=…&instance=…&filter=…&vms=…&epoch=…&stored=…&enforced=…&age=…&refuse=…&trust=…`.
pub const HEADER: &str = "keywheel-proxy";
/// The field that a relay adds to the word of a proxy behind it: what the relay nearest to it is called.
pub const VIA: &str = "via";
/// How long a proxy may be silent, in milliseconds: it waits 25 seconds for a change, and tries again after 15 at most.
pub const MAY_BE_SILENT: u64 = 60_000;
/// How long a proxy that asks for the first time waits until it is written down.
const PATIENCE: Duration = Duration::from_secs(1);
/// How far a proxy's clock may be behind, in milliseconds, before its word that it refuses everything is believed.
const CLOCK_MARGIN: u64 = 5 * 60_000;
/// Proxies kept of one ring. Nobody who is waited for gives way to a new one: who has a proxy's token could otherwise
/// make up so many that a silent one is not in the proof any more.
const CAPACITY: usize = 50_000;
/// How often those that refuse by themselves are looked for while there is no room, in milliseconds.
const SWEEP: u64 = 1_000;
/// Proxies that a proof names of each kind.
const NAMED: usize = 100;
const MAX_TEXT: usize = 256;
/// The most keys that one proxy is shown to trust.
const MAX_TRUST: usize = 256;

/// What a proxy says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub node: String,
    pub instance: String,
    pub filter: String,
    pub vms: u32,
    pub epoch: Option<Epoch>,
    pub stored: u64,
    pub enforced: u64,
    /// Of its ring, in seconds.
    pub age: u64,
    /// The age, in seconds, from which on it refuses every request.
    pub refuse_after: Option<u64>,
    /// The ids of the signing keys in its configuration; `None` where it does not say.
    pub trust: Option<Vec<String>>,
    /// The relay that it asks, where another speaks for it.
    pub via: Option<String>,
}

/// The latest report of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub report: Report,
    pub first_seen: Millis,
    pub last_seen: Millis,
}

/// One ring's proxies.
#[derive(Debug)]
pub struct Proxies {
    ring: (i64, String, Epoch),
    store: Arc<Store>,
    known: Mutex<Known>,
    /// Counts what may change a proof.
    changed: watch::Sender<u64>,
    /// Held by whoever writes: who waits for it finds its own row written, too. And by whoever reads all that is
    /// written, so that nobody's row is written in between, who would count as forgotten.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    proxies: BTreeMap<Id, Seen>,
    /// Acknowledged more than is written down.
    acknowledged: BTreeSet<Id>,
    /// Were never written down.
    unwritten: BTreeSet<Id>,
    /// Were heard of again since they were written down.
    heard: BTreeSet<Id>,
    /// Said that they enforce what this control plane has not issued: their ring is of another history.
    ahead: BTreeSet<Id>,
    /// Those for whom there was no room, and when they asked last. They have a ring all the same, so no proof is
    /// complete while one of them may be there.
    turned_away: BTreeMap<Id, Millis>,
    /// When room was looked for last.
    swept: Millis,
}

type Id = (String, String);

/// The header is not a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("field `{0}` of the {HEADER} header is missing or malformed")]
pub struct BadReport(&'static str);

impl Proxies {
    #[must_use]
    pub fn new(ring: (i64, String, Epoch), store: Arc<Store>, known: Vec<Seen>) -> Self {
        let proxies = known.into_iter().map(|seen| (seen.report.id(), seen)).collect();
        let known = Known { proxies, ..Known::default() };
        Self {
            ring,
            store,
            known: Mutex::new(known),
            changed: watch::Sender::new(0),
            turn: tokio::sync::Mutex::default(),
        }
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.known().proxies.len()
    }

    /// Takes a report. When this returns, a proxy that was not known before is on disk. Should the database not take
    /// it in time, the proxy is answered all the same: it is known until the control plane ends, and written when the
    /// database takes it.
    ///
    /// Returns what the proxy had enforced of the same epoch when it reported last.
    pub async fn report(&self, report: Report, now: Millis) -> Option<u64> {
        // Whoever asks here by itself is behind nobody, whatever it says.
        let (new, enforced) = self.take(Report { via: None, ..report }, now);
        if new {
            match timeout(PATIENCE, self.write(false)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!(%error, "A new proxy could not be written down; it will be when the database answers");
                }
                Err(_) => warn!("A new proxy is not written down yet: the database is slow to answer"),
            }
        }
        enforced
    }

    /// As [`Proxies::report`], of many proxies that a relay speaks for. The relay keeps what is not written down here.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: some are not on disk that were not known before.
    pub async fn report_all(&self, reports: Vec<(Report, Millis)>) -> Result<Vec<Option<u64>>, StoreError> {
        let ids: Vec<Id> = reports.iter().map(|(report, _)| report.id()).collect();
        let enforced = reports.into_iter().map(|(report, at)| self.take(report, at).1).collect();
        // Those of an earlier request that failed are not new any more.
        let unwritten = ids.iter().any(|id| self.known().unwritten.contains(id));
        if unwritten {
            timeout(PATIENCE, self.write(false)).await.map_err(|_| StoreError::Busy)??;
        }
        Ok(enforced)
    }

    /// Whether the proxy is new, and what it had enforced of the same epoch when it reported last.
    fn take(&self, report: Report, now: Millis) -> (bool, Option<u64>) {
        let id = report.id();
        let mut known = self.known();
        let before = known.proxies.get(&id);
        // What a relay heard of it may come later than what the proxy has said since.
        if before.is_some_and(|seen| seen.last_seen > now) {
            return (false, None);
        }
        let first_seen = before.map_or(now, |seen| seen.first_seen);
        let same = before.is_some_and(|seen| seen.report.acknowledges_as(&report));
        let moved = before.is_some_and(|seen| seen.report.via != report.via);
        let new = before.is_none();
        let enforced = before.filter(|seen| seen.report.epoch == report.epoch);
        let enforced = enforced.map(|seen| seen.report.enforced);
        if new {
            if !known.has_room(&self.ring.1, &id, now) {
                self.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
                return (false, None);
            }
            known.unwritten.insert(id.clone());
        }
        if same && !moved {
            known.heard.insert(id.clone())
        } else {
            known.acknowledged.insert(id.clone())
        };
        known.proxies.insert(id, Seen { report, first_seen, last_seen: now });
        if !same {
            self.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
        }
        (new, enforced)
    }

    /// A report that is ahead of `head`, the newest revision there is, acknowledges nothing, and nor does what the proxy
    /// says later: the database is an older copy of the one whose ring it has. A new epoch ends that.
    #[must_use]
    pub fn unless_ahead(&self, report: Report, head: u64) -> Report {
        let (id, here) = (report.id(), report.epoch == Some(self.ring.2));
        let mut known = self.known();
        if !here {
            known.ahead.remove(&id);
            return report;
        }
        if report.enforced > head {
            known.ahead.insert(id.clone());
        }
        if known.ahead.contains(&id) { Report { enforced: 0, ..report } } else { report }
    }

    /// Writes down what was acknowledged since the last time, and with `all` who was heard of, too.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the next time tries again.
    pub async fn write(&self, all: bool) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        let rows: Vec<_> = {
            let known = self.known();
            let heard = known.heard.iter().filter(|_| all);
            let ids: BTreeSet<_> = known.acknowledged.iter().chain(heard).collect();
            ids.into_iter().filter_map(|id| known.proxies.get(id).cloned()).collect()
        };
        if rows.is_empty() {
            return Ok(());
        }
        self.store.save_proxies(self.ring.0, &rows).await?;
        let mut known = self.known();
        for row in rows {
            let id = row.report.id();
            known.unwritten.remove(&id);
            if known.proxies.get(&id) == Some(&row) {
                known.acknowledged.remove(&id);
                known.heard.remove(&id);
            }
        }
        Ok(())
    }

    /// Takes what is written down, by this replica or another. Whoever is not `among` them is forgotten, if those
    /// are all that there are.
    pub fn merge(&self, written: Vec<Seen>, all: bool) {
        let mut known = self.known();
        if all {
            let kept: BTreeSet<Id> = written.iter().map(|seen| seen.report.id()).collect();
            let Known { proxies, acknowledged, .. } = &mut *known;
            proxies.retain(|id, _| kept.contains(id) || acknowledged.contains(id));
        }
        for seen in written {
            let id = seen.report.id();
            if known.proxies.get(&id).is_none_or(|held| held.last_seen < seen.last_seen) {
                known.proxies.insert(id, seen);
            }
        }
        drop(known);
        self.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Learns of what other replicas wrote down until now.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        if self.store.is_shared() {
            let _turn = self.turn.lock().await;
            self.merge(self.store.proxies(self.ring.0, Millis(0)).await?, true);
        }
        Ok(())
    }

    /// Forgets proxies at once; the store has done so already.
    pub fn forget(&self, names: &[ProxyName]) {
        let mut known = self.known();
        for ProxyName { node, instance } in names {
            let id = (node.clone(), instance.clone());
            known.proxies.remove(&id);
            known.acknowledged.remove(&id);
            known.unwritten.remove(&id);
            known.heard.remove(&id);
            known.ahead.remove(&id);
            known.turned_away.remove(&id);
        }
        drop(known);
        self.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// By node and instance, judged against revision `head`.
    #[must_use]
    pub fn list(&self, head: u64, now: Millis) -> Vec<Proxy> {
        let epoch = self.ring.2;
        self.known().proxies.values().map(|seen| seen.shown(epoch, head, now)).collect()
    }

    /// Who enforces the ring up to `revision`.
    #[must_use]
    pub fn proof(&self, revision: u64, now: Millis) -> Proof {
        let (_, ring, epoch) = &self.ring;
        let mut proof = Proof {
            ring: ring.clone(),
            revision,
            enforced: 0,
            of: 0,
            laggards: Vec::new(),
            unproven: Vec::new(),
        };
        let known = self.known();
        for seen in known.proxies.values() {
            let state = seen.state(*epoch, revision, now);
            if state == ProxyState::Expired {
                continue;
            }
            proof.of = proof.of.saturating_add(1);
            if seen.enforces(*epoch, revision) {
                proof.enforced = proof.enforced.saturating_add(1);
                continue;
            }
            let list = match state {
                ProxyState::Unproven => &mut proof.unproven,
                _ => &mut proof.laggards,
            };
            if list.len() < NAMED {
                list.push(seen.report.name());
            }
        }
        for (node, instance) in known.turned_away.keys() {
            proof.of = proof.of.saturating_add(1);
            if proof.unproven.len() < NAMED {
                proof.unproven.push(ProxyName { node: node.clone(), instance: instance.clone() });
            }
        }
        proof
    }

    /// How its proxies stand to `revision`, for whoever goes on once they enforce it.
    #[must_use]
    pub fn group(&self, revision: u64, now: Millis) -> Group {
        let Proof { of, enforced, .. } = self.proof(revision, now);
        let (epoch, known) = (self.ring.2, self.known());
        let is_there = |seen: &&Seen| seen.enforces(epoch, revision) && !seen.is_silent(now);
        Group { of, enforced, present: known.proxies.values().filter(is_there).count() as u64 }
    }

    /// Follows what may change a proof.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the header.
///
/// # Errors
///
/// [`BadReport`]; unknown fields are left to newer versions.
pub fn parse(header: &[u8]) -> Result<Report, BadReport> {
    let fields: BTreeMap<Cow<'_, str>, Cow<'_, str>> = form_urlencoded::parse(header).collect();
    let text = |name: &'static str| {
        let text = fields.get(name).ok_or(BadReport(name))?;
        let fits = (1..=MAX_TEXT).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits { Ok(text.to_string()) } else { Err(BadReport(name)) }
    };
    let number = |name: &'static str| {
        fields.get(name).and_then(|text| text.parse::<u64>().ok()).ok_or(BadReport(name))
    };
    let epoch = fields.get("epoch").filter(|text| !text.is_empty());
    let epoch = epoch.map(|text| text.parse::<Epoch>()).transpose().map_err(|_| BadReport("epoch"))?;
    let refuse_after = if fields.contains_key("refuse") { Some(number("refuse")?) } else { None };
    let instance = text("instance")?;
    if !instance.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(BadReport("instance"));
    }
    Ok(Report {
        node: text("node")?,
        instance,
        filter: text("filter")?,
        vms: u32::try_from(number("vms")?).map_err(|_| BadReport("vms"))?,
        epoch,
        stored: number("stored")?,
        enforced: number("enforced")?,
        age: number("age")?,
        refuse_after,
        trust: trust(&fields)?,
        // Not worth leaving a proxy's word aside.
        via: text(VIA).ok(),
    })
}

/// Absent where an older filter does not say.
fn trust(fields: &BTreeMap<Cow<'_, str>, Cow<'_, str>>) -> Result<Option<Vec<String>>, BadReport> {
    let Some(text) = fields.get("trust") else { return Ok(None) };
    let ids: Vec<String> = text.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect();
    let good = ids.len() <= MAX_TRUST && ids.iter().all(|id| id.parse::<SignerId>().is_ok());
    if good { Ok(Some(ids)) } else { Err(BadReport("trust")) }
}

// === impl Known ===

impl Known {
    /// Whether one more proxy can be kept, for which those give way that are not waited for any more. If not, it is
    /// remembered as turned away.
    fn has_room(&mut self, ring: &str, newcomer: &Id, now: Millis) -> bool {
        if self.proxies.len() >= CAPACITY && now.saturating_since(self.swept) >= SWEEP {
            self.swept = now;
            self.proxies.retain(|_, seen| !seen.is_expired(now));
        }
        if self.proxies.len() < CAPACITY {
            self.turned_away.remove(newcomer);
            return true;
        }
        if self.turned_away.is_empty() {
            error!(
                ring,
                node = newcomer.0,
                instance = newcomer.1,
                "Ring {ring} has {CAPACITY} proxies, and one more asks for it: no change is proven until those that \
                 are gone are forgotten with `keywheel ring forget`"
            );
        }
        if self.turned_away.len() < CAPACITY || self.turned_away.contains_key(newcomer) {
            self.turned_away.insert(newcomer.clone(), now);
        }
        false
    }
}

// === impl Report ===

impl Report {
    fn id(&self) -> Id {
        (self.node.clone(), self.instance.clone())
    }

    fn name(&self) -> ProxyName {
        ProxyName { node: self.node.clone(), instance: self.instance.clone() }
    }

    /// Whether it says no more of the ring than `other` does.
    fn acknowledges_as(&self, other: &Self) -> bool {
        (self.epoch, self.enforced, &self.trust) == (other.epoch, other.enforced, &other.trust)
    }
}

// === impl Seen ===

impl Seen {
    /// Whether it ever said so: a ring never goes back.
    #[must_use]
    pub fn enforces(&self, epoch: Epoch, revision: u64) -> bool {
        self.report.epoch == Some(epoch) && self.report.enforced >= revision
    }

    fn state(&self, epoch: Epoch, revision: u64, now: Millis) -> ProxyState {
        if self.is_silent(now) {
            return if self.is_expired(now) { ProxyState::Expired } else { ProxyState::Unproven };
        }
        if self.enforces(epoch, revision) { ProxyState::Current } else { ProxyState::Lagging }
    }

    /// Whether it missed its turn.
    #[must_use]
    pub const fn is_silent(&self, now: Millis) -> bool {
        now.saturating_since(self.last_seen) > MAY_BE_SILENT
    }

    /// Whether it refuses every request by itself, since its ring is too old for it.
    #[must_use]
    pub fn is_expired(&self, now: Millis) -> bool {
        let silent = now.saturating_since(self.last_seen);
        let age = silent.saturating_add(self.report.age.saturating_mul(1000));
        let refuses = |after: u64| age > after.saturating_mul(1000).saturating_add(CLOCK_MARGIN);
        self.is_silent(now) && self.report.refuse_after.is_some_and(refuses)
    }

    fn shown(&self, epoch: Epoch, head: u64, now: Millis) -> Proxy {
        let Report { node, instance, filter, vms, stored, enforced, age, refuse_after, trust, via, .. } =
            self.report.clone();
        Proxy {
            node,
            instance,
            filter,
            vms,
            epoch: self.report.epoch.map(|epoch| epoch.to_string()),
            stored,
            enforced,
            age_seconds: age,
            refuses_after_seconds: refuse_after,
            state: self.state(epoch, head, now),
            first_seen: timestamp(self.first_seen),
            last_seen: timestamp(self.last_seen),
            trust,
            via,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "node=edge%2F1&instance=0a1b&filter=0.1.0&vms=3\
        &epoch=0199a3b4-0000-7000-8000-000000000001&stored=12&enforced=11&age=2";

    fn epoch() -> Epoch {
        "0199a3b4-0000-7000-8000-000000000001".parse().unwrap()
    }

    fn seen(refuse: &str, last_seen: u64) -> Seen {
        let report = parse(format!("{GOOD}{refuse}").as_bytes()).unwrap();
        Seen { report, first_seen: Millis(0), last_seen: Millis(last_seen) }
    }

    #[test]
    fn a_report_is_read() {
        let report = parse(GOOD.as_bytes()).unwrap();
        assert_eq!((report.node.as_str(), report.vms, report.stored, report.enforced), ("edge/1", 3, 12, 11));
        assert_eq!(report.refuse_after, None);
        let without_ring = GOOD.replace("0199a3b4-0000-7000-8000-000000000001", "");
        assert_eq!(parse(without_ring.as_bytes()).unwrap().epoch, None);
        assert_eq!(seen("&refuse=60", 0).report.refuse_after, Some(60));
        assert_eq!(report.trust, None, "an older filter does not say");
        let trust = format!("{GOOD}&trust=0102030405060708%2C1112131415161718");
        let trust = parse(trust.as_bytes()).unwrap().trust.unwrap();
        assert_eq!(trust, ["0102030405060708", "1112131415161718"]);
        assert_eq!(parse(format!("{GOOD}&trust=x").as_bytes()), Err(BadReport("trust")));
    }

    #[test]
    fn a_malformed_report_names_its_field() {
        let check = |from: &str, to: &str, field| {
            let text = GOOD.replace(from, to);
            assert_eq!(parse(text.as_bytes()), Err(BadReport(field)), "{text}");
        };
        check("node=edge%2F1&", "", "node");
        check("edge%2F1", "%00", "node");
        check("edge%2F1", &"x".repeat(257), "node");
        check("0a1b", "zz", "instance");
        check("vms=3", "vms=99999999999", "vms");
        check("stored=12", "stored=-1", "stored");
        check("epoch=0199", "epoch=x199", "epoch");
        check("age=2", "age=2&refuse=soon", "refuse");
        assert!(parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn nobody_who_is_waited_for_gives_way_to_a_newcomer() {
        let mut known = Known::default();
        let id = |n: usize| ("edge".to_owned(), format!("{n:x}"));
        for n in 0..CAPACITY {
            assert!(known.has_room("production", &id(n), Millis(n as u64)));
            known.proxies.insert(id(n), seen("", n as u64));
        }
        let later = Millis(100 * MAY_BE_SILENT);
        assert!(!known.has_room("production", &id(CAPACITY), later));
        assert!(known.proxies.contains_key(&id(0)), "silent for longest, and waited for");
        assert_eq!(known.turned_away.keys().collect::<Vec<_>>(), [&id(CAPACITY)]);
        // One that refuses by itself is not.
        known.proxies.insert(id(7), seen("&refuse=1", 0));
        assert!(!known.has_room("production", &id(CAPACITY), Millis(later.0 + 1)), "looked for a moment ago");
        assert!(known.has_room("production", &id(CAPACITY), Millis(later.0 + SWEEP)));
        assert!(!known.proxies.contains_key(&id(7)));
        assert!(known.turned_away.is_empty());
    }

    #[test]
    fn a_proxy_is_what_it_said_last_and_how_long_ago() {
        let state = |seen: Seen, revision, now| seen.state(epoch(), revision, Millis(now));
        assert_eq!(state(seen("", 0), 11, MAY_BE_SILENT), ProxyState::Current);
        assert_eq!(state(seen("", 0), 12, MAY_BE_SILENT), ProxyState::Lagging, "stored is not enforced");
        assert_eq!(state(seen("", 0), 12, MAY_BE_SILENT + 1), ProxyState::Unproven);
        assert_eq!(state(seen("", 0), 12, u64::MAX), ProxyState::Unproven, "for ever");
        // Its ring was two seconds old when it was last seen.
        let refuses = 3_600_000 - 2_000 + CLOCK_MARGIN;
        assert_eq!(state(seen("&refuse=3600", 0), 12, refuses), ProxyState::Unproven);
        assert_eq!(state(seen("&refuse=3600", 0), 12, refuses + 1), ProxyState::Expired);
        let other = "0199a3b4-0000-7000-8000-000000000002".parse().unwrap();
        assert_eq!(seen("", 0).state(other, 11, Millis(0)), ProxyState::Lagging);
    }
}
