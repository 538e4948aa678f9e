//! What was found: printed, and kept in `docs/benchmarks.md`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use keywheel_api::Timestamp;
use keywheel_testkit::{Envoy, http};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/benchmarks.md");
const HEAD: &str = "# Benchmarks\n\nEach section is written by the command that it names. All arms of a section ran in one run on one\n\
     machine, in interleaved rounds; figures are medians of the rounds. CPU is the whole process's, user and\n\
     system. Trust the ratios more than the microseconds.\n";

/// What a figure is judged by.
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) found: String,
    pub(crate) bar: String,
    pub(crate) met: bool,
}

/// Where a figure comes from.
pub(crate) struct Machine(String);

impl Machine {
    pub(crate) async fn here(envoy: &Envoy) -> anyhow::Result<Self> {
        let info = http::get(envoy.admin(), "/server_info", &[]).await?.json();
        // "<commit>/1.40.0/Clean/RELEASE/BoringSSL"
        let version = info["version"].as_str().and_then(|text| text.split('/').nth(1)).unwrap_or("unknown");
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism()?;
        Ok(Self(format!(
            "{cores} cores of {}, Linux {}, Envoy {version}, keywheel {} (release build)",
            model.map_or("an unnamed CPU", |(_, model)| model),
            kernel.trim(),
            env!("CARGO_PKG_VERSION"),
        )))
    }
}

/// Prints a section and puts it into the file in the place of its last edition. Gives whether every bar
/// is met.
pub(crate) fn publish(
    id: &str,
    title: &str,
    command: &str,
    Machine(machine): &Machine,
    body: &str,
    bars: &[Bar],
    dry: bool,
) -> anyhow::Result<bool> {
    let mut section = format!("## {title}\n\n{body}\n| | found | bar | |\n|---|---|---|---|\n");
    for Bar { what, found, bar, met } in bars {
        section += &format!("| {what} | {found} | {bar} | {} |\n", if *met { "met" } else { "**missed**" });
    }
    let day = Timestamp::now().to_string();
    let day = day.split('T').next().unwrap_or_default();
    section += &format!("\n{day}, {machine}. To repeat it: `{command}`.\n");
    println!("{section}");
    if !dry {
        let path = Path::new(FILE);
        let old = std::fs::read_to_string(path).unwrap_or_else(|_| HEAD.to_owned());
        std::fs::write(path, replace(&old, id, &section)).context("cannot write docs/benchmarks.md")?;
    }
    Ok(bars.iter().all(|bar| bar.met))
}

pub(crate) fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The least and the most, in microseconds.
pub(crate) fn range(times: &[Duration]) -> (f64, f64) {
    let micros = |time: Option<&Duration>| time.copied().unwrap_or_default().as_secs_f64() * 1e6;
    (micros(times.iter().min()), micros(times.iter().max()))
}

fn replace(file: &str, id: &str, section: &str) -> String {
    let (begin, end) = (format!("<!-- {id} -->\n"), format!("<!-- end of {id} -->\n"));
    let new = format!("{begin}{section}{end}");
    match (file.find(&begin), file.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{new}{}", &file[..from], &file[to + end.len()..])
        }
        _ => format!("{file}\n{new}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_replaces_its_last_edition_and_no_other() {
        let once = replace(HEAD, "ring", "first edition\n");
        let both = replace(&once, "other", "of another\n");
        let again = replace(&both, "ring", "second edition\n");
        assert_eq!(again, both.replace("first edition\n", "second edition\n"));
        assert!(again.starts_with(HEAD) && again.contains("of another\n"));
    }

    #[test]
    fn the_median_is_the_middle_one() {
        let times = [5, 1, 9].map(Duration::from_millis);
        assert_eq!(median(&times), Duration::from_millis(5));
        assert_eq!(range(&times), (1000.0, 9000.0));
    }
}
