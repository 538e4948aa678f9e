//! A ring of any size, served from memory.
//!
//! Its pages are cut and signed once, before anything is measured: what is asked is what proxies do with
//! a ring, and not how long a control plane takes to make one. To a proxy it is a control plane.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use keywheel_keyring::document::{AHEAD_HEADER, MAX_ENTRIES};
use keywheel_keyring::entry::State as KeyState;
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};
use keywheel_keyring::{Digest, Document, Entry, Epoch, Kind, Millis, SigningKey};
use keywheel_testkit::envoy_admin::RING;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::keys::{self, PREFIX};

const DAY: u64 = 86_400_000;
/// What a proxy has not done by then it will not do.
const PATIENCE: Duration = Duration::from_secs(120);

/// It ends when this is dropped.
pub(crate) struct RingServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    keys: Arc<[String]>,
    task: JoinHandle<()>,
}

struct Shared {
    key: SigningKey,
    ring: RwLock<Ring>,
    issued_at: AtomicU64,
    head: watch::Sender<Position>,
    /// What a proxy holds, by its own word.
    stored: watch::Sender<Option<Position>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    epoch: Epoch,
    revision: u64,
}

struct Ring {
    /// Where the pages were cut.
    cut: Position,
    pages: Vec<Page>,
    /// What changed since, one revision each.
    changes: Vec<Entry>,
}

struct Page {
    through: Option<Digest>,
    document: Signed,
}

/// A ring that can take the place of the one that is served.
pub(crate) struct NewEpoch(Ring);

/// A document as it goes over the wire.
#[derive(Clone)]
struct Signed {
    body: Bytes,
    signature: String,
    /// Where the page behind it ends.
    ahead: Option<Digest>,
}

