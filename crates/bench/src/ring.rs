//! What a large ring takes: time until a proxy holds it, memory, and from requests while it changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keywheel_testkit::{Envoy, Paths};

use crate::arm::{shipped, synced};
use crate::keys::{self, Draw, Traffic};
use crate::load::{self, CONNECTIONS, Plan, Sample};
use crate::report::Limit::AtMost;
use crate::report::{Bar, Machine, Section, count};
use crate::revoke;
use crate::ring_server::RingServer;
use crate::stats::{self, Others, median, micros, percentile, range, sorted};

/// Memory is judged by the difference to a ring of so many.
const FEW: u32 = 10;
const WORKERS: [usize; 2] = [1, 4];
/// Enough for every worker's cache to be full.
const WARM_UP: u64 = 60_000;
/// How long requests are watched while nothing changes, and while changes come steadily.
const WATCH: Duration = Duration::from_secs(5);
const CHANGE_EVERY: Duration = Duration::from_millis(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keys of the large ring
    #[arg(long, default_value_t = 1_000_000)]
    keys: u32,
    /// Rounds; each measures every figure once, but for revocations
    #[arg(long, default_value_t = 3)]
    rounds: u8,
    /// Revocations
    #[arg(long, default_value_t = 200)]
    revokes: usize,
    /// Measure the cold sync alone, and print it
    #[arg(long)]
    sync: bool,
    /// Print only; leave docs/benchmarks.md as it is
    #[arg(long)]
    dry: bool,
}

/// With so many workers, what each round found.
struct Size {
    workers: usize,
    /// From the start of Envoy's process until it holds the ring, in seconds.
    sync: Vec<f64>,
    /// For how many of them the busiest thread ran: the one whose VM fetches the ring and stores it.
    busy: Vec<f64>,
    /// The same with few keys: Envoy's own start.
    start: Vec<f64>,
    /// Of Envoy's memory, in bytes.
    per_key: Vec<f64>,
}

/// Latency percentiles of each round, in µs: p50, p99 and p99.9.
#[derive(Default)]
struct Latency([Vec<f64>; 3]);

/// Whether every bar is met.
pub(crate) async fn run(args: &Args) -> anyhow::Result<bool> {
    let others = Others::watch()?;
    let paths = Paths::from_env()?;
    eprintln!("cutting a ring of {} keys", args.keys);
    let few = RingServer::start(keys::ring(FEW)?).await?;
    let many = RingServer::start(keys::ring(args.keys)?).await?;

    let mut sizes = Vec::new();
    for workers in WORKERS {
        sizes.push(Size::measure(&paths, &few, &many, workers, args.rounds).await?);
    }
    if args.sync {
        return Ok(true);
    }

    let envoy = shipped(&paths, &many, 1).await?;
    synced(&envoy, args.keys.into()).await?;
    let machine = Machine::here(&envoy).await?;
    let plan = plan(&envoy, &many).await?;
    let (mut quiet, mut resync, mut changing) = Default::default();
    let mut took = Vec::new();
    for round in 1..=args.rounds {
        took.push(resync_under_load(&many, &plan, round, &mut quiet, &mut resync).await?);
        changes_under_load(&many, &plan, &mut changing).await?;
        eprintln!("requests meanwhile, round {round}/{}", args.rounds);
    }
    drop((envoy, few, many));

    eprintln!("revoking {} keys", args.revokes);
    let revokes = revoke::latencies(&paths, args.revokes).await?;

    let rate = plan.rate.unwrap_or_default();
    let body = tables(args, &sizes, &took, [&quiet, &resync, &changing], rate, &revokes);
    let bars = bars(&sizes, &quiet, &resync, &revokes);
    let section =
        Section { id: "ring", title: "A large ring", body, bars, others: others.cores(std::iter::empty())? };
    section.publish(&machine, args.dry)
}

// === time and memory ===

