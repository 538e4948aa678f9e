//! What went wrong, what to do, and the exit code.

use std::path::PathBuf;

use keywheel_api::Problem;

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
        "no token: set KEYWHEEL_TOKEN, or KEYWHEEL_TOKEN_FILE to a file that holds one. The first start of `keywheel serve` printed it"
    )]
    NoToken,
    #[error("what was given as the token is none: a token is one word, `kwt_…`")]
    BadToken,
    #[error("`{0}` cannot be the control plane's URL: write it like http://127.0.0.1:7070")]
    Url(String),
    #[error("cannot read the token file {}: {cause}", .path.display())]
    TokenFile { path: PathBuf, cause: std::io::Error },
    #[error(
        "the answer of {url} is not one of a keywheel control plane ({cause}); is --url the admin listener?"
    )]
    NotKeywheel { url: String, cause: String },
    #[error(
        "cannot listen on {address}: {cause}; stop what uses it, or choose another address with {option}"
    )]
    Listen { address: String, option: &'static str, cause: std::io::Error },
    #[error(transparent)]
    Start(#[from] keywheel_control::StartError),
    #[error(transparent)]
    Random(#[from] keywheel_control::secret::NoRandomness),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the ring's key prefix `{0}` is none that this keywheel knows; use a newer one")]
    KeyPrefix(String),
}

impl Failure {
    /// As `keywheel --help` lists them.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Url(_) => 2,
            Self::Unreachable { .. } => 3,
            Self::NoToken | Self::BadToken | Self::TokenFile { .. } => 4,
            Self::Refused(problem) if matches!(problem.status, 401 | 403) => 4,
            _ => 1,
        }
    }
}