impl RingServer {
    /// Serves a ring of these keys, all active.
    pub(crate) async fn start(keys: Arc<[String]>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(keywheel_testkit::port::free()).await?;
        let address = listener.local_addr()?;
        let listener = listener.tap_io(|connection| {
            // As a control plane does: small answers would wait for acknowledgements.
            let _ = connection.set_nodelay(true);
        });
        let key = SigningKey::from_seed([7; 32]);
        let cut = Position { epoch: epoch(1), revision: keys.len() as u64 };
        let pages = cut_pages(&key, &keys, cut)?;
        let shared = Arc::new(Shared {
            key,
            ring: RwLock::new(Ring { cut, pages, changes: Vec::new() }),
            issued_at: AtomicU64::new(0),
            head: watch::Sender::new(cut),
            stored: watch::Sender::new(None),
        });
        let app = Router::new()
            .route("/v1/rings/{ring}/snapshot", get(snapshot))
            .route("/v1/rings/{ring}/changes", get(changes))
            .route("/v1/rings/{ring}/usage", post(StatusCode::NO_CONTENT))
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            // It ends with the measurement.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, shared, keys, task })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its public key.
    pub(crate) fn trust(&self) -> Vec<String> {
        vec![self.shared.key.public().to_string()]
    }

    pub(crate) fn keys(&self) -> &Arc<[String]> {
        &self.keys
    }

    /// Changes an active key, so that proxies have it to take over.
    pub(crate) fn change(&self, number: u32) {
        let text = self.keys.get(number as usize).map_or("", String::as_str);
        self.shared.head.send_modify(|head| {
            head.revision += 1;
            let mut entry = entry(Digest::of(text.as_bytes()), number, head.revision);
            // Which it was not before, nor after the change before that.
            entry.successor = head.revision % 2 == 0;
            self.shared.ring_mut().changes.push(entry);
        });
    }

    /// Cuts the same ring anew, under an epoch of its own.
    pub(crate) fn cut_again(&self, number: u8) -> anyhow::Result<NewEpoch> {
        let cut = Position { epoch: epoch(number), revision: self.keys.len() as u64 };
        Ok(NewEpoch(Ring { cut, pages: cut_pages(&self.shared.key, &self.keys, cut)?, changes: Vec::new() }))
    }

    /// From now on this is the ring. To its proxies none of what they hold counts any more, and they
    /// fetch all of it. Waits until one says that it has.
    pub(crate) async fn serve_again(&self, NewEpoch(ring): NewEpoch) -> anyhow::Result<()> {
        let cut = ring.cut;
        let mut stored = self.shared.stored.subscribe();
        *self.shared.ring_mut() = ring;
        self.shared.head.send_replace(cut);
        let done = stored.wait_for(|stored| stored.is_some_and(|stored| stored.epoch == cut.epoch));
        tokio::time::timeout(PATIENCE, done).await.context("no proxy fetched the whole ring")??;
        Ok(())
    }

    /// Waits until a proxy has taken all changes.
    pub(crate) async fn caught_up(&self) -> anyhow::Result<()> {
        self.waits().wait().await
    }

    /// What a proxy that starts from now on will tell.
    pub(crate) fn told(&self) -> Told {
        self.shared.stored.send_replace(None);
        self.waits()
    }

    fn waits(&self) -> Told {
        Told { head: *self.shared.head.borrow(), stored: self.shared.stored.subscribe() }
    }
}

/// A proxy's word that it holds the ring.
pub(crate) struct Told {
    head: Position,
    stored: watch::Receiver<Option<Position>>,
}

impl Told {
    pub(crate) async fn wait(mut self) -> anyhow::Result<()> {
        let done = self.stored.wait_for(|stored| *stored == Some(self.head));
        tokio::time::timeout(PATIENCE, done).await.context("no proxy took the whole ring")??;
        Ok(())
    }
}

impl Drop for RingServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn cut_pages(key: &SigningKey, keys: &[String], cut: Position) -> anyhow::Result<Vec<Page>> {
    let mut digests: Vec<(Digest, u32)> =
        keys.iter().zip(0..).map(|(text, number)| (Digest::of(text.as_bytes()), number)).collect();
    digests.sort_unstable();
    let mut pages = Vec::with_capacity(digests.len() / MAX_ENTRIES + 1);
    let mut after = None;
    let mut chunks = digests.chunks(MAX_ENTRIES).peekable();
    while let Some(chunk) = chunks.next() {
        let through = chunks.peek().and(chunk.last()).map(|(digest, _)| *digest);
        let entries =
            chunk.iter().map(|(digest, number)| entry(*digest, *number, u64::from(*number) + 1)).collect();
        let kind = Kind::Snapshot { after, through };
        pages.push(Page { through, document: sign(key, &document(cut, kind, now(), entries))? });
        after = through;
    }
    for at in 1..pages.len() {
        pages[at - 1].document.ahead = pages[at].through;
    }
    Ok(pages)
}

/// Key `number`, as a control plane would describe it.
fn entry(digest: Digest, number: u32, revision: u64) -> Entry {
    let version = keys::version(number);
    let key = format!("key_{}", version.id());
    // A client has a handful of keys.
    let client = format!("client-{}", number / 5);
    let mut entry = Entry::new(digest, version.as_str(), &key, &client, revision, KeyState::Active);
    entry.scopes = vec!["market:read".into(), "trade".into()];
    entry
}

fn document(at: Position, kind: Kind, issued_at: u64, entries: Vec<Entry>) -> Document {
    Document {
        ring: RING.into(),
        epoch: at.epoch,
        kind,
        revision: at.revision,
        issued_at: Millis(issued_at),
        expires_at: Millis(issued_at + DAY),
        key_prefix: Some(PREFIX.into()),
        critical: Vec::new(),
        entries,
        removed: Vec::new(),
    }
}

fn sign(key: &SigningKey, document: &Document) -> anyhow::Result<Signed> {
    let body = serde_json::to_vec(document)?;
    Ok(Signed { signature: key.sign(&body), body: body.into(), ahead: None })
}

/// Epochs in their order.
fn epoch(number: u8) -> Epoch {
    let mut bytes = [0; 16];
    // A UUID of version 7.
    bytes[..9].copy_from_slice(&[0x01, 0x99, 0xa3, 0xb4, 0, number, 0x70, 0, 0x80]);
    Epoch::from_bytes(bytes)
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

// === what proxies ask ===

#[derive(Deserialize)]
struct NextPage {
    after: Option<String>,
}

#[derive(Deserialize)]
struct Poll {
    epoch: String,
    since: u64,
    #[serde(default)]
    wait: u64,
}

async fn snapshot(State(shared): State<Arc<Shared>>, Query(page): Query<NextPage>) -> Response<Body> {
    let after = page.after.and_then(|after| after.parse().ok());
    answer(&shared, shared.page(after).context("no such page"))
}

async fn changes(
    State(shared): State<Arc<Shared>>,
    Query(poll): Query<Poll>,
    headers: HeaderMap,
) -> Response<Body> {
    let mut head = shared.head.subscribe();
    let Ok(epoch) = poll.epoch.parse() else { return empty(StatusCode::BAD_REQUEST) };
    let from = Position { epoch, revision: poll.since };
    if let Some(stored) = stored(&headers) {
        shared.stored.send_replace(Some(stored));
    }
    // It may be answered at once, be answered when something changes, or stay as it is.
    let moved = head.wait_for(|head| *head != from);
    let _ = tokio::time::timeout(Duration::from_secs(poll.wait), moved).await;
    let head = *shared.head.borrow();
    if head.epoch != from.epoch || head.revision < from.revision {
        return empty(StatusCode::GONE);
    }
    answer(&shared, shared.run(from))
}

/// What the caller holds of the ring, by what it says of itself.
fn stored(headers: &HeaderMap) -> Option<Position> {
    let text = headers.get("keywheel-proxy")?.to_str().ok()?;
    let field = |name| text.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    Some(Position { epoch: field("epoch")?.parse().ok()?, revision: field("stored")?.parse().ok()? })
}

fn answer(shared: &Shared, document: anyhow::Result<Signed>) -> Response<Body> {
    let Ok(document) = document else { return empty(StatusCode::INTERNAL_SERVER_ERROR) };
    let mut response = Response::new(Body::from(document.body));
    let signer = shared.key.public().id().to_string();
    let ahead = document.ahead.map(|ahead| (AHEAD_HEADER, ahead.to_string()));
    let signed = [(SIGNER_HEADER, signer), (SIGNATURE_HEADER, document.signature)];
    for (name, value) in signed.into_iter().chain(ahead) {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

impl Shared {
    fn ring_mut(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, after: Option<Digest>) -> Option<Signed> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let done =
            |page: &Page| page.through.is_some_and(|through| after.is_some_and(|after| through <= after));
        let at = ring.pages.partition_point(done);
        ring.pages.get(at).map(|page| page.document.clone())
    }

    /// What changed, or a heartbeat.
    fn run(&self, from: Position) -> anyhow::Result<Signed> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let known = usize::try_from(from.revision.saturating_sub(ring.cut.revision))?;
        let entries: Vec<Entry> = ring.changes.iter().skip(known).take(MAX_ENTRIES).cloned().collect();
        let upto = Position { revision: from.revision + entries.len() as u64, ..from };
        // Strictly increasing, so that of two heartbeats a proxy can tell the later one.
        let now = now();
        let last = self.issued_at.fetch_max(now, Ordering::Relaxed);
        let issued_at = if last < now { now } else { self.issued_at.fetch_add(1, Ordering::Relaxed) + 1 };
        sign(&self.key, &document(upto, Kind::Changes { since: from.revision }, issued_at, entries))
    }
}
