//! What the holder of a key does with the key itself.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Subcommand};

use super::value::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum SelfService {
    /// Show the key, its versions, and what its policy allows it
    Show {
        #[command(flatten)]
        key: OwnKey,
    },
    /// Show a rotation of the key
    Rotation {
        rotation: String,
        #[command(flatten)]
        key: OwnKey,
    },
    /// Make a new version of the key; the old one is accepted until the overlap ends
    Rotate {
        #[command(flatten)]
        key: OwnKey,
        /// Write the new key to this file, for you alone, before anything is asked for. Run again with the same file,
        /// it sends the same key: nothing is lost with an answer [default: print it, once]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// How long both versions are accepted, such as 2h; what `self show` says is allowed [default: what the key's
        /// policy says]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        overlap: Option<Duration>,
    },
}

/// The key that asks, and whom it asks.
#[derive(Debug, Group)]
pub(crate) struct OwnKey {
    /// The consumer listener's URL, or that of the proxy in front of it
    #[arg(long, value_name = "URL", env = "KEYWHEEL_CONSUMER_URL", default_value = "http://127.0.0.1:7072")]
    pub(crate) consumer_url: String,
    // The key itself is no option: everybody on the host can read the command line of a process.
    /// A file that holds the key; else it is in the environment [env: KEYWHEEL_API_KEY]
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Send the key as `Authorization: Bearer`, and not as `x-api-key`
    #[arg(long)]
    pub(crate) bearer: bool,
}
