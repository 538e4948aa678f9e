//! `refresh`: a script of what happens to an Envoy process and its control plane.
//!
//! Each event is a letter and the digits that it takes; other bytes mean nothing, or the remainder:
//!
//! | event | what happens |
//! |---|---|
//! | `t`n | time passes: 20 ms, 100 ms, 500 ms, 2 s, 6 s or 40 s |
//! | `q`vk | VM v gets a request with key k |
//! | `a`k `v`k `e`k `c`k | key k is issued, revoked, retired, compromised |
//! | `x`k `n`k | key k ends, or begins, in five seconds |
//! | `i`k | key k is reinstated |
//! | `r`k | key k is removed |
//! | `E` | a new epoch begins |
//! | `b`, `B` | a backup is made; the newest is restored under a new epoch |
//! | `C` | old changes are forgotten |
//! | `P`n | pages have n + 1 entries |
//! | `S`n | documents are signed by signer n: two are trusted, the third is a stranger |
//! | `f`n | answers get this fault from now on: see [`FAULTS`] |
//! | `u` | the control plane cannot be reached; again, and it can |
//! | `K`v `N` | VM v dies, one more starts |
//! | `O` | one more starts, which trusts the first signer only |
//! | `Z`v `W`v | VM v stops, and goes on |
//! | `D`kn | n bytes of another plugin stand where the k-th entry of shared data was |
//! | `J`n | the proxy's clock jumps |
//! | `G`n | both clocks jump |

use std::collections::BTreeMap;

use keywheel_filter::decide::{Decision, Reason, decide};
use keywheel_filter::shared::Namespace;
use keywheel_filter::vm::{TICK, Vm};
use keywheel_keyring::generation::Position;
use keywheel_keyring::{Digest, Entry, Epoch, Millis, PublicKey, SigningKey, State};

use super::bytes::Bytes;
use super::support::{FakeControl, Fault, Random, World, entry};

const SECRETS: [&str; 10] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"];
const TIMES: [u64; 6] = [20, 100, 500, 2_000, 6_000, 40_000];
/// More virtual time, more events and more VMs than this bring nothing new.
const MAX_TIME: u64 = 100_000;
const MAX_EVENTS: usize = 250;
const MAX_VMS: usize = 8;
/// Who signs: the first is trusted by all, the second by all but those that [`Scene::start`] says.
const SIGNERS: [u8; 3] = [7, 8, 9];
/// A clock jumps so many milliseconds.
const JUMPS: [i64; 10] = [
    1_000,
    -1_000,
    6_000,
    -6_000,
    3_700_000,
    -3_700_000,
    31_536_000_000,
    -31_536_000_000,
    1 << 60,
    -(1 << 60),
];
pub const FAULTS: [fn(&mut Random) -> Fault; 12] = [
    |_| Fault::None,
    |_| Fault::Lost,
    |_| Fault::Reset,
    |_| Fault::Unavailable,
    |_| Fault::Tampered,
    |_| Fault::Truncated,
    |_| Fault::Unsigned,
    |_| Fault::Replayed,
    |_| Fault::Repeated,
    |_| Fault::Late,
    |random| if random.one_in(2) { Fault::Replayed } else { Fault::None },
    |random| match random.below(12) {
        0 => Fault::Lost,
        1 => Fault::Reset,
        2 => Fault::Tampered,
        3 => Fault::Replayed,
        4 => Fault::Repeated,
        5 => Fault::Late,
        _ => Fault::None,
    },
];

pub fn refresh(data: &[u8]) {
    let mut scene = Scene::new();
    let mut bytes = Bytes(data);
    for _ in 0..MAX_EVENTS {
        let Some(event) = bytes.next() else { break };
        scene.take(event, &mut bytes);
    }
    scene.settle();
}

struct Scene {
    world: World,
    /// VMs that stopped.
    asleep: BTreeMap<usize, Vm>,
    /// The ring's own time before the last tick, which is all that a VM need know.
    issued_before: Millis,
    /// What each VM adopted last, and whether it trusts all signers.
    vms: Vec<(Option<Position>, bool)>,
    /// Another plugin wrote over shared data, so that what was known may be forgotten.
    damaged: bool,
    signer: u8,
    backup: Option<BTreeMap<Digest, Entry>>,
    /// Keys that were denied in an earlier epoch: a proxy that saw it goes on denying them, whatever a
    /// restored backup says, unless they are reinstated in this one.
    denied_before: Vec<bool>,
    denied_now: Vec<bool>,
    /// Keys that each VM refused since the control plane last spoke for them.
    refused: Vec<[bool; SECRETS.len()]>,
}

