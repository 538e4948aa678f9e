use std::time::Duration;

use clap::Subcommand;
use keywheel_api::Role;

use super::value::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it, once
    Create {
        /// `admin` may do everything, `operator` may change clients, keys, rotations and policies, `auditor` may read
        /// everything, `proxy` may read rings
        #[arg(long)]
        role: Role,
        /// What it is for
        #[arg(long)]
        name: Option<String>,
        /// The ring that it is limited to; repeat for more [default: all of them]
        #[arg(long = "ring", value_name = "RING")]
        rings: Vec<String>,
        /// When it ends, such as 90d; never if not given
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires_in: Option<Duration>,
    },
    /// List tokens, without their text
    List,
    /// Show a token, without its text
    Show {
        #[arg(value_name = "TOKEN")]
        id: String,
    },
    /// End a token now
    Revoke {
        // Not `token`: clap would take it for the global option of that name.
        #[arg(value_name = "TOKEN")]
        id: String,
    },
    /// Give a token a new text and print it, once; the old one is valid until the overlap ends
    Rotate {
        #[arg(value_name = "TOKEN")]
        id: String,
        /// How long both are valid, such as 30m; 0s ends the old one at once
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
        overlap: Duration,
    },
}
