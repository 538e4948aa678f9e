//! The one door: `cargo xtask <command>`. CI calls the same commands that the README shows.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`versions`] | every pinned version, once |
//! | [`setup`] | finding or getting what the other commands need |
//! | [`build`] | the filter's wasm and the binaries |
//! | [`check`] | format and lints |
//! | [`test`] | native, wasm, API and end-to-end tests |
//! | [`api`] | schemathesis on both listeners |
//! | [`compose`] | the compose files, run in Docker |
//! | [`reproducible`] | two builds of the filter, and whether they are one file |
//! | [`deny`] | licences, sources and known vulnerabilities of dependencies |
//! | [`sbom`] | what each thing that ships is built of |
//! | [`dist`] | what images are made of |
//! | [`release`] | what is kept of a release for the compatibility tests |
//! | [`fuzz`] | libFuzzer on everything that reads bytes |
//! | [`run`] | running a program, and saying what failed |

mod api;
mod build;
mod check;
mod compose;
mod deny;
mod dist;
mod fuzz;
mod release;
mod reproducible;
mod run;
mod sbom;
mod setup;
mod test;
mod versions;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::bail;
use lexopt::prelude::*;

const HELP: &str = "\
cargo xtask <command>

  setup              find or get everything that building, testing and the demo need
  demo [--keep] ...  show a rotation under live traffic; --help for its options
  test [FILTER]      every test: native, wasm, the API, and end to end against a real Envoy
      --only PART      native, wasm, postgres, api or e2e
      --envoy VERSION  end to end on this one, instead of the newest and the oldest supported;
                       ENVOY_BIN=/path/to/envoy names one of your own
      --schemas DIR    check the manifests against the CustomResourceDefinitions in DIR
  record-release   keep what this version's control plane says, and its filter, in tests/compat/
  fuzz [TARGET]      made-up inputs for all that reads bytes; needs a nightly compiler
      --seconds N      for each target, 60 by default
      --keep           add what is new to fuzz/corpus/
  check              formatting, and clippy natively and for wasm, warnings as errors
  compose-test       docker-compose.yml and those beside it, run; skipped where there is no Docker
  reproducible       build the filter twice, under different paths, and compare the digests
  deny               licences and sources of dependencies, and known vulnerabilities where the list can be fetched
  sbom               target/sbom/*.cdx.json: what the programs and the filter are built of
  dist [--out DIR]   what images are made of, target/dist by default
  wasm               build the filter: target/wasm32-wasip1/wasm/keywheel_filter.wasm
  bench proxy        what a request costs, beside Envoy's own filters; --help for options, so with ring
  bench ring         1,000,000 keys: time to sync, memory, changes under load, revocations
  bench control      the control plane: 5,000 proxies that wait, 1,000,000 keys, usage reports, replicas
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> anyhow::Result<ExitCode> {
    let mut args = lexopt::Parser::from_env();
    let command = match args.next()? {
        Some(Value(command)) => command.string()?,
        Some(Short('h') | Long("help")) | None => {
            print!("{HELP}");
            return Ok(ExitCode::SUCCESS);
        }
        Some(other) => return Err(other.unexpected().into()),
    };
    match command.as_str() {
        "setup" => {
            no_more(&mut args)?;
            setup::everything()?;
        }
        "wasm" => {
            no_more(&mut args)?;
            setup::wasm_targets()?;
            println!("{}", build::filter()?.display());
        }
        "check" => {
            no_more(&mut args)?;
            check::all()?;
        }
        "record-release" => {
            no_more(&mut args)?;
            release::record()?;
        }
        "compose-test" => {
            no_more(&mut args)?;
            compose::test()?;
        }
        "reproducible" => {
            no_more(&mut args)?;
            setup::wasm_targets()?;
            reproducible::check()?;
        }
        "deny" => {
            no_more(&mut args)?;
            deny::all()?;
        }
        "sbom" => {
            no_more(&mut args)?;
            let out = run::target().join("sbom");
            sbom::write(&out)?;
            println!("{}", out.display());
        }
        "dist" => {
            let mut out = run::target().join("dist");
            while let Some(arg) = args.next()? {
                match arg {
                    Long("out") => out = std::env::current_dir()?.join(args.value()?),
                    other => return Err(other.unexpected().into()),
                }
            }
            dist::make(&out, build::Profile::Release)?;
            println!("{}", out.display());
        }
        "test" => return test::run(&test::Options::parse(args)?),
        "fuzz" => return fuzz::run(&fuzz::Options::parse(args)?),
        "demo" => {
            let rest: Vec<_> = args.raw_args()?.collect();
            return hand_over(build::Profile::Dev, "keywheel-demo", &["run".into()], &rest);
        }
        "bench" => {
            let rest: Vec<_> = args.raw_args()?.collect();
            // What is measured is what users run: the release profile on both sides of the wire.
            return hand_over(build::Profile::Release, "keywheel-bench", &[], &rest);
        }
        other => bail!("there is no command `{other}`\n\n{HELP}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn no_more(args: &mut lexopt::Parser) -> anyhow::Result<()> {
    match args.next()? {
        None => Ok(()),
        Some(arg) => Err(arg.unexpected().into()),
    }
}

/// Builds a program and what it starts, and becomes it.
fn hand_over(
    profile: build::Profile,
    program: &str,
    first: &[OsString],
    rest: &[OsString],
) -> anyhow::Result<ExitCode> {
    let envoy = setup::for_demo()?;
    let built = build::programs(profile, &["keywheel", program])?;
    let mut command = run::command(built.program(program));
    command.args(first).args(rest);
    built.tell(&mut command, &envoy);
    // Only replicas need one; without it they are left out.
    if rest.first().is_some_and(|command| command == "control")
        && let Ok(programs) = setup::for_postgres_tests()
    {
        command.env("POSTGRES_BIN", programs);
    }
    run::hand_over(&mut command)
}
