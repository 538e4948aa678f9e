//! A proxy that takes pushed documents, as far as the command line can tell.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use keywheel_keyring::merge::{Ending, Plan, Rejection};
use keywheel_keyring::{Digest, Document, Entry, Generation, Kind, Millis, PublicKey, signature};
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[derive(Clone)]
pub(crate) struct FakeProxy {
    pub(crate) url: String,
    state: Arc<Mutex<Held>>,
}

#[derive(Default)]
pub(crate) struct Held {
    pub(crate) generation: Generation,
    pub(crate) entries: BTreeMap<Digest, Entry>,
    /// Each document that came, and the status with which it was answered.
    pub(crate) documents: Vec<(Kind, u16)>,
    /// Answers to the next documents: a reason to refuse, `busy` or `take`.
    pub(crate) next: VecDeque<&'static str>,
    /// A VM enforces nothing.
    pub(crate) stopped: bool,
    /// A call came with a token.
    pub(crate) authorized: bool,
    trust: Vec<PublicKey>,
}

impl FakeProxy {
    pub(crate) async fn start(trust: PublicKey) -> Self {
        Self::listen("127.0.0.1:0".parse().unwrap(), trust).await
    }

    pub(crate) async fn listen(address: SocketAddr, trust: PublicKey) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(Held { trust: vec![trust], ..Held::default() }));
        let app = Router::new()
            .route("/v1/rings/{ring}/position", get(position))
            .route("/v1/rings/{ring}/documents", post(document))
            .with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, state }
    }

    /// Only for as long as nobody else is to look: a statement's temporaries live to its end.
    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.state.lock().unwrap()
    }

    /// How many entries it holds.
    pub(crate) fn count(&self) -> usize {
        self.held().entries.len()
    }

    pub(crate) fn revision(&self) -> u64 {
        self.held().generation.complete.map_or(0, |complete| complete.revision)
    }
}

type Shared = State<Arc<Mutex<Held>>>;

async fn position(State(held): Shared, Path(ring): Path<String>, headers: HeaderMap) -> Response {
    let mut held = held.lock().unwrap();
    held.authorized |= headers.contains_key("authorization");
    if ring == "production" { axum::Json(held.position()).into_response() } else { not_found() }
}

async fn document(
    State(held): Shared,
    Path(ring): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut held = held.lock().unwrap();
    held.authorized |= headers.contains_key("authorization");
    if ring != "production" {
        return not_found();
    }
    assert_eq!(headers["content-type"], "application/json");
    let kind = Document::parse(&body).unwrap().document.kind;
    let answer = match held.next.pop_front() {
        Some("busy") => {
            let problem = json!({ "code": "ring_busy", "status": 503, "detail": "another VM writes" });
            (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")], axum::Json(problem)).into_response()
        }
        Some("take") | None => match held.take(&headers, &body) {
            Ok(()) | Err(Rejection::Known | Rejection::Older) => axum::Json(held.position()).into_response(),
            Err(rejection) => held.refused(rejection.as_str()),
        },
        Some(reason) => held.refused(reason),
    };
    held.documents.push((kind, answer.status().as_u16()));
    answer
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, axum::Json(json!({ "status": 404 }))).into_response()
}

impl Held {
    fn take(&mut self, headers: &HeaderMap, body: &[u8]) -> Result<(), Rejection> {
        let header = |name| headers.get(name).map(|value| value.as_bytes());
        let (signer, signature) = (header("keywheel-signer"), header("keywheel-signature"));
        let signer =
            signature::verify(&self.trust, body, signer, signature).map_err(|_| Rejection::BadSignature)?;
        let document = Document::parse(body).unwrap().document;
        let now = Millis(document.issued_at.0);
        let write =
            match self.generation.judge("production", document.clone(), signer, now, Ending::LastPage)? {
                Plan::Heartbeat(next) => {
                    self.generation = *next;
                    return Ok(());
                }
                Plan::Write(write) => write,
            };
        if let Kind::Snapshot { after, through } = document.kind {
            let through = through.unwrap_or(Digest::MAX);
            self.entries.retain(|digest, _| after.is_some_and(|after| *digest <= after) || *digest > through);
        }
        for digest in &document.removed {
            self.entries.remove(digest);
        }
        self.entries.extend(document.entries.into_iter().map(|entry| (entry.digest, entry)));
        self.generation = write.finish(0);
        Ok(())
    }

    fn position(&self) -> Value {
        let complete = self.generation.complete;
        let sync = self.generation.sync.as_ref().map(|sync| {
            let cursor = sync.cursor.map(|cursor| cursor.to_string());
            json!({ "epoch": sync.first.epoch, "revision": sync.first.revision, "cursor": cursor })
        });
        let revision = complete.map_or(0, |complete| complete.revision);
        json!({
            "ring": "production", "epoch": complete.map(|complete| complete.epoch), "revision": revision,
            "sync": sync, "vms": 3, "enforced": if self.stopped { 0 } else { revision },
        })
    }

    fn refused(&self, reason: &str) -> Response {
        let mut problem = self.position();
        problem["code"] = "document_refused".into();
        problem["reason"] = reason.into();
        problem["detail"] = format!("the document was refused: {reason}").into();
        (StatusCode::CONFLICT, axum::Json(problem)).into_response()
    }
}
