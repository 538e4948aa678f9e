//! How often each key version was used, from the VM that saw it to the control plane.
//!
//! Every VM counts for itself, and seals its counts from time to time into a numbered batch in a slot
//! of its own. The leader forwards the batches of all, as they are, and notes under each VM's name what
//! arrived; the VM then forgets it. While the control plane stays away the oldest batches are dropped, and
//! their numbers never arrive: the gap shows that something is missing.
//!
//! | key | written by | holds |
//! |---|---|---|
//! | `w` | all | the VMs that have a slot |
//! | `u<vm>` | that VM | its sealed batches: number `u64`, length `u32`, JSON |
//! | `a<vm>` | the leader | the number of the last batch that arrived |

use std::collections::{BTreeMap, VecDeque};

use keywheel_keyring::Millis;
use keywheel_keyring::usage::{Batch, Count, MAX_BATCHES, MAX_COUNTS, MAX_REPORT, MINUTE};

use crate::Now;
use crate::roster;
use crate::shared::{CREATE, Conflict, Namespace, SharedData};

/// Counts are sealed this often, in milliseconds.
const SEAL: u64 = 10_000;
/// Without anything to count a VM says so this often, in milliseconds.
const IDLE: u64 = 60_000;
/// What a VM keeps for a control plane that stays away, in bytes.
const MAX_QUEUE: usize = 2 << 20;
/// How often the leader looks for batches, in milliseconds.
const LOOK: u64 = 1_000;
/// After a failure the leader waits so long, in milliseconds: twice as long each time, up to a minute.
const PAUSE: u64 = 2_000;
/// An answer that takes longer, in milliseconds, is not waited for.
pub const TIMEOUT: u64 = 10_000;

/// What one VM counted.
#[derive(Debug)]
pub struct Usage {
    vm: u64,
    counts: BTreeMap<(String, &'static str), u64>,
    /// When the last batch ended; `None` before the first tick.
    since: Option<Now>,
    /// The minute in which the first of the counts was made.
    minute: Millis,
    last: u64,
    queue: VecDeque<Sealed>,
    dropped: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Sealed {
    number: u64,
    json: Vec<u8>,
}

/// Who seals: what every batch says of its origin.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub node: &'a str,
    pub instance: u64,
}

impl Usage {
    #[must_use]
    pub const fn new(vm: u64) -> Self {
        Self {
            vm,
            counts: BTreeMap::new(),
            since: None,
            minute: Millis(0),
            last: 0,
            queue: VecDeque::new(),
            dropped: 0,
        }
    }

    pub fn add(&mut self, version: String, outcome: &'static str, count: u64) {
        let held = self.counts.entry((version, outcome)).or_default();
        *held = held.saturating_add(count);
    }

    /// Whether nothing more fits into the batch.
    fn is_full(&self) -> bool {
        self.counts.len() >= MAX_COUNTS
    }

    /// Whether it is time to seal. A batch never spans two minutes, so that each count has one.
    #[must_use]
    pub fn is_due(&mut self, counted: bool, now: Now) -> bool {
        let since = *self.since.get_or_insert(now);
        let age = now.mono.saturating_sub(since.mono);
        if !counted && self.counts.is_empty() {
            self.minute = minute(now.wall);
            return age >= IDLE;
        }
        self.is_full() || age >= SEAL || self.minute != minute(now.wall)
    }

