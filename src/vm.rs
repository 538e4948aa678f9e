//! One VM of the filter, driven by ticks, answers and requests.

mod fetch;
mod requests;

use std::collections::BTreeMap;

use keywheel_keyring::generation::Position;
use keywheel_keyring::{Entry, Generation, Millis, PublicKey};

use crate::Now;
use crate::cache::Cache;
use crate::config::{Config, Mode, Seed, Then};
use crate::decide::{Outcome, Reason};
use crate::lease::Lease;
use crate::refresh::{Call, Refresh};
use crate::roster::{self, Enforced};
use crate::shared::{CREATE, Held, Namespace, SharedData};
use crate::usage::{Courier, Usage};

/// How often the shell ticks, in milliseconds: how late a VM may learn of a revocation.
pub const TICK: u64 = 20;
/// A VM whose last look at the generation is longer ago, in milliseconds, looks before it decides.
pub const LOOK: u64 = 50;
/// Decoded entries that a VM keeps; at about 300 bytes each they take 1.2 MB.
const CACHE_SLOTS: usize = 4096;
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
            let listed =
                roster::report(&self.names, host, self.lease.me(), adopted, self.refuse_after, now.mono);
            self.reported = listed.then_some((adopted, now.mono));
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
