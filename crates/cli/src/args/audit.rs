//! The audit trail.

use std::path::PathBuf;

use clap::Subcommand;
use keywheel_keyring::PublicKey;

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List audit records, oldest first
    List {
        /// Begin after this record
        #[arg(long, value_name = "RECORD", default_value_t = 0)]
        after: u64,
        /// At most so many
        #[arg(long, value_name = "COUNT")]
        limit: Option<u64>,
    },
    /// Fetch the whole trail and verify that no record was edited, dropped or moved
    Verify {
        /// A checkpoint that was kept elsewhere, as `audit checkpoint` printed it; repeat for more
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
        /// A base64 public key that may have signed checkpoints, as in the filter's `control.trust`; repeat for
        /// more [default: those that the control plane names]
        #[arg(long, value_name = "KEY")]
        trust: Vec<PublicKey>,
    },
    /// Sign how far the trail goes now, and print it as one line of JSON to keep elsewhere
    Checkpoint,
    /// List the checkpoints that there are
    Checkpoints,
}