    /// Makes a batch of what was counted, and puts it where the leader finds it.
    pub fn seal(&mut self, names: &Namespace, shared: &impl SharedData, origin: Origin<'_>, now: Now) {
        let since = self.since.replace(now).unwrap_or(now);
        let begun = std::mem::replace(&mut self.minute, minute(now.wall));
        let mut counts = std::mem::take(&mut self.counts).into_iter().map(|((version, outcome), count)| {
            Count { version, outcome: outcome.to_owned(), minute: begun, count }
        });
        // Entries of the cache can bring more than fits into one batch.
        loop {
            let counts: Vec<Count> = counts.by_ref().take(MAX_COUNTS).collect();
            let more = counts.len() == MAX_COUNTS;
            self.last = self.last.saturating_add(1);
            let batch = Batch {
                node: origin.node.to_owned(),
                instance: format!("{:016x}", origin.instance),
                vm: format!("{:016x}", self.vm),
                batch: self.last,
                from: since.wall.min(now.wall),
                to: now.wall,
                counts,
            };
            let json = serde_json::to_vec(&batch).unwrap_or_default();
            self.queue.push_back(Sealed { number: self.last, json });
            if !more {
                break;
            }
        }
        self.trim(arrived(names, shared, self.vm));
        let _ = overwrite(names, shared, &slot(self.vm), &encode(&self.queue));
        enlist(names, shared, self.vm);
    }

