//! Native, wasm, API and end-to-end tests.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use lexopt::prelude::*;

use crate::api::{ControlPlane, Listener};
use crate::run::{cargo, check, target};
use crate::versions::{ENVOY, ENVOY_OLDEST, Version};
use crate::{build, setup};

pub(crate) struct Options {
    filter: Option<String>,
    parts: Vec<Part>,
    /// What end-to-end tests run on.
    envoys: Vec<Version>,
    /// Published definitions of custom resources, to check the manifests against.
    schemas: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Native,
    Wasm,
    /// What the control plane does, on PostgreSQL.
    Postgres,
    /// What both listeners answer, against their OpenAPI documents.
    Api,
    E2e,
}

/// Runs the parts in order, end-to-end tests once on each Envoy. A part that fails does not keep the
/// next from running, so that one run shows all that is wrong.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    // First what may be missing, so that nobody waits for tests to learn of it.
    setup::programs()?;
    let has = |part| options.parts.contains(&part);
    let postgres = if has(Part::Postgres) { Some(setup::for_postgres_tests()?) } else { None };
    let runner = if has(Part::Wasm) { Some(setup::for_wasm_tests()?) } else { None };
    let schemathesis = if has(Part::Api) { Some(setup::for_api_tests()?) } else { None };
    let envoys = if has(Part::E2e) { setup::for_e2e(&options.envoys)? } else { Vec::new() };
    let mut outcomes = Vec::new();
    for part in &options.parts {
        match part {
            Part::Native => {
                let mut command = cargo();
                command.args(["test", "--workspace"]);
                command.envs(options.schemas.iter().map(|dir| ("KEYWHEEL_SCHEMAS", dir)));
                outcomes.push(options.run("native", &mut command)?);
            }
            Part::Wasm => {
                let mut command = cargo();
                command.args(["test", "--package", "keywheel-filter", "--target", "wasm32-unknown-unknown"]);
                command.envs(runner.iter().map(|at| ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", at)));
                outcomes.push(options.run("wasm", &mut command)?);
            }
            Part::Postgres => {
                let mut command = cargo();
                command.args(["test", "--package", "keywheel-control", "--test", "it", "--test", "postgres"]);
                command.env("KEYWHEEL_TEST_DATABASE", "postgres");
                command.envs(postgres.iter().map(|programs| ("POSTGRES_BIN", programs)));
                outcomes.push(options.run("postgres", &mut command)?);
            }
            Part::Api => {
                if let Some(schemathesis) = &schemathesis {
                    check(cargo().args(["build", "--package", "keywheel"]))?;
                    for listener in Listener::ALL {
                        outcomes.push(Outcome::of_listener(schemathesis, listener)?);
                    }
                }
            }
            Part::E2e => {
                let built = build::programs(build::Profile::Dev, &["keywheel"])?;
                for envoy in &envoys {
                    let mut command = cargo();
                    command.args(["test", "--package", "keywheel-filter", "--test", "e2e"]);
                    built.tell(&mut command, &envoy.binary);
                    outcomes.push(options.run(&format!("e2e, Envoy {}", envoy.version), &mut command)?);
                }
            }
        }
    }
    println!();
    for outcome in &outcomes {
        println!("{outcome}");
    }
    println!("in {}", shown(start.elapsed()));
    if has(Part::Native) && options.schemas.is_none() {
        println!("not checked: the manifests against published schemas, which --schemas DIR names");
    }
    Ok(if outcomes.iter().all(|outcome| outcome.success) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Options {
    pub(crate) fn parse(mut args: lexopt::Parser) -> anyhow::Result<Self> {
        let parts = vec![Part::Native, Part::Wasm, Part::Postgres, Part::Api, Part::E2e];
        let mut options = Self { filter: None, parts, envoys: vec![ENVOY, ENVOY_OLDEST], schemas: None };
        while let Some(arg) = args.next()? {
            match arg {
                Long("only") => {
                    options.parts = vec![match args.value()?.string()?.as_str() {
                        "native" => Part::Native,
                        "wasm" => Part::Wasm,
                        "postgres" => Part::Postgres,
                        "api" => Part::Api,
                        "e2e" => Part::E2e,
                        other => bail!("--only takes native, wasm, postgres, api or e2e, not `{other}`"),
                    }];
                }
                Long("envoy") => {
                    let version = args.value()?.string()?;
                    let parsed = Version::parse(&version);
                    let parsed = parsed.with_context(|| {
                        format!("--envoy takes a version such as {ENVOY_OLDEST}, not `{version}`")
                    })?;
                    options.envoys = vec![parsed];
                }
                Long("schemas") => {
                    let dir = PathBuf::from(args.value()?);
                    let dir = dir.canonicalize().with_context(|| format!("--schemas {}", dir.display()))?;
                    options.schemas = Some(dir);
                }
                Value(filter) if options.filter.is_none() => options.filter = Some(filter.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }

    fn run(&self, what: &str, command: &mut Command) -> anyhow::Result<Outcome> {
        // One test target's failure must not hide the next one's.
        Outcome::of(what, command.arg("--no-fail-fast").args(&self.filter))
    }
}

/// What a part's tests did.
struct Outcome {
    what: String,
    success: bool,
    passed: u64,
    failed: u64,
    took: Duration,
}

impl Outcome {
    /// Each on a control plane of its own: what the first was asked must not change what the next answers.
    fn of_listener(schemathesis: &setup::Schemathesis, listener: Listener) -> anyhow::Result<Self> {
        let start = Instant::now();
        let keywheel = target().join(format!("debug/keywheel{}", std::env::consts::EXE_SUFFIX));
        let success = ControlPlane::start(&keywheel)?.ask(schemathesis, listener)?;
        let what = format!("api, {} listener", listener.name());
        let (passed, failed) = if success { (1, 0) } else { (0, 1) };
        Ok(Self { what, success, passed, failed, took: start.elapsed() })
    }

    /// Runs cargo, shows what it prints and counts its results.
    fn of(what: &str, command: &mut Command) -> anyhow::Result<Self> {
        let start = Instant::now();
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
        let (mut passed, mut failed) = (0, 0);
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line?;
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                passed += count(&line, " passed");
                failed += count(&line, " failed");
            }
        }
        let success = child.wait()?.success();
        Ok(Self { what: what.to_owned(), success, passed, failed, took: start.elapsed() })
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.success { "ok" } else { "FAILED" };
        write!(f, "{:<18} {verdict:<7} {:>4} passed", self.what, self.passed)?;
        if self.failed > 0 {
            write!(f, ", {} failed", self.failed)?;
        }
        write!(f, "  {}", shown(self.took))
    }
}

/// The number before `what` in a line such as `test result: ok. 12 passed; 0 failed; …`.
fn count(line: &str, what: &str) -> u64 {
    let Some(results) = line.strip_prefix("test result: ") else {
        return 0;
    };
    let number = results.split(what).next().and_then(|before| before.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn shown(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn results_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!((count(line, " passed"), count(line, " failed")), (12, 3));
        assert_eq!(count("running 7 tests", " passed"), 0);
    }
}
