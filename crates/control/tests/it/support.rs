//! A control plane in a directory of its own, called without a socket.
//!
//! With `KEYWHEEL_TEST_DATABASE=postgres` each has a database of its own on a PostgreSQL server that this process
//! starts and ends; `cargo xtask test` runs the suite in both ways.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use keywheel_api::{ImportItem, Imported, Key, KeyWithSecret, Rotation};
use keywheel_control::secret::random;
use keywheel_control::store::{Context, Location, PostgresUrl, Store};
use keywheel_control::{Control, Options, RingAuth, app, clock};
use keywheel_keyring::{Digest, Document, PublicKey, VersionId, signature};
use keywheel_testkit::postgres::Postgres;
use serde_json::{Value, json};
use sqlx::AnyPool;
use tempfile::TempDir;
use tower::ServiceExt as _;

pub(crate) static POSTGRES: LazyLock<Postgres> = LazyLock::new(|| Postgres::start().unwrap());
/// The database of each directory.
static DATABASES: Mutex<BTreeMap<PathBuf, PostgresUrl>> = Mutex::new(BTreeMap::new());

#[derive(Clone)]
pub(crate) struct Plane {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) control: Arc<Control>,
    pub(crate) token: String,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn options(dir: &Path) -> Options {
    Options { database: on_postgres().then(|| database_of(dir)), ..on_sqlite(dir) }
}

pub(crate) fn on_sqlite(dir: &Path) -> Options {
    Options::new(dir.join("data"), "kw_live_".parse().unwrap())
}

pub(crate) fn on_postgres() -> bool {
    std::env::var("KEYWHEEL_TEST_DATABASE").is_ok_and(|name| name == "postgres")
}

pub(crate) fn database_of(dir: &Path) -> PostgresUrl {
    let mut databases = DATABASES.lock().unwrap();
    databases.entry(dir.to_owned()).or_insert_with(|| POSTGRES.database().unwrap().parse().unwrap()).clone()
}

pub(crate) async fn plane() -> Plane {
    plane_with(RingAuth::Open).await
}

pub(crate) async fn plane_with(ring_auth: RingAuth) -> Plane {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { ring_auth, ..options(dir.path()) };
    first_start(dir, &options).await
}

pub(crate) async fn first_start(dir: TempDir, options: &Options) -> Plane {
    let (control, token) = Control::open(options).await.unwrap();
    Plane { dir: Arc::new(dir), control: Arc::new(control), token: token.unwrap().expose().to_owned() }
}

impl Plane {
    /// Ends this control plane and opens another on the same data.
    pub(crate) async fn restart(self) -> Self {
        let Self { dir, control, token } = self;
        control.store.close().await;
        drop(control);
        let (control, again) = Control::open(&options(dir.path())).await.unwrap();
        assert!(again.is_none(), "only the first start hands a token over");
        Self { dir, control: Arc::new(control), token }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.control.store
    }

    pub(crate) fn head(&self) -> u64 {
        self.control.ring("production").unwrap().head()
    }

    pub(crate) async fn trust(&self) -> Vec<PublicKey> {
        self.control.trust(&self.control.ring("production").unwrap()).await.unwrap()
    }

    pub(crate) fn epoch(&self) -> String {
        self.control.ring("production").unwrap().record.epoch.to_string()
    }

    /// A pool of the test's own, to look behind the control plane's back.
    pub(crate) async fn database(&self) -> AnyPool {
        let location = match options(self.dir.path()).database {
            Some(url) => Location::Postgres(url),
            None => Location::Sqlite(self.dir.path().join("data/keywheel.db")),
        };
        location.pool().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.admin("POST", path, body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.admin("GET", path, String::new()).await
    }

    pub(crate) async fn admin(&self, method: &str, path: &str, body: String) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", format!("Bearer {}", self.token));
        call(app::admin(self.control.clone()), request.body(body.into()).unwrap()).await
    }

    /// A token's text.
    pub(crate) async fn token_of(&self, new: Value) -> String {
        let made: keywheel_api::TokenWithSecret =
            self.post("/v1/tokens", new).await.json(StatusCode::CREATED);
        made.token.unwrap()
    }

    /// Asks as somebody else, or as nobody.
    pub(crate) async fn ask(
        &self,
        app: Router,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        call(app, request.body(body.to_owned().into()).unwrap()).await
    }

    pub(crate) async fn ring(&self, path_and_query: &str) -> Answer {
        let request = Request::builder().uri(format!("/v1/rings/production/{path_and_query}"));
        call(app::ring(self.control.clone()), request.body(Body::empty()).unwrap()).await
    }

    /// As a proxy that says `header` of itself.
    pub(crate) async fn ring_as(&self, path_and_query: &str, header: &str) -> Answer {
        let request = Request::builder().uri(format!("/v1/rings/production/{path_and_query}"));
        let request = request.header("keywheel-proxy", header).body(Body::empty()).unwrap();
        call(app::ring(self.control.clone()), request).await
    }

