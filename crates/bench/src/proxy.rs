//! What a request costs in the proxy, beside what else could check it there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::ValueEnum as _;
use keywheel_testkit::{Envoy, Paths};
use tokio::task::block_in_place;

use crate::arm::{self, Modules, Name, Parts};
use crate::authz::Authz;
use crate::keys::{self, Traffic, Zipf};
use crate::load::{CONNECTIONS, Caller, Plan};
use crate::report::Limit::{AtLeast, AtMost};
use crate::report::{Bar, Machine, Section, count};
use crate::ring_server::RingServer;
use crate::stats::{self, Others, median, micros, percentile, quartiles, ratio, sorted};

/// Of unknown keys there are as many as no cache of refusals could hold.
const UNKNOWN: u32 = 100_000;
/// Requests to each kind before any is measured: caches fill, and V8 and the allocator settle.
const WARM_UP: u64 = 8_000;
/// How long each arm gets requests at the fixed rate, and how often.
const STEADY: Duration = Duration::from_millis(500);
const STEADY_TURNS: u64 = 20;
/// How long nobody asks anything, to see what an arm costs all the same.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keys of the largest ring
    #[arg(long, default_value_t = 1_000_000)]
    keys: u32,
    /// Rounds; each measures every arm once
    #[arg(long, default_value_t = 300)]
    rounds: u64,
    /// Requests with valid keys per arm and round; a quarter of it with unknown and without keys
    #[arg(long, default_value_t = 400)]
    requests: u64,
    /// Only these, and no filter; docs/benchmarks.md stays as it is
    #[arg(long, value_delimiter = ',')]
    arms: Vec<Name>,
    /// Print only; leave docs/benchmarks.md as it is
    #[arg(long)]
    dry: bool,
}

struct Arm {
    name: Name,
    title: String,
    envoy: Envoy,
    caller: Caller,
    cells: Vec<Cell>,
    /// Of all requests at the fixed rate, with valid keys, in µs.
    latencies: Vec<f64>,
    /// CPU while nobody asks, in milliseconds per second.
    idle: f64,
}

/// One kind of request to one arm, and what each round found.
struct Cell {
    kind: Kind,
    traffic: Traffic,
    status: u16,
    /// Per request, in µs.
    cpu: Vec<f64>,
    /// Requests per second.
    throughput: Vec<f64>,
    /// How much of a core Envoy used: near 1, Envoy's one worker was what limited it.
    busy: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Valid,
    Unknown,
    Missing,
}

/// Whether every bar is met.
pub(crate) async fn run(args: &Args) -> anyhow::Result<bool> {
    let others = Others::watch()?;
    let (paths, dir, authz) = (Paths::from_env()?, tempfile::tempdir()?, Authz::start().await?);
    let modules = Modules::assemble(dir.path())?;
    let parts = Parts { paths: &paths, modules: &modules, authz: authz.address() };
    let names = chosen(args);
    let rings = rings(&names, args.keys).await?;
    let unknown = keys::unknown(UNKNOWN)?;

    let mut arms = Vec::new();
    for name in names {
        let ring = &rings[&name.keys(args.keys)];
        arms.push(Arm::new(name, ring, name.envoy(&parts, ring).await?, &unknown)?);
        eprintln!("{}: ready", name.title(args.keys));
    }

    // Once unmeasured, also to learn how fast the slowest is.
    for arm in &mut arms {
        arm.saturate(WARM_UP, 0)?;
    }
    let slowest = arms.iter().flat_map(|arm| &arm.cells).flat_map(|cell| cell.throughput.clone());
    let rate = slowest.fold(f64::INFINITY, f64::min) / 3.0;
    arms.iter_mut().flat_map(|arm| &mut arm.cells).for_each(Cell::forget);
    // A round is short, so that what else the machine does meanwhile slows all arms alike.
    let turn_every = (args.rounds / STEADY_TURNS).max(1);
    for round in 1..=args.rounds {
        for arm in &mut arms {
            arm.saturate(args.requests, round)?;
        }
        if round % turn_every == 0 {
            for arm in &mut arms {
                // What one arm leaves behind is not the next one's burden.
                tokio::time::sleep(Duration::from_millis(50)).await;
                arm.steady(rate, round)?;
            }
            eprintln!("round {round}/{}", args.rounds);
        }
        // Whose turn comes after whose should not matter either.
        arms.rotate_left(1);
    }
    arms.sort_by_key(|arm| arm.name);
    let before: Vec<Duration> = arms.iter().map(Arm::cpu).collect::<anyhow::Result<_>>()?;
    tokio::time::sleep(IDLE).await;
    for (arm, before) in arms.iter_mut().zip(before) {
        arm.idle = (arm.cpu()? - before).as_secs_f64() * 1e3 / IDLE.as_secs_f64();
    }

    let machine = Machine::here(&arms[0].envoy).await?;
    let body = tables(&arms) + &method(args, rate);
    let section = Section {
        id: "proxy",
        title: "Cost of a request",
        body,
        bars: bars(&arms),
        others: others.cores(arms.iter().map(|arm| arm.envoy.pid()))?,
    };
    section.publish(&machine, args.dry || !args.arms.is_empty())
}

