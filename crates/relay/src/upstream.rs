//! Calls to the upstream: a control plane's ring listener, or another relay.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use keywheel_api::{Problem, ProxyReports};
use keywheel_control::ring::Signed;
use keywheel_control::ring::proxies::HEADER;
use keywheel_keyring::document::{AHEAD_HEADER, MAX_BYTES};
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};
use reqwest::{RequestBuilder, Response, StatusCode};
use zeroize::Zeroizing;

use crate::archive::Ask;
use crate::caller::Caller;

/// How long a call may take beyond the wait that it asks for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the upstream may take to take something: less than a proxy waits for an answer.
const HAND_OVER: Duration = Duration::from_secs(5);

/// The token for the upstream.
#[derive(Clone)]
pub enum UpstreamToken {
    /// None is asked for, or a client certificate is shown.
    None,
    Text(Zeroizing<String>),
    /// Read for every call, so that a new one counts at once.
    File(PathBuf),
}

/// Upstreams in order; the first that answers is asked until it does not.
#[derive(Debug)]
pub struct Upstream {
    caller: Caller,
    /// Without a slash at the end.
    urls: Vec<String>,
    token: UpstreamToken,
    now: AtomicUsize,
    /// Calls that failed.
    failures: AtomicU64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Not in the ring's history.
    #[error("the upstream has no history from there")]
    Gone,
    #[error("{url} cannot be reached: {cause}")]
    Unreachable { url: String, cause: String },
    #[error("{url} answered {status}: {detail}")]
    Refused { url: String, status: StatusCode, detail: String },
    #[error("the answer of {url} is no signed document ({cause}); is it a ring listener?")]
    NoDocument { url: String, cause: String },
    #[error(
        "{url} answered 404 ({detail}): it has no ring `{ring}`, or is no ring listener. Give --ring one that `keywheel ring list` shows at the control plane"
    )]
    NoRing { url: String, ring: String, detail: String },
    #[error(transparent)]
    Token(#[from] TokenFault),
}

/// Why a token file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    #[error("cannot read the token file {}: {cause}; give --token-file a file that this user may read", .path.display())]
    Read { path: PathBuf, cause: std::io::Error },
    #[error("the token file {} has more than one line; write the token into it and nothing else", .path.display())]
    Lines { path: PathBuf },
    #[error("the token file {} holds no token: write one into it, of visible ASCII characters", .path.display())]
    Text { path: PathBuf },
}

/// What a relay says of itself with a call.
pub type About<'a> = Option<&'a str>;

impl Upstream {
    /// `urls` are not empty, and those of ring listeners.
    #[must_use]
    pub fn new(caller: Caller, urls: &[String], token: UpstreamToken) -> Self {
        let urls = urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Self { caller, urls, token, now: AtomicUsize::new(0), failures: AtomicU64::new(0) }
    }

    /// Reads its certificates again if they have changed. It blocks on the disk.
    pub(crate) fn look(&self) {
        self.caller.look();
    }

    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// # Errors
    ///
    /// [`UpstreamError`]. Nothing of the document is checked.
    pub async fn ask(&self, ring: &str, ask: &Ask, about: About<'_>) -> Result<Signed, UpstreamError> {
        let wait = match ask {
            Ask::Changes { wait, .. } => Duration::from_secs(*wait),
            Ask::Page { .. } => Duration::ZERO,
        };
        let (at, url) = self.url();
        let request = self.caller.now().get(format!("{url}/v1/rings/{ring}/{}", path(ask)));
        let answer = self.send(at, url, request.timeout(wait.saturating_add(PATIENCE)), about).await?;
        if answer.status() == StatusCode::GONE {
            return Err(UpstreamError::Gone);
        }
        if !answer.status().is_success() {
            return Err(match self.refused(at, url, answer).await {
                UpstreamError::Refused { url, status: StatusCode::NOT_FOUND, detail } => {
                    UpstreamError::NoRing { url, ring: ring.to_owned(), detail }
                }
                refused => refused,
            });
        }
        let header =
            |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (signature, signer) = (header(SIGNATURE_HEADER), header(SIGNER_HEADER));
        let ahead = header(AHEAD_HEADER).and_then(|ahead| ahead.parse().ok());
        let none = |cause: &str| UpstreamError::NoDocument { url: url.to_owned(), cause: cause.to_owned() };
        let (Some(signature), Some(signer)) = (signature, signer) else {
            return Err(none("it is not signed"));
        };
        let body = self.body(at, url, answer).await?;
        Ok(Signed { body, signature, signer, revision: 0, ahead })
    }

    /// Hands a usage report over as it is. Answers the status and the body.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]: whether it arrived is not known.
    pub async fn post_usage(&self, ring: &str, body: Bytes) -> Result<(StatusCode, Bytes), UpstreamError> {
        let (at, url) = self.url();
        let request = self.caller.now().post(format!("{url}/v1/rings/{ring}/usage")).body(body);
        let request = request.header("content-type", "application/json").timeout(HAND_OVER);
        let answer = self.send(at, url, request, None).await?;
        let status = answer.status();
        if status.is_server_error() {
            return Err(self.refused(at, url, answer).await);
        }
        Ok((status, self.body(at, url, answer).await?))
    }

