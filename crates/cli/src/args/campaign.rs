//! Campaigns: many keys, rotated in waves.

use std::time::Duration;

use clap::{Args as Group, Subcommand, ValueEnum};
use keywheel_api::WaveSize;

use super::value::{duration, label_or_name, wave};

#[derive(Debug, Subcommand)]
pub(crate) enum Campaign {
    /// Choose keys and rotate them in waves. The choice is made once; each key needs its next version deposited
    Create(Box<CreateCampaign>),
    /// List campaigns
    List,
    /// Show how far a campaign is, and what it waits for
    Show { name: String },
    /// List a campaign's keys, and how each stands
    Keys {
        name: String,
        /// Only those that stand so
        #[arg(long, value_enum)]
        state: Option<KeyState>,
    },
    /// Watch a campaign until it is over
    Watch {
        name: String,
        /// How often to look, such as 5s
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2s")]
        every: Duration,
    },
    /// Start no wave until it is resumed
    Pause { name: String },
    /// Go on after a pause or a halt. What was rolled back and refused until now is not held against it any more
    Resume { name: String },
    /// Start no wave any more; rotations that are open go on
    Cancel { name: String },
    /// Roll back every open rotation of its waves, and start no wave any more
    Rollback { name: String },
}

#[derive(Debug, Group)]
pub(crate) struct CreateCampaign {
    /// 1 to 64 letters, digits, `.`, `_` and `-`, and not `preview`
    pub(crate) name: String,
    #[arg(long, default_value = "production")]
    pub(crate) ring: String,
    /// Keys of this client only; repeat for more
    #[arg(long = "client", value_name = "NAME")]
    pub(crate) clients: Vec<String>,
    /// Only keys with this label; repeat for more, and all must hold
    #[arg(long = "label", value_name = "NAME[=VALUE]", value_parser = label_or_name)]
    pub(crate) labels: Vec<(String, Option<String>)>,
    /// Only keys whose version has been active for longer, such as 90d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
    /// Only keys with this scope
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// How many keys rotate together: a number, or a share such as 10%
    #[arg(long, value_name = "SIZE", value_parser = wave, default_value = "10%")]
    pub(crate) wave: WaveSize,
    /// From the end of a wave until the next one
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub(crate) pause: Duration,
    /// No wave before so much time has passed, such as 12h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) begins_in: Option<Duration>,
    /// How long both versions are accepted [default: what each key's policy says]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) overlap: Option<Duration>,
    /// Halt when more rotations than this were rolled back
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub(crate) max_rolled_back: u64,
    /// Halt when more than this share of the requests with its keys is refused, from 0 to 1
    #[arg(long, value_name = "SHARE")]
    pub(crate) max_refused_share: Option<f64>,
    /// Do not wait until every proxy enforces a wave
    #[arg(long)]
    pub(crate) no_wait_for_proxies: bool,
    /// Say what it would come to, and make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// How a key of a campaign stands.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum KeyState {
    WaitingForDeposit,
    Waiting,
    Rotating,
    Done,
    RolledBack,
    Skipped,
}