impl Scene {
    fn new() -> Self {
        let mut control = FakeControl::new();
        for secret in &SECRETS[..6] {
            control.put(entry(secret, State::Active));
        }
        let mut scene = Self {
            world: World::new(0, control),
            asleep: BTreeMap::new(),
            issued_before: Millis(0),
            vms: Vec::new(),
            damaged: false,
            signer: SIGNERS[0],
            backup: None,
            denied_before: vec![false; SECRETS.len()],
            denied_now: vec![false; SECRETS.len()],
            refused: vec![[false; SECRETS.len()]; MAX_VMS],
        };
        scene.world.on_report = nothing_is_claimed_that_is_not_so;
        scene.start(true);
        scene.start(true);
        scene
    }

    fn start(&mut self, trusts_all: bool) {
        if self.vms.len() < MAX_VMS {
            let signers = if trusts_all { &SIGNERS[..2] } else { &SIGNERS[..1] };
            self.world.spawn(signers.iter().map(|seed| signer(*seed)).collect());
            self.vms.push((None, trusts_all));
            if !trusts_all {
                // It may keep a copy of its own, of which nothing can be said from here.
                self.world.on_report = |_, _| {};
            }
        }
    }

    fn take(&mut self, event: u8, bytes: &mut Bytes<'_>) {
        let mut which = |len: usize| usize::from(bytes.below(len as u8));
        match event {
            b't' => {
                let millis = TIMES[which(TIMES.len())];
                if self.world.mono + millis <= MAX_TIME {
                    self.pass(millis);
                }
            }
            b'q' => {
                let (vm, key) = (which(self.vms.len()), which(SECRETS.len()));
                self.ask(vm, key);
            }
            b'a' => self.put(which(SECRETS.len()), State::Active),
            b'v' => self.put(which(SECRETS.len()), State::Revoked),
            b'e' => self.put(which(SECRETS.len()), State::Retired),
            b'c' => self.put(which(SECRETS.len()), State::Compromised),
            b'x' => self.put(which(SECRETS.len()), State::Retiring),
            b'n' => self.put(which(SECRETS.len()), State::Pending),
            b'i' => {
                let key = which(SECRETS.len());
                self.forgive(key);
                let epoch = Some(self.world.control.epoch());
                self.world.control.put(Entry { reinstated_in: epoch, ..entry(SECRETS[key], State::Active) });
            }
            b'r' => {
                let key = which(SECRETS.len());
                self.forgive(key);
                self.world.control.remove(digest(key));
            }
            b'E' => self.new_epoch(),
            b'b' => self.backup = Some(self.world.control.entries.clone()),
            b'B' => {
                if let Some(backup) = self.backup.clone() {
                    self.world.control.entries = backup;
                    // What was issued since is unknown now.
                    self.new_epoch();
                }
            }
            b'C' => self.world.control.compact(),
            b'P' => self.world.control.page_size = 1 + which(6),
            b'S' => {
                self.signer = SIGNERS[which(SIGNERS.len())];
                self.world.control.sign_with(self.signer);
            }
            b'f' => self.world.fault = FAULTS[which(FAULTS.len())],
            b'u' => self.world.reachable = !self.world.reachable,
            b'K' => {
                let vm = which(self.vms.len());
                self.asleep.remove(&vm);
                self.world.kill(vm);
            }
            b'N' => self.start(true),
            b'O' => self.start(false),
            b'Z' => {
                let at = which(self.vms.len());
                if let Some(vm) = self.world.vms[at].take() {
                    self.asleep.insert(at, vm);
                }
            }
            b'W' => {
                let at = which(self.vms.len());
                self.wake(at);
            }
            b'D' => {
                let (key, len) = (which(64), which(32));
                self.damage(key, bytes.take(len));
            }
            b'J' => {
                let jump = JUMPS[which(JUMPS.len())];
                let before = self.world.wall;
                self.jump(jump);
                let moved = self.world.wall as i64 - before as i64;
                self.world.control_ahead -= moved;
            }
            b'G' => self.jump(JUMPS[which(JUMPS.len())]),
            _ => {}
        }
    }

