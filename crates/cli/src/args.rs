//! Every command and option.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use keywheel_api::Role;
use keywheel_api::labels::is_label;
use keywheel_api::policy::{Day, Window};
use keywheel_control::store::PostgresUrl;
use keywheel_keyring::{Epoch, KeyPrefix, PublicKey};

use crate::output::Output;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the operation failed: the server said no, and why
  2  the command line is wrong
  3  the control plane cannot be reached
  4  no token, or not one that may do this
  5  the audit trail is not whole
  6  done, but not every proxy is known to enforce it (--wait)";

const CONNECTION: &str = "Connection";
const RING_URL: &str = "http://127.0.0.1:7071";
const RING_URL_HELP: &str = "The ring listener's URL: a control plane's or a relay's";

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
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration, num_args = 0..=1,
        default_missing_value = "10s", require_equals = true)]
    pub(crate) wait: Option<Duration>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the control plane.
#[derive(Debug, Group)]
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
    /// Who keys belong to
    #[command(subcommand)]
    Client(Client),
    /// Create, rotate and revoke keys
    #[command(subcommand)]
    Key(Key),
    /// See a rotation, take it back, or have its old version's callers notice
    #[command(subcommand)]
    Rotation(Rotation),
    /// Rules by which keys rotate
    #[command(subcommand)]
    Policy(Policy),
    /// What is announced before it happens
    #[command(subcommand)]
    Notice(Notice),
    /// End every key of a list that leaked, whichever client it belongs to
    Revoke(Revoke),
    /// What proxies enforce
    #[command(subcommand)]
    Ring(Ring),
    /// Who changed what, and whether the record of it is whole
    #[command(subcommand)]
    Audit(Audit),
    /// Credentials for the control plane itself
    #[command(subcommand)]
    Token(Token),
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

#[derive(Debug, Group)]
pub(crate) struct Serve {
    /// The directory of the database and the master key; made if there is none
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// `postgres://user@host/database` instead of SQLite in DIR; several control planes may share it. The password
    /// may come from the environment variable or from a password file
    #[arg(long, value_name = "URL", env = "KEYWHEEL_DATABASE", hide_env_values = true)]
    pub(crate) database: Option<PostgresUrl>,
    /// Where operators and this command line connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    pub(crate) admin_listen: String,
    /// Where proxies connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7071")]
    pub(crate) ring_listen: String,
    /// How to write the log
    #[arg(long, value_enum, env = "KEYWHEEL_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Who may read the ring [default: open on a loopback address without --ring-client-ca, token elsewhere]
    #[arg(long, value_enum)]
    pub(crate) ring_auth: Option<RingAuth>,
    /// The first ring's name; used at the first start only
    #[arg(long, value_name = "NAME", default_value = "production")]
    pub(crate) ring_name: String,
    /// What new keys begin with; used at the first start only
    #[arg(long, value_name = "PREFIX", default_value = "kw_live_")]
    pub(crate) key_prefix: KeyPrefix,
    /// Write the first admin token to this file instead of printing it
    #[arg(long, value_name = "PATH")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// The key that encrypts signing keys [default: <DIR>/master.key, made at the first start]
    #[arg(long, value_name = "PATH")]
    pub(crate) master_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: ServeTls,
}

/// Certificates, in PEM. They are read again when the files change, and on SIGHUP.
#[derive(Debug, Group)]
#[command(next_help_heading = "TLS")]
pub(crate) struct ServeTls {
    /// Speak TLS on the admin listener, with this certificate and those between it and a root
    #[arg(long, value_name = "FILE", env = "KEYWHEEL_ADMIN_TLS_CERT", requires = "admin_tls_key")]
    pub(crate) admin_tls_cert: Option<PathBuf>,
    /// The key of --admin-tls-cert
    #[arg(long, value_name = "FILE", env = "KEYWHEEL_ADMIN_TLS_KEY", requires = "admin_tls_cert")]
    pub(crate) admin_tls_key: Option<PathBuf>,
    /// Let nobody onto the admin listener without a certificate that one of these signed; a token is needed too
    #[arg(long, value_name = "FILE", env = "KEYWHEEL_ADMIN_CLIENT_CA", requires = "admin_tls_cert")]
    pub(crate) admin_client_ca: Option<PathBuf>,
    /// Speak TLS on the ring listener, with this certificate and those between it and a root
    #[arg(long, value_name = "FILE", env = "KEYWHEEL_RING_TLS_CERT", requires = "ring_tls_key")]
    pub(crate) ring_tls_cert: Option<PathBuf>,
    /// The key of --ring-tls-cert
    #[arg(long, value_name = "FILE", env = "KEYWHEEL_RING_TLS_KEY", requires = "ring_tls_cert")]
    pub(crate) ring_tls_key: Option<PathBuf>,
    /// Let proxies read the ring with a certificate that one of these signed, instead of a token
    #[arg(long, value_name = "FILE", env = "KEYWHEEL_RING_CLIENT_CA", requires = "ring_tls_cert")]
    pub(crate) ring_client_ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// A JSON object on each line
    Json,
}

