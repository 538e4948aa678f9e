//! The ring listener of a control plane or relay: signed documents, as they are.

use std::time::Duration;

use bytes::Bytes;
use keywheel_api::Problem;
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};
use reqwest::{Client, StatusCode};
use serde::Deserialize;

use crate::args::Connection;
use crate::commands::key::segment;
use crate::failure::Failure;
use crate::http::{client, is_url, lost};

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
    pub(crate) fn new(
        url: &str,
        ring: &str,
        token: Option<String>,
        connection: &Connection,
    ) -> Result<Self, Failure> {
        let listener = url.trim_end_matches('/').to_owned();
        if !is_url(&listener) {
            return Err(Failure::RingUrl(listener));
        }
        let http = client(connection, &listener)?.build();
        let http = http.map_err(|error| unreachable(&listener, &error))?;
        Ok(Self { http, listener, ring: ring.to_owned(), token })
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

fn unreachable(listener: &str, error: &reqwest::Error) -> Failure {
    Failure::RingUnreachable { url: listener.to_owned(), cause: lost(listener, error) }
}
