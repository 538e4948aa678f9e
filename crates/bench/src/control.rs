//! The control plane by itself: how it bears many proxies, a large ring and their reports.

mod large;
mod replicas;
mod reports;
mod soak;
mod waiting;

use std::time::Duration;

use keywheel_testkit::{ControlPlane, Paths, Relay, paths};

use crate::report::Limit::{AtLeast, AtMost};
use crate::report::{Bar, Machine, Section, count};
use crate::stats::{Others, median, percentile, range, sorted};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Proxies that wait for a change
    #[arg(long, default_value_t = 5_000)]
    proxies: usize,
    /// Changes that they are told of, one after the other
    #[arg(long, default_value_t = 10)]
    changes: usize,
    /// Keys of the large ring
    #[arg(long, default_value_t = 1_000_000)]
    keys: u32,
    /// Seconds of rotations, reports and callers that leave, over which memory is to stay flat
    #[arg(long, default_value_t = 120)]
    soak: u64,
    /// Measure proxies that wait at a relay, print what comes of it, and no more
    #[arg(long)]
    only_relay: bool,
    /// Print only; leave docs/benchmarks.md as it is
    #[arg(long)]
    dry: bool,
}

/// Whether every bar is met.
pub(crate) async fn run(args: &Args) -> anyhow::Result<bool> {
    let others = Others::watch()?;
    let paths = Paths::from_env()?;

    eprintln!("{} proxies wait at a relay for {} changes", args.proxies, args.changes);
    let relayed = relayed(&paths, args).await?;
    if args.only_relay {
        println!("p99 {:.0} ms, {:.1} KB for each", p99(&relayed.told), relayed.memory / 1024.0);
        return Ok(p99(&relayed.told) <= 1_000.0 && relayed.memory / 1024.0 <= 40.0);
    }
    eprintln!("and as many at the control plane");
    let waiting =
        waiting::measure(&ControlPlane::start(&paths).await?, None, args.proxies, args.changes).await?;

    eprintln!("importing {} digests", args.keys);
    let control = ControlPlane::start(&paths).await?;
    let import = large::import(&paths, &control, args.keys).await?;
    eprintln!("pages, keys and usage reports at that size");
    let pages = large::pages(&control).await?;
    let issues = large::issues(&control).await?;
    let reports = reports::measure(&control).await?;
    eprintln!("keys that come and go for {} seconds", args.soak);
    let soak = soak::measure(&control, Duration::from_secs(args.soak)).await?;
    drop(control);

    let replicas = if paths::postgres().is_ok() {
        eprintln!("a change on one of two replicas");
        Some(replicas::measure(&paths).await?)
    } else {
        eprintln!("replicas are left out: there is no PostgreSQL on this machine");
        None
    };

    let mut rows = vec![
        Row::new(
            format!("a change to {} waiting proxies, from the call", count(args.proxies as u64)),
            " ms",
            &waiting.told,
        ),
        Row::new(
            format!("a change to {} that wait at a relay, from the call", count(args.proxies as u64)),
            " ms",
            &relayed.told,
        ),
        Row::new("a page that is cut and signed when it is asked for", " ms", &pages.cut),
        Row::new("a page that was made before", " ms", &pages.kept),
        Row::new("issuing a key", " ms", &issues),
        Row::new("a usage report", " ms", &reports.latencies),
    ];
    let mut bars = vec![
        Bar::new("a change to all that wait, p99", p99(&waiting.told), " ms", Some(AtMost(1_000.0))),
        Bar::new("memory for each that waits", waiting.memory / 1024.0, " KB", Some(AtMost(40.0))),
        Bar::new(
            "a change to all that wait at a relay, p99",
            p99(&relayed.told),
            " ms",
            Some(AtMost(1_000.0)),
        ),
        Bar::new("memory of a relay for each that waits", relayed.memory / 1024.0, " KB", Some(AtMost(40.0))),
        Bar::new("signatures for each change", waiting.signatures, "", Some(AtMost(1.0))),
        Bar::new(format!("import of {} digests", count(args.keys.into())), import, " s", Some(AtMost(60.0))),
        Bar::new(
            "a page that is cut when it is asked for, median",
            median(&pages.cut),
            " ms",
            Some(AtMost(1.0)),
        ),
        Bar::new("a page that was made before, median", median(&pages.kept), " ms", Some(AtMost(1.0))),
        Bar::new("issuing a key, p99", p99(&issues), " ms", Some(AtMost(10.0))),
        Bar::new(
            "memory at the end of a soak, against before its middle",
            soak.growth,
            "×",
            Some(AtMost(1.1)),
        ),
        Bar::new("usage reports a second", reports.a_second, "", Some(AtLeast(1_000.0))),
    ];
    if let Some(replicas) = &replicas {
        rows.push(Row::new("a change on one replica, until who waits at the other has it", " ms", replicas));
        let p99 = p99(replicas);
        bars.push(Bar::new(
            "a change on one replica to who waits at the other, p99",
            p99,
            " ms",
            Some(AtMost(100.0)),
        ));
    }
    let mut body = "| | p50 | p99 | most | of |\n|---|---|---|---|---|\n".to_owned();
    rows.iter().for_each(|row| body += &row.0);
    body += &format!(
        "\nThe control plane and who asks it share the machine. Proxies wait over a connection each. Digests are imported by \
         `keywheel key import` from a file, for {} clients. Pages, keys and reports are asked for with the imported ring in place; reports \
         come over {} connections, each of one VM with {} counts. SQLite, but for the replicas: two control planes on one \
         PostgreSQL, and {} changes. The soak of {} seconds had {} keys made, rotated and revoked, over {} calls of {} \
         proxies that report and wait, a quarter of which leave meanwhile, with the imported ring in place, so that the database's caches are full; {:.0} MB were \
         resident, {:+.1} since the second quarter.\n",
        count(large::CLIENTS.into()),
        reports::VMS,
        reports::COUNTS,
        replicas::CHANGES,
        args.soak,
        count(soak.keys),
        count(soak.calls),
        soak::PROXIES,
        soak.megabytes,
        soak.added,
    );
    let others = others.cores(std::iter::empty())?;
    let section = Section { id: "control", title: "The control plane", body, bars, others };
    section.publish(&Machine::without_envoy()?, args.dry)
}

async fn relayed(paths: &Paths, args: &Args) -> anyhow::Result<waiting::Waiting> {
    let control = ControlPlane::start(paths).await?;
    let relay = Relay::start(paths, &[control.ring()], control.trust()).await?;
    waiting::measure(&control, Some(&relay), args.proxies, args.changes).await
}

/// A line of the table.
struct Row(String);

impl Row {
    fn new(what: impl AsRef<str>, unit: &str, values: &[f64]) -> Self {
        let (p50, p99, (_, most)) = (median(values), p99(values), range(values));
        let of = count(values.len() as u64);
        Self(format!("| {} | {p50:.2}{unit} | {p99:.2}{unit} | {most:.2}{unit} | {of} |\n", what.as_ref()))
    }
}

fn p99(values: &[f64]) -> f64 {
    percentile(&sorted(values), 0.99)
}
