//! What holds for any clock, any order and any loss; the cases are made up anew in each run.
#![cfg(not(target_arch = "wasm32"))] // Where proptest does not run.

mod support;

use std::collections::BTreeMap;

use keywheel_filter::cache::Cache;
use keywheel_filter::config::Config;
use keywheel_filter::decide::{Decision, Reason, decide};
use keywheel_filter::refresh::{Answer, Reaction};
use keywheel_filter::shared::Namespace;
use keywheel_filter::vm::{TICK, Vm};
use keywheel_keyring::{Digest, Document, Entry, Kind, Millis, State};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{FakeControl, FakeHost, Fault, World, config_from, entry};

const SECRETS: [&str; 8] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"];

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn digest(key: usize) -> Digest {
    Digest::of(SECRETS[key].as_bytes())
}

/// What a proxy says that has exactly this ring.
fn expected(known: Option<&Entry>, time: Millis) -> Result<String, Reason> {
    match known.map(|known| (known, decide(known, time, 1.0))) {
        None => Err(Reason::UnknownKey),
        Some((known, Decision::Allow)) => Ok(known.client.clone()),
        Some((_, Decision::Deny(reason))) => Err(reason),
    }
}

/// The time by which a proxy decides: its clock's, and never before the ring's own.
fn ring_time(world: &World) -> Millis {
    let held = Namespace::shared("production").generation(&world.shared).generation;
    Millis(world.wall).max(held.issued_at)
}

fn agrees(world: &mut World) -> Result<(), TestCaseError> {
    // The last answer came after the last tick; each VM learns of it at the next.
    for at in 0..world.vms.len() {
        world.tick(at);
    }
    let time = ring_time(world);
    for at in (0..world.vms.len()).filter(|at| world.vms[*at].is_some()).collect::<Vec<_>>() {
        for (key, secret) in SECRETS.iter().enumerate() {
            let known = world.control.entries.get(&digest(key)).cloned();
            prop_assert_eq!(
                world.request(at, secret),
                expected(known.as_ref(), time),
                "VM {}: {}",
                at,
                secret
            );
        }
    }
    Ok(())
}

// === clocks ===

#[derive(Debug, Clone)]
enum Moment {
    /// The proxy's clock says this from now on.
    Clock(u64),
    /// Both clocks do.
    Clocks(u64),
    Pass(u64),
    Reachable(bool),
}

const START: u64 = 1_790_000_000_000;

fn clock() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => START - 20_000..START + 40_000,
        1 => START - 400_000_000..START + 400_000_000,
        1 => Just(0),
        1 => 0..1_u64 << 62,
    ]
}

fn moment() -> impl Strategy<Value = Moment> {
    prop_oneof![
        2 => clock().prop_map(Moment::Clock),
        1 => clock().prop_map(Moment::Clocks),
        3 => (1..200_u64).prop_map(|ticks| Moment::Pass(ticks * 20)),
        1 => any::<bool>().prop_map(Moment::Reachable),
    ]
}

proptest! {
    #![proptest_config(config(60))]

    /// DESIGN §3.3, §3.4
    #[test]
    fn no_clock_lets_a_key_in_outside_its_window_or_stops_a_vm(moments in vec(moment(), 1..30)) {
        let mut control = FakeControl::new();
        let at = |millis: u64| Some(Millis(START + millis));
        control.put(entry("s0", State::Active));
        control.put(Entry { expires_at: at(10_000), ..entry("s1", State::Retiring) });
        control.put(Entry { not_before: at(10_000), ..entry("s2", State::Pending) });
        control.put(Entry { not_before: at(5_000), expires_at: at(15_000), ..entry("s3", State::Active) });
        control.put(entry("s4", State::Revoked));
        let mut world = World::new(2, control);
        world.run_until("convergence", World::converged);
        for moment in moments {
            match moment {
                Moment::Clock(to) => {
                    let control = world.wall.saturating_add_signed(world.control_ahead);
                    world.wall = to;
                    world.control_ahead = control as i64 - to as i64;
                }
                Moment::Clocks(to) => world.wall = to,
                Moment::Pass(millis) => world.run(millis),
                Moment::Reachable(reachable) => world.reachable = reachable,
            }
            // Decisions are exactly those of the ring's time, which never goes back.
            let before = ring_time(&world);
            agrees(&mut world)?;
            prop_assert!(ring_time(&world) >= before);
        }
        world.reachable = true;
        world.wall = world.wall.saturating_add_signed(world.control_ahead);
        world.control_ahead = 0;
        world.control.put(entry("s0", State::Revoked));
        world.run_until("a change after the clocks agree again", World::converged);
        world.run(40);
        agrees(&mut world)?;
    }
}

// === any order of pages and changes ===

