//! Policies, and what is announced.

use std::time::Duration;

use clap::{Args as Group, Subcommand, ValueEnum};
use keywheel_api::policy::Window;

use super::value::{duration, window};

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Make a policy
    Create {
        /// 1 to 64 letters, digits, `.`, `_` and `-`, and not `none`
        name: String,
        #[command(flatten)]
        terms: TermsArgs,
    },
    /// List policies
    List,
    /// Show what a policy asks for
    Show { name: String },
    /// Change what is named; keys follow at once, open rotations keep their terms
    Update {
        name: String,
        #[command(flatten)]
        terms: TermsArgs,
        /// Take it away; repeat for more
        #[arg(long, value_enum, value_name = "WHAT")]
        unset: Vec<Unset>,
    },
    /// Delete a policy that nothing follows
    Delete { name: String },
}

/// What a policy asks for.
#[derive(Debug, Group)]
pub(crate) struct TermsArgs {
    /// How old a version becomes until the next rotation is due, such as 90d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) rotate_every: Option<Duration>,
    /// Spread due times over so much time before, such as 7d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) jitter: Option<Duration>,
    /// When rotations become due and start by themselves, in UTC, such as `mon,tue,wed 09:00-17:00`
    #[arg(long, value_name = "DAYS HOURS", value_parser = window)]
    pub(crate) window: Option<Window>,
    /// How long both versions are accepted [default: 1d]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) overlap: Option<Duration>,
    /// When the old version ends [default: deadline]
    #[arg(long, value_enum)]
    pub(crate) retire: Option<Retire>,
    /// How long nobody may have used the old version until it is unused; with `when-unused`
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) quiet_period: Option<Duration>,
    /// A version that is older makes its key overdue; it is not cut off
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) longest_age: Option<Duration>,
    /// Whether a key may rotate itself [default: false]
    #[arg(long)]
    pub(crate) self_rotation: Option<bool>,
    /// Give a notice so long before each step, such as 7d; repeat for more
    #[arg(long = "notice", value_name = "DURATION", value_parser = duration)]
    pub(crate) notices: Vec<Duration>,
    /// How many versions of a key may be accepted beside each other
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_versions: Option<u32>,
    /// Refuse this share of the old version's requests before its deadline, above 0 and up to 1
    #[arg(long, value_name = "SHARE", requires = "brownout_before")]
    pub(crate) brownout_share: Option<f64>,
    /// So long before, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "brownout_share")]
    pub(crate) brownout_before: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Retire {
    /// When the overlap ends
    Deadline,
    /// Then, or as soon as the proxies' reports show that nobody uses it
    WhenUnused,
}

/// What an update takes away.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Unset {
    RotateEvery,
    Jitter,
    Window,
    /// And with it `when-unused`
    QuietPeriod,
    LongestAge,
    Notices,
    MaxVersions,
    Brownout,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Notice {
    /// List notices, oldest first
    List {
        /// Begin after this notice
        #[arg(long, value_name = "NOTICE", default_value_t = 0)]
        after: u64,
    },
}