#[derive(Debug, Group)]
#[command(group(clap::ArgGroup::new("copy").required(true).args(["from", "in_place"])))]
pub(crate) struct Restore {
    /// A backup to put into DIR, which must hold no database
    #[arg(long, value_name = "FILE", conflicts_with = "database")]
    pub(crate) from: Option<PathBuf>,
    /// Restore what is there: an older copy of DIR, a PostgreSQL database, or a restore that waits for more
    #[arg(long)]
    pub(crate) in_place: bool,
    /// The directory of the database. No control plane may run on it
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// `postgres://user@host/database` instead of SQLite in DIR. Stop every control plane on it first
    #[arg(long, value_name = "URL", env = "KEYWHEEL_DATABASE", hide_env_values = true)]
    pub(crate) database: Option<PostgresUrl>,
    /// Audit records from before and after the copy was made, as `keywheel audit list --output json` prints them; repeat
    /// for more. What they revoke is revoked again
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Vec<PathBuf>,
    /// A checkpoint that the records must agree with, as `keywheel audit checkpoint` printed it; repeat for more
    #[arg(long, value_name = "FILE", requires = "journal")]
    pub(crate) checkpoint: Vec<PathBuf>,
    /// A signed document that is later than the copy, as `keywheel ring export --seed` prints it; repeat for more
    #[arg(long, value_name = "FILE")]
    pub(crate) document: Vec<PathBuf>,
    /// A base64 public key, younger than the copy, that may have signed these; repeat for more
    #[arg(long, value_name = "KEY")]
    pub(crate) trust: Vec<PublicKey>,
    /// The latest epoch that a proxy reports, if that is not the copy's
    #[arg(long, value_name = "EPOCH")]
    pub(crate) at_least: Option<Epoch>,
    /// Publish the copy although what was revoked since may be accepted again by proxies that do not know of it
    #[arg(long)]
    pub(crate) accept_loss: bool,
    /// [default: <DIR>/master.key]
    #[arg(long, value_name = "PATH")]
    pub(crate) master_key_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MasterKey {
    /// Encrypt every signing key under a new master key. No control plane may run on the database
    Rotate {
        /// The directory of the database
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// `postgres://user@host/database` instead of SQLite in DIR. Stop every control plane on it first
        #[arg(long, value_name = "URL", env = "KEYWHEEL_DATABASE", hide_env_values = true)]
        database: Option<PostgresUrl>,
        /// [default: <DIR>/master.key]
        #[arg(long, value_name = "PATH")]
        master_key_file: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RingAuth {
    /// Bearers of a `proxy` token, and clients with a certificate that --ring-client-ca signed
    Token,
    /// Everyone who reaches the listener
    Open,
}

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
    /// Change a key's labels; what is not named stays
    Update {
        key: String,
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
    /// Take a rotation back whose new version is not accepted yet
    Cancel { rotation: String },
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
pub(crate) enum Ring {
    /// Show a ring: revision, trusted keys, and what each proxy enforces
    Show {
        #[arg(default_value = "production")]
        ring: String,
        /// Print only the base64 public keys for the filter's `control.trust`, one per line
        #[arg(long)]
        trust: bool,
    },
    /// List a ring's proxies, and which of them enforce it
    Proxies {
        #[arg(default_value = "production")]
        ring: String,
        /// Up to this revision [default: the newest]
        #[arg(long)]
        revision: Option<u64>,
    },
    /// Forget proxies that are gone for good, so that nothing waits for them
    Forget {
        #[arg(default_value = "production")]
        ring: String,
        /// This one, as `ring proxies` shows it; repeat for more
        #[arg(long, value_name = "INSTANCE", required_unless_present = "silent_for")]
        instance: Vec<String>,
        /// All that were not heard of for so long, such as 24h; at least 60s
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        silent_for: Option<Duration>,
    },
    /// Print what the filter's `control.trust` needs, as a list of JSON, which YAML reads too
    Trust {
        #[arg(default_value = "production")]
        ring: String,
    },
    /// The keys that sign a ring
    #[command(subcommand)]
    SigningKey(SigningKey),
    /// Print a ring for use elsewhere
    Export {
        #[arg(default_value = "production")]
        ring: String,
        /// As one line of JSON for the filter's `seed`: a proxy that holds no ring begins with it. At
        /// most 500 entries
        #[arg(long, required = true)]
        seed: bool,
        #[arg(long, value_name = "URL", env = "KEYWHEEL_RING_URL", default_value = RING_URL, help = RING_URL_HELP)]
        ring_url: String,
    },
    /// Have the keys of a ring follow a policy, unless they or their clients have one
    SetPolicy {
        ring: String,
        /// Its name, or `none`
        policy: String,
    },
    /// Bring a ring to proxies that cannot reach the control plane
    Push(Push),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SigningKey {
    /// List the keys of a ring and what each is used for
    List {
        #[arg(long, default_value = "production")]
        ring: String,
    },
    /// Make a key. Nobody is told of it yet
    Create {
        #[arg(long, default_value = "production")]
        ring: String,
    },
    /// Have `ring trust` print a key, so that it can be brought to every proxy
    Publish {
        key: String,
        #[arg(long, default_value = "production")]
        ring: String,
    },
    /// Sign with a published key from now on. The one before stays published
    Activate {
        key: String,
        #[arg(long, default_value = "production")]
        ring: String,
        /// Even if proxies would refuse what it signs, and so every revocation
        #[arg(long)]
        force: bool,
    },
    /// End a key that does not sign any more: `ring trust` leaves it out
    Retire {
        key: String,
        #[arg(long, default_value = "production")]
        ring: String,
    },
}

#[derive(Debug, Group)]
pub(crate) struct Push {
    #[arg(default_value = "production")]
    pub(crate) ring: String,
    /// A listener with the filter in `mode: receive`, such as http://proxy:9080; repeat for more
    #[arg(long, value_name = "URL", required = true)]
    pub(crate) to: Vec<String>,
    /// Go on with every change, until a signal; otherwise end when all targets enforce the ring
    #[arg(long)]
    pub(crate) follow: bool,
    /// How long a target may make no progress, such as 30s; with --follow it may for ever
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub(crate) timeout: Duration,
    #[arg(long, value_name = "URL", env = "KEYWHEEL_RING_URL", default_value = RING_URL, help = RING_URL_HELP)]
    pub(crate) ring_url: String,
}

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
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it, once
    Create {
        /// `admin` may do everything, `proxy` may read rings
        #[arg(long)]
        role: Role,
    },
}

/// Reads `team=payments`.
fn label(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, value)| is_label(name) && is_label(value));
    let rule = "is no NAME=VALUE of 1 to 63 letters, digits, `.`, `_`, `/` and `-` each";
    parts.map(|(name, value)| (name.into(), value.into())).ok_or_else(|| format!("`{text}` {rule}"))
}

/// Reads `mon,tue 09:00-17:00`.
fn window(text: &str) -> Result<Window, String> {
    let rule = || format!("`{text}` is no window: write it like `mon,tue,wed,thu,fri 09:00-17:00`");
    let (days, hours) = text.split_once(' ').ok_or_else(rule)?;
    let (from, to) = hours.split_once('-').ok_or_else(rule)?;
    let days: Result<Vec<Day>, _> = days.split(',').map(str::parse).collect();
    match (days, from.parse(), to.parse()) {
        (Ok(days), Ok(from), Ok(to)) => Ok(Window { days, from, to }),
        _ => Err(rule()),
    }
}

/// Reads `90d`, `1h30m` or `2s`, in whole seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let rule = || format!("`{text}` is no duration: write it like 30s, 30m, 12h, 90d or 1h30m");
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(rule)?;
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| rule())?;
        let unit_seconds = match unit.chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 60 * 60,
            Some('d') => 24 * 60 * 60,
            Some('w') => 7 * 24 * 60 * 60,
            _ => return Err(rule()),
        };
        seconds = number.checked_mul(unit_seconds).and_then(|n| seconds.checked_add(n)).ok_or_else(rule)?;
        rest = unit.get(1..).unwrap_or_default();
    }
    if text.is_empty() { Err(rule()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [("0s", 0), ("2s", 2), ("30m", 1800), ("1h30m", 5400), ("90d", 7_776_000)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "30", "m", "-3s", "1y", "1 h", "99999999999999999999s", "9999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_and_windows_are_read() {
        assert_eq!(label("team=a/b"), Ok(("team".into(), "a/b".into())));
        for bad in ["team", "=a", "team=", "a b=c"] {
            assert!(label(bad).is_err(), "{bad}");
        }
        let nights = window("sat,sun 22:00-04:30").unwrap();
        assert_eq!((nights.days, nights.to.minutes()), (vec![Day::Sat, Day::Sun], 270));
        for bad in ["mon", "mon 9-17", "day 09:00-17:00", "09:00-17:00"] {
            assert!(window(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
