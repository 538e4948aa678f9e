//! Fuzzing: libFuzzer makes up inputs for each target of `fuzz/`.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use lexopt::prelude::*;

use crate::run::{check, command, read, root, target};

/// The version that `fuzz/` was laid out for.
const CARGO_FUZZ: &str = "0.13.1";
/// Longer inputs than these find nothing that shorter ones do not, and take longer.
const TARGETS: [(&str, u32); 6] = [
    ("config", 4096),
    ("credential", 1024),
    ("document", 8192),
    ("bucket", 1024),
    ("rules", 4096),
    ("refresh", 256),
];

pub(crate) struct Options {
    targets: Vec<(&'static str, u32)>,
    seconds: u64,
    keep: bool,
}

/// Fuzzes the targets one after another. A target that fails does not keep the next from running.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    nightly()?;
    let fuzzer = cargo_fuzz()?;
    for (name, _) in &options.targets {
        check(&mut cargo_fuzz_command(&fuzzer, "build", name))?;
    }
    let mut outcomes = Vec::new();
    for (name, max_len) in &options.targets {
        outcomes.push(fuzz(&fuzzer, name, *max_len, options)?);
    }
    println!("\n{:<12}{:>12}{:>9}{:>12}  result", "target", "executions", "seconds", "per second");
    for outcome in &outcomes {
        println!("{outcome}");
    }
    let good = outcomes.iter().all(|outcome| outcome.success);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Options {
    pub(crate) fn parse(mut args: lexopt::Parser) -> anyhow::Result<Self> {
        let mut options = Self { targets: TARGETS.to_vec(), seconds: 60, keep: false };
        while let Some(arg) = args.next()? {
            match arg {
                Long("seconds") => options.seconds = args.value()?.parse()?,
                Long("keep") => options.keep = true,
                Value(name) if options.targets.len() == TARGETS.len() => {
                    options.targets.retain(|(target, _)| name == *target);
                    if options.targets.is_empty() {
                        let names = TARGETS.map(|(target, _)| target).join(", ");
                        bail!("there is no target {name:?}; there are {names}");
                    }
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }
}

/// What a target's run did.
struct Outcome {
    name: &'static str,
    success: bool,
    executions: u64,
    took: Duration,
    found: PathBuf,
}

fn fuzz(fuzzer: &Path, name: &'static str, max_len: u32, options: &Options) -> anyhow::Result<Outcome> {
    let committed = root().join("fuzz/corpus").join(name);
    let found = target().join("fuzz").join(name);
    let (fresh, artifacts) = (found.join("corpus"), found.join("artifacts"));
    for dir in [&fresh, &artifacts] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    println!("\n{name}: {} s", options.seconds);
    let mut run = cargo_fuzz_command(fuzzer, "run", name);
    // libFuzzer writes what is new into the first directory.
    run.args(if options.keep { [&committed, &fresh] } else { [&fresh, &committed] });
    run.arg("--")
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-max_len={max_len}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        // No input may take seconds, or much memory.
        .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"]);
    let start = Instant::now();
    let mut child =
        run.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot run cargo-fuzz")?;
    let (mut executions, mut took) = (0, None);
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            eprintln!("{line}");
            executions = tried(&line).unwrap_or(executions);
            if let Some((runs, seconds)) = done(&line) {
                (executions, took) = (runs, Some(Duration::from_secs(seconds)));
            }
        }
    }
    let success = child.wait()?.success();
    let took = took.unwrap_or_else(|| start.elapsed());
    Ok(Outcome { name, success, executions, took, found: artifacts })
}

/// How many inputs were tried so far, by a line such as `#4096 pulse cov: 1209 …`.
fn tried(line: &str) -> Option<u64> {
    line.strip_prefix('#')?.split([' ', '\t', ':']).next()?.parse().ok()
}

/// How many were tried, and in how many seconds, by the line `Done 4096 runs in 60 second(s)`.
fn done(line: &str) -> Option<(u64, u64)> {
    let (runs, seconds) = line.strip_prefix("Done ")?.split_once(" runs in ")?;
    Some((runs.parse().ok()?, seconds.split(' ').next()?.parse().ok()?))
}

fn nightly() -> anyhow::Result<()> {
    let get = "`rustup toolchain install nightly --profile minimal` gets it";
    let version = || read(command("rustup").args(["run", "nightly", "rustc", "--version"]));
    let found = version().or_else(|_| {
        eprintln!("nightly: {get}");
        check(command("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))?;
        version()
    });
    let found = found.with_context(|| format!("libFuzzer needs a nightly compiler; {get}"))?;
    eprintln!("nightly: found {}", found.trim());
    Ok(())
}

/// Finds or builds cargo-fuzz, in a directory of its version.
fn cargo_fuzz() -> anyhow::Result<PathBuf> {
    let dir = root().join(".tools").join(format!("cargo-fuzz-{CARGO_FUZZ}"));
    let binary = dir.join("bin/cargo-fuzz");
    if binary.is_file() {
        eprintln!("cargo-fuzz {CARGO_FUZZ}: found in .tools");
        return Ok(binary);
    }
    eprintln!("cargo-fuzz {CARGO_FUZZ}: building, a minute or two");
    // Built under a name that nothing looks for, so that an interrupted build leaves no half.
    let scratch = dir.with_extension(format!("part-{}", std::process::id()));
    let install = ["install", "cargo-fuzz", "--quiet", "--locked", "--version", CARGO_FUZZ, "--root"];
    let built = check(crate::run::cargo().args(install).arg(&scratch));
    let placed = built.and_then(|()| Ok(std::fs::rename(&scratch, &dir)?));
    if placed.is_err() {
        let _ = std::fs::remove_dir_all(&scratch);
    }
    placed.with_context(|| format!("cargo-fuzz {CARGO_FUZZ} is missing"))?;
    Ok(binary)
}

/// `cargo fuzz <verb> <name>` with the nightly compiler, whatever runs us. Without a sanitizer: there is
/// no unsafe code of ours to watch, and twice as many inputs fit into the time.
fn cargo_fuzz_command(fuzzer: &Path, verb: &str, name: &str) -> Command {
    let mut command = command(fuzzer);
    command.env("RUSTUP_TOOLCHAIN", "nightly").env_remove("CARGO").env_remove("RUSTC");
    // A toolchain's own cargo stands first in the path of what it runs.
    if let Some(path) = std::env::var_os("PATH") {
        let dirs = std::env::split_paths(&path).filter(|dir| !dir.ends_with("bin") || !is_toolchain(dir));
        if let Ok(path) = std::env::join_paths(dirs) {
            command.env("PATH", path);
        }
    }
    command.args([verb, "--fuzz-dir", "fuzz", "--sanitizer", "none", "--target-dir"]);
    command.arg(target()).arg(name);
    command
}

fn is_toolchain(dir: &Path) -> bool {
    dir.components().any(|part| part.as_os_str() == "toolchains")
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.took.as_secs().max(1);
        let Self { name, executions, .. } = self;
        write!(f, "{name:<12}{executions:>12}{seconds:>9}{:>12}  ", executions / seconds)?;
        if self.success { f.write_str("ok") } else { write!(f, "FAILED, see {}", self.found.display()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read() {
        assert_eq!(tried("#4096\tpulse  cov: 1209 ft: 3322"), Some(4096));
        assert_eq!(tried("#128: cov: 1209"), Some(128));
        assert_eq!(tried("INFO: seed corpus"), None);
        assert_eq!(done("Done 225411 runs in 46 second(s)"), Some((225_411, 46)));
    }

    #[test]
    fn every_target_has_a_corpus() {
        for (name, _) in TARGETS {
            assert!(root().join("fuzz/corpus").join(name).is_dir(), "{name}");
            assert!(root().join(format!("fuzz/fuzz_targets/{name}.rs")).is_file(), "{name}");
        }
    }
}
