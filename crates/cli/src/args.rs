//! Every command and option: here those that all commands share, below one file for each kind of resource.

mod audit;
mod campaign;
mod key;
mod policy;
mod relay;
mod ring;
mod self_service;
mod serve;
mod token;
mod value;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand};
use clap_complete::Shell;
use keywheel_control::store::PostgresUrl;

use crate::output::Output;

pub(crate) use audit::{Audit, AuditFilter};
pub(crate) use campaign::{Campaign, CreateCampaign};
pub(crate) use key::{Client, Export, Format, Import, Key, Revoke, Rotation};
pub(crate) use policy::{Notice, Policy, Retire, TermsArgs, Unset};
pub(crate) use relay::Relay;
pub(crate) use ring::{CanaryRule, Doctor, Healthcheck, Listener, Push, Ring, SigningKey};
pub(crate) use self_service::{OwnKey, SelfService};
pub(crate) use serve::{LogFormat, MasterKey, Restore, RingAuth, RingTls, Serve, ServeTls};
pub(crate) use token::Token;
use value::wait;
pub(crate) use value::{End, Since, duration};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the operation failed: the server said no, and why
  2  the command line is wrong
  3  the control plane cannot be reached
  4  no token or key, or not one that may do this
  5  the audit trail is not whole
  6  done, but not every proxy is known to enforce it (--wait)
  7  restored, but held back until what was revoked since is merged";

const CONNECTION: &str = "Connection";

/// API keys for Envoy and Istio, rotated without downtime
#[derive(Debug, Parser)]
#[command(name = "keywheel", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How to print results and errors
    #[arg(long, global = true, value_enum, default_value = "human")]
    pub(crate) output: Output,
    /// After a change, wait until every proxy enforces it, so long at most, such as 30s; at most 60s. Says on stderr
    /// who does, and who does not
    #[arg(long, global = true, value_name = "DURATION", value_parser = wait, num_args = 0..=1,
        default_missing_value = "10s", require_equals = true)]
    pub(crate) wait: Option<Duration>,
    /// Change a client, a key or a policy only if its ETag is still this one, as `show` printed it; `*` for any
    #[arg(long, global = true, value_name = "ETAG")]
    pub(crate) if_match: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the control plane.