    /// # Errors
    ///
    /// [`UpstreamError`]: not all of them are known there.
    pub async fn post_proxies(
        &self,
        ring: &str,
        reports: &ProxyReports,
        about: About<'_>,
    ) -> Result<(), UpstreamError> {
        let (at, url) = self.url();
        let request = self.caller.now().post(format!("{url}/v1/rings/{ring}/proxies")).json(reports);
        let answer = self.send(at, url, request.timeout(HAND_OVER), about).await?;
        if answer.status().is_success() { Ok(()) } else { Err(self.refused(at, url, answer).await) }
    }

    fn url(&self) -> (usize, &str) {
        let at = self.now.load(Ordering::Relaxed);
        (at, self.urls.get(at).or_else(|| self.urls.first()).map_or("", String::as_str))
    }

    async fn send(
        &self,
        at: usize,
        url: &str,
        request: RequestBuilder,
        about: About<'_>,
    ) -> Result<Response, UpstreamError> {
        let token = match &self.token {
            UpstreamToken::None => None,
            UpstreamToken::Text(text) => Some(text.clone()),
            UpstreamToken::File(path) => Some(token_of(path, tokio::fs::read_to_string(path).await)?),
        };
        let request = match token {
            Some(token) => request.bearer_auth(token.as_str()),
            None => request,
        };
        let request = match about {
            Some(about) => request.header(HEADER, about),
            None => request,
        };
        request.send().await.map_err(|error| self.lost(at, url, &error))
    }

    async fn body(&self, at: usize, url: &str, mut answer: Response) -> Result<Bytes, UpstreamError> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.lost(at, url, &error))? {
            if body.len().saturating_add(chunk.len()) > MAX_BYTES {
                let cause = "it is longer than any document".to_owned();
                return Err(UpstreamError::NoDocument { url: url.to_owned(), cause });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    fn lost(&self, at: usize, url: &str, error: &reqwest::Error) -> UpstreamError {
        self.next(at);
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        UpstreamError::Unreachable { url: url.to_owned(), cause: cause.to_string() }
    }

    async fn refused(&self, at: usize, url: &str, answer: Response) -> UpstreamError {
        let status = answer.status();
        self.next(at);
        let body = self.body(at, url, answer).await.unwrap_or_default();
        let detail = serde_json::from_slice::<Problem>(&body).map_or_else(|_| String::new(), |it| it.detail);
        UpstreamError::Refused { url: url.to_owned(), status, detail }
    }

    /// Turns to the next upstream, unless another call did already.
    fn next(&self, at: usize) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let next = at.saturating_add(1);
        let next = if next < self.urls.len() { next } else { 0 };
        let _ = self.now.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Tries the first one again.
    pub fn prefer_the_first(&self) {
        self.now.store(0, Ordering::Relaxed);
    }
}

impl UpstreamError {
    /// Whether somebody has to do something about it: it was understood, and refused.
    pub(crate) fn is_a_mistake(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_client_error() && *status != StatusCode::TOO_MANY_REQUESTS
            }
            Self::NoRing { .. } | Self::NoDocument { .. } | Self::Token(_) => true,
            Self::Gone | Self::Unreachable { .. } => false,
        }
    }
}

// === impl UpstreamToken ===

impl UpstreamToken {
    /// Looks whether it can be used, so that a wrong path shows at the start. It blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`TokenFault`].
    pub fn check(&self) -> Result<(), TokenFault> {
        match self {
            Self::None | Self::Text(_) => Ok(()),
            Self::File(path) => token_of(path, std::fs::read_to_string(path)).map(drop),
        }
    }
}

fn token_of(path: &Path, read: std::io::Result<String>) -> Result<Zeroizing<String>, TokenFault> {
    let path = path.to_owned();
    let text = match read {
        Ok(text) => Zeroizing::new(text),
        Err(cause) => return Err(TokenFault::Read { path, cause }),
    };
    let token = text.trim();
    if token.lines().count() > 1 {
        return Err(TokenFault::Lines { path });
    }
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TokenFault::Text { path });
    }
    Ok(Zeroizing::new(token.to_owned()))
}

impl std::fmt::Debug for UpstreamToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Text(_) => "Text([redacted])",
            Self::File(_) => "File",
        })
    }
}

fn path(ask: &Ask) -> String {
    match ask {
        Ask::Changes { epoch, since, wait } => format!("changes?epoch={epoch}&since={since}&wait={wait}"),
        Ask::Page { after, epoch, at_least } => {
            let after = after.map(|after| format!("after={after}&")).unwrap_or_default();
            let epoch = epoch.map(|epoch| format!("epoch={epoch}&")).unwrap_or_default();
            format!("snapshot?{after}{epoch}at_least={at_least}")
        }
    }
}
