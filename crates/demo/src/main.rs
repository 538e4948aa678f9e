//! A rotation under live traffic, shown and judged.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`parts`] | control plane, Envoy and upstream: started here, or found running |
//! | [`scenario`] | what happens, and when |
//! | [`timeline`] | what is seen of it while it happens |
//! | [`verdict`] | what was proved |
//! | [`screen`] | colour and the live line, on a terminal |
//! | [`trading`] | the upstream: a small trading API |

mod parts;
mod scenario;
mod screen;
mod timeline;
mod trading;
mod verdict;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::parts::{Found, Parts, Started};
use crate::scenario::Pace;
use crate::screen::Screen;

/// A rotation under live traffic, shown and judged
#[derive(Debug, Parser)]
#[command(name = "keywheel-demo", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything, show a rotation and a revocation, and end it all
    Run {
        /// Leave everything running afterwards, and say how to use it
        #[arg(long)]
        keep: bool,
        /// Envoy's workers
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
        workers: u16,
        #[command(flatten)]
        pace: Pace,
    },
    /// Show the same on parts that run already
    Drive {
        #[command(flatten)]
        found: FoundArgs,
        #[command(flatten)]
        pace: Pace,
    },
    /// Only the upstream: a small trading API
    Upstream {
        #[arg(long, default_value = "127.0.0.1:8000")]
        listen: SocketAddr,
    },
}

#[derive(Debug, Args)]
struct FoundArgs {
    /// The control plane's admin URL
    #[arg(long, value_name = "URL")]
    control: String,
    /// A file with an admin token
    #[arg(long)]
    token_file: PathBuf,
    /// Envoy's listener, as host:port
    #[arg(long, value_name = "HOST:PORT")]
    proxy: String,
    /// Envoy's admin interface, as host:port
    #[arg(long, value_name = "HOST:PORT")]
    envoy_admin: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let begin = Instant::now();
    // Whatever is left when a signal comes is dropped, and with it every process and directory.
    let ended = tokio::select! {
        ended = run(Cli::parse().command, begin) => ended,
        () = signalled() => Ok(ExitCode::from(130)),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(command: Command, begin: Instant) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::stdout();
    match command {
        Command::Run { keep, workers, pace } => {
            let started = Started::new(workers.into()).await?;
            let parts = started.parts()?;
            screen.line(&started.description());
            let verdict = scenario::run(&parts, &pace, &mut screen, begin).await?;
            verdict.print(&mut screen);
            if keep {
                started.keep(&mut screen).await?;
                std::future::pending::<()>().await;
            }
            Ok(verdict.exit_code())
        }
        Command::Drive { found, pace } => {
            let FoundArgs { control, token_file, proxy, envoy_admin } = found;
            let parts: Parts = Found { control, token_file, proxy, envoy_admin }.parts().await?;
            let verdict = scenario::run(&parts, &pace, &mut screen, begin).await?;
            verdict.print(&mut screen);
            Ok(verdict.exit_code())
        }
        Command::Upstream { listen } => {
            let listener = TcpListener::bind(listen).await?;
            eprintln!("the trading API listens on {listen}");
            trading::serve(listener).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn signalled() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
