//! Something that serves ring documents, good and bad. It is no control plane: it says what a test
//! tells it to say, so that a test can tell it to lie.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::get;
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};
use keywheel_keyring::{Document, Entry, Epoch, Kind, Millis, SigningKey};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::envoy_admin::RING;

/// A fake control plane with a signing key of its own.
#[derive(Debug)]
pub struct FakeControl {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// A document as it goes over the wire, or what is made to look like one.
#[derive(Debug, Clone)]
pub struct Canned {
    pub status: u16,
    pub signer: Option<String>,
    pub signature: Option<String>,
    pub body: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    key: SigningKey,
    script: Mutex<Script>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Script {
    snapshot: Option<Canned>,
    polls: VecDeque<Canned>,
    answered: usize,
    /// The answer to a poll that is queued last is the last that it says of changes.
    ends: bool,
    /// While it says nothing of changes: how often it was asked.
    withheld: Option<usize>,
    /// What a proxy last said of itself.
    report: String,
}

/// The epoch of the documents that [`FakeControl::changes`] and [`FakeControl::snapshot`] make.
pub const EPOCH: &str = "0199a3b4-0000-7000-8000-000000000001";
const HOUR: u64 = 3_600_000;

impl FakeControl {
    /// # Errors
    ///
    /// No port can be had.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(crate::port::free()).await?;
        let address = listener.local_addr()?;
        let key = SigningKey::from_seed([7; 32]);
        let shared = Arc::new(Shared { key, script: Mutex::default(), wake: Notify::new() });
        let app = Router::new()
            .route("/v1/rings/{ring}/snapshot", get(snapshot))
            .route("/v1/rings/{ring}/changes", get(changes))
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

    /// What to answer to every call for a snapshot.
    pub fn serve_snapshot(&self, canned: Canned) {
        self.shared.script().snapshot = Some(canned);
    }

    /// What to answer to the next poll that nothing is queued for. Polls beyond that are held open,
    /// and then answered with a heartbeat.
    pub fn answer_poll(&self, canned: Canned) {
        self.shared.script().polls.push_back(canned);
        self.shared.wake.notify_one();
    }

    /// As [`FakeControl::answer_poll`], and calls for changes that come behind it are answered with 503.
    pub fn answer_last_poll(&self, canned: Canned) {
        self.shared.script().ends = true;
        self.answer_poll(canned);
    }

    /// From now on calls for changes are answered with 503.
    pub fn withhold_changes(&self) {
        self.shared.script().withheld = Some(0);
    }

    /// How often changes were asked for since [`FakeControl::withhold_changes`].
    #[must_use]
    pub fn withheld(&self) -> usize {
        self.shared.script().withheld.unwrap_or_default()
    }

    /// How many of [`FakeControl::answer_poll`]'s answers went out.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.shared.script().answered
    }

    /// Whether a proxy says that so many VMs enforce this revision.
    #[must_use]
    pub fn is_enforced(&self, revision: u64, vms: usize) -> bool {
        let script = self.shared.script();
        let says = |field: String| script.report.split('&').any(|part| part == field);
        says(format!("enforced={revision}")) && says(format!("vms={vms}"))
    }

    /// A whole ring in one signed page.
    #[must_use]
    pub fn snapshot(&self, revision: u64, entries: Vec<Entry>) -> Canned {
        self.sign(&document(Kind::Snapshot { after: None, through: None }, revision, entries))
    }

    /// A signed run of changes.
    #[must_use]
    pub fn changes(&self, since: u64, revision: u64, entries: Vec<Entry>) -> Canned {
        self.sign(&document(Kind::Changes { since }, revision, entries))
    }

    /// Any document, signed.
    ///
    /// # Panics
    ///
    /// It cannot be written as JSON.
    #[must_use]
    pub fn sign(&self, document: &Document) -> Canned {
        self.sign_bytes(serde_json::to_vec(document).expect("a document is JSON"))
    }

    /// Any bytes, signed.
    #[must_use]
    pub fn sign_bytes(&self, body: Vec<u8>) -> Canned {
        self.shared.sign(body)
    }
}

impl Drop for FakeControl {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A document of now.
#[must_use]
pub fn document(kind: Kind, revision: u64, entries: Vec<Entry>) -> Document {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    Document {
        ring: RING.into(),
        epoch: epoch(),
        kind,
        revision,
        issued_at: Millis(now),
        expires_at: Millis(now.saturating_add(HOUR)),
        key_prefix: Some("kw_live_".into()),
        critical: Vec::new(),
        entries,
        removed: Vec::new(),
    }
}

fn epoch() -> Epoch {
    EPOCH.parse().expect("EPOCH is a UUID")
}

#[derive(Debug, Deserialize)]
struct Poll {
    since: u64,
    #[serde(default)]
    wait: u64,
}

async fn snapshot(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let canned = shared.script().snapshot.clone();
    canned.map_or_else(|| answer(Canned { status: 503, ..shared.sign(Vec::new()) }), answer)
}

async fn changes(
    State(shared): State<Arc<Shared>>,
    Query(poll): Query<Poll>,
    headers: HeaderMap,
) -> Response<Body> {
    if let Some(report) = headers.get("keywheel-proxy").and_then(|report| report.to_str().ok()) {
        report.clone_into(&mut shared.script().report);
    }
    if let Some(asked) = &mut shared.script().withheld {
        *asked += 1;
        return answer(Canned { status: 503, ..shared.sign(Vec::new()) });
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(poll.wait);
    // A poll that does not wait is a report of what is enforced, and nothing is queued for it.
    let mut waiting = poll.wait > 0;
    while waiting {
        if let Some(canned) = shared.pop() {
            return answer(canned);
        }
        waiting = tokio::time::timeout_at(end, shared.wake.notified()).await.is_ok();
    }
    let heartbeat = document(Kind::Changes { since: poll.since }, poll.since, Vec::new());
    answer(shared.sign(serde_json::to_vec(&heartbeat).unwrap_or_default()))
}

fn answer(canned: Canned) -> Response<Body> {
    let mut response = Response::new(Body::from(canned.body));
    *response.status_mut() = StatusCode::from_u16(canned.status).unwrap_or(StatusCode::OK);
    for (name, value) in [(SIGNER_HEADER, canned.signer), (SIGNATURE_HEADER, canned.signature)] {
        if let Some(value) = value.and_then(|value| value.parse().ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

// === impl Shared ===

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self) -> Option<Canned> {
        let mut script = self.script();
        let canned = script.polls.pop_front()?;
        script.answered += 1;
        if script.ends && script.polls.is_empty() {
            script.withheld = Some(0);
        }
        Some(canned)
    }

    fn sign(&self, body: Vec<u8>) -> Canned {
        let signer = Some(self.key.public().id().to_string());
        Canned { status: 200, signer, signature: Some(self.key.sign(&body)), body }
    }
}
