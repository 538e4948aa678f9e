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
//! | [`test`] | native, wasm and end-to-end tests |
//! | [`run`] | running a program, and saying what failed |

mod build;
mod check;
mod run;
mod setup;
mod test;
mod versions;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use lexopt::prelude::*;

const HELP: &str = "\
cargo xtask <command>

  setup              find or get everything that building, testing and the demo need
  demo [--keep] ...  show a rotation under live traffic; --help for its options
  test [FILTER]      every test: native, wasm and end to end against a real Envoy
      --only PART      native, wasm or e2e
  check              formatting, and clippy natively and for wasm, warnings as errors
  wasm               build the filter: target/wasm32-wasip1/wasm/keywheel_filter.wasm
  bench ring         100,000 keys against 10: time to sync, CPU per request
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
        "test" => return test::run(&test::Options::parse(args)?),
        "demo" => {
            let rest: Vec<_> = args.raw_args()?.collect();
            return demo("run", &rest);
        }
        "bench" => {
            let rest: Vec<_> = args.raw_args()?.collect();
            return bench(&rest);
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

/// Hands over to `keywheel-demo`, with the paths of what it starts in its environment.
fn demo(command: &str, rest: &[std::ffi::OsString]) -> anyhow::Result<ExitCode> {
    let envoy = setup::for_demo()?;
    let binaries = build::binaries(build::Profile::Dev)?;
    run::hand_over(
        run::command(&binaries.demo)
            .arg(command)
            .args(rest)
            .env("ENVOY_BIN", envoy)
            .env("KEYWHEEL_BIN", &binaries.keywheel)
            .env("KEYWHEEL_WASM", &binaries.filter),
    )
    .context("the demo did not run")
}

fn bench(rest: &[std::ffi::OsString]) -> anyhow::Result<ExitCode> {
    if rest.first().is_none_or(|what| what != "ring") {
        bail!("`cargo xtask bench ring` is what there is to measure");
    }
    let envoy = setup::for_demo()?;
    // What is measured is what users run: the release profile on both sides of the wire.
    let binaries = build::binaries(build::Profile::Release)?;
    run::hand_over(
        run::command(&binaries.demo)
            .arg("bench")
            .args(rest)
            .env("ENVOY_BIN", envoy)
            .env("KEYWHEEL_BIN", &binaries.keywheel)
            .env("KEYWHEEL_WASM", &binaries.filter),
    )
    .context("the bench did not run")
}
