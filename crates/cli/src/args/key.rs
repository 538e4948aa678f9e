//! Clients, keys and their rotations.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Subcommand, ValueEnum};

use super::value::{End, duration, end, label};

#[derive(Debug, Subcommand)]
pub(crate) enum Client {
    /// Register a client
    Create {
        /// 1 to 128 visible ASCII characters; proxies send it upstream in a header
        name: String,
        /// The team or person who answers for it
        #[arg(long)]
        owner: Option<String>,
        /// Where to reach them
        #[arg(long)]
        contact: Option<String>,
        /// Such as `team=payments`; repeat for more
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// What its keys follow that have no policy of their own
        #[arg(long, value_name = "NAME")]
        policy: Option<String>,
    },
    /// List clients
    List {
        /// That have this label, `NAME=VALUE` or `NAME`; repeat for more
        #[arg(long = "label", value_name = "LABEL")]
        labels: Vec<String>,
    },
    /// Show a client
    Show { name: String },
    /// Change what is said of a client; what is not named stays
    Update {
        name: String,
        /// The team or person who answers for it
        #[arg(long)]
        owner: Option<String>,
        /// Where to reach them
        #[arg(long)]
        contact: Option<String>,
        /// Set a label, such as `team=payments`; repeat for more
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// Take a label away; repeat for more
        #[arg(long = "unlabel", value_name = "NAME")]
        unlabels: Vec<String>,
        /// What its keys follow that have no policy of their own, or `none`
        #[arg(long, value_name = "NAME")]
        policy: Option<String>,
    },
    /// End every key of a client now
    Revoke {
        name: String,
        /// For ever: the secrets are known to somebody else
        #[arg(long)]
        compromised: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key and print its text, once
    Create {
        #[arg(long, value_name = "NAME")]
        client: String,
        /// What the key may do, such as `trade`; repeat for more
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// When it is accepted first, such as 12h from now; at once if not given
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        begins_in: Option<Duration>,
        /// When the key ends, such as 90d
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires_in: Option<Duration>,
        /// The ring it belongs to
        #[arg(long, default_value = "production")]
        ring: String,
        /// Such as `team=payments`; repeat for more
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// What it follows, instead of its client's or its ring's policy
        #[arg(long, value_name = "NAME")]
        policy: Option<String>,
    },
    /// Bring keys in from elsewhere. What is wrong with a line is told and holds no other line up; repeated, an
    /// import finds its keys there
    Import(Import),
    /// Take digests out, to import them elsewhere. No text of a key is known here, so none is in it
    Export(Export),
    /// List keys
    List {
        /// Of this client only
        #[arg(long, value_name = "NAME")]
        client: Option<String>,
        /// That have this label, `NAME=VALUE` or `NAME`; repeat for more
        #[arg(long = "label", value_name = "LABEL")]
        labels: Vec<String>,
        /// That stand so by their policy
        #[arg(long, value_enum)]
        schedule: Option<Schedule>,
    },
    /// Change a key; what is not named stays
    Update {
        key: String,
        /// What it may do from now on, such as `trade`, in the place of what it might; repeat for more
        #[arg(long = "scope", value_name = "SCOPE", conflicts_with = "no_scopes")]
        scopes: Vec<String>,
        /// It may do nothing that needs a scope
        #[arg(long)]
        no_scopes: bool,
        /// When it ends, such as 90d from now, or `never`
        #[arg(long, value_name = "DURATION", value_parser = end)]
        expires_in: Option<End>,
        /// Set a label, such as `team=payments`; repeat for more
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// Take a label away; repeat for more
        #[arg(long = "unlabel", value_name = "NAME")]
        unlabels: Vec<String>,
    },
    /// Have a key follow a policy of its own
    SetPolicy {
        key: String,
        /// Its name, or `none`: then it follows its client's or its ring's
        policy: String,
    },
    /// Make the next version, print its text, once, and have the key's schedule rotate to it when that is due
    Deposit { key: String },
    /// Take the deposited version back
    Withdraw { key: String },
    /// Make a version beside those that are accepted, and print its text, once
    AddVersion { key: String },
    /// Show a key and its versions
    Show { key: String },
    /// Show how often a key's versions were used, and which proxies say so
    Usage {
        key: String,
        /// How far back, such as 24h; at most 90d
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "7d")]
        last: Duration,
    },
    /// Make a new version and print its text, once; the old one is accepted until the overlap ends
    Rotate {
        key: String,
        /// How long both versions are accepted, such as 30m; at most 90d [default: what the key's policy says]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        overlap: Option<Duration>,
        /// When the new version is accepted and the overlap begins, such as 12h from now; at once if not given
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        begins_in: Option<Duration>,
        /// Take the place of a rotation that is open; what is retiring keeps its deadline
        #[arg(long)]
        supersede: bool,
        /// The version that gives way, where several are accepted beside each other
        #[arg(long, value_name = "VERSION")]
        replaces: Option<String>,
    },
    /// End a key now
    Revoke {
        key: String,
        /// This version only
        #[arg(long)]
        version: Option<String>,
        /// For ever: the secret is known to somebody else
        #[arg(long)]
        compromised: bool,
    },
    /// Take a revocation back, while the ring remembers the key
    Reinstate {
        key: String,
        /// This version only, even if it retired
        #[arg(long)]
        version: Option<String>,
    },
}