impl Size {
    async fn measure(
        paths: &Paths,
        few: &RingServer,
        many: &RingServer,
        workers: usize,
        rounds: u8,
    ) -> anyhow::Result<Self> {
        let mut size =
            Self { workers, sync: Vec::new(), busy: Vec::new(), start: Vec::new(), per_key: Vec::new() };
        for round in 1..=rounds {
            let little = cold(paths, few, workers).await?;
            let much = cold(paths, many, workers).await?;
            size.start.push(little.took);
            size.sync.push(much.took);
            size.busy.push(much.busy);
            size.per_key.push((much.memory - little.memory) / many.keys().len() as f64);
            let Cold { took, busy, .. } = much;
            eprintln!(
                "cold sync, workers: {workers}, round {round}/{rounds}: {took:.2} s, busy for {busy:.2} s"
            );
        }
        Ok(size)
    }
}

/// One start of an Envoy.
struct Cold {
    /// The seconds until it held the whole ring.
    took: f64,
    /// The seconds of them in which its busiest thread ran.
    busy: f64,
    /// What it holds of the machine's memory after it then answered requests for a while, in bytes.
    memory: f64,
}

async fn cold(paths: &Paths, ring: &RingServer, workers: usize) -> anyhow::Result<Cold> {
    let start = Instant::now();
    let told = ring.told();
    let envoy = shipped(paths, ring, workers).await?;
    // Asked for its statistics again and again, Envoy's main thread would be busy with the answers.
    told.wait().await?;
    let took = start.elapsed().as_secs_f64();
    let busy = stats::busiest_thread(envoy.pid())?.as_secs_f64();
    synced(&envoy, ring.keys().len() as u64).await?;
    load::run(Plan { requests: WARM_UP, rate: None, ..uniform(&envoy, ring) }).await?;
    Ok(Cold { took, busy, memory: stats::resident(envoy.pid())? as f64 })
}

// === requests meanwhile ===

/// Requests at a third of what Envoy takes at most, until they are stopped.
async fn plan(envoy: &Envoy, ring: &RingServer) -> anyhow::Result<Plan> {
    let plan = uniform(envoy, ring);
    let took = load::run(Plan { requests: WARM_UP, ..plan.clone() }).await?.took;
    Ok(Plan { rate: Some(WARM_UP as f64 / took.as_secs_f64() / 3.0), ..plan })
}

fn uniform(envoy: &Envoy, ring: &RingServer) -> Plan {
    let traffic = Traffic::Uniform(Arc::clone(ring.keys()));
    Plan { target: envoy.listener(), traffic, status: 200, rate: None, requests: u64::MAX, seed: 1 }
}

/// Has the proxy fetch the whole ring again. Gives the seconds it took.
async fn resync_under_load(
    ring: &RingServer,
    plan: &Plan,
    round: u8,
    quiet: &mut Latency,
    resync: &mut Latency,
) -> anyhow::Result<f64> {
    let again = ring.cut_again(round + 1)?;
    let (samples, [from, to]) = watched(plan, async {
        let from = Instant::now();
        ring.serve_again(again).await?;
        Ok([from, Instant::now()])
    })
    .await?;
    quiet.add(samples.iter().filter(|sample| sample.due < from));
    resync.add(samples.iter().filter(|sample| sample.due >= from && sample.due < to));
    Ok((to - from).as_secs_f64())
}

/// Changes a hundred keys in each second.
async fn changes_under_load(ring: &RingServer, plan: &Plan, changing: &mut Latency) -> anyhow::Result<()> {
    let (samples, from) = watched(plan, async {
        let from = Instant::now();
        let mut draw = Draw::new(1);
        let mut pace = tokio::time::interval(CHANGE_EVERY);
        while from.elapsed() < WATCH {
            pace.tick().await;
            ring.change(u32::try_from(draw.below(ring.keys().len()))?);
        }
        ring.caught_up().await?;
        Ok(from)
    })
    .await?;
    changing.add(samples.iter().filter(|sample| sample.due >= from));
    Ok(())
}