    /// Sends a usage report as a proxy does.
    pub(crate) async fn report(&self, batches: Value) -> Answer {
        self.report_to("production", json!({ "batches": batches }).to_string()).await
    }

    pub(crate) async fn report_to(&self, ring: &str, body: String) -> Answer {
        let request = Request::builder().method("POST").uri(format!("/v1/rings/{ring}/usage"));
        call(app::ring(self.control.clone()), request.body(body.into()).unwrap()).await
    }

    /// Tells of proxies as a relay does.
    pub(crate) async fn tell(&self, body: &str) -> Answer {
        let request = Request::builder().method("POST").uri("/v1/rings/production/proxies");
        call(app::ring(self.control.clone()), request.body(body.to_owned().into()).unwrap()).await
    }

    pub(crate) async fn changes(&self, since: u64) -> Document {
        self.ring(&format!("changes?epoch={}&since={since}", self.epoch()))
            .await
            .document(&self.trust().await)
    }

    /// Asks on the consumer listener with a key.
    pub(crate) async fn as_holder(&self, key: &str, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.ask(app::consumer(self.control.clone()), Some(key), method, path, &body).await
    }

    /// A key of client `acme`, which is there, and its text.
    pub(crate) async fn key_with_secret(&self) -> (Key, String) {
        let made = self.post("/v1/keys", json!({ "client": "acme", "scopes": ["trade"] })).await;
        let made: KeyWithSecret = made.json(StatusCode::CREATED);
        (made.key, made.secret.unwrap())
    }

    pub(crate) async fn client(&self, name: &str) {
        let answer = self.post("/v1/clients", json!({ "name": name })).await;
        assert_eq!(answer.status, StatusCode::CREATED);
    }

    /// A key of client `acme`, which is made if there is none.
    pub(crate) async fn key(&self) -> Key {
        self.post("/v1/clients", json!({ "name": "acme" })).await;
        let answer = self.post("/v1/keys", json!({ "client": "acme", "version": new_version() })).await;
        answer.json(StatusCode::CREATED)
    }

    /// Brings keys of client `acme` in, which is made if there is none.
    pub(crate) async fn import(&self, digests: impl IntoIterator<Item = Digest>) -> Imported {
        let item = |digest| ImportItem {
            digest,
            client: "acme".into(),
            scopes: vec!["trade".into()],
            expires_at: None,
        };
        let items: Vec<_> = digests.into_iter().map(item).collect();
        let items: Vec<_> = items.iter().enumerate().collect();
        self.store().import(&context(), "production", &items, true, false).await.unwrap()
    }

    pub(crate) async fn show(&self, key: &Key) -> Key {
        self.get(&format!("/v1/keys/{}", key.id)).await.json(StatusCode::OK)
    }

    pub(crate) async fn rotate(&self, key: &Key, overlap_seconds: u64) -> Rotation {
        let body = json!({ "overlap_seconds": overlap_seconds, "version": new_version() });
        self.post(&format!("/v1/keys/{}/rotations", key.id), body).await.json(StatusCode::CREATED)
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, status: StatusCode) -> T {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The problem, whose page has this name.
    #[track_caller]
    pub(crate) fn problem(&self, slug: &str) -> keywheel_api::Problem {
        let problem: keywheel_api::Problem = self.json(self.status);
        assert_eq!(problem.known_kind().unwrap().slug(), slug, "{problem:?}");
        assert_eq!(problem.status, self.status.as_u16());
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem.request_id.as_deref(), self.headers["x-request-id"].to_str().ok());
        problem
    }

    /// The document, once its signature held.
    #[track_caller]
    pub(crate) fn document(&self, trust: &[PublicKey]) -> Document {
        assert_eq!(self.status, StatusCode::OK, "{}", String::from_utf8_lossy(&self.body));
        let header = |name| self.headers.get(name).map(|value| value.as_bytes());
        let (signer, signature) = (header("keywheel-signer"), header("keywheel-signature"));
        signature::verify(trust, &self.body, signer, signature).unwrap();
        let parsed = Document::parse(&self.body).unwrap();
        assert_eq!(parsed.bad, []);
        parsed.document
    }
}

pub(crate) async fn call(app: Router, request: Request<Body>) -> Answer {
    let (head, body) = app.oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
    Answer { status: head.status, headers: head.headers, body }
}

/// A version whose text nobody knows.
pub(crate) fn new_version() -> Value {
    let id = VersionId::from_random(random().unwrap());
    json!({ "id": id.as_str(), "digest": Digest::from_bytes(random().unwrap()) })
}

pub(crate) fn context() -> Context {
    Context::system(clock::now())
}

/// The policy of the client `acme`, whose keys follow it.
pub(crate) async fn policy_of_acme(plane: &Plane, terms: Value) {
    let new = json!({ "name": "ours", "terms": terms });
    let answer = plane.post("/v1/policies", new).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&answer.body));
    let client = json!({ "name": "acme", "policy": "ours" });
    assert_eq!(plane.post("/v1/clients", client).await.status, StatusCode::CREATED);
}
