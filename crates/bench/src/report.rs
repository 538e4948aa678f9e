//! What was found: printed, and kept in `docs/benchmarks.md`.

use std::path::Path;

use anyhow::Context as _;
use keywheel_api::Timestamp;
use keywheel_testkit::{Envoy, http};

use crate::stats::Ratio;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/benchmarks.md");
const HEAD: &str = "# Benchmarks\n\nEach section is written by the command that it names. All arms of a section ran in one run on one\n\
     machine, in interleaved rounds; figures are medians of the rounds. CPU is the whole process's, user and\n\
     system. Trust the ratios more than the microseconds.\n";

/// A figure, and what it is judged by.
pub(crate) struct Bar {
    what: String,
    found: String,
    /// None of a figure that stands beside another and is not judged.
    judged: Option<(String, bool)>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// Where a figure comes from.
pub(crate) struct Machine(String);

impl Machine {
    pub(crate) async fn here(envoy: &Envoy) -> anyhow::Result<Self> {
        let info = http::get(envoy.admin(), "/server_info", &[]).await?.json();
        // "<commit>/1.40.0/Clean/RELEASE/BoringSSL"
        let version = info["version"].as_str().and_then(|text| text.split('/').nth(1)).unwrap_or("unknown");
        Self::with(&format!("Envoy {version}, "))
    }

    pub(crate) fn without_envoy() -> anyhow::Result<Self> {
        Self::with("")
    }

    fn with(program: &str) -> anyhow::Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism()?;
        Ok(Self(format!(
            "{cores} cores of {}, Linux {}, {program}keywheel {} (release build)",
            model.map_or("an unnamed CPU", |(_, model)| model),
            kernel.trim(),
            env!("CARGO_PKG_VERSION"),
        )))
    }
}

/// What one command found.
pub(crate) struct Section {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) body: String,
    pub(crate) bars: Vec<Bar>,
    /// Cores that other programs used meanwhile.
    pub(crate) others: f64,
}

impl Section {
    /// Prints it and, unless `dry`, puts it into the file in the place of its last edition. Gives whether
    /// every bar is met.
    pub(crate) fn publish(&self, Machine(machine): &Machine, dry: bool) -> anyhow::Result<bool> {
        let Self { id, title, body, bars, others } = self;
        let command =
            std::env::args().skip(1).fold(String::from("cargo xtask bench"), |line, arg| line + " " + &arg);
        let mut section = format!("## {title}\n\n{body}\n| | found | bar | |\n|---|---|---|---|\n");
        for Bar { what, found, judged } in bars {
            let (bar, verdict) = match judged {
                None => ("", ""),
                Some((bar, true)) => (bar.as_str(), "met"),
                Some((bar, false)) => (bar.as_str(), "**missed**"),
            };
            section += &format!("| {what} | {found} | {bar} | {verdict} |\n");
        }
        let day = Timestamp::now().to_string();
        let day = day.split('T').next().unwrap_or_default();
        section += &format!(
            "\n{day}, {machine}; other programs used {others:.1} cores meanwhile. To repeat it: `{command}`.\n"
        );
        println!("{section}");
        if !dry {
            let path = Path::new(FILE);
            let old = std::fs::read_to_string(path).unwrap_or_else(|_| HEAD.to_owned());
            std::fs::write(path, replace(&old, id, &section)).context("cannot write docs/benchmarks.md")?;
        }
        Ok(bars.iter().all(Bar::is_met))
    }
}

impl Bar {
    pub(crate) fn new(what: impl Into<String>, found: f64, unit: &str, limit: Option<Limit>) -> Self {
        let judged = limit.map(|limit| match limit {
            Limit::AtMost(bar) => (format!("≤ {bar}{unit}"), found <= bar),
            Limit::AtLeast(bar) => (format!("≥ {bar}{unit}"), found >= bar),
        });
        Self { what: what.into(), found: figure(found, unit), judged }
    }

    pub(crate) fn ratio(what: impl Into<String>, ratio: &Ratio, limit: Option<Limit>) -> Self {
        let [found, from, to] = [ratio.found, ratio.likely.0, ratio.likely.1].map(|value| figure(value, "×"));
        Self { found: format!("{found} ({from} to {to})"), ..Self::new(what, ratio.found, "×", limit) }
    }

    fn is_met(&self) -> bool {
        self.judged.as_ref().is_none_or(|(_, met)| *met)
    }
}

/// A number as people write it: 1,000,000.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8_lossy(&groups.join(&b',')).into_owned()
}

fn figure(value: f64, unit: &str) -> String {
    let digits = match value {
        ..1.0 => 3,
        1.0..10.0 => 2,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
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
    fn figures_are_written_for_people() {
        assert_eq!([7, 1000, 1_000_000].map(count), ["7", "1,000", "1,000,000"]);
        let bar = Bar::new("a ratio", 1.255, "×", Some(Limit::AtMost(1.25)));
        assert_eq!(bar.judged, Some(("≤ 1.25×".into(), false)), "{}", bar.found);
        assert!(Bar::new("a ratio", 0.76, "×", Some(Limit::AtLeast(0.76))).is_met());
        assert_eq!(figure(48.7, " ms"), "49 ms");
        assert_eq!(figure(0.7594, "×"), "0.759×");
    }
}
