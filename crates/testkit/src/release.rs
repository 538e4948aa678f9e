//! What a released control plane said, kept in `tests/compat/`, and a fake that says it again.
//!
//! A recording holds answers byte for byte, so that what reads them today is tested against what was signed then. Its
//! documents may be installed for a day; a proxy, whose clock is real, gets them from [`FakeRelease`] as if they had
//! been signed now.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use axum::routing::{get, post};
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};
use keywheel_keyring::{Millis, SigningKey};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A key that is accepted all the while.
pub const VALID: &str = "compat-valid";
/// The old and the new version of a key whose rotation is open.
pub const RETIRING: &str = "compat-retiring";
pub const SUCCESSOR: &str = "compat-successor";
/// A key that was revoked before the snapshot.
pub const REVOKED: &str = "compat-revoked";
/// A key that the changes revoke.
pub const DOOMED: &str = "compat-doomed";
/// A key that the changes bring.
pub const LATER: &str = "compat-later";
/// So many keys besides, for a second page.
pub const MORE: usize = 500;

/// A release that newer versions must get along with.
#[derive(Debug)]
pub struct Release {
    pub recording: Recording,
    /// Its filter.
    pub wasm: PathBuf,
}

/// Answers of a control plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recording {
    pub version: String,
    pub ring: String,
    /// The public keys that signed it.
    pub trust: Vec<String>,
    /// By the control plane's clock.
    pub recorded_at: Millis,
    /// The whole ring, page by page.
    pub pages: Vec<Exchange>,
    /// What came after the first page's revision.
    pub changes: Vec<Exchange>,
    /// Nothing new, at the first page's revision and after the changes.
    pub heartbeats: Vec<Exchange>,
    /// To a proxy with another epoch.
    pub gone: Exchange,
    /// To a report of usage.
    pub usage: Exchange,
}

/// What was asked, and what was answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exchange {
    /// Method, path and query.
    pub ask: String,
    pub status: u16,
    /// Those that belong to the protocol.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Release {
    /// Every release that is kept, the oldest first.
    ///
    /// # Errors
    ///
    /// `tests/compat/` holds none, or what it holds cannot be read.
    pub fn all() -> anyhow::Result<Vec<Self>> {
        let mut dirs = Vec::new();
        for entry in directory().read_dir()? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            }
        }
        dirs.sort();
        anyhow::ensure!(!dirs.is_empty(), "tests/compat/ holds no release");
        dirs.iter().map(|dir| Self::read(dir).with_context(|| dir.display().to_string())).collect()
    }

    fn read(dir: &Path) -> anyhow::Result<Self> {
        let recording = serde_json::from_slice(&std::fs::read(dir.join("recording.json"))?)?;
        let wasm = dir.join("keywheel_filter.wasm");
        anyhow::ensure!(wasm.is_file(), "there is no keywheel_filter.wasm");
        Ok(Self { recording, wasm })
    }
}

/// `tests/compat/` of this repository.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compat")
}

impl Exchange {
    /// A parameter of the query; empty where there is none.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        let query = self.ask.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(of, _)| *of == name).map_or("", |(_, value)| value)
    }

    fn number(&self, field: &str) -> anyhow::Result<u64> {
        let document: serde_json::Value = serde_json::from_str(&self.body)?;
        document[field].as_u64().with_context(|| format!("the answer to {} has no {field}", self.ask))
    }
}

impl Recording {
    /// The revision from which the changes are followed.
    ///
    /// # Errors
    ///
    /// It has no page.
    pub fn revision(&self) -> anyhow::Result<u64> {
        self.pages.first().context("the recording has no page")?.number("revision")
    }

    /// # Errors
    ///
    /// It has no page.
    pub fn epoch(&self) -> anyhow::Result<String> {
        let page = self.pages.first().context("the recording has no page")?;
        let document: serde_json::Value = serde_json::from_str(&page.body)?;
        Ok(document["epoch"].as_str().context("the page has no epoch")?.to_owned())
    }
}

/// Says again what a release said, as if it were now: times are moved, and so signed with a key of this fake.
#[derive(Debug)]
pub struct FakeRelease {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    recording: Recording,
    key: SigningKey,
    /// How far each time is moved.
    shift: u64,
    /// Whether the changes have happened.
    changed: watch::Sender<bool>,
    reports: AtomicUsize,
}

