//! keywheel's own measurements, judged against its bars: every arm in one run on one machine, medians
//! of interleaved rounds, CPU read from the process.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`ring`] | does it matter how many keys a ring has? |
//! | [`arm`] | a control plane with so many keys, and an Envoy |
//! | [`load`] | requests with keys drawn at random, and what they cost Envoy |
//! | [`report`] | what was found: printed, and kept in `docs/benchmarks.md` |

mod arm;
mod load;
mod report;
mod ring;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::ctrl_c;

#[derive(Debug, Parser)]
#[command(name = "keywheel-bench", version, about = "keywheel's own measurements, judged against its bars")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// 100,000 keys against 10: time to sync, and CPU added per request
    Ring(ring::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Ring(args) = Cli::parse().command;
    // What runs is dropped when somebody loses patience, and with it every process.
    let judged = tokio::select! {
        judged = ring::run(&args) => judged,
        _ = ctrl_c() => return ExitCode::from(130),
    };
    match judged {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