/// Where lists of keys come from, and how they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// With a head of column names
    Csv,
    /// A JSON object on each line
    Jsonl,
}

#[derive(Debug, Group)]
pub(crate) struct Import {
    /// A file, or `-` for standard input. Columns or members: `key` (hashed here, and neither sent nor printed) or
    /// `digest` (SHA-256, 64 hexadecimal digits); `client`, `scopes` (in CSV with spaces between), `expires_at`
    #[arg(long, value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// [default: by the file's name]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    #[arg(long, default_value = "production")]
    pub(crate) ring: String,
    /// Whose those are that name no client
    #[arg(long, value_name = "NAME")]
    pub(crate) client: Option<String>,
    /// Register clients that are not there
    #[arg(long)]
    pub(crate) create_clients: bool,
    /// Say what would become of each, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Export {
    #[arg(long, default_value = "production")]
    pub(crate) ring: String,
    #[arg(long, value_enum, default_value = "jsonl")]
    pub(crate) format: Format,
    /// Of this client only
    #[arg(long, value_name = "NAME")]
    pub(crate) client: Option<String>,
    /// A file [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct Revoke {
    /// For ever, since the secrets are known to somebody else: a list is not revoked otherwise
    #[arg(long, required = true)]
    pub(crate) compromised: bool,
    /// A file with one key on each line, or `-` for standard input. Keys are hashed here, and neither sent
    /// nor printed
    #[arg(long, value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// Each line is the SHA-256 of a key, 64 hexadecimal digits, and not the key
    #[arg(long)]
    pub(crate) digests: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rotation {
    /// Make the old version active again; the new one is accepted until the end of an overlap
    Rollback {
        rotation: String,
        /// How long the new version is still accepted, such as 30m; the rotation's own overlap if not given
        #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "revoke_new")]
        overlap: Option<Duration>,
        /// End the new version at once
        #[arg(long)]
        revoke_new: bool,
    },
    /// Take a rotation back whose new version is not accepted yet, or in a canary alone
    Cancel { rotation: String },
    /// Have the new version wait for no canary: its ring gets it now, and the overlap begins
    Promote { rotation: String },
    /// List rotations
    List {
        /// Of this key only
        #[arg(long)]
        key: Option<String>,
        /// Of this client's keys only
        #[arg(long, value_name = "NAME")]
        client: Option<String>,
        /// Only those that go on
        #[arg(long, conflicts_with = "ended")]
        open: bool,
        /// Only those that are over
        #[arg(long)]
        ended: bool,
    },
    /// Show where a rotation stands, and what it waits for
    Show { rotation: String },
    /// Watch a rotation until it is over: who still uses the old version, which proxies know of the new one, and what
    /// comes next
    Watch {
        rotation: String,
        /// How often to look, such as 5s
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2s")]
        every: Duration,
    },
    /// Refuse a share of the requests with the old version for a while, so that its callers notice
    Brownout {
        rotation: String,
        /// From 0 to 1; 0 ends it
        #[arg(long)]
        share: f64,
        /// Such as 10m; at most until the deadline
        #[arg(long = "for", value_name = "DURATION", value_parser = duration, default_value = "10m")]
        length: Duration,
    },
}

/// Where a key stands by its policy.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Schedule {
    Scheduled,
    /// A rotation is to be started
    Due,
    /// A version is older than allowed
    Overdue,
}
