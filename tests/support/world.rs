use std::cell::RefCell;

use keywheel_filter::Now;
use keywheel_filter::decide::Reason;
use keywheel_filter::policy::Access;
use keywheel_filter::refresh::{Answer, Call};
use keywheel_filter::shared::Namespace;
use keywheel_filter::vm::{Ring, TICK, Vm};
use keywheel_keyring::{Millis, PublicKey};

use super::control::Signed;
use super::envoy::FakeHost;
use super::{FakeControl, FakeSharedData, Fault, Random, config};

/// How long a fake long-poll is held, in milliseconds.
const HELD: u64 = 1_000;

/// One Envoy process and its control plane, on virtual time.
pub struct World {
    pub shared: FakeSharedData,
    pub vms: Vec<Option<Vm>>,
    pub control: FakeControl,
    pub reachable: bool,
    /// A cluster that takes calls and never answers.
    pub hung: Option<usize>,
    /// Which cluster each call went to.
    pub asked: Vec<usize>,
    pub mono: u64,
    /// What the proxy's clock says.
    pub wall: u64,
    /// How far the control plane's clock is ahead of the proxy's, in milliseconds.
    pub control_ahead: i64,
    pub random: Random,
    /// Picks what happens to each answer.
    pub fault: fn(&mut Random) -> Fault,
    pub reports: Vec<String>,
    /// Looks at each report as it goes out.
    pub on_report: fn(&Self, report: &str),
    /// Answers in the control plane's place, by a call's path and [`World::changed`].
    pub elsewhere: Option<Elsewhere>,
    pub changed: bool,
    late: Vec<(usize, u32, Signed)>,
    flights: Vec<Flight>,
}

/// None: the call is held.
pub type Elsewhere = Box<dyn Fn(&str, bool) -> Option<Signed>>;

struct Flight {
    vm: usize,
    call: Call,
    sent_at: u64,
}

impl World {
    pub fn new(vms: usize, control: FakeControl) -> Self {
        let mut world = Self {
            shared: FakeSharedData::default(),
            vms: Vec::new(),
            control,
            reachable: true,
            hung: None,
            asked: Vec::new(),
            mono: 0,
            wall: 1_790_000_000_000,
            control_ahead: 0,
            random: Random(0x9e37_79b9_7f4a_7c15),
            fault: |_| Fault::None,
            reports: Vec::new(),
            on_report: |_, _| {},
            elsewhere: None,
            changed: false,
            late: Vec::new(),
            flights: Vec::new(),
        };
        for _ in 0..vms {
            let trust = world.control.trust();
            world.spawn(trust);
        }
        world
    }

    /// Starts one more VM in the process, with one cluster to ask.
    pub fn spawn(&mut self, trust: Vec<PublicKey>) -> usize {
        let id = self.vms.len() as u64 + 1;
        self.vms.push(Some(Vm::new(&config(trust), "node/1", id)));
        self.vms.len() - 1
    }

    /// Adds a VM with a configuration of its own.
    pub fn add(&mut self, vm: Vm) -> usize {
        self.vms.push(Some(vm));
        self.vms.len() - 1
    }

    pub fn kill(&mut self, vm: usize) {
        self.vms[vm] = None;
        self.flights.retain(|flight| flight.vm != vm);
        self.late.retain(|(at, _, _)| *at != vm);
    }

    pub fn now(&self) -> Now {
        Now { wall: Millis(self.wall), mono: self.mono }
    }

    /// Lets `millis` pass: every VM ticks, and answers arrive.
    pub fn run(&mut self, millis: u64) {
        let end = self.mono + millis;
        while self.mono < end {
            self.mono += TICK;
            self.wall += TICK;
            for vm in 0..self.vms.len() {
                self.tick(vm);
            }
            self.deliver();
        }
    }

