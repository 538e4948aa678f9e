//! The `keywheel` binary: the control plane, and its command line.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`applied`] | who enforces a change |
//! | [`args`] | every command and option, with their help |
//! | [`commands`] | one file per resource, `serve` and `relay` |
//! | [`http`] | the admin API over HTTP, with retries |
//! | [`source`] | the ring listener: signed documents as they are |
//! | [`failure`] | what went wrong, what to do, and the exit code |
//! | [`output`] | human text or JSON |

mod applied;
mod args;
mod commands;
mod failure;
mod http;
mod output;
mod source;

use std::process::ExitCode;

use clap::Parser as _;

use crate::applied::OnChange;
use crate::args::{Args, Command};
use crate::failure::Failure;
use crate::http::Api;

#[tokio::main]
async fn main() -> ExitCode {
    // What speaks TLS here has one implementation of it, chosen once. Nothing chose another before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse();
    let output = args.output;
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failure(&failure),
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    let Args { connection, output, wait, if_match, command } = args;
    let applied = OnChange::new(wait, if_match);
    let api = || Api::new(&connection, &applied);
    match command {
        Command::Serve(serve) => commands::serve::run(*serve, output).await,
        Command::Relay(relay) => commands::relay::run(*relay, &connection, output).await,
        Command::Client(command) => commands::client::run(command, &api()?, output).await,
        Command::Key(command) => commands::key::run(command, &api()?, output).await,
        Command::Rotation(command) => commands::rotation::run(command, &api()?, output).await,
        Command::Campaign(command) => commands::campaign::run(command, &api()?, output).await,
        Command::Policy(command) => commands::policy::run(command, &api()?, output).await,
        Command::SelfService(command) => {
            commands::self_service::run(command, &connection, &applied, output).await
        }
        Command::Notice(command) => commands::notice::run(command, &api()?, output).await,
        Command::Revoke(command) => commands::revoke::run(command, &api()?, output).await,
        Command::Ring(command) => commands::ring::run(command, &connection, &applied, output).await,
        Command::Doctor(args) => commands::doctor::run(args, &connection, &applied, output).await,
        Command::Healthcheck(args) => commands::healthcheck::run(&args, &connection).await,
        Command::Audit(command) => commands::audit::run(command, &api()?, output).await,
        Command::Token(command) => commands::token::run(command, &api()?, output).await,
        Command::AdminToken { data, database } => {
            commands::token::recover(&data, database.as_ref(), output).await
        }
        Command::Backup { out } => commands::backup::take(&out, &api()?, output).await,
        Command::Restore(args) => commands::backup::restore(args, output).await,
        Command::MasterKey(command) => commands::master_key::run(command, output).await,
        Command::Completion { shell } => commands::manual::completion(shell),
        Command::Man { out } => commands::manual::man(out.as_deref()),
    }?;
    applied.tell(output)
}