#[derive(Debug, Clone)]
enum Change {
    Put(usize, State),
    Remove(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let state = prop_oneof![4 => Just(State::Active), 1 => Just(State::Retired), 1 => Just(State::Revoked)];
    prop_oneof![
        3 => (0..SECRETS.len(), state).prop_map(|(key, state)| Change::Put(key, state)),
        1 => (0..SECRETS.len()).prop_map(Change::Remove),
    ]
}

fn make(control: &mut FakeControl, change: &Change) {
    match change {
        Change::Put(key, state) => control.put(entry(SECRETS[*key], *state)),
        Change::Remove(key) => control.remove(digest(*key)),
    }
}

/// A control plane that pushes, and the VMs that it pushes to: one that takes documents, one that decides.
struct Pushed {
    world: World,
    receiver: Vm,
    issued: u64,
}

impl Pushed {
    fn new() -> Self {
        let control = FakeControl::new();
        let trust = control.trust()[0].clone();
        let config = |rest: &str| -> Config {
            config_from(&format!(r#""control":{{"clusters":[],"trust":["{trust}"]}}{rest}"#))
        };
        let mut world = World::new(0, control);
        world.add(Vm::new(&config(""), "node/1", 1));
        let receiver = Vm::new(&config(r#","mode":"receive""#), "node/1", 2);
        Self { world, receiver, issued: START }
    }

    fn push(&mut self, kind: Kind, at: &Cut) {
        self.issued += 1;
        let entries: Vec<&Entry> = match kind {
            Kind::Snapshot { after, through } => {
                let covered = |entry: &&Entry| {
                    after.is_none_or(|after| entry.digest > after)
                        && through.is_none_or(|through| entry.digest <= through)
                };
                at.entries.values().filter(covered).collect()
            }
            Kind::Changes { since } => {
                let mut changed: Vec<&Entry> =
                    at.entries.values().filter(|entry| entry.revision > since).collect();
                changed.sort_by_key(|entry| entry.revision);
                changed
            }
        };
        let removed = match kind {
            Kind::Changes { since } => at.removed.range(since + 1..).map(|(_, digest)| *digest).collect(),
            Kind::Snapshot { .. } => vec![],
        };
        let document = Document {
            ring: "production".into(),
            epoch: self.world.control.epoch(),
            kind,
            revision: at.revision,
            issued_at: Millis(self.issued),
            expires_at: Millis(self.issued + 3_600_000),
            key_prefix: None,
            critical: vec![],
            entries: entries.into_iter().cloned().collect(),
            removed,
        };
        let signed = self.world.control.sign(&document);
        let answer = Answer {
            status: 200,
            signer: signed.signer.as_deref().map(str::as_bytes),
            signature: signed.signature.as_deref().map(str::as_bytes),
            ahead: None,
            body: &signed.body,
        };
        let host = FakeHost { shared: &self.world.shared, calls: Default::default() };
        let reaction = self.receiver.receive(&host, answer, self.world.now());
        assert!(!matches!(reaction, Reaction::Failed(_)), "{reaction:?}");
        self.world.run(TICK);
    }

    fn complete(&self) -> Option<u64> {
        let held = Namespace::shared("production").generation(&self.world.shared).generation;
        held.complete.map(|complete| complete.revision)
    }
}

/// The ring as it was at one revision.
#[derive(Debug, Clone, Default)]
struct Cut {
    revision: u64,
    entries: BTreeMap<Digest, Entry>,
    /// Every removal until then.
    removed: BTreeMap<u64, Digest>,
}

/// A ring's history, a cut for each revision.
fn history(changes: &[Change]) -> Vec<Cut> {
    let mut control = FakeControl::new();
    let mut removed = BTreeMap::new();
    let mut cuts = vec![Cut::default()];
    for change in changes {
        let before = control.revision;
        make(&mut control, change);
        if control.revision == before {
            continue;
        }
        if let Change::Remove(key) = change {
            removed.insert(control.revision, digest(*key));
        }
        cuts.push(Cut {
            revision: control.revision,
            entries: control.entries.clone(),
            removed: removed.clone(),
        });
    }
    cuts
}

proptest! {
    #![proptest_config(config(80))]

    /// DESIGN §3.5, §6
    #[test]
    fn any_order_of_pages_and_changes_ends_with_the_same_ring(
        changes in vec(change(), 1..25),
        // Documents: a page or not, from which key or revision, to which key, cut where.
        picks in vec((any::<bool>(), 0..9_usize, 0..9_usize, 0..26_usize), 0..60),
    ) {
        let cuts = history(&changes);
        let mut pushed = Pushed::new();
        let mut bounds: Vec<Digest> = (0..SECRETS.len()).map(digest).collect();
        bounds.sort();
        let mut newest = 0;
        for (is_page, from, to, at) in picks {
            let cut: &Cut = &cuts[at % cuts.len()];
            let kind = if is_page {
                let (after, through) = (from.checked_sub(1).map(|at| bounds[at]), bounds.get(to).copied());
                if through.is_some_and(|through| after >= Some(through)) {
                    continue;
                }
                Kind::Snapshot { after, through }
            } else {
                Kind::Changes { since: (from as u64 * 3).min(cut.revision) }
            };
            let before = pushed.complete();
            pushed.push(kind, cut);
            newest = newest.max(cut.revision);
            let after = pushed.complete();
            prop_assert!(after >= before, "a ring never goes back");
            // Each key is as it was at the revision that is enforced, or at a later one that was pushed.
            let Some(complete) = after else { continue };
            prop_assert!(complete <= newest);
            for (key, secret) in SECRETS.iter().enumerate() {
                let outcome = pushed.world.request(0, secret);
                let since = cuts.iter().filter(|cut| (complete..=newest).contains(&cut.revision));
                let possible: Vec<_> = since.map(|cut| expected(cut.entries.get(&digest(key)), Millis(START))).collect();
                prop_assert!(possible.contains(&outcome), "{}: {:?} is none of {:?}", secret, outcome, possible);
            }
        }
        // The pages that remain, then the changes since the first of them.
        let last = cuts.last().expect("the empty ring at least");
        for (after, through) in [(None, Some(bounds[3])), (Some(bounds[3]), None)] {
            pushed.push(Kind::Snapshot { after, through }, last);
        }
        let since = pushed.complete().expect("all pages are in");
        pushed.push(Kind::Changes { since }, last);
        prop_assert_eq!(pushed.complete(), Some(last.revision));
        let held = Namespace::shared("production").generation(&pushed.world.shared).generation;
        prop_assert_eq!(held.entries, last.entries.len() as u64);
        pushed.world.run(40);
        for (key, secret) in SECRETS.iter().enumerate() {
            let outcome = pushed.world.request(0, secret);
            prop_assert_eq!(outcome, expected(last.entries.get(&digest(key)), Millis(START)), "{}", secret);
        }
    }
}

// === lost and repeated answers ===

#[derive(Debug, Clone)]
enum Event {
    Change(Change),
    Fault(u8),
    Pass(u64),
    Ask(usize, usize),
    Compact,
    Kill(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => change().prop_map(Event::Change),
        2 => (0..6_u8).prop_map(Event::Fault),
        6 => (1..60_u64).prop_map(|ticks| Event::Pass(ticks * 20)),
        4 => (0..3_usize, 0..SECRETS.len()).prop_map(|(at, key)| Event::Ask(at, key)),
        1 => Just(Event::Compact),
        1 => (0..3_usize).prop_map(Event::Kill),
    ]
}

proptest! {
    #![proptest_config(config(60))]

    /// A model of the ring, a plain map, agrees with buckets and caches after any sequence.
    #[test]
    fn lost_and_repeated_answers_end_with_the_same_ring(events in vec(event(), 1..60)) {
        let mut control = FakeControl::new();
        for secret in &SECRETS[..5] {
            control.put(entry(secret, State::Active));
        }
        let mut world = World::new(3, control);
        for event in events {
            match event {
                Event::Change(change) => make(&mut world.control, &change),
                Event::Fault(fault) => world.fault = match fault {
                    0 => |_| Fault::Lost,
                    1 => |_| Fault::Repeated,
                    2 => |_| Fault::Late,
                    3 => |_| Fault::Replayed,
                    4 => |random| if random.one_in(2) { Fault::Late } else { Fault::Repeated },
                    _ => |_| Fault::None,
                },
                Event::Pass(millis) => world.run(millis),
                // What is asked for is cached.
                Event::Ask(at, key) => if world.vms[at].is_some() {
                    let _ = world.request(at, SECRETS[key]);
                },
                Event::Compact => world.control.compact(),
                Event::Kill(at) => if world.vms.iter().flatten().count() > 1 {
                    world.kill(at);
                },
            }
        }
        world.fault = |_| Fault::None;
        world.run_until("convergence", World::converged);
        world.run(40);
        agrees(&mut world)?;
        // And once more, from the caches.
        agrees(&mut world)?;
    }
}

// === the cache alone ===

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn a_cache_never_gives_what_was_not_put_and_loses_no_count(
        steps in vec((0..4_u8, 0..SECRETS.len(), 0..3_u64), 0..80),
    ) {
        let mut cache = Cache::new(2);
        let mut model: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        let (mut counted, mut taken) = (0_u64, 0_u64);
        for (at, (what, key, adoption)) in steps.into_iter().enumerate() {
            match what {
                0 => {
                    let put = Entry { revision: at as u64, ..entry(SECRETS[key], State::Active) };
                    taken += cache.put(adoption, put).1.map_or(0, |(_, count)| u64::from(count));
                    model.insert(key, (adoption, at as u64));
                }
                1 if let Some(at) = cache.find(&digest(key), adoption) => {
                    cache.count(at);
                    counted += 1;
                }
                2 => cache.take_counts(|_, count| taken += u64::from(count)),
                _ => {}
            }
            for (key, secret) in SECRETS.iter().enumerate() {
                if let Some(held) = cache.find(&digest(key), adoption).and_then(|at| cache.entry(at)) {
                    prop_assert_eq!(Some(&(adoption, held.revision)), model.get(&key), "{}", secret);
                }
            }
        }
        cache.take_counts(|_, count| taken += u64::from(count));
        prop_assert_eq!(taken, counted);
    }
}