    /// Time passes. No VM goes back.
    fn pass(&mut self, millis: u64) {
        self.world.run(millis - TICK);
        self.issued_before = self.issued();
        self.world.run(TICK);
        for (vm, (adopted, trusts_all)) in self.world.vms.iter().zip(&mut self.vms) {
            if let Some(vm) = vm {
                let now = vm.adopted();
                // A copy begins anew, and so does a ring whose generation was overwritten.
                assert!(now >= *adopted || self.damaged || !*trusts_all, "back from {adopted:?} to {now:?}");
                *adopted = now;
            }
        }
    }

    fn put(&mut self, key: usize, state: State) {
        let soon = Some(Millis(self.control_time() + 5_000));
        let mut entry = entry(SECRETS[key], state);
        match state {
            State::Retiring => entry.expires_at = soon,
            State::Pending => entry.not_before = soon,
            _ => {}
        }
        self.denied_now[key] |= state.is_denied();
        if !state.is_denied() {
            self.forgive(key);
        }
        self.world.control.put(entry);
    }

    fn forgive(&mut self, key: usize) {
        for refused in &mut self.refused {
            refused[key] = false;
        }
    }

    fn new_epoch(&mut self) {
        for (before, now) in self.denied_before.iter_mut().zip(&mut self.denied_now) {
            *before |= std::mem::take(now);
        }
        // What is denied now is published so under the new epoch.
        for key in 0..SECRETS.len() {
            self.denied_now[key] =
                self.world.control.entries.get(&digest(key)).is_some_and(|entry| entry.state.is_denied());
        }
        self.world.control.new_epoch();
    }

    fn wake(&mut self, at: usize) {
        if let Some(vm) = self.asleep.remove(&at) {
            self.world.vms[at] = Some(vm);
        }
    }

    fn damage(&mut self, key: usize, bytes: &[u8]) {
        let keys = self.world.shared.keys();
        if !keys.is_empty() {
            self.damaged = true;
            self.world.on_report = |_, _| {};
            let key = &keys[key % keys.len()];
            let removed = bytes.is_empty() && key.ends_with("/o");
            self.world.shared.overwrite(key, &if removed { Vec::new() } else { junk(bytes) });
        }
    }

    fn jump(&mut self, by: i64) {
        // Within what a signed number holds, so that it can be said how far apart two clocks are.
        self.world.wall = self.world.wall.saturating_add_signed(by).min(1 << 61);
    }

    fn control_time(&self) -> u64 {
        self.world.wall.saturating_add_signed(self.world.control_ahead)
    }

    /// What is said to a request must be so.
    fn ask(&mut self, at: usize, key: usize) {
        if self.world.vms[at].is_none() {
            return;
        }
        let outcome = self.world.request(at, SECRETS[key]);
        let adopted = self.world.vms[at].as_ref().and_then(Vm::adopted);
        if self.damaged || !self.vms[at].1 {
            return;
        }
        if self.refused[at][key] {
            assert!(outcome.is_err(), "{} came back to life", SECRETS[key]);
        }
        if let Some(known) = self.world.control.entries.get(&digest(key))
            && let Some(adopted) = adopted
            && adopted.epoch == self.world.control.epoch()
            && adopted.revision >= known.revision
        {
            self.agrees(key, known, &outcome);
        }
        self.refused[at][key] |= matches!(outcome, Err(Reason::KeyRevoked | Reason::KeyRetired));
    }

    /// What a VM with this entry says now.
    fn agrees(&self, key: usize, known: &Entry, outcome: &Result<String, Reason>) {
        let reinstated = known.reinstated_in == Some(self.world.control.epoch());
        let still_denied = !reinstated
            && (self.denied_before[key] || self.damaged && self.denied_now[key])
            && matches!(outcome, Err(Reason::KeyRevoked | Reason::KeyRetired));
        if still_denied {
            return;
        }
        let says = |issued| match decide(known, Millis(self.world.wall).max(issued), 1.0) {
            Decision::Allow => Ok(known.client.clone()),
            Decision::Deny(reason) => Err(reason),
        };
        let (now, before) = (says(self.issued()), says(self.issued_before));
        assert!(*outcome == now || *outcome == before, "{}: {outcome:?}, not {now:?}", SECRETS[key]);
    }