impl FakeRelease {
    /// # Errors
    ///
    /// No port can be had.
    pub async fn start(recording: &Recording) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(crate::port::free()).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            recording: recording.clone(),
            key: SigningKey::from_seed([9; 32]),
            shift: now().saturating_sub(recording.recorded_at.0),
            changed: watch::Sender::new(false),
            reports: AtomicUsize::new(0),
        });
        let app = Router::new()
            .route("/v1/rings/{ring}/snapshot", get(snapshot))
            .route("/v1/rings/{ring}/changes", get(changes))
            .route("/v1/rings/{ring}/usage", post(usage))
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, shared, task })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its public key.
    #[must_use]
    pub fn trust(&self) -> Vec<String> {
        vec![self.shared.key.public().to_string()]
    }

    /// Lets the recorded changes happen.
    pub fn change(&self) {
        self.shared.changed.send_replace(true);
    }

    /// How many reports of usage came.
    #[must_use]
    pub fn reports(&self) -> usize {
        self.shared.reports.load(Ordering::Relaxed)
    }
}

impl Drop for FakeRelease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    #[serde(default)]
    after: String,
}

#[derive(Debug, Deserialize)]
struct Poll {
    epoch: String,
    since: u64,
    #[serde(default)]
    wait: u64,
}

async fn snapshot(State(shared): State<Arc<Shared>>, Query(page): Query<Page>) -> Response<Body> {
    let found = shared.recording.pages.iter().find(|exchange| exchange.parameter("after") == page.after);
    found.map_or_else(|| unknown(&page), |exchange| shared.answer(exchange, shared.shift))
}

async fn changes(State(shared): State<Arc<Shared>>, Query(poll): Query<Poll>) -> Response<Body> {
    if shared.recording.epoch().ok() != Some(poll.epoch.clone()) {
        return shared.answer(&shared.recording.gone, shared.shift);
    }
    let mut changed = shared.changed.subscribe();
    let next = shared.recording.changes.iter().find(|run| run.number("since").ok() == Some(poll.since));
    if let Some(run) = next {
        let happened = changed.wait_for(|happened| *happened);
        if tokio::time::timeout(Duration::from_secs(poll.wait), happened).await.is_ok() {
            return shared.answer(run, shared.shift);
        }
    } else {
        tokio::time::sleep(Duration::from_secs(poll.wait)).await;
    }
    let at = |exchange: &&Exchange| exchange.number("revision").ok() == Some(poll.since);
    match shared.recording.heartbeats.iter().find(at) {
        // Each is later than the one before.
        Some(heartbeat) => {
            let issued = heartbeat.number("issued_at").unwrap_or_default();
            shared.answer(heartbeat, now().saturating_sub(issued))
        }
        None => unknown(&poll),
    }
}

async fn usage(State(shared): State<Arc<Shared>>, _report: String) -> Response<Body> {
    shared.reports.fetch_add(1, Ordering::Relaxed);
    shared.answer(&shared.recording.usage, 0)
}

/// What the recording has no answer to, which makes the test fail with this in Envoy's log or in a missing ring.
fn unknown(asked: &impl std::fmt::Debug) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("the recording has no answer to {asked:?}")));
    *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
    response
}

// === impl Shared ===

impl Shared {
    fn answer(&self, exchange: &Exchange, shift: u64) -> Response<Body> {
        let signed = exchange.headers.contains_key(SIGNATURE_HEADER);
        let body = if signed { moved(&exchange.body, shift) } else { exchange.body.clone() };
        let mut headers = exchange.headers.clone();
        if signed {
            headers.insert(SIGNER_HEADER.into(), self.key.public().id().to_string());
            headers.insert(SIGNATURE_HEADER.into(), self.key.sign(body.as_bytes()));
        }
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(exchange.status).unwrap_or(StatusCode::NOT_IMPLEMENTED);
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// The same text with every time so much later. Nothing else of it changes, not even the order of fields.
fn moved(body: &str, shift: u64) -> String {
    const TIMES: [&str; 4] = ["\"issued_at\":", "\"expires_at\":", "\"not_before\":", "\"until\":"];
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some((at, name)) =
        TIMES.iter().filter_map(|name| Some((rest.find(name)?, name))).min_by_key(|(at, _)| *at)
    {
        let (before, after) = rest.split_at(at + name.len());
        out.push_str(before);
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let (time, after) = after.split_at(digits);
        match time.parse::<u64>() {
            Ok(time) => out.push_str(&time.saturating_add(shift).to_string()),
            // null
            Err(_) => out.push_str(time),
        }
        rest = after;
    }
    out + rest
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::moved;

    #[test]
    fn times_are_moved_and_nothing_else_changes() {
        let body = r#"{"revision":7,"issued_at":1000,"expires_at":2000,"entries":[{"expires_at":null,"not_before":5}]}"#;
        let later = r#"{"revision":7,"issued_at":1010,"expires_at":2010,"entries":[{"expires_at":null,"not_before":15}]}"#;
        assert_eq!(moved(body, 10), later);
        assert_eq!(moved(body, 0), body);
    }
}
