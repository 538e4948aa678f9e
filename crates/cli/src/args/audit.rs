//! The audit trail.

use std::path::PathBuf;

use clap::{Args as Group, Subcommand};
use keywheel_keyring::PublicKey;

use super::value::{Since, since};

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
        #[command(flatten)]
        which: AuditFilter,
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

/// Which records. All that is given must hold.
#[derive(Debug, Group)]
pub(crate) struct AuditFilter {
    /// From the last so much time, such as 24h, or since a time such as 2026-11-28T14:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub(crate) since: Option<Since>,
    /// Of this actor, such as a token's id
    #[arg(long)]
    pub(crate) actor: Option<String>,
    /// This action, such as `key.revoke`, or all of a kind: `key.`
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// What was done to this key, version, rotation, client, …: an id or a name
    #[arg(long, value_name = "ID")]
    pub(crate) object: Option<String>,
}
