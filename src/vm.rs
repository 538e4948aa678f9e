//! One VM of the filter, driven by ticks, answers and requests.

use std::collections::BTreeMap;

use keywheel_keyring::bucket::Corrupt;
use keywheel_keyring::generation::Position;
use keywheel_keyring::merge::{Plan, Rejection};
use keywheel_keyring::{Digest, Entry, Generation, Millis, PublicKey, Shape, key_text};

use crate::Now;
use crate::cache::Cache;
use crate::decide::{Decision, Reason, decide};
use crate::lease::Lease;
use crate::refresh::{Answer, Call, Reaction, Refresh};
use crate::roster;
use crate::shared::{ApplyError, CREATE, Held, Namespace, SharedData};

/// How often the shell ticks, in milliseconds: how late a VM may learn of a revocation.
pub const TICK: u64 = 20;
/// A VM whose last look at the generation is longer ago, in milliseconds, looks before it decides.
pub const LOOK: u64 = 50;
/// Decoded entries that a VM keeps; at about 300 bytes each they take 2.5 MB.
const CACHE_SLOTS: usize = 8192;
/// A failure that goes on is logged this often, in milliseconds.
const LOG_AGAIN: u64 = 30_000;

/// What the filter needs from Envoy.
pub trait Host: SharedData {
    /// Makes a call to the control plane; false if there is no such cluster.
    fn call(&self, call: &Call) -> bool;
}

/// One VM and its view of one ring.
pub struct Vm {
    ring: String,
    trust: Vec<PublicKey>,
    node: String,
    /// What this process tells of itself with every call; made when the first is due.
    who: Option<String>,
    names: Namespace,
    lease: Lease,
    refresh: Refresh,
    held: Held,
    /// Counts the changes of the ring that this VM has seen; cached entries are valid for one count.
    adoption: u64,
    cache: Cache,
    looked_at: Option<u64>,
    leads: bool,
    reported: Option<(Option<Position>, u64)>,
    failing_since: Option<u64>,
    logged_at: u64,
    metrics: Metrics,
}

/// Counts since they were last taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metrics {
    /// By [`Reason`]; `None` is a request that passed.
    pub requests: BTreeMap<Option<Reason>, u64>,
    pub rejected: BTreeMap<&'static str, u64>,
    pub refresh_failures: u64,
}

/// What the leader tells of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauges {
    pub revision: u64,
    pub age_seconds: u64,
    pub entries: u64,
}

/// A refusal, and whose key it was where that is known.
#[derive(Debug, PartialEq)]
pub struct Refusal<'a> {
    pub reason: Reason,
    pub entry: Option<&'a Entry>,
}

impl Vm {
    /// `me` is random; `node` is Envoy's `node.id`.
    #[must_use]
    pub fn new(ring: &str, trust: Vec<PublicKey>, clusters: usize, node: &str, me: u64) -> Self {
        Self {
            ring: ring.to_owned(),
            trust,
            node: percent_encode(node),
            who: None,
            names: Namespace::shared(ring),
            lease: Lease::new(me),
            refresh: Refresh::new(clusters, me),
            held: Held { generation: Generation::default(), cas: CREATE },
            adoption: 0,
            cache: Cache::new(CACHE_SLOTS),
            looked_at: None,
            leads: false,
            reported: None,
            failing_since: None,
            logged_at: 0,
            metrics: Metrics::default(),
        }
    }

    /// Looks at the ring, shows that this VM lives, and, where it leads, goes on fetching.
    pub fn tick(&mut self, host: &impl Host, now: Now) {
        self.look(host, now);
        self.report(host, now);
        let led = std::mem::replace(&mut self.leads, self.lease.tick(&self.names, host, now.mono));
        match (led, self.leads) {
            (false, true) => log::info!("keywheel: ring {}: this VM fetches the ring from now on", self.ring),
            (true, false) => self.refresh.stop(),
            _ => {}
        }
        if self.leads {
            let generation = self.held.generation.clone();
            self.send(host, &generation, now);
        }
    }

