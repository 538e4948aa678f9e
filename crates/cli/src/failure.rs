//! What went wrong, what to do, and the exit code.

use std::path::PathBuf;

use keywheel_api::audit::Fault;
use keywheel_api::{Problem, Timestamp};
use keywheel_keyring::document::DocumentError;
use keywheel_keyring::signature::SignatureError;

use crate::commands::key::when;
use crate::output::counted;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The server said no.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    #[error(
        "cannot reach the control plane at {url}: {cause}. Is `keywheel serve` running there? Set --url or KEYWHEEL_URL if it is elsewhere"
    )]
    Unreachable { url: String, cause: String },
    #[error(
        "cannot reach the ring listener at {url}: {cause}. Is `keywheel serve` running there? Set --ring-url or KEYWHEEL_RING_URL if it is elsewhere"
    )]
    RingUnreachable { url: String, cause: String },
    #[error(
        "cannot reach the consumer listener at {url}: {cause}. Does `keywheel serve --consumer-listen` run there, or a proxy in front of it? Set --consumer-url or KEYWHEEL_CONSUMER_URL if it is elsewhere"
    )]
    ConsumerUnreachable { url: String, cause: String },
    /// As the filter in front of the listener puts it.
    #[error("the proxy at {url} refuses the key: {title} ({code})")]
    ByProxy { url: String, title: String, code: String },
    #[error("no key: give --key-file a file that holds yours, or set KEYWHEEL_API_KEY")]
    NoKey,
    #[error("what was given as the key is none: a key is one word of visible ASCII characters")]
    BadKey,
    #[error("cannot read the key file {}: {cause}", .path.display())]
    KeyFile { path: PathBuf, cause: std::io::Error },
    #[error("{} is there already and holds no new key of an earlier try; give --out a file that is not there", .path.display())]
    OutTaken { path: PathBuf },
    #[error(
        "no token: set KEYWHEEL_TOKEN, or KEYWHEEL_TOKEN_FILE to a file that holds one. The first start of `keywheel serve` printed it"
    )]
    NoToken,
    #[error("`{0}` cannot be the URL of an Envoy's admin interface: write it like http://127.0.0.1:9901")]
    EnvoyUrl(String),
    #[error("the audit trail is empty, which it never is: somebody removed its records")]
    EmptyTrail,
    #[error("{} found", counted(*.0, "problem was", "problems were"))]
    Unwell(usize),
    #[error("the change is made, but not every proxy is known to enforce it")]
    NotApplied,
    #[error("the copy is restored and published to nobody yet")]
    HeldBack,
    #[error(
        "the new key is not accepted by every proxy yet, but from {} on at the latest: go on with the old one, and run this again", when(*.at)
    )]
    NotYet { at: Timestamp },
    #[error("what was given as the token is none: a token is one word, `kwt_…`")]
    BadToken,
    #[error(
        "`{0}` cannot be the control plane's URL: write it like http://127.0.0.1:7070 or https://keywheel.example:7070"
    )]
    Url(String),
    #[error(
        "`{0}` cannot be the ring listener's URL: write it like http://127.0.0.1:7071 or https://keywheel.example:7071"
    )]
    RingUrl(String),
    #[error(
        "`{0}` cannot be the consumer listener's URL: write it like http://127.0.0.1:7072 or https://api.example"
    )]
    ConsumerUrl(String),
    #[error("{option} {}: {cause}; give a PEM file that this user may read", .path.display())]
    Pem { option: &'static str, path: PathBuf, cause: String },
    #[error("--client-cert and --client-key belong together: give both, or neither")]
    HalfIdentity,
    #[error("`{0}` cannot be a target's URL: write it like http://proxy:9080")]
    TargetUrl(String),
    #[error("cannot read the token file {}: {cause}", .path.display())]
    TokenFile { path: PathBuf, cause: std::io::Error },
    #[error(
        "the answer of {url} is not one of a keywheel control plane ({cause}); is --url the admin listener?"
    )]
    NotKeywheel { url: String, cause: String },
    #[error(
        "the answer of {url} is not one of a consumer listener ({cause}); does --consumer-url lead to one, through every proxy on the way?"
    )]
    NotConsumer { url: String, cause: String },
    #[error("the answer of {url} is not one of a ring listener ({cause}); is --ring-url the ring listener?")]
    NotRing { url: String, cause: String },
    #[error(
        "the ring listener at {url} asks for a token, and {}. Give --ring-token-file a file with a token of role `proxy` or `auditor`, or for a relay one that stands in its --proxy-token-file; or --client-cert and --client-key",
        if *.sent { "does not take the one that it was sent" } else { "was sent none: the operator's token goes to no --ring-url that is not --url's own address" }
    )]
    RingToken { url: String, sent: bool },
    #[error("the ring listener refuses even a first page; is --ring-url a keywheel ring listener?")]
    NoHistory,
    #[error(
        "{0}: the document is not one of this control plane; do --ring-url and --url belong to the same one?"
    )]
    Signature(SignatureError),
    #[error(
        "the ring listener's document cannot be read: {0}; use the keywheel of the control plane's version"
    )]
    Document(DocumentError),
    #[error(
        "ring `{ring}` has {entries} entries and a seed holds at most {most}: it is one document. Let its proxies start from the control plane or a relay, or bring the ring to them with `keywheel ring push`"
    )]
    SeedTooLarge { ring: String, entries: u64, most: usize },
    #[error(
        "the ring listener's document is not a first page of ring `{ring}`; is --ring-url the ring listener of this control plane?"
    )]
    NotASeed { ring: String },
    #[error(
        "the audit trail is not whole: {0}. Compare it with a backup of the database; the records before are good"
    )]
    Audit(Fault),
    #[error("cannot read whose signatures to take from {}: {cause}; give a file that `keywheel ring trust --out` wrote", .path.display())]
    TrustFile { path: PathBuf, cause: String },
    #[error("cannot read the checkpoint {}: {cause}; give a file that holds what `keywheel audit checkpoint` printed", .path.display())]
    CheckpointFile { path: PathBuf, cause: std::io::Error },
    #[error("{failed} of {} not enforce the ring: {why}", counted(*.of, "target does", "targets do"))]
    Push { failed: usize, of: usize, why: String },
    #[error(
        "cannot listen on {address}: {cause}; stop what uses it, or choose another address with {option}"
    )]
    Listen { address: String, option: &'static str, cause: std::io::Error },
    #[error(transparent)]
    Tls(#[from] keywheel_control::serve::tls::TlsError),
    #[error(transparent)]
    Relay(#[from] keywheel_relay::OpenError),
    #[error(transparent)]
    ProxyTokens(#[from] keywheel_relay::TokensError),
    #[error(
        "nobody could be let in on {address}: give --proxy-token-file a file of tokens, or --ring-client-ca the certificates of whoever signs those of proxies. With --ring-auth open everyone who reaches it may read the ring"
    )]
    NoCredentials { address: std::net::SocketAddr },
    #[error(
        "`{0}` cannot be the upstream's URL: write it like http://127.0.0.1:7071 or https://keywheel.example:7071"
    )]
    UpstreamUrl(String),
    #[error(transparent)]
    Restore(#[from] keywheel_control::restore::RestoreError),
    #[error("cannot write the backup {}: {cause}", .path.display())]
    Backup { path: PathBuf, cause: std::io::Error },
    #[error(transparent)]
    Start(#[from] keywheel_control::StartError),
    #[error(transparent)]
    Random(#[from] keywheel_control::secret::NoRandomness),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("cannot read the list {}: {cause}", .path.display())]
    List { path: PathBuf, cause: std::io::Error },
    #[error(
        "line {line} of the list is no digest: 64 hexadecimal digits, or leave --digests out to give keys"
    )]
    ListLine { line: usize },
    #[error("the list {} names no key; write one on each line", .path.display())]
    EmptyList { path: PathBuf },
    #[error(
        "{} refused; mend them and import the same list again: what is there already stays as it is",
        counted(*.0, "line was", "lines were")
    )]
    ImportRefused(usize),
    #[error("cannot write {}: {cause}", .path.display())]
    Write { path: PathBuf, cause: std::io::Error },
    #[error("`{0}` cannot be asked: write it like http://127.0.0.1:7070/readyz")]
    HealthUrl(String),
    #[error("{url} is not well: {cause}")]
    Unhealthy { url: String, cause: String },
    #[error("cannot read {}: {cause}", .path.display())]
    Template { path: PathBuf, cause: std::io::Error },
    #[error("{} does not say {placeholder} anywhere: fill in a copy that no keys were put into, such as envoy/envoy.yaml", .path.display())]
    NothingToFill { path: PathBuf, placeholder: &'static str },
    #[error("the ring's key prefix `{0}` is none that this keywheel knows; use a newer one")]
    KeyPrefix(String),
}

impl Failure {
    /// As `keywheel --help` lists them.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Url(_)
            | Self::RingUrl(_)
            | Self::ConsumerUrl(_)
            | Self::TargetUrl(_)
            | Self::EnvoyUrl(_)
            | Self::HealthUrl(_)
            | Self::UpstreamUrl(_)
            | Self::NoCredentials { .. }
            | Self::HalfIdentity => 2,
            Self::Unreachable { .. } | Self::RingUnreachable { .. } | Self::ConsumerUnreachable { .. } => 3,
            Self::NoToken | Self::BadToken | Self::TokenFile { .. } | Self::RingToken { .. } => 4,
            Self::Relay(keywheel_relay::OpenError::Token(_)) => 4,
            Self::NoKey | Self::BadKey | Self::KeyFile { .. } | Self::ByProxy { .. } => 4,
            Self::Refused(problem) if matches!(problem.status, 401 | 403) => 4,
            Self::Audit(_) | Self::EmptyTrail => 5,
            Self::NotApplied | Self::NotYet { .. } => 6,
            Self::HeldBack => 7,
            _ => 1,
        }
    }
}
