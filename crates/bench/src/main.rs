//! keywheel's own measurements, judged against its bars: every arm in one run on one machine, medians
//! of interleaved rounds, CPU read from the process.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`proxy`] | what a request costs, beside what else could check it |
//! | [`ring`] | a large ring: time to sync, memory, and requests meanwhile |
//! | [`control`] | the control plane by itself: many proxies, a large ring, reports, replicas |
//! | [`revoke`] | how long a revoked key still works |
//! | [`arm`] | an Envoy for each of these |
//! | [`authz`] | an external authorization server that always allows |
//! | [`ring_server`] | a ring of any size, served from memory |
//! | [`keys`] | made-up keys, and how requests choose among them |
//! | [`load`] | requests as fast as they are answered, or each at its time |
//! | [`stats`] | medians, percentiles, and what a process used |
//! | [`report`] | what was found: printed, and kept in `docs/benchmarks.md` |

mod arm;
mod authz;
mod control;
mod keys;
mod load;
mod proxy;
mod report;
mod revoke;
mod ring;
mod ring_server;
mod stats;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Parser)]
#[command(name = "keywheel-bench", version, about = "keywheel's own measurements, judged against its bars")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What a request costs, beside Envoy's own filters and a floor
    Proxy(proxy::Args),
    /// A large ring: time to sync, memory, changes under load, and how fast a revocation is everywhere
    Ring(ring::Args),
    /// The control plane: many proxies that wait, 1,000,000 keys, usage reports, replicas
    Control(control::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    let run = async {
        match &command {
            Command::Proxy(args) => proxy::run(args).await,
            Command::Ring(args) => ring::run(args).await,
            Command::Control(args) => control::run(args).await,
        }
    };
    // What runs is dropped when somebody loses patience, and with it every process.
    let judged = tokio::select! {
        judged = run => judged,
        () = interrupted() => return ExitCode::from(130),
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

/// By Ctrl-C, or by a time limit.
async fn interrupted() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminated) => _ = terminated.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = ctrl_c() => {}
        () = terminated => {}
    }
}
