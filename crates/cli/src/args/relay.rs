//! Running a relay.

use std::path::PathBuf;

use clap::Args as Group;
use keywheel_keyring::PublicKey;

use super::serve::{LogFormat, RingAuth, RingTls};

#[derive(Debug, Group)]
pub(crate) struct Relay {
    /// The directory that the ring is kept in; made if there is none
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// The ring listener of a control plane or of another relay; repeat for more, which are asked in turn when one does not
    /// answer. --token-file, --ca, --client-cert and --client-key are for it
    #[arg(long, value_name = "URL", required = true, env = "KEYWHEEL_UPSTREAM", value_delimiter = ',')]
    pub(crate) upstream: Vec<String>,
    /// A base64 public key that may have signed the ring, as `keywheel ring show --trust` prints it; repeat for more
    #[arg(
        long,
        value_name = "KEY",
        required_unless_present = "trust_file",
        env = "KEYWHEEL_TRUST",
        value_delimiter = ','
    )]
    pub(crate) trust: Vec<PublicKey>,
    /// A list of more of them, as `keywheel ring trust --out` writes it
    #[arg(long, value_name = "FILE", env = "KEYWHEEL_TRUST_FILE")]
    pub(crate) trust_file: Option<PathBuf>,
    /// A ring to serve; repeat for more
    #[arg(long, value_name = "NAME", default_value = "production")]
    pub(crate) ring: Vec<String>,
    /// Where proxies connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7071")]
    pub(crate) listen: String,
    /// What `keywheel ring proxies` calls this relay [default: `relay@` and what it is listening on]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// How to write the log
    #[arg(long, value_enum, env = "KEYWHEEL_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Who may read the ring [default: open on a loopback address without --ring-client-ca and --proxy-token-file, token
    /// elsewhere]
    #[arg(long, value_enum)]
    pub(crate) ring_auth: Option<RingAuth>,
    /// A file of tokens that proxies may show, one on each line, or `sha256:` and a token's hash. It is read again when it
    /// changes
    #[arg(long, value_name = "PATH")]
    pub(crate) proxy_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: RingTls,
}
