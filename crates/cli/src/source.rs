//! The ring listener of a control plane or relay: signed documents, as they are.
//!
//! What answers at a `--ring-url` may be a relay that somebody has taken over, so the operator's token does not go there.

use std::time::Duration;

use bytes::Bytes;
use keywheel_api::Problem;
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;

use crate::args::{Connection, Listener};
use crate::commands::key::segment;
use crate::failure::Failure;
use crate::http::{client, is_url, lost, optional_token, ring_token};

/// Where a control plane listens for proxies unless it is told otherwise.
const RING_PORT: u16 = 7071;
/// How long a call may take beyond the wait that it asks for.
const PATIENCE: Duration = Duration::from_secs(10);

/// One ring of one listener.
pub(crate) struct Source {
    http: Client,
    listener: String,
    ring: String,
    token: Option<String>,
}

/// What of the ring is asked for. The words are the protocol's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    FirstPage,
    Page { after: Option<String>, epoch: String, at_least: u64 },
    Changes { epoch: String, since: u64, wait: Duration },
}

/// A document's exact bytes, and what was said about them.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) body: Bytes,
    pub(crate) signature: String,
    pub(crate) signer: String,
    pub(crate) kind: Kind,
}

/// The fields of a document that the command line looks at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Kind {
    /// Absent from a page.
    pub(crate) since: Option<u64>,
    pub(crate) revision: u64,
}

/// Why there is no document.
#[derive(Debug)]
pub(crate) enum SourceError {
    /// Not in the ring's history: a snapshot is needed.
    Gone,
    /// Asking again may help.
    Later(Failure),
    /// It will not.
    Never(Failure),
}

impl Kind {
    /// Whether the document says only that nothing changed.
    pub(crate) fn is_heartbeat(&self) -> bool {
        self.since == Some(self.revision)
    }
}

impl SourceError {
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::Gone => Failure::NoHistory,
            Self::Later(failure) | Self::Never(failure) => failure,
        }
    }
}

impl Source {
    pub(crate) fn new(from: &Listener, ring: &str, connection: &Connection) -> Result<Self, Failure> {
        let (listener, its_own) = match &from.ring_url {
            None => (beside(&connection.url)?, true),
            Some(url) => (url.trim_end_matches('/').to_owned(), one_origin(url, &connection.url)),
        };
        if !is_url(&listener) {
            return Err(Failure::RingUrl(listener));
        }
        let token = match ring_token(from.ring_token_file.as_ref())? {
            None if its_own => optional_token(connection)?,
            token => token,
        };
        let http = client(connection, &listener)?.build();
        let http = http.map_err(|error| unreachable(&listener, &error))?;
        Ok(Self { http, listener, ring: ring.to_owned(), token })
    }

    /// Its URL.
    pub(crate) fn listener(&self) -> &str {
        &self.listener
    }

    pub(crate) async fn take(&self, ask: &Ask) -> Result<Signed, SourceError> {
        let url = |what| format!("{}/v1/rings/{}/{what}", self.listener, segment(&self.ring));
        let (request, wait) = match ask {
            Ask::FirstPage => (self.http.get(url("snapshot")), Duration::ZERO),
            Ask::Page { after, epoch, at_least } => {
                let request = self.http.get(url("snapshot")).query(&[("epoch", epoch)]);
                let request = request.query(&[("at_least", at_least)]);
                (request.query(&[("after", after)]), Duration::ZERO)
            }
            Ask::Changes { epoch, since, wait } => {
                let request = self.http.get(url("changes")).query(&[("epoch", epoch)]);
                (request.query(&[("since", *since), ("wait", wait.as_secs())]), *wait)
            }
        };
        let request = request.timeout(wait.saturating_add(PATIENCE));
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let lost = |error: &reqwest::Error| SourceError::Later(unreachable(&self.listener, error));
        let answer = request.send().await.map_err(|error| lost(&error))?;
        let status = answer.status();
        let header =
            |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (signature, signer) = (header(SIGNATURE_HEADER), header(SIGNER_HEADER));
        let body = answer.bytes().await.map_err(|error| lost(&error))?;
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        let kind = serde_json::from_slice(&body).map_err(|error| self.no_ring(&error.to_string()))?;
        let (Some(signature), Some(signer)) = (signature, signer) else {
            return Err(self.no_ring("its document is not signed"));
        };
        Ok(Signed { body, signature, signer, kind })
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> SourceError {
        if status == StatusCode::UNAUTHORIZED {
            let (url, sent) = (self.listener.clone(), self.token.is_some());
            return SourceError::Never(Failure::RingToken { url, sent });
        }
        let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
            return if status.is_server_error() {
                SourceError::Later(Failure::NotRing {
                    url: self.listener.clone(),
                    cause: format!("HTTP {status}"),
                })
            } else {
                self.no_ring(&format!("HTTP {status}"))
            };
        };
        match status {
            StatusCode::GONE => SourceError::Gone,
            status if status.is_server_error() => SourceError::Later(Failure::Refused(Box::new(problem))),
            _ => SourceError::Never(Failure::Refused(Box::new(problem))),
        }
    }

    fn no_ring(&self, cause: &str) -> SourceError {
        SourceError::Never(Failure::NotRing { url: self.listener.clone(), cause: cause.to_owned() })
    }
}

/// The ring listener of the control plane at this URL, where nobody says otherwise.
fn beside(url: &str) -> Result<String, Failure> {
    let no_url = || Failure::Url(url.to_owned());
    let parsed = Url::parse(url).ok().filter(|_| is_url(url)).ok_or_else(no_url)?;
    let host = parsed.host_str().ok_or_else(no_url)?;
    Ok(format!("{}://{host}:{RING_PORT}", parsed.scheme()))
}

/// Whether scheme, host and port are the same, so that whoever answers has seen the operator's token anyway.
fn one_origin(url: &str, other: &str) -> bool {
    let origin = |url| Url::parse(url).map(|url| url.origin()).ok();
    origin(url).is_some_and(|of_one| of_one.is_tuple() && Some(of_one) == origin(other))
}

fn unreachable(listener: &str, error: &reqwest::Error) -> Failure {
    Failure::RingUnreachable { url: listener.to_owned(), cause: lost(listener, error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_listener_is_looked_for_beside_the_control_plane() {
        let cases = [
            ("http://127.0.0.1:7070", "http://127.0.0.1:7071"),
            ("https://keywheel.example", "https://keywheel.example:7071"),
            ("https://me:secret@keywheel.example/behind/a/path?x#y", "https://keywheel.example:7071"),
            ("http://[::1]:7070/", "http://[::1]:7071"),
        ];
        for (url, listener) in cases {
            assert_eq!(beside(url).unwrap(), listener, "{url}");
        }
        for bad in ["", "keywheel.example", "ftp://keywheel.example", "https://"] {
            assert!(matches!(beside(bad), Err(Failure::Url(_))), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let api = "https://keywheel.example:7070";
        for same in [api, "https://keywheel.example:7070/rings", "https://KEYWHEEL.example:7070"] {
            assert!(one_origin(same, api), "{same}");
        }
        assert!(one_origin("https://keywheel.example:443", "https://keywheel.example"));
        for other in [
            "https://keywheel.example:7071",
            "http://keywheel.example:7070",
            "https://keywheel.example.evil:7070",
            "https://keywheel.example:7070@evil",
            "https://evil/keywheel.example:7070",
            "file:///etc",
            "",
        ] {
            assert!(!one_origin(other, api), "{other}");
        }
        assert!(!one_origin("file:///etc", "file:///etc"), "nobody's origin");
    }
}