    /// Runs until `done`, for at most a virtual minute.
    pub fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = self.mono + 60_000;
        while !done(self) {
            assert!(self.mono < deadline, "{what} did not happen: {}", self.describe());
            self.run(TICK);
        }
    }

    pub fn tick(&mut self, vm: usize) {
        let now = self.now();
        self.drive(vm, |vm, host| vm.tick(host, now));
    }

    fn drive(&mut self, at: usize, with: impl FnOnce(&mut Vm, &FakeHost<'_>)) {
        let Some(mut vm) = self.vms[at].take() else {
            return;
        };
        let host = FakeHost { shared: &self.shared, calls: RefCell::default() };
        with(&mut vm, &host);
        self.vms[at] = Some(vm);
        for call in host.calls.into_inner() {
            (self.on_report)(self, &call.proxy);
            self.asked.push(call.cluster);
            // What a cluster takes that hangs reaches nobody.
            if self.hung == Some(call.cluster) {
                continue;
            }
            self.reports.push(call.proxy.clone());
            self.flights.push(Flight { vm: at, call, sent_at: self.mono });
        }
    }

    fn deliver(&mut self) {
        for flight in std::mem::take(&mut self.flights) {
            let waited = self.mono >= flight.sent_at + HELD;
            let clock = self.wall.saturating_add_signed(self.control_ahead);
            let answer = if let Some(elsewhere) = &self.elsewhere {
                elsewhere(&flight.call.path, self.changed)
            } else if self.reachable {
                self.control.answer(&flight.call, clock, waited)
            } else {
                Some(Signed::bare(503))
            };
            let Some(answer) = answer else {
                self.flights.push(flight);
                continue;
            };
            let (vm, id) = (flight.vm, flight.call.id);
            let fault = (self.fault)(&mut self.random);
            if fault == Fault::Late {
                self.late.push((vm, id, answer));
                continue;
            }
            let Some(answer) = self.spoil(answer, fault) else {
                continue;
            };
            self.give(vm, id, &answer);
            if fault == Fault::Repeated {
                self.give(vm, id, &answer);
            }
            for (vm, id, answer) in std::mem::take(&mut self.late) {
                self.give(vm, id, &answer);
            }
        }
    }

    /// Hands a VM the answer to call `id`.
    pub fn give(&mut self, vm: usize, id: u32, answer: &Signed) {
        let now = self.now();
        self.drive(vm, |vm, host| {
            let answer = Answer {
                status: answer.status,
                signer: answer.signer.as_deref().map(str::as_bytes),
                signature: answer.signature.as_deref().map(str::as_bytes),
                ahead: answer.ahead.as_deref().map(str::as_bytes),
                body: &answer.body,
            };
            vm.answer(host, id, answer, now);
        });
    }

    fn spoil(&mut self, mut answer: Signed, fault: Fault) -> Option<Signed> {
        match fault {
            Fault::None | Fault::Repeated | Fault::Late => {}
            Fault::Lost => return None,
            Fault::Reset => answer = Signed::bare(0),
            Fault::Unavailable => answer = Signed::bare(503),
            Fault::Tampered => {
                let at = self.random.below(answer.body.len().max(1) as u64) as usize;
                if let Some(byte) = answer.body.get_mut(at) {
                    *byte ^= 1;
                }
            }
            Fault::Truncated => answer.body.truncate(answer.body.len() / 2),
            Fault::Unsigned => answer.signature = None,
            Fault::Replayed => {
                let past = &self.control.past;
                let at = self.random.below(past.len().max(1) as u64) as usize;
                answer = past.get(at).cloned().unwrap_or(answer);
            }
        }
        Some(answer)
    }

    /// What VM `at` does with a request that carries `secret`: the client's name, or why not.
    pub fn request(&mut self, at: usize, secret: &str) -> Result<String, Reason> {
        let now = self.now();
        let mut outcome = Err(Reason::RingUnavailable);
        let shared = &self.shared;
        let vm = self.vms[at].as_mut().expect("the VM lives");
        if vm.ring(shared, now) == Ring::Fresh {
            outcome = vm
                .check(shared, secret.as_bytes(), Access::ANY_KEY, now)
                .map(|entry| entry.client.clone())
                .map_err(|refusal| refusal.reason);
        }
        outcome
    }

    /// For the message of a failed test.
    fn describe(&self) -> String {
        let adopted: Vec<_> = self.vms.iter().map(|vm| vm.as_ref().map(Vm::adopted)).collect();
        let calls: Vec<_> = self.flights.iter().map(|flight| (flight.vm, &flight.call.path)).collect();
        let held = Namespace::shared("production").generation(&self.shared).generation;
        let newest = (self.control.epoch(), self.control.revision);
        format!(
            "newest {newest:?}, held {held:?}, adopted {adopted:?}, leaders {:?}, calls {calls:?}",
            self.leaders()
        )
    }

    pub fn leaders(&self) -> Vec<usize> {
        let leads = |vm: &Option<Vm>| vm.as_ref().is_some_and(Vm::leads);
        (0..self.vms.len()).filter(|at| leads(&self.vms[*at])).collect()
    }

    /// Whether every VM enforces the control plane's newest revision.
    pub fn converged(&self) -> bool {
        let newest = Some((self.control.epoch(), self.control.revision));
        let live = || self.vms.iter().flatten();
        live().all(|vm| vm.adopted().map(|position| (position.epoch, position.revision)) == newest)
    }

    /// Issues a key, and waits until VM `at` accepts it: for at most 3 s.
    pub fn put_and_see(&mut self, at: usize, secret: &str) {
        self.control.put(super::entry(secret, keywheel_keyring::State::Active));
        let deadline = self.mono + 3_000;
        while self.request(at, secret).is_err() {
            assert!(self.mono < deadline, "{secret} is not accepted: {}", self.describe());
            self.run(TICK);
        }
    }

    pub fn rejected(&mut self, at: usize) -> Vec<&'static str> {
        let metrics = self.vms[at].as_mut().expect("the VM lives").take_metrics();
        metrics.map(|metrics| metrics.rejected.into_keys().collect()).unwrap_or_default()
    }
}
