//! Running the control plane, and its data.

use std::path::PathBuf;

use clap::{Args as Group, Subcommand, ValueEnum};
use keywheel_control::store::PostgresUrl;
use keywheel_keyring::Epoch;
use keywheel_keyring::KeyPrefix;
use keywheel_keyring::PublicKey;

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
    /// Where the holders of keys connect to see and rotate their own, through a proxy; nowhere if not given
    #[arg(long, value_name = "ADDR")]
    pub(crate) consumer_listen: Option<String>,
    /// How to write the log
    #[arg(long, value_enum, env = "KEYWHEEL_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Who may read the ring [default: open on a loopback address without --ring-client-ca, token elsewhere]
    #[arg(long, value_enum, env = "KEYWHEEL_RING_AUTH")]
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
    #[command(flatten)]
    pub(crate) ring: RingTls,
    /// Speak TLS on the consumer listener, with this certificate and those between it and a root
    #[arg(long, value_name = "FILE", env = "KEYWHEEL_CONSUMER_TLS_CERT", requires = "consumer_tls_key")]
    pub(crate) consumer_tls_cert: Option<PathBuf>,
    /// The key of --consumer-tls-cert
    #[arg(long, value_name = "FILE", env = "KEYWHEEL_CONSUMER_TLS_KEY", requires = "consumer_tls_cert")]
    pub(crate) consumer_tls_key: Option<PathBuf>,
    /// Let nobody onto the consumer listener without a certificate that one of these signed: the proxy in front of it
    #[arg(long, value_name = "FILE", env = "KEYWHEEL_CONSUMER_CLIENT_CA", requires = "consumer_tls_cert")]
    pub(crate) consumer_client_ca: Option<PathBuf>,
}

/// Certificates of a ring listener, a relay's too, in PEM. They are read again when the files change, and on SIGHUP.
#[derive(Debug, Group)]
#[command(next_help_heading = "TLS")]
pub(crate) struct RingTls {
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

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RingAuth {
    /// Bearers of a `proxy` token, and clients with a certificate that --ring-client-ca signed
    Token,
    /// Everyone who reaches the listener
    Open,
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