/// In the order of the table, and always with what everything is compared to.
fn chosen(args: &Args) -> Vec<Name> {
    let all = Name::value_variants().iter().copied();
    all.filter(|name| *name == Name::Bare || args.arms.is_empty() || args.arms.contains(name)).collect()
}

/// The rings that these arms need, by their number of keys.
async fn rings(names: &[Name], most: u32) -> anyhow::Result<BTreeMap<u32, RingServer>> {
    let mut rings = BTreeMap::new();
    for count in names.iter().map(|name| name.keys(most)).collect::<BTreeSet<u32>>() {
        rings.insert(count, RingServer::start(keys::ring(count)?).await?);
    }
    Ok(rings)
}

// === what was found ===

fn bars(arms: &[Arm]) -> Vec<Bar> {
    let find = |name| arms.iter().find(|arm| arm.name == name);
    let mut bars = Vec::new();
    let Some(bare) = find(Name::Bare) else { return bars };
    let added = |arm: &Arm, other: &Arm, kind| ratio(&arm.added(bare, kind), &other.added(bare, kind));
    let throughput = |arm: &Arm, other: &Arm| ratio(arm.throughput(), other.throughput());
    let waits = |arm: &Arm| median(&arm.latencies) - median(&bare.latencies);
    // Each bar, and beside it what a module could reach that does nothing.
    if let Some(floor) = find(Name::Floor) {
        for (name, bar) in [(Name::Minimal, Some(1.25)), (Name::Shipped, Some(1.6)), (Name::Calls, None)] {
            let Some(arm) = find(name) else { continue };
            let what = format!("CPU added, {} against the floor", arm.title);
            bars.push(Bar::ratio(what, &added(arm, floor, Kind::Valid), bar.map(AtMost)));
        }
    }
    if let Some(native) = find(Name::ApiKeyAuth) {
        for (name, bar) in [(Name::Minimal, Some(0.76)), (Name::Calls, None), (Name::Floor, None)] {
            let Some(arm) = find(name) else { continue };
            let what = format!("throughput, {} against `api_key_auth`", arm.title);
            bars.push(Bar::ratio(what, &throughput(arm, native), bar.map(AtLeast)));
        }
    }
    if let Some(authz) = find(Name::ExtAuthz) {
        let arms = [(Name::Shipped, true), (Name::Calls, false), (Name::Floor, false)];
        let arms = arms.map(|(name, judged)| (find(name), judged));
        for (arm, judged) in arms {
            let Some(arm) = arm else { continue };
            let what = format!("throughput, {} against `ext_authz`", arm.title);
            bars.push(Bar::ratio(what, &throughput(arm, authz), judged.then_some(AtLeast(3.0))));
        }
        for (arm, judged) in arms {
            let Some(arm) = arm else { continue };
            let what = format!("median latency added, {} against `ext_authz`", arm.title);
            bars.push(Bar::new(what, waits(arm) / waits(authz), "×", judged.then_some(AtMost(0.1))));
        }
    }
    for (few, most, bar) in [(Name::Few, Name::Most, 1.6), (Name::FewZipf, Name::MostZipf, 1.1)] {
        let (Some(few), Some(most)) = (find(few), find(most)) else { continue };
        let what = format!("CPU added, {} against {}", most.title, few.title);
        bars.push(Bar::ratio(what, &added(most, few, Kind::Valid), Some(AtMost(bar))));
    }
    bars
}

fn tables(arms: &[Arm]) -> String {
    let bare = &arms[0];
    let mut text = String::from(
        "Valid keys, as fast as they are answered, and at a fixed rate:\n\n\
         | | CPU per request | added | half of the rounds | requests/s | Envoy's cores | p50 | p99 | p99.9 | idle |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for arm in arms {
        let latencies = sorted(&arm.latencies);
        let share = |share| percentile(&latencies, share);
        for cell in arm.cells.iter().filter(|cell| cell.kind == Kind::Valid) {
            let (least, most) = quartiles(&arm.added(bare, cell.kind));
            text += &format!(
                "| {} | {:.1} µs | {:.2} µs | {least:.2} to {most:.2} | {:.0} | {:.2} |",
                arm.title,
                median(&cell.cpu),
                median(&arm.added(bare, cell.kind)),
                median(&cell.throughput),
                median(&cell.busy),
            );
            text += &format!(
                " {:.0} µs | {:.0} µs | {:.0} µs | {:.1} ms/s |\n",
                share(0.5),
                share(0.99),
                share(0.999),
                arm.idle
            );
        }
    }
    text += "\nUnknown keys and none, as fast as they are answered. An arm that refuses them writes an answer of its own:\n\n\
             | | CPU, unknown | half of the rounds | CPU, missing | half of the rounds | status |\n|---|---|---|---|---|---|\n";
    for arm in arms {
        let [unknown, missing] = [Kind::Unknown, Kind::Missing].map(|kind| arm.cell(kind));
        if let (Some(unknown), Some(missing)) = (unknown, missing) {
            let [(from, to), (least, most)] = [unknown, missing].map(|cell| quartiles(&cell.cpu));
            text += &format!(
                "| {} | {:.1} µs | {from:.1} to {to:.1} | {:.1} µs | {least:.1} to {most:.1} | {} |\n",
                arm.title,
                median(&unknown.cpu),
                median(&missing.cpu),
                unknown.status,
            );
        }
    }
    text
}