    /// Forgets what arrived, and the oldest of what is too much.
    fn trim(&mut self, arrived: u64) {
        self.queue.retain(|sealed| sealed.number > arrived);
        let size = |queue: &VecDeque<Sealed>| {
            queue.iter().fold(0_usize, |sum, sealed| sum.saturating_add(sealed.json.len()))
        };
        while self.queue.len() > 1 && (size(&self.queue) > MAX_QUEUE || self.queue.len() > MAX_BATCHES) {
            self.queue.pop_front();
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Batches that were dropped since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// This was the answer to something else.
    Other,
    Arrived,
    /// The control plane cannot read these batches, so many. They are forgotten.
    Refused(u64),
    /// It goes out again, after a pause.
    Failed,
}

/// Forwards what all VMs sealed: the leader's part.
#[derive(Debug)]
pub struct Courier {
    flight: Option<Flight>,
    next_look: u64,
    failures: u32,
    /// Of this VM, to spread the pauses of many proxies.
    spread: u64,
}

#[derive(Debug)]
struct Flight {
    id: u32,
    lost_at: u64,
    /// The last batch of each VM that is on its way.
    carries: BTreeMap<u64, u64>,
    batches: usize,
}

impl Courier {
    /// The body of a report, if one is due; [`Self::sent`] says under which name it went out.
    pub fn due(&mut self, names: &Namespace, shared: &impl SharedData, id: u32, now: u64) -> Option<Vec<u8>> {
        if self.flight.take_if(|flight| now >= flight.lost_at).is_some() {
            self.fail(now);
        }
        if self.flight.is_some() || now < self.next_look {
            return None;
        }
        self.next_look = now.saturating_add(LOOK);
        let (body, carries, batches) = collect(names, shared);
        if batches == 0 {
            return None;
        }
        let lost_at = now.saturating_add(TIMEOUT).saturating_add(LOOK);
        self.flight = Some(Flight { id, lost_at, carries, batches });
        Some(body)
    }

    /// Takes the answer to report `id`.
    pub fn answer(
        &mut self,
        names: &Namespace,
        shared: &impl SharedData,
        id: u32,
        status: u16,
        now: u64,
    ) -> Delivery {
        let Some(flight) = self.flight.take_if(|flight| flight.id == id) else {
            return Delivery::Other;
        };
        // What cannot be read would come again for ever: it is forgotten, and its numbers are the gap.
        let unreadable = matches!(status, 400 | 413);
        if !unreadable && !(200..300).contains(&status) {
            self.fail(now);
            return Delivery::Failed;
        }
        self.failures = 0;
        for (vm, number) in &flight.carries {
            let _ = overwrite(names, shared, &arrivals(*vm), &number.to_le_bytes());
        }
        if unreadable { Delivery::Refused(flight.batches as u64) } else { Delivery::Arrived }
    }

    /// Another VM leads.
    pub fn stop(&mut self) {
        *self = Self::new(self.spread);
    }

    #[must_use]
    pub const fn new(spread: u64) -> Self {
        Self { flight: None, next_look: 0, failures: 0, spread }
    }

    fn fail(&mut self, now: u64) {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(5)).min(60_000);
        // Up to a half more, by a number that differs between proxies.
        let jitter = self.spread.checked_rem(pause / 2).unwrap_or_default();
        self.next_look = now.saturating_add(pause).saturating_add(jitter);
        self.failures = self.failures.saturating_add(1);
    }
}

/// The batches that have not arrived yet, of all VMs, as far as they fit into one report. Strikes off who
/// is gone and has nothing left to say.
fn collect(names: &Namespace, shared: &impl SharedData) -> (Vec<u8>, BTreeMap<u64, u64>, usize) {
    let (listed, cas) = roster::read_ids(names, shared, LIST);
    let living = roster::members(names, shared);
    let mut body = br#"{"batches":["#.to_vec();
    let mut carries = BTreeMap::new();
    let mut batches = 0_usize;
    let mut staying = Vec::with_capacity(listed.len());
    for vm in &listed {
        let bytes = shared.get(&names.key(&slot(*vm))).map(|(bytes, _)| bytes).unwrap_or_default();
        let after = arrived(names, shared, *vm);
        let waiting = decode(&bytes, after);
        let is_done = waiting.is_empty();
        for Sealed { number, json } in waiting {
            if batches >= MAX_BATCHES || body.len().saturating_add(json.len()) > MAX_REPORT.saturating_sub(16)
            {
                break;
            }
            if batches > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&json);
            batches = batches.saturating_add(1);
            carries.insert(*vm, number);
        }
        if !is_done || living.contains(vm) {
            staying.push(*vm);
        } else {
            let _ = overwrite(names, shared, &slot(*vm), &[]);
        }
    }
    if staying.len() < listed.len() {
        let _ = roster::write_ids(names, shared, LIST, &staying, cas);
    }
    body.extend_from_slice(b"]}");
    (body, carries, batches)
}

const LIST: &str = "w";

fn slot(vm: u64) -> String {
    format!("u{vm:016x}")
}

fn arrivals(vm: u64) -> String {
    format!("a{vm:016x}")
}

fn arrived(names: &Namespace, shared: &impl SharedData, vm: u64) -> u64 {
    let bytes = shared.get(&names.key(&arrivals(vm))).map(|(bytes, _)| bytes).unwrap_or_default();
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// Enters a VM in the list of those that have a slot.
fn enlist(names: &Namespace, shared: &impl SharedData, vm: u64) {
    for _ in 0..8 {
        let (mut listed, cas) = roster::read_ids(names, shared, LIST);
        if listed.contains(&vm) || listed.len() >= roster::MAX_VMS {
            return;
        }
        listed.push(vm);
        if roster::write_ids(names, shared, LIST, &listed, cas).is_ok() {
            return;
        }
    }
}

/// Writes what has one writer.
fn overwrite(names: &Namespace, shared: &impl SharedData, name: &str, bytes: &[u8]) -> Result<(), Conflict> {
    let key = names.key(name);
    let cas = shared.get(&key).map_or(CREATE, |(_, cas)| cas);
    shared.set(&key, bytes, cas)
}

fn minute(at: Millis) -> Millis {
    Millis(at.0.saturating_sub(at.0.checked_rem(MINUTE).unwrap_or_default()))
}

fn encode(queue: &VecDeque<Sealed>) -> Vec<u8> {
    let mut out = Vec::new();
    for sealed in queue {
        out.extend_from_slice(&sealed.number.to_le_bytes());
        out.extend_from_slice(&(sealed.json.len() as u32).to_le_bytes());
        out.extend_from_slice(&sealed.json);
    }
    out
}

/// The batches with a later number than `after`. What another plugin may have written over the slot counts
/// as none.
fn decode(mut bytes: &[u8], after: u64) -> Vec<Sealed> {
    let mut sealed = Vec::new();
    while let Some((number, rest)) = bytes.split_first_chunk::<8>()
        && let Some((len, rest)) = rest.split_first_chunk::<4>()
        && let Some((json, rest)) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)
    {
        let number = u64::from_le_bytes(*number);
        if number > after && serde_json::from_slice::<Batch>(json).is_ok() {
            sealed.push(Sealed { number, json: json.to_vec() });
        }
        bytes = rest;
    }
    sealed
}