    fn issued(&self) -> Millis {
        Namespace::shared("production").generation(&self.world.shared).generation.issued_at
    }

    /// Nothing goes wrong any more: all VMs end with the control plane's ring.
    fn settle(&mut self) {
        self.world.fault = |_| Fault::None;
        self.world.reachable = true;
        self.world.wall = self.control_time();
        self.world.control_ahead = 0;
        for at in 0..self.vms.len() {
            self.wake(at);
        }
        if self.world.vms.iter().all(Option::is_none) {
            self.world.spawn(SIGNERS[..2].iter().map(|seed| signer(*seed)).collect());
        }
        if self.signer == SIGNERS[1] && !self.damaged {
            // Whoever trusts the second signer follows it, whatever others of the process trust.
            let trusting: Vec<usize> = (0..self.vms.len()).filter(|at| self.vms[*at].1).collect();
            self.world.run_until("convergence of those who trust the signer", |world| {
                let newest = Some((world.control.epoch(), world.control.revision));
                let vms = trusting.iter().filter_map(|at| world.vms[*at].as_ref());
                vms.map(|vm| vm.adopted().map(|held| (held.epoch, held.revision))).all(|held| held == newest)
            });
        }
        self.world.control.sign_with(SIGNERS[0]);
        // A damaged bucket shows when somebody asks for what is in it.
        for _ in 0..SECRETS.len() {
            self.world.run_until("convergence", World::converged);
            self.world.run(5 * TICK);
            if !self.damaged || !self.is_unavailable() {
                break;
            }
            self.world.run(1_000);
        }
        let vms: Vec<usize> = (0..self.world.vms.len()).filter(|at| self.world.vms[*at].is_some()).collect();
        for (at, key) in vms.into_iter().flat_map(|at| (0..SECRETS.len()).map(move |key| (at, key))) {
            let outcome = self.world.request(at, SECRETS[key]);
            match self.world.control.entries.get(&digest(key)) {
                Some(known) => self.agrees(key, &known.clone(), &outcome),
                // A denial outlives an epoch in which the control plane has forgotten it.
                None => assert!(
                    outcome == Err(Reason::UnknownKey)
                        || (self.denied_before[key] || self.damaged && self.denied_now[key])
                            && matches!(outcome, Err(Reason::KeyRevoked | Reason::KeyRetired)),
                    "VM {at}: {} is not in the ring, and gets {outcome:?}",
                    SECRETS[key]
                ),
            }
        }
    }

    fn is_unavailable(&mut self) -> bool {
        let vms = self.world.vms.len();
        let mut found = false;
        for at in (0..vms).filter(|at| self.world.vms[*at].is_some()).collect::<Vec<_>>() {
            for secret in SECRETS {
                found |= self.world.request(at, secret) == Err(Reason::RingUnavailable);
            }
        }
        found
    }
}

/// An acknowledgement speaks for every VM that has a ring.
fn nothing_is_claimed_that_is_not_so(world: &World, report: &str) {
    let field = |name: &str| report.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    // Calls that bring usage say nothing of the ring.
    let Some(enforced) = field("enforced").and_then(|number| number.parse().ok()) else { return };
    let Some(epoch) = field("epoch").and_then(|epoch| epoch.parse::<Epoch>().ok()).filter(|_| enforced > 0)
    else {
        return;
    };
    let claimed = Position { epoch, revision: enforced };
    for adopted in world.vms.iter().flatten().filter_map(Vm::adopted) {
        assert!(adopted >= claimed, "{report}, but a VM is at {adopted:?}");
    }
}

fn signer(seed: u8) -> PublicKey {
    SigningKey::from_seed([seed; 32]).public()
}

fn digest(key: usize) -> Digest {
    Digest::of(SECRETS[key].as_bytes())
}

/// Bytes that are nobody's: no version of a bucket or a generation begins so. Some at least, since a
/// bucket without any is one that was never written.
fn junk(bytes: &[u8]) -> Vec<u8> {
    [&[0x80 | bytes.first().unwrap_or(&0)], bytes.get(1..).unwrap_or_default()].concat()
}