    /// Takes the answer to a call. The next call goes out before the answer is applied, so that the
    /// control plane works while the proxy does.
    pub fn answer(&mut self, host: &impl Host, id: u32, answer: Answer<'_>, now: Now) {
        if !self.leads {
            return;
        }
        self.look(host, now);
        match self.refresh.answer(id, answer, &self.ring, &self.trust, &self.held.generation, now) {
            Reaction::Apply { plan, bad } => {
                for (version, error) in bad {
                    log::error!("keywheel: ring {}: {version} is denied: {error}", self.ring);
                    self.count_rejected("bad_entry");
                }
                let next = match &plan {
                    Plan::Heartbeat(next) => next.clone(),
                    Plan::Write(write) => write.next().clone(),
                };
                self.send(host, &next, now);
                self.apply(host, plan, now);
            }
            Reaction::Rejected { reason, detail } => {
                log::warn!(
                    "keywheel: ring {}: a document was not taken ({}): {detail}",
                    self.ring,
                    reason.as_str()
                );
                self.count_rejected(reason.as_str());
            }
            Reaction::Failed(why) => self.failed(&why, now),
            Reaction::Nothing => {}
        }
    }

    fn send(&mut self, host: &impl Host, generation: &Generation, now: Now) {
        let enforced = roster::enforced(&self.names, host, now.wall);
        let who = self.who.get_or_insert_with(|| {
            let instance = roster::instance(&self.names, host, self.lease.me());
            let filter = env!("CARGO_PKG_VERSION");
            format!("node={}&instance={instance:016x}&filter={filter}", self.node)
        });
        for call in self.refresh.due(&self.ring, who, generation, enforced, now) {
            if !host.call(&call) {
                self.refresh.not_sent(call.id, now);
                self.failed("Envoy has no such cluster, or cannot reach it", now);
            }
        }
    }

    fn apply(&mut self, host: &impl Host, plan: Plan, now: Now) {
        let leads = || self.lease.leads(&self.names, host);
        match self.names.apply(host, &self.held, plan, leads) {
            Ok(_) => {
                self.refresh.applied();
                if self.failing_since.take().is_some() {
                    log::info!("keywheel: ring {}: the control plane answers again", self.ring);
                }
                self.look(host, now);
                self.report(host, now);
            }
            Err(ApplyError::LeaseLost) => {
                self.leads = false;
                self.refresh.stop();
            }
            Err(error) => {
                log::error!("keywheel: ring {}: a document could not be stored: {error:?}", self.ring);
                self.count_rejected(Rejection::Bucket.as_str());
                self.refresh.not_applied(now);
                if error == ApplyError::Damaged {
                    self.ask_for_repair(host);
                }
            }
        }
    }

    /// Adopts the generation that is stored now.
    fn look(&mut self, host: &impl SharedData, now: Now) {
        self.looked_at = Some(now.mono);
        let held = self.names.generation(host);
        if held.cas == self.held.cas {
            return;
        }
        let trusted = |signer| self.trust.iter().any(|key| key.id() == signer);
        if !held.generation.signers.iter().all(|signer| trusted(*signer)) {
            // Others trust a signer that this configuration does not: keep a copy of our own.
            let own = Namespace::own(&self.ring, &self.trust);
            if self.names != own {
                log::warn!(
                    "keywheel: ring {}: the stored ring rests on a signer that is not in control.trust; \
                     fetching a copy",
                    self.ring
                );
                self.names = own;
                self.held = self.names.generation(host);
                self.adoption = self.adoption.wrapping_add(1);
                self.reported = None;
                self.refresh.stop();
                return;
            }
        }
        let (before, after) = (&self.held.generation, &held.generation);
        if (before.complete, &before.sync, before.repair) != (after.complete, &after.sync, after.repair) {
            self.adoption = self.adoption.wrapping_add(1);
        }
        self.held = held;
    }

    /// Writes what this VM has adopted where the leader looks for it.
    fn report(&mut self, host: &impl SharedData, now: Now) {
        let adopted = self.held.generation.complete;
        let due = self
            .reported
            .is_none_or(|(position, at)| position != adopted || now.mono.saturating_sub(at) >= roster::RENEW);
        if due {
            let listed = roster::report(&self.names, host, self.lease.me(), adopted, now.wall);
            self.reported = listed.then_some((adopted, now.mono));
        }
    }

