//! Does it matter how many keys a ring has?

use std::sync::Arc;
use std::time::Duration;

use keywheel_testkit::{Envoy, Paths};

use crate::arm::{Keys, bare_envoy};
use crate::load::cpu_per_request;
use crate::report::{self, Bar, Machine, median};

const FEW: u32 = 10;
const SYNC_BAR: Duration = Duration::from_secs(2);
const CPU_BAR: f64 = 1.3;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keys of the large ring
    #[arg(long, default_value_t = 100_000)]
    keys: u32,
    /// Rounds; each measures every arm once
    #[arg(long, default_value_t = 7)]
    rounds: u64,
    /// Requests per arm and round
    #[arg(long, default_value_t = 64_000)]
    requests: u64,
    /// Print only; leave docs/benchmarks.md as it is
    #[arg(long)]
    dry: bool,
}

struct Arm {
    name: String,
    envoy: Envoy,
    keys: Arc<[String]>,
    cpu: Vec<Duration>,
}

/// Whether every bar is met.
pub(crate) async fn run(args: &Args) -> anyhow::Result<bool> {
    let paths = Paths::from_env()?;
    eprintln!("importing {} keys", args.keys);
    let (few, many) = (Keys::import(&paths, FEW).await?, Keys::import(&paths, args.keys).await?);

    // The first proxy of all finds a control plane that has cut no page yet.
    let first = many.cold_sync(&paths).await?.1;
    let (mut few_syncs, mut many_syncs) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        few_syncs.push(few.cold_sync(&paths).await?.1);
        many_syncs.push(many.cold_sync(&paths).await?.1);
        eprintln!("sync {round}/{}: {:?}", args.rounds, many_syncs.last().copied().unwrap_or_default());
    }

    let arm = |name: String, envoy, keys: &Keys| Arm {
        name,
        envoy,
        keys: keys.secrets.clone().into(),
        cpu: Vec::new(),
    };
    let mut arms = [
        arm("no filter".into(), bare_envoy(&paths, &many).await?, &many),
        arm(format!("{FEW} keys"), few.cold_sync(&paths).await?.0, &few),
        arm(format!("{} keys", args.keys), many.cold_sync(&paths).await?.0, &many),
    ];
    // Once unmeasured, for caches that a proxy fills in its first minute.
    for round in 0..=args.rounds {
        for arm in &mut arms {
            let cpu = cpu_per_request(&arm.envoy, &arm.keys, args.requests, round + 1).await?;
            if round > 0 {
                arm.cpu.push(cpu);
            }
        }
        let last: Vec<_> = arms.iter().map(|arm| arm.cpu.last().copied().unwrap_or_default()).collect();
        eprintln!("cpu {round}/{}: {last:?}", args.rounds);
    }

    let machine = Machine::here(&arms[0].envoy).await?;
    let [bare, few_arm, many_arm] = &arms;
    let added = |arm: &Arm| median(&arm.cpu).saturating_sub(median(&bare.cpu)).as_secs_f64() * 1e6;
    let ratio = added(many_arm) / added(few_arm);
    let sync = median(&many_syncs);
    let bars = [
        Bar {
            what: format!("cold sync of {} keys, from the start of Envoy's process", args.keys),
            found: format!("{:.2} s", sync.as_secs_f64()),
            bar: format!("< {} s", SYNC_BAR.as_secs()),
            met: sync < SYNC_BAR,
        },
        Bar {
            what: format!("CPU added per request, {} keys against {FEW}", args.keys),
            found: format!("{ratio:.2}×"),
            bar: format!("≤ {CPU_BAR}×"),
            met: ratio <= CPU_BAR,
        },
    ];
    let mut table = String::from("| | CPU per request | added | rounds |\n|---|---|---|---|\n");
    for arm in &arms {
        let (least, most) = report::range(&arm.cpu);
        table += &format!(
            "| {} | {:.2} µs | {:.2} µs | {least:.2} to {most:.2} µs |\n",
            arm.name,
            median(&arm.cpu).as_secs_f64() * 1e6,
            added(arm),
        );
    }
    let (least, most) = report::range(&many_syncs);
    table += &format!(
        "\nCold sync: {:.2} s with {FEW} keys, which is Envoy's own start, and {:.2} s with {} keys ({:.2} to {:.2} s \
         in {} rounds). The first proxy after a start of the control plane, which then cuts and signs every \
         page, took {:.2} s.\n",
        median(&few_syncs).as_secs_f64(),
        sync.as_secs_f64(),
        args.keys,
        least / 1e6,
        most / 1e6,
        args.rounds,
        first.as_secs_f64(),
    );
    table += &format!(
        "\nOne worker, 16 connections, {} requests per arm and round, keys drawn uniformly at random, which is \
         the worst case for caches. `envoy/envoy.yaml` with a direct response in place of the upstream and \
         no access log.\n",
        args.requests
    );
    report::publish("ring", "Ring size", "cargo xtask bench ring", &machine, &table, &bars, args.dry)
}
