//! One VM of the filter, driven by ticks, answers and requests.

use std::cell::LazyCell;
use std::collections::BTreeMap;

use keywheel_keyring::bucket::Corrupt;
use keywheel_keyring::generation::Position;
use keywheel_keyring::merge::{Plan, Rejection};
use keywheel_keyring::{Digest, Entry, Generation, Millis, PublicKey, Shape, key_text};

use crate::Now;
use crate::cache::Cache;
use crate::config::{Config, Mode, Seed, Then};
use crate::decide::{Decision, Outcome, Reason, decide};
use crate::lease::Lease;
use crate::policy::Access;
use crate::refresh::{self, Answer, Call, Reaction, Refresh, Standing};
use crate::roster::{self, Enforced};
use crate::shared::{ApplyError, CREATE, Held, Namespace, SharedData};
use crate::usage::{self, Courier, Delivery, Origin, Usage};

/// How often the shell ticks, in milliseconds: how late a VM may learn of a revocation.
pub const TICK: u64 = 20;
/// A VM whose last look at the generation is longer ago, in milliseconds, looks before it decides.
pub const LOOK: u64 = 50;
/// Decoded entries that a VM keeps; at about 300 bytes each they take 2.5 MB.
const CACHE_SLOTS: usize = 8192;
/// A failure that goes on is logged this often, in milliseconds.
const LOG_AGAIN: u64 = 30_000;
/// How usage calls a request that passed.
const VALID: &str = "valid";

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
    seed: Option<Seed>,
    /// A ring that is older, in milliseconds, is not enforced.
    refuse_after: Option<u64>,
    role: Role,
    /// What this process tells of itself with every call; made when the first is due.
    who: Option<String>,
    names: Namespace,
    lease: Lease,
    refresh: Refresh,
    courier: Courier,
    held: Held,
    /// Counts the changes of the ring that this VM has seen; cached entries are valid for one count.
    adoption: u64,
    cache: Cache,
    usage: Usage,
    looked_at: Option<u64>,
    leads: bool,
    reported: Option<(Option<Position>, u64)>,
    failing_since: Option<u64>,
    logged_at: u64,
    lots: u64,
    metrics: Metrics,
}

/// What a VM is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Decides on requests, and fetches the ring when it leads.
    Fetch,
    /// Decides on requests; the ring is pushed to others of its process.
    Decide,
    /// Takes what is pushed, and decides on nothing.
    Receive,
}

/// Whether there is a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    Fresh,
    /// Too old to be enforced, says the configuration.
    Stale,
    Absent,
}

