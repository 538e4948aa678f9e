//! Medians, percentiles, and what a process used.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::keys::Draw;

/// Of the bootstrap.
const RUNS: usize = 1_000;

/// The middle one, or the later of the two middle ones; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(&sorted(values), 0.5)
}

/// The least and the most.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    (sorted.first().copied().unwrap_or_default(), sorted.last().copied().unwrap_or_default())
}

/// What a quarter of the values is below, and what a quarter is above.
pub(crate) fn quartiles(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    (percentile(&sorted, 0.25), percentile(&sorted, 0.75))
}

/// One median over another.
pub(crate) struct Ratio {
    pub(crate) found: f64,
    /// Between what it would have been found in 95 of 100 runs.
    pub(crate) likely: (f64, f64),
}

/// The ratio of what was found in the same rounds. How far to trust it is found by the bootstrap: from
/// the rounds as many are drawn as there are, some twice and some never, and that again and again.
pub(crate) fn ratio(above: &[f64], below: &[f64]) -> Ratio {
    let mut draw = Draw::new(1);
    let rounds = above.len().min(below.len());
    let (mut drawn_above, mut drawn_below) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    let mut ratios = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        drawn_above.clear();
        drawn_below.clear();
        for _ in 0..rounds {
            let round = draw.below(rounds);
            drawn_above.push(above[round]);
            drawn_below.push(below[round]);
        }
        ratios.push(median(&drawn_above) / median(&drawn_below));
    }
    let ratios = sorted(&ratios);
    let likely = (percentile(&ratios, 0.025), percentile(&ratios, 0.975));
    Ratio { found: median(above) / median(below), likely }
}

/// The least value that is not exceeded by a share of `sorted`; 0 of none.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// CPU time of a process so far: user and system, of all the threads that it has. To the nanosecond,
/// where `/proc/<pid>/stat` counts in hundredths of a second, which a slice may not last.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    Ok(threads(pid)?.into_iter().sum())
}

/// CPU time so far of the thread of a process that had most.
pub(crate) fn busiest_thread(pid: u32) -> anyhow::Result<Duration> {
    Ok(threads(pid)?.into_iter().max().unwrap_or_default())
}

fn threads(pid: u32) -> anyhow::Result<Vec<Duration>> {
    let mut all = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).context("Envoy is gone")? {
        let file = thread?.path().join("schedstat");
        let Ok(schedstat) = std::fs::read_to_string(&file) else { continue };
        all.push(cpu_in(&schedstat).with_context(|| format!("not the shape of {}", file.display()))?);
    }
    Ok(all)
}

/// Memory of a process that is in RAM, in bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("Envoy is gone")?;
    resident_in(&status).context("not the shape of /proc/<pid>/status")
}

/// How busy programs that are not ours keep the machine, which slows what is measured.
pub(crate) struct Others {
    since: Instant,
    all: Duration,
}

impl Others {
    /// From the start of our process on.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        Ok(Self { since: Instant::now(), all: all_cpu()? })
    }

    /// The cores that they used on average. `running` are our processes that did not end yet.
    pub(crate) fn cores(&self, running: impl Iterator<Item = u32>) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // Ours, and those of processes that ended.
        let mut ours = ticks(&stat, 11..15).context("not the shape of /proc/<pid>/stat")?;
        for pid in running {
            ours += cpu(pid)?;
        }
        let theirs = (all_cpu()? - self.all).saturating_sub(ours);
        Ok(theirs.as_secs_f64() / self.since.elapsed().as_secs_f64())
    }
}

/// CPU time of all programs so far.
fn all_cpu() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    all_cpu_in(&stat).context("not the shape of /proc/stat")
}

fn all_cpu_in(stat: &str) -> Option<Duration> {
    // User, nice and system; what follows is idle, or interrupts that nobody is charged for.
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(3);
    let ticks: Option<Vec<u64>> = fields.map(|ticks| ticks.parse().ok()).collect();
    Some(Duration::from_millis(10 * ticks?.iter().sum::<u64>()))
}

/// What a thread ran, which is the first of its figures.
fn cpu_in(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// The sum of some fields after the second of `/proc/<pid>/stat`.
fn ticks(stat: &str, fields: Range<usize>) -> Option<Duration> {
    // The second is the program's name, in brackets, and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let rest: Vec<&str> = rest.split_whitespace().collect();
    let ticks: Option<Vec<u64>> = rest.get(fields)?.iter().map(|ticks| ticks.parse().ok()).collect();
    // Linux reports hundredths of a second, whatever the kernel counts in.
    Some(Duration::from_millis(10 * ticks?.iter().sum::<u64>()))
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[5.0, 1.0, 9.0]), 5.0);
        assert_eq!(range(&[5.0, 1.0, 9.0]), (1.0, 9.0));
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_percentile_leaves_the_rest_above_it() {
        let values: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.99), 991.0);
        assert_eq!(percentile(&values, 0.999), 1000.0);
        assert_eq!(percentile(&values[..3], 0.999), 3.0);
    }

    #[test]
    fn a_ratio_lies_between_what_most_runs_would_find() {
        let above: Vec<f64> = (0..200).map(|round| f64::from(90 + round % 21)).collect();
        let Ratio { found, likely: (from, to) } = ratio(&above, &[50.0; 200]);
        assert!(1.9 < from && from < found && found < to && to < 2.1, "{found}: {from} to {to}");
    }

    #[test]
    fn what_linux_says_of_a_process_is_read() {
        let stat = "7 (en) voy) S 1 7 7 0 -1 4194304 1 2 3 4 150 25 0 0 20 0 9 0 5 6 7";
        assert_eq!(ticks(stat, 11..13), Some(Duration::from_millis(1750)));
        assert_eq!(ticks("7 (envoy) S 1", 11..13), None);
        assert_eq!(cpu_in("1234567 89 10\n"), Some(Duration::from_nanos(1_234_567)));
        assert_eq!(cpu_in(""), None);
        let all = "cpu  100 2 30 4000 5 6 7 8 9 10\ncpu0 1 2 3 4\n";
        assert_eq!(all_cpu_in(all), Some(Duration::from_millis(1320)));
        assert_eq!(resident_in("Name:\tenvoy\nVmRSS:\t   12 kB\nThreads:\t3\n"), Some(12 * 1024));
    }
}