    fn failed(&mut self, why: &str, now: Now) {
        self.metrics.refresh_failures += 1;
        let since = *self.failing_since.get_or_insert(now.mono);
        if since == now.mono || now.mono.saturating_sub(self.logged_at) >= LOG_AGAIN {
            self.logged_at = now.mono;
            log::warn!("keywheel: ring {}: cannot refresh: {why}; trying again", self.ring);
        }
    }

    fn count_rejected(&mut self, reason: &'static str) {
        *self.metrics.rejected.entry(reason).or_default() += 1;
    }

    // === requests ===

    /// Whether there is a ring to enforce. Asked before anything of a request is looked at.
    pub fn is_ready(&mut self, host: &impl SharedData, now: Now) -> bool {
        self.lease.served();
        let long_past = self.looked_at.is_none_or(|at| now.mono.abs_diff(at) > LOOK);
        // Another VM may serve already.
        if long_past || self.held.generation.complete.is_none() {
            self.look(host, now);
        }
        self.held.generation.complete.is_some()
    }

    /// Decides on a credential, from memory or from one look at a bucket. Ask [`Self::is_ready`] first.
    ///
    /// # Errors
    ///
    /// The [`Refusal`] to send.
    pub fn check(
        &mut self,
        host: &impl SharedData,
        credential: &[u8],
        now: Now,
    ) -> Result<&Entry, Refusal<'_>> {
        // A clock that was set back does not revive what the ring's own time has ended.
        let wall = now.wall.max(self.held.generation.issued_at);
        let digest = Digest::of(credential);
        let refuse = |reason| Err(Refusal { reason, entry: None });
        if self.cache.get(&digest, self.adoption).is_none() {
            match self.names.find(host, &digest) {
                Ok(Some(entry)) => self.cache.put(self.adoption, entry),
                Ok(None) => {
                    // Only a key that is not there is worth the look at its check: good ones pay nothing.
                    let prefix = &self.held.generation.key_prefix;
                    let typo = !prefix.is_empty() && key_text::shape(prefix, credential) == Shape::Malformed;
                    return refuse(if typo { Reason::MalformedKey } else { Reason::UnknownKey });
                }
                Err(Corrupt) => {
                    self.ask_for_repair(host);
                    return refuse(Reason::RingUnavailable);
                }
            }
        }
        let Some(entry) = self.cache.get(&digest, self.adoption) else {
            return refuse(Reason::RingUnavailable);
        };
        match decide(entry, wall) {
            Decision::Allow => Ok(entry),
            Decision::Deny(reason) => Err(Refusal { reason, entry: Some(entry) }),
        }
    }

    /// Counts a request's outcome; `None` for one that passed.
    pub fn count(&mut self, outcome: Option<Reason>) {
        *self.metrics.requests.entry(outcome).or_default() += 1;
    }

    /// Marks the ring, so that the leader fetches a snapshot.
    fn ask_for_repair(&self, host: &impl SharedData) {
        let held = self.names.generation(host);
        if !held.generation.repair && held.generation.sync.is_none() {
            log::error!("keywheel: ring {}: a stored bucket is damaged; fetching the ring anew", self.ring);
            let repair = Generation { repair: true, ..held.generation.clone() };
            // Whoever wrote first asked for the same, or brought something newer.
            let _ = self.names.write_generation(host, &held, &repair);
        }
    }

    // === for whoever watches ===

    pub fn take_metrics(&mut self) -> Metrics {
        std::mem::take(&mut self.metrics)
    }

    /// The ring's gauges, from the VM that leads.
    #[must_use]
    pub fn gauges(&self, now: Millis) -> Option<Gauges> {
        let generation = &self.held.generation;
        let complete = generation.complete.filter(|_| self.leads)?;
        Some(Gauges {
            revision: complete.revision,
            age_seconds: now.saturating_since(generation.issued_at) / 1000,
            entries: generation.entries,
        })
    }

    /// What this VM enforces.
    #[must_use]
    pub const fn adopted(&self) -> Option<Position> {
        self.held.generation.complete
    }

    #[must_use]
    pub const fn leads(&self) -> bool {
        self.leads
    }
}

/// Percent-encodes all but unreserved characters.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