/// Counts since they were last taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// By [`Outcome::index`].
    pub requests: [u64; Outcome::COUNT],
    pub rejected: BTreeMap<&'static str, u64>,
    pub refresh_failures: u64,
    /// Usage batches that were dropped because the control plane stayed away.
    pub usage_dropped: u64,
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
    pub fn new(config: &Config, node: &str, me: u64) -> Self {
        let role = match config.mode {
            Mode::Receive => Role::Receive,
            _ if config.control.clusters.is_empty() => Role::Decide,
            _ => Role::Fetch,
        };
        Self {
            ring: config.ring.clone(),
            trust: config.control.trust.clone(),
            node: node.to_owned(),
            seed: config.seed.clone(),
            refuse_after: (config.stale.then == Then::Refuse).then_some(config.stale.after),
            role,
            who: None,
            names: Namespace::shared(&config.ring),
            lease: Lease::new(me),
            refresh: Refresh::new(config.control.clusters.len(), me),
            courier: Courier::new(me),
            held: Held { generation: Generation::default(), cas: CREATE },
            adoption: 0,
            cache: Cache::new(CACHE_SLOTS),
            usage: Usage::new(me),
            looked_at: None,
            leads: false,
            reported: None,
            failing_since: None,
            logged_at: 0,
            lots: me | 1,
            metrics: Metrics::default(),
        }
    }

    /// Looks at the ring, shows that this VM lives, and, where it leads, goes on fetching.
    pub fn tick(&mut self, host: &impl Host, now: Now) {
        self.look(host, now);
        self.plant(host, now);
        if self.role == Role::Receive {
            return;
        }
        self.report(host, now);
        if self.role == Role::Decide {
            return;
        }
        self.seal(host, now);
        let leads = self.lease.tick(&self.names, host, now.mono).unwrap_or(self.leads);
        let led = std::mem::replace(&mut self.leads, leads);
        match (led, self.leads) {
            (false, true) => log::info!("keywheel: ring {}: this VM fetches the ring from now on", self.ring),
            (true, false) => self.stop(),
            _ => {}
        }
        if self.leads {
            self.send(host, None, now);
            self.forward_usage(host, now);
        }
    }

    /// Takes the answer to a call. The next call goes out before the answer is applied, so that the
    /// control plane works while the proxy does.
    pub fn answer(&mut self, host: &impl Host, id: u32, answer: Answer<'_>, now: Now) {
        if !self.leads {
            return;
        }
        match self.courier.answer(&self.names, host, id, answer.status, now.mono) {
            Delivery::Other => {}
            Delivery::Arrived => return,
            Delivery::Refused(batches) => {
                self.metrics.usage_dropped = self.metrics.usage_dropped.saturating_add(batches);
                log::error!(
                    "keywheel: ring {}: the control plane cannot read a usage report ({}); it is dropped",
                    self.ring,
                    answer.status
                );
                return;
            }
            Delivery::Failed => {
                log::warn!(
                    "keywheel: ring {}: usage was answered with {}; trying again",
                    self.ring,
                    answer.status
                );
                return;
            }
        }
        self.look(host, now);
        match self.refresh.answer(id, answer, &self.ring, &self.trust, &self.held.generation, now) {
            Reaction::Apply { plan, bad } => {
                self.note_bad(&bad);
                let next = match &plan {
                    Plan::Heartbeat(next) => (**next).clone(),
                    Plan::Write(write) => write.next().clone(),
                };
                self.send(host, Some(&next), now);
                // What failed was logged, and is tried again.
                let _ = self.apply(host, plan, now);
            }
            Reaction::Rejected { reason, detail } => {
                log::warn!(
                    "keywheel: ring {}: a document was not taken ({}): {detail}",
                    self.ring,
                    reason.as_str()
                );
                self.count_rejected(reason.as_str());
                if reason == Rejection::UntrustedSigner {
                    // Another configuration of the same ring may trust who signs now.
                    self.lease.resign(&self.names, host, now.mono);
                    self.stop();
                }
            }
            Reaction::Failed(why) => self.failed(&why, now),
            Reaction::Nothing => {}
        }
    }

    /// Makes the calls that are due, to go on from what is held or is about to be.
    fn send(&mut self, host: &impl Host, next: Option<&Generation>, now: Now) {
        let (held, names, me) = (&self.held.generation, &self.names, self.lease.me());
        let who: &str = self.who.get_or_insert_with(|| who(&self.node, roster::instance(names, host, me)));
        let standing = LazyCell::new(|| Standing {
            who,
            stored: held,
            enforced: roster::enforced(names, host, now.mono),
        });
        for call in self.refresh.due(&self.ring, next.unwrap_or(held), &standing, now) {
            if !host.call(&call) {
                self.refresh.not_sent(call.id, now);
                self.failed("Envoy has no such cluster, or cannot reach it", now);
            }
        }
    }

    /// Leads no more.
    fn stop(&mut self) {
        self.leads = false;
        self.refresh.stop();
        self.courier.stop();
    }

    /// Begins with the ring of the configuration, while there is no other. Whoever comes first does it.
    fn plant(&mut self, host: &impl Host, now: Now) {
        let held = &self.held.generation;
        if self.seed.is_none() || held.complete.is_some() || held.sync.is_some() {
            return;
        }
        let Some(seed) = self.seed.take() else { return };
        let answer = Answer {
            status: 200,
            signer: Some(seed.signer.as_bytes()),
            signature: Some(seed.signature.as_bytes()),
            body: seed.document.as_bytes(),
        };
        // A seed is as old as it is: what it is worth is the configuration's to say, by `stale`.
        let moment = Now { wall: Millis(0), mono: now.mono };
        let planted = match refresh::read(answer, &self.ring, &self.trust, held, moment) {
            Reaction::Apply { plan, .. } => {
                self.lease.claim(&self.names, host);
                self.apply(host, plan, now).is_ok()
            }
            _ => false,
        };
        if planted {
            log::info!("keywheel: ring {}: began with the configuration's seed", self.ring);
        } else {
            self.seed = Some(seed);
        }
    }

    /// Takes a document that was pushed.
    pub fn receive(&mut self, host: &impl Host, document: Answer<'_>, now: Now) -> Reaction {
        self.look(host, now);
        let reaction = refresh::read(document, &self.ring, &self.trust, &self.held.generation, now);
        match reaction {
            Reaction::Apply { plan, bad } => {
                self.note_bad(&bad);
                self.lease.claim(&self.names, host);
                match self.apply(host, plan, now) {
                    Ok(()) => Reaction::Nothing,
                    Err(ApplyError::LeaseLost | ApplyError::Contended) => {
                        Reaction::Failed("another VM of this proxy writes just now".into())
                    }
                    Err(ApplyError::Damaged) => Reaction::Failed(
                        "a stored bucket is damaged; begin with a snapshot, which mends it".into(),
                    ),
                }
            }
            Reaction::Rejected { reason, detail } => {
                self.count_rejected(reason.as_str());
                Reaction::Rejected { reason, detail }
            }
            other => other,
        }
    }

    /// The generation that is stored, and what all VMs of the process enforce.
    pub fn standing(&mut self, host: &impl SharedData, now: Now) -> (&Generation, Enforced) {
        self.look(host, now);
        let enforced = roster::enforced(&self.names, host, now.mono);
        (&self.held.generation, enforced)
    }

    #[must_use]
    pub fn ring_name(&self) -> &str {
        &self.ring
    }

    fn note_bad(&mut self, bad: &[(String, String)]) {
        for (version, error) in bad {
            log::error!("keywheel: ring {}: {version} is denied: {error}", self.ring);
            self.count_rejected("bad_entry");
        }
    }

    fn seal(&mut self, host: &impl Host, now: Now) {
        if !self.usage.is_due(self.cache.has_counts(), now) {
            return;
        }
        let usage = &mut self.usage;
        self.cache.take_counts(|entry, count| usage.add(entry.version.clone(), VALID, count.into()));
        let instance = roster::instance(&self.names, host, self.lease.me());
        self.usage.seal(&self.names, host, Origin { node: &self.node, instance }, now);
        self.metrics.usage_dropped = self.metrics.usage_dropped.saturating_add(self.usage.take_dropped());
    }

    fn forward_usage(&mut self, host: &impl Host, now: Now) {
        let (id, cluster) = self.refresh.next_call();
        let Some(body) = self.courier.due(&self.names, host, id, now.mono) else {
            return;
        };
        let call = Call {
            id,
            cluster,
            path: format!("/v1/rings/{}/usage", self.ring),
            proxy: self.who.clone().unwrap_or_default(),
            body: Some(body),
            timeout_ms: usage::TIMEOUT,
        };
        if !host.call(&call) {
            self.courier.answer(&self.names, host, id, 0, now.mono);
        }
    }

    fn apply(&mut self, host: &impl Host, plan: Plan, now: Now) -> Result<(), ApplyError> {
        let leads = || self.lease.leads(&self.names, host);
        let applied = self.names.apply(host, &self.held, plan, leads);
        match &applied {
            Ok(_) => {
                self.refresh.applied();
                if self.failing_since.take().is_some() {
                    log::info!("keywheel: ring {}: the control plane answers again", self.ring);
                }
                self.look(host, now);
                if self.role != Role::Receive {
                    self.report(host, now);
                }
            }
            Err(ApplyError::LeaseLost) => self.stop(),
            // Another VM writes just now; what it did not bring is fetched again.
            Err(ApplyError::Contended) => self.refresh.not_applied(now),
            Err(ApplyError::Damaged) => {
                log::error!(
                    "keywheel: ring {}: a document could not be stored: a bucket is damaged",
                    self.ring
                );
                self.count_rejected(Rejection::Bucket.as_str());
                self.refresh.not_applied(now);
                self.ask_for_repair(host);
            }
        }
        applied.map(drop)
    }

    /// Adopts the generation that is stored now.
    fn look(&mut self, host: &impl SharedData, now: Now) {
        self.looked_at = Some(now.mono);
        let Some(held) = self.names.newer(host, &self.held) else { return };
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
                self.leads = false;
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
            let listed = roster::report(&self.names, host, self.lease.me(), adopted, now.mono);
            self.reported = listed.then_some((adopted, now.mono));
        }
    }

    fn failed(&mut self, why: &str, now: Now) {
        self.metrics.refresh_failures = self.metrics.refresh_failures.saturating_add(1);
        let since = *self.failing_since.get_or_insert(now.mono);
        if since == now.mono || now.mono.saturating_sub(self.logged_at) >= LOG_AGAIN {
            self.logged_at = now.mono;
            log::warn!("keywheel: ring {}: cannot refresh: {why}; trying again", self.ring);
        }
    }

    fn count_rejected(&mut self, reason: &'static str) {
        let count = self.metrics.rejected.entry(reason).or_default();
        *count = count.saturating_add(1);
    }

    // === requests ===

    /// Whether there is a ring to enforce. Asked before a key is looked at.
    pub fn ring(&mut self, host: &impl SharedData, now: Now) -> Ring {
        self.lease.served();
        let long_past = self.looked_at.is_none_or(|at| now.mono.abs_diff(at) > LOOK);
        // Another VM may serve already.
        if long_past || self.held.generation.complete.is_none() {
            self.look(host, now);
        }
        let age = now.wall.saturating_since(self.held.generation.issued_at);
        match self.held.generation.complete {
            None => Ring::Absent,
            Some(_) if self.refuse_after.is_some_and(|limit| age >= limit) => Ring::Stale,
            Some(_) => Ring::Fresh,
        }
    }

    /// Decides on a credential, from memory or from one look at a bucket. Ask [`Self::ring`] first.
    ///
    /// # Errors
    ///
    /// The [`Refusal`] to send.
    pub fn check(
        &mut self,
        host: &impl SharedData,
        credential: &[u8],
        needs: &Access,
        now: Now,
    ) -> Result<&Entry, Refusal<'_>> {
        // A clock that was set back does not revive what the ring's own time has ended.
        let wall = now.wall.max(self.held.generation.issued_at);
        let digest = Digest::of(credential);
        let refuse = |reason| Err(Refusal { reason, entry: None });
        let at = match self.cache.find(&digest, self.adoption) {
            Some(at) => at,
            None => match self.names.find(host, &digest) {
                Ok(Some(entry)) => {
                    let (at, before) = self.cache.put(self.adoption, entry);
                    if let Some((entry, count)) = before {
                        self.usage.add(entry.version, VALID, count.into());
                    }
                    at
                }
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
            },
        };
        let lot = self.draw();
        let decided = self.cache.entry(at).map(|entry| match decide(entry, wall, lot) {
            Decision::Allow => needs.permits(entry),
            Decision::Deny(reason) => Err(reason),
        });
        // Where nobody forwards what was counted, it would only pile up.
        let counts = self.role == Role::Fetch;
        if counts && decided == Some(Ok(())) {
            self.cache.count(at);
        }
        match (self.cache.entry(at), decided) {
            (Some(entry), Some(Ok(()))) => Ok(entry),
            (Some(entry), Some(Err(reason))) => {
                // A bad key that is known says whose it is.
                if counts {
                    self.usage.add(entry.version.clone(), reason.code(), 1);
                }
                Err(Refusal { reason, entry: Some(entry) })
            }
            _ => refuse(Reason::RingUnavailable),
        }
    }

    /// A number from 0 up to 1, another each time.
    fn draw(&mut self) -> f64 {
        // xorshift64: whoever could foresee it would gain nothing.
        self.lots ^= self.lots << 13;
        self.lots ^= self.lots >> 7;
        self.lots ^= self.lots << 17;
        (self.lots >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Counts a request.
    pub fn count(&mut self, outcome: Outcome) {
        if let Some(count) = self.metrics.requests.get_mut(outcome.index()) {
            *count = count.saturating_add(1);
        }
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

    /// What was counted since this was last asked, if anything was.
    pub fn take_metrics(&mut self) -> Option<Metrics> {
        (self.metrics != Metrics::default()).then(|| std::mem::take(&mut self.metrics))
    }

    /// The ring's gauges, from the VM that leads; where the ring is pushed, from all.
    #[must_use]
    pub fn gauges(&self, now: Millis) -> Option<Gauges> {
        let generation = &self.held.generation;
        let complete = generation.complete.filter(|_| self.leads || self.role == Role::Decide)?;
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

/// Who a process is, for every call that it makes.
fn who(node: &str, instance: u64) -> String {
    format!("node={}&instance={instance:016x}&filter={}", percent_encode(node), env!("CARGO_PKG_VERSION"))
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: [0; Outcome::COUNT],
            rejected: BTreeMap::new(),
            refresh_failures: 0,
            usage_dropped: 0,
        }
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