fn method(args: &Args, rate: f64) -> String {
    format!(
        "\n{} rounds of {} requests for each arm with valid keys, a quarter of that for each of the others; half \
         of the rounds found what lies between the two figures. One worker, {CONNECTIONS} connections, each with one request under way. `envoy/envoy.yaml` with a direct \
         response in place of the upstream and no access log; rings are served from memory. Keys are drawn \
         uniformly at random, which is the worst case for caches, or by Zipf's law with exponent 1. Where \
         nothing else is said the ring has {} keys. What is added is an arm's CPU less that of no filter in \
         the same round; what stands in brackets behind a ratio holds 95 of 100 runs by the bootstrap. Idle is the CPU of the whole process while nobody asks. Latency is at {rate:.0} requests/s for all, a third of what the slowest takes, and \
         counts from when a request was due, so that a stall is not left out by those it holds up. The \
         server that `ext_authz` asks runs in the load's process: its CPU is not counted, but it shares the \
         machine's cores.\n",
        args.rounds,
        count(args.requests),
        count(arm::USUAL.into()),
    )
}

// === impl Arm, Cell ===

impl Arm {
    fn new(name: Name, ring: &RingServer, envoy: Envoy, unknown: &Arc<[String]>) -> anyhow::Result<Self> {
        let keys = ring.keys();
        let refusal = name.refusal();
        let traffic = if name.is_zipf() {
            Traffic::Zipf(Arc::clone(keys), Arc::new(Zipf::new(keys.len())))
        } else {
            Traffic::Uniform(Arc::clone(keys))
        };
        let mut cells = vec![Cell::new(Kind::Valid, traffic, 200)];
        cells.push(Cell::new(Kind::Unknown, Traffic::Uniform(Arc::clone(unknown)), refusal));
        cells.push(Cell::new(Kind::Missing, Traffic::Missing, refusal));
        let title = name.title(u32::try_from(keys.len()).unwrap_or(u32::MAX));
        let caller = Caller::connect(envoy.listener())?;
        Ok(Self { name, title, envoy, caller, cells, latencies: Vec::new(), idle: 0.0 })
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        stats::cpu(self.envoy.pid())
    }

    /// Every kind of request, as fast as they are answered.
    fn saturate(&mut self, requests: u64, round: u64) -> anyhow::Result<()> {
        for cell in &mut self.cells {
            let requests = if cell.kind == Kind::Valid { requests } else { requests / 4 };
            let plan = cell.plan(&self.envoy, requests, round);
            let before = stats::cpu(self.envoy.pid())?;
            let took = block_in_place(|| self.caller.run(&plan, &AtomicBool::new(false)))?.took;
            let cpu = stats::cpu(self.envoy.pid())? - before;
            cell.cpu.push(micros(cpu) / requests as f64);
            cell.throughput.push(requests as f64 / took.as_secs_f64());
            cell.busy.push(cpu.as_secs_f64() / took.as_secs_f64());
        }
        Ok(())
    }

    /// Valid keys, at a rate.
    fn steady(&mut self, rate: f64, turn: u64) -> anyhow::Result<()> {
        let requests = (rate * STEADY.as_secs_f64()) as u64;
        let Some(cell) = self.cells.first() else { return Ok(()) };
        let plan = Plan { rate: Some(rate), ..cell.plan(&self.envoy, requests, turn) };
        let samples = block_in_place(|| self.caller.run(&plan, &AtomicBool::new(false)))?.samples;
        self.latencies.extend(samples.iter().map(|sample| micros(sample.latency)));
        Ok(())
    }

    fn cell(&self, kind: Kind) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.kind == kind)
    }

    /// CPU per request less that of `bare` in the same round: what else the machine did then slowed
    /// both.
    fn added(&self, bare: &Self, kind: Kind) -> Vec<f64> {
        let [ours, bare] =
            [self.cell(kind), bare.cell(Kind::Valid)].map(|cell| cell.map_or(&[][..], |cell| &cell.cpu));
        ours.iter().zip(bare).map(|(ours, bare)| ours - bare).collect()
    }

    fn throughput(&self) -> &[f64] {
        self.cell(Kind::Valid).map_or(&[], |cell| &cell.throughput)
    }
}

impl Cell {
    const fn new(kind: Kind, traffic: Traffic, status: u16) -> Self {
        Self { kind, traffic, status, cpu: Vec::new(), throughput: Vec::new(), busy: Vec::new() }
    }

    fn plan(&self, envoy: &Envoy, requests: u64, seed: u64) -> Plan {
        let (traffic, status) = (self.traffic.clone(), self.status);
        Plan { target: envoy.listener(), traffic, status, rate: None, requests, seed }
    }

    fn forget(&mut self) {
        self.cpu.clear();
        self.throughput.clear();
        self.busy.clear();
    }
}