/// Sends requests, has something happen after a while, and stops when it is over.
async fn watched<T>(
    plan: &Plan,
    happens: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(Vec<Sample>, T)> {
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(load::run_until(plan.clone(), Arc::clone(&stop)));
    tokio::time::sleep(WATCH).await;
    let happened = happens.await;
    // Whatever came of it, the load must end.
    stop.store(true, Ordering::Relaxed);
    Ok((load.await??.samples, happened?))
}

impl Latency {
    fn add<'a>(&mut self, samples: impl Iterator<Item = &'a Sample>) {
        let latencies: Vec<f64> = samples.map(|sample| micros(sample.latency)).collect();
        let latencies = sorted(&latencies);
        for (found, share) in self.0.iter_mut().zip([0.5, 0.99, 0.999]) {
            found.push(percentile(&latencies, share));
        }
    }

    /// The p99.9 of the middle round.
    fn worst(&self) -> f64 {
        median(&self.0[2])
    }
}

// === what was found ===

fn bars(sizes: &[Size], quiet: &Latency, resync: &Latency, revokes: &[f64]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for Size { workers, sync, per_key, .. } in sizes {
        let with = format!("with {workers} worker{}", if *workers == 1 { "" } else { "s" });
        bars.push(Bar::new(format!("cold sync, {with}"), median(sync), " s", Some(AtMost(5.0))));
        bars.push(Bar::new(
            format!("memory per key, {with}"),
            median(per_key),
            " bytes",
            Some(AtMost(120.0)),
        ));
    }
    let ratio = resync.worst() / quiet.worst();
    bars.push(Bar::new(
        "p99.9 of requests during a full re-sync, against quiet",
        ratio,
        "×",
        Some(AtMost(2.0)),
    ));
    let revokes = sorted(revokes);
    for (name, share, bar) in [("p50", 0.5, 30.0), ("p99", 0.99, 100.0)] {
        let what = format!("revoke until the last 200 on any worker, {name}");
        bars.push(Bar::new(what, percentile(&revokes, share), " ms", Some(AtMost(bar))));
    }
    bars
}

fn tables(
    args: &Args,
    sizes: &[Size],
    took: &[f64],
    [quiet, resync, changing]: [&Latency; 3],
    rate: f64,
    revokes: &[f64],
) -> String {
    let mut text = format!(
        "A ring of {} keys.\n\n| workers | cold sync | rounds | busiest thread | with {FEW} keys | memory per key | rounds |\n\
         |---|---|---|---|---|---|---|\n",
        count(args.keys.into()),
    );
    for Size { workers, sync, busy, start, per_key } in sizes {
        let [(fast, slow), (least, most)] = [range(sync), range(per_key)];
        text += &format!(
            "| {workers} | {:.2} s | {fast:.2} to {slow:.2} | {:.2} s | {:.2} s | {:.0} bytes | {least:.0} to {most:.0} |\n",
            median(sync),
            median(busy),
            median(start),
            median(per_key),
        );
    }
    text += "\n| requests | p50 | p99 | p99.9 | rounds |\n|---|---|---|---|---|\n";
    let re_sync = format!("during a full re-sync of {:.1} s", median(took));
    for (name, latency) in [("quiet", quiet), (&re_sync, resync), ("with 100 changes a second", changing)] {
        let [p50, p99, p999] = &latency.0;
        let (least, most) = range(p999);
        text += &format!(
            "| {name} | {:.0} µs | {:.0} µs | {:.0} µs | {least:.0} to {most:.0} |\n",
            median(p50),
            median(p99),
            median(p999),
        );
    }
    let (least, most) = range(revokes);
    text + &format!(
        "\n{} revocations, one after the other, on {least:.0} to {most:.0} ms.\n\n\
         {} rounds. Cold sync is from the start of Envoy's process until it tells the control plane that it holds every key. Memory is \
         the process's, resident, after {} requests, less that of an Envoy with {FEW} keys. Requests are sent \
         at {rate:.0} a second, a third of what Envoy takes, over {CONNECTIONS} connections to one worker, \
         and their latency counts from when they were due. The re-sync is to a new epoch, so that every \
         entry is written again. The ring is served from memory, by the process that sends the requests. \
         Revocations are of a real control plane; two workers are asked with the key every two milliseconds \
         over each of 8 connections, and the time is from the API call until the last answer of 200.\n",
        revokes.len(),
        args.rounds,
        count(WARM_UP),
    )
}