#[derive(Debug, Clone, Group)]
pub(crate) struct Connection {
    /// The control plane's admin URL
    #[arg(long, help_heading = CONNECTION, global = true, env = "KEYWHEEL_URL", default_value = "http://127.0.0.1:7070")]
    pub(crate) url: String,
    // Not by clap's `env`: an option on the command line must win over the environment's other one.
    /// The admin token; better in a file or the environment than here [env: KEYWHEEL_TOKEN]
    #[arg(long, help_heading = CONNECTION, global = true, conflicts_with = "token_file")]
    pub(crate) token: Option<String>,
    /// A file that holds the admin token [env: KEYWHEEL_TOKEN_FILE]
    #[arg(long, help_heading = CONNECTION, global = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// Trust only the certificates in this PEM file for https, not those of the system
    #[arg(long, help_heading = CONNECTION, global = true, value_name = "FILE", env = "KEYWHEEL_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// The certificate to show where the control plane asks for one, in PEM
    #[arg(long, help_heading = CONNECTION, global = true, value_name = "FILE", env = "KEYWHEEL_CLIENT_CERT")]
    pub(crate) client_cert: Option<PathBuf>,
    /// The key of --client-cert, in PEM
    #[arg(long, help_heading = CONNECTION, global = true, value_name = "FILE", env = "KEYWHEEL_CLIENT_KEY")]
    pub(crate) client_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the control plane
    Serve(Box<Serve>),
    /// Run a relay: a copy of the ring on a disk near its proxies
    Relay(Box<Relay>),
    /// Who keys belong to
    #[command(subcommand)]
    Client(Client),
    /// Create, rotate and revoke keys
    #[command(subcommand)]
    Key(Key),
    /// See a rotation, take it back, or have its old version's callers notice
    #[command(subcommand)]
    Rotation(Rotation),
    /// Rotate many keys in waves
    #[command(subcommand)]
    Campaign(Campaign),
    /// Rules by which keys rotate
    #[command(subcommand)]
    Policy(Policy),
    /// What the holder of a key does with the key itself, without a token
    #[command(subcommand, name = "self")]
    SelfService(SelfService),
    /// What is announced before it happens
    #[command(subcommand)]
    Notice(Notice),
    /// End every key of a list that leaked, whichever client it belongs to
    Revoke(Revoke),
    /// What proxies enforce
    #[command(subcommand)]
    Ring(Ring),
    /// What is wrong with a deployment, and what to do
    Doctor(Doctor),
    /// Ask a URL once, and fail unless it answers as it should: for images, which have no other program to ask with
    Healthcheck(Healthcheck),
    /// Who changed what, and whether the record of it is whole
    #[command(subcommand)]
    Audit(Audit),
    /// Credentials for the control plane itself
    #[command(subcommand)]
    Token(Token),
    /// Make an admin token when all are lost, in the database of a control plane that does not run
    AdminToken {
        /// The directory that `keywheel serve` was given
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// `postgres://user@host/database` instead of SQLite in DIR. There it may run
        #[arg(long, value_name = "URL", env = "KEYWHEEL_DATABASE", hide_env_values = true)]
        database: Option<PostgresUrl>,
    },
    /// Copy the database of a control plane that runs on SQLite, while it serves
    Backup {
        /// Where to write the copy. It holds no key in plain text, and no master key
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make a restored copy fit to be served: a new epoch, and what was revoked since the copy is denied again
    Restore(Restore),
    /// The key that encrypts signing keys
    #[command(subcommand)]
    MasterKey(MasterKey),
    /// Print what makes a shell complete this command line
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page, or write a page for each command
    Man {
        /// The directory to write the pages to; made if there is none
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_that_the_docs_show_is_one() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut pages = vec![root.join("README.md")];
        collect(&root.join("docs"), &mut pages);
        let mut commands = 0;
        for page in pages {
            for command in shown(&fs::read_to_string(&page).unwrap()) {
                commands += 1;
                if let Err(error) = Args::try_parse_from(words(&command)) {
                    // What the reader is to put in need not pass.
                    let open = command.contains(['$', '\u{2026}', '<']);
                    if open && error.kind() == clap::error::ErrorKind::ValueValidation {
                        continue;
                    }
                    panic!("{}: `{command}`\n{error}", page.display());
                }
            }
        }
        assert!(commands > 50, "only {commands} were found");
    }

    fn collect(dir: &Path, pages: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, pages);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }

    /// The calls of keywheel in code blocks, each with the lines that continue it.
    fn shown(page: &str) -> Vec<String> {
        let (mut found, mut fenced) = (Vec::new(), false);
        let mut lines = page.lines().map(str::trim);
        while let Some(line) = lines.next() {
            fenced ^= line.starts_with("```");
            let line = line.strip_prefix("$ ").unwrap_or(line);
            if !fenced || !line.starts_with("keywheel ") {
                continue;
            }
            let mut command = line.to_owned();
            while command.ends_with('\\') {
                command.pop();
                command.push_str(lines.next().unwrap_or_default());
            }
            found.push(command);
        }
        found
    }

    /// As a shell parts them, up to a pipe or a redirection.
    fn words(command: &str) -> Vec<String> {
        let mut command = command.to_owned();
        while let Some((before, (_, after))) =
            command.split_once("$(").and_then(|(before, rest)| Some((before, rest.split_once(')')?)))
        {
            command = format!("{before}substituted{after}");
        }
        let words = shlex::split(&command).unwrap_or_else(|| panic!("no shell reads `{command}`"));
        words.into_iter().take_while(|word| !["|", ">", "<", "&&", "&"].contains(&word.as_str())).collect()
    }
}
