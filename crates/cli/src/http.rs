//! The admin API over HTTP, and the consumer listener's for the holder of a key.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use keywheel_api::{List, Problem};
use keywheel_control::secret::random;
use keywheel_keyring::PlainKey;
use keywheel_keyring::key_text::random_id;
use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::applied::OnChange;
use crate::args::{Connection, OwnKey};
use crate::failure::Failure;

/// Waits between tries.
const BACKOFF: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];

/// How long a change may take that waits until proxies enforce it.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the copy of a large database may take.
const DOWNLOAD: Duration = Duration::from_secs(60 * 60);

/// The control plane, as this command line's user may use it.
pub(crate) struct Api<'a> {
    http: Client,
    applied: &'a OnChange,
    url: String,
    credential: Credential,
}

/// A thing, and how it is called as it is now.
#[derive(Debug, Serialize)]
pub(crate) struct Tagged<T> {
    #[serde(flatten)]
    pub(crate) shown: T,
    pub(crate) etag: Option<String>,
}

/// What a request bears. Each listener takes its own.
enum Credential {
    /// The admin listener's.
    Token(String),
    /// The consumer listener's: the header that a key is in.
    Key(HeaderName, HeaderValue),
}

/// What `/readyz` answers.
#[derive(Deserialize)]
struct Readiness {
    checks: BTreeMap<String, String>,
}

/// What the filter answers in an Envoy in front of the consumer listener.
#[derive(Deserialize)]
struct FilterProblem {
    title: String,
    code: String,
}

/// Whether a request that may have arrived can be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Doing it twice is doing it once.
    Safe,
    /// Only if it certainly did not arrive.
    Unsafe,
}

/// From the command line, or else from the environment; in each, the text before the file.
pub(crate) fn token(connection: &Connection) -> Result<String, Failure> {
    let (text, file) = (connection.token.as_ref(), connection.token_file.as_ref());
    given(text, file, "KEYWHEEL_TOKEN", "KEYWHEEL_TOKEN_FILE")?.ok_or(Failure::NoToken)
}

/// The token for a ring listener, if one was given that is not the operator's.
pub(crate) fn ring_token(file: Option<&PathBuf>) -> Result<Option<String>, Failure> {
    given(None, file, "KEYWHEEL_RING_TOKEN", "KEYWHEEL_RING_TOKEN_FILE")
}

fn given(
    text: Option<&String>,
    file: Option<&PathBuf>,
    text_variable: &str,
    file_variable: &str,
) -> Result<Option<String>, Failure> {
    let read = |path: PathBuf| fs::read_to_string(&path).map_err(|cause| Failure::TokenFile { path, cause });
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let text = if let Some(token) = text {
        token.clone()
    } else if let Some(path) = file {
        read(path.clone())?
    } else if let Some(token) = set(text_variable) {
        token.to_string_lossy().into_owned()
    } else if let Some(path) = set(file_variable) {
        read(path.into())?
    } else {
        return Ok(None);
    };
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::BadToken);
    }
    Ok(Some(token.to_owned()))
}

/// The file that holds the token, where no text of it is given, for whoever reads it again and again.
pub(crate) fn token_path(connection: &Connection) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if connection.token.is_some() {
        return None;
    }
    let from_environment = || set("KEYWHEEL_TOKEN_FILE").filter(|_| set("KEYWHEEL_TOKEN").is_none());
    connection.token_file.clone().or_else(|| from_environment().map(PathBuf::from))
}

/// The token, where there is one.
pub(crate) fn optional_token(connection: &Connection) -> Result<Option<String>, Failure> {
    match token(connection) {
        Err(Failure::NoToken) => Ok(None),
        found => found.map(Some),
    }
}

/// A client for `url` that trusts, and shows, the certificates that were given.
pub(crate) fn client(connection: &Connection, url: &str) -> Result<ClientBuilder, Failure> {
    let read = |option: &'static str, path: &PathBuf| {
        fs::read(path).map_err(|cause| Failure::Pem { option, path: path.clone(), cause: cause.to_string() })
    };
    let bad = |option: &'static str, path: &PathBuf| {
        let path = path.clone();
        move |error: reqwest::Error| Failure::Pem { option, path, cause: innermost(&error) }
    };
    // Nothing of keywheel redirects, and where somebody else does, no token and no key is to follow.
    let mut client = Client::builder().connect_timeout(Duration::from_secs(5)).redirect(Policy::none());
    if let Some(path) = &connection.ca {
        let certificates = Certificate::from_pem_bundle(&read("--ca", path)?).map_err(bad("--ca", path))?;
        if certificates.is_empty() {
            let cause = "it holds no certificate".to_owned();
            return Err(Failure::Pem { option: "--ca", path: path.clone(), cause });
        }
        client = client.tls_certs_only(certificates);
    } else if !url.starts_with("https://") {
        client = plain(client);
    }
    match (&connection.client_cert, &connection.client_key) {
        (None, None) => Ok(client),
        (Some(cert), Some(key)) => {
            let mut both = Zeroizing::new(read("--client-cert", cert)?);
            both.push(b'\n');
            both.extend_from_slice(&Zeroizing::new(read("--client-key", key)?));
            let identity = Identity::from_pem(&both).map_err(bad("--client-cert or --client-key", cert))?;
            Ok(client.identity(identity))
        }
        _ => Err(Failure::HalfIdentity),
    }
}

/// A client of plain HTTP does not look for the system's certificates, of which a small image has none.
pub(crate) fn plain(client: ClientBuilder) -> ClientBuilder {
    client.tls_certs_only([])
}

/// Whether it is a URL that the command line can call.
pub(crate) fn is_url(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

impl<'a> Api<'a> {
    pub(crate) fn new(connection: &Connection, applied: &'a OnChange) -> Result<Self, Failure> {
        let url = connection.url.trim_end_matches('/').to_owned();
        if !is_url(&url) {
            return Err(Failure::Url(url));
        }
        let token = token(connection)?;
        let http = client(connection, &url)?.timeout(Duration::from_secs(30));
        let credential = Credential::Token(token);
        let http = http.build().map_err(|error| credential.unreachable(&url, &error))?;
        Ok(Self { http, applied, url, credential })
    }

    /// The consumer listener, for a key.
    pub(crate) fn of_holder(
        about: &OwnKey,
        key: &PlainKey,
        connection: &Connection,
        applied: &'a OnChange,
    ) -> Result<Self, Failure> {
        let url = about.consumer_url.trim_end_matches('/').to_owned();
        if !is_url(&url) {
            return Err(Failure::ConsumerUrl(url));
        }
        let (header, text) = if about.bearer {
            (header::AUTHORIZATION, Zeroizing::new(format!("Bearer {}", key.expose())))
        } else {
            (HeaderName::from_static("x-api-key"), Zeroizing::new(key.expose().to_owned()))
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| Failure::BadKey)?;
        value.set_sensitive(true);
        let credential = Credential::Key(header, value);
        let http = client(connection, &url)?.timeout(Duration::from_secs(30));
        let http = http.build().map_err(|error| credential.unreachable(&url, &error))?;
        Ok(Self { http, applied, url, credential })
    }

    /// Whether the change that was made last is known to be enforced by every proxy: then nothing of it waits.
    pub(crate) fn is_enforced(&self) -> bool {
        self.applied.is_enforced()
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        Ok(self.get_tagged(path).await?.shown)
    }

    /// The checks of `/readyz` that failed.
    pub(crate) async fn not_ready(&self) -> Result<Vec<String>, Failure> {
        let answer = self.request(Method::GET, "/readyz").send().await.map_err(|error| self.lost(&error))?;
        let body = answer.bytes().await.map_err(|error| self.lost(&error))?;
        let ready: Readiness = serde_json::from_slice(&body)
            .map_err(|error| Failure::NotKeywheel { url: self.url.clone(), cause: error.to_string() })?;
        let failed = ready.checks.into_iter().filter(|(_, said)| !matches!(said.as_str(), "ok" | "busy"));
        Ok(failed.map(|(check, said)| format!("{check}: {said}")).collect())
    }

    /// With its ETag, of what has one.
    pub(crate) async fn get_tagged<T: DeserializeOwned>(&self, path: &str) -> Result<Tagged<T>, Failure> {
        self.send_tagged(|| self.request(Method::GET, path), Repeat::Safe).await
    }

    /// Tried again, it has the same key: it is carried out once, though the first answer was lost. A secret that
    /// was in it is lost, too.
    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let key = random_id("cli", random()?);
        let request = || self.request(Method::POST, path).header("idempotency-key", &key).json(body);
        self.change(request, Repeat::Safe).await
    }

    /// Where no change waits for proxies.
    pub(crate) async fn post_here<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        repeat: Repeat,
    ) -> Result<T, Failure> {
        self.send(|| self.request(Method::POST, path).json(body), repeat).await
    }

    /// Puts a thing in the place of the one that was read, and of no other.
    pub(crate) async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        read: Option<&str>,
        body: &B,
    ) -> Result<T, Failure> {
        let request = || {
            let request = self.request(Method::PUT, path).json(body);
            match read.filter(|_| self.applied.if_match().is_none()) {
                Some(tag) => request.header(header::IF_MATCH, tag),
                None => request,
            }
        };
        let repeat = if read.is_some() { Repeat::Unsafe } else { self.repeat() };
        self.change(request, repeat).await
    }

    pub(crate) async fn patch<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        self.change(|| self.request(Method::PATCH, path).json(body), self.repeat()).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.change(|| self.request(Method::DELETE, path), Repeat::Unsafe).await
    }

    /// A change on condition that was carried out finds another thing when it is repeated.
    fn repeat(&self) -> Repeat {
        if self.applied.if_match().is_some() { Repeat::Unsafe } else { Repeat::Safe }
    }

    /// A change may be answered only when proxies enforce it.
    async fn change<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
        repeat: Repeat,
    ) -> Result<T, Failure> {
        let query = self.applied.query();
        let request = || {
            let request = request().query(&query).timeout(PATIENCE);
            match self.applied.if_match() {
                Some(tag) => request.header(header::IF_MATCH, tag),
                None => request,
            }
        };
        let mut answer: Value = self.send(request, repeat).await?;
        self.applied.take(&mut answer);
        let not_keywheel = |cause: serde_json::Error| Failure::NotKeywheel {
            url: self.url.clone(),
            cause: cause.to_string(),
        };
        serde_json::from_value(answer).map_err(not_keywheel)
    }

    /// An answer that may take long to come, for the caller to read. It is asked for once.
    pub(crate) async fn download(&self, path: &str) -> Result<reqwest::Response, Failure> {
        let request = self.request(Method::GET, path).timeout(DOWNLOAD);
        let answer = request.send().await.map_err(|error| self.lost(&error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| self.lost(&error))?;
        let not_keywheel = |cause: serde_json::Error| Failure::NotKeywheel {
            url: self.url.clone(),
            cause: format!("HTTP {status}, {cause}"),
        };
        let problem: Problem = serde_json::from_slice(&body).map_err(not_keywheel)?;
        Err(Failure::Refused(Box::new(problem)))
    }

    pub(crate) fn lost(&self, error: &reqwest::Error) -> Failure {
        self.credential.unreachable(&self.url, error)
    }

    /// Every page of a list.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Vec<T>, Failure> {
        self.list_after(path, query, String::new()).await
    }

    /// Every page of a list that comes after an item.
    pub(crate) async fn list_after<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        mut after: String,
    ) -> Result<Vec<T>, Failure> {
        let mut items = Vec::new();
        loop {
            let request = || self.request(Method::GET, path).query(query).query(&[("after", &after)]);
            let page: List<T> = self.send(request, Repeat::Safe).await?;
            items.extend(page.items);
            match page.next {
                Some(next) => after = next,
                None => return Ok(items),
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.credential {
            Credential::Token(token) => request.bearer_auth(token),
            Credential::Key(header, key) => request.header(header, key),
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
        repeat: Repeat,
    ) -> Result<T, Failure> {
        Ok(self.send_tagged(request, repeat).await?.shown)
    }

    async fn send_tagged<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
        repeat: Repeat,
    ) -> Result<Tagged<T>, Failure> {
        let mut backoff = BACKOFF.iter();
        loop {
            let (failure, again) = match self.try_once(request()).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            match backoff.next() {
                Some(wait) if again == Repeat::Safe || repeat == Repeat::Safe && transient(&failure) => {
                    tokio::time::sleep(*wait).await;
                }
                _ => return Err(failure),
            }
        }
    }

    /// The failure, and whether the request certainly did not arrive.
    async fn try_once<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<Tagged<T>, (Failure, Repeat)> {
        let answer = request.send().await.map_err(|error| {
            let again = if error.is_connect() { Repeat::Safe } else { Repeat::Unsafe };
            (self.lost(&error), again)
        })?;
        let status = answer.status();
        let etag = answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let body = answer.bytes().await;
        let body = body.map_err(|error| (self.lost(&error), Repeat::Unsafe))?;
        let not_keywheel = |cause: serde_json::Error| {
            let cause = match short(&body) {
                Some(text) => format!("HTTP {status}, `{text}`"),
                None => format!("HTTP {status}, {cause}"),
            };
            let url = self.url.clone();
            let failure = match &self.credential {
                Credential::Token(_) => Failure::NotKeywheel { url, cause },
                Credential::Key(..) => Failure::NotConsumer { url, cause },
            };
            (failure, Repeat::Unsafe)
        };
        if status.is_success() {
            let shown = serde_json::from_slice(&body).map_err(not_keywheel)?;
            return Ok(Tagged { shown, etag });
        }
        let by_filter = || serde_json::from_slice::<FilterProblem>(&body).ok().filter(|_| self.is_a_key());
        let problem = match (serde_json::from_slice::<Problem>(&body), by_filter()) {
            (Ok(problem), _) => Failure::Refused(Box::new(problem)),
            (Err(_), Some(FilterProblem { title, code })) => {
                Failure::ByProxy { url: self.url.clone(), title, code }
            }
            (Err(error), None) => return Err(not_keywheel(error)),
        };
        Err((problem, Repeat::Unsafe))
    }

    const fn is_a_key(&self) -> bool {
        matches!(self.credential, Credential::Key(..))
    }
}

/// A line of plain text, as a listener says that it speaks another protocol.
fn short(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?.trim();
    ((1..=100).contains(&text.len()) && !text.contains(|c: char| c.is_control() || c == '<')).then_some(text)
}

fn transient(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable { .. } | Failure::ConsumerUnreachable { .. } => true,
        Failure::Refused(problem) => problem.status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        _ => false,
    }
}

// === impl Tagged ===

impl<T> Tagged<T> {
    /// What it looks like to a person.
    pub(crate) fn human(&self, show: impl FnOnce(&T) -> String) -> String {
        let tag = self.etag.as_ref().map(|tag| format!("\n\nETag: {tag} (for --if-match)"));
        show(&self.shown) + &tag.unwrap_or_default()
    }
}

// === impl Credential ===

impl Credential {
    fn unreachable(&self, url: &str, error: &reqwest::Error) -> Failure {
        let (url, cause) = (url.to_owned(), lost(url, error));
        match self {
            Self::Token(_) => Failure::Unreachable { url, cause },
            Self::Key(..) => Failure::ConsumerUnreachable { url, cause },
        }
    }
}

/// The innermost cause says it best: "Connection refused".
pub(crate) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The cause, and what to do about it if it may be one of certificates.
pub(crate) fn lost(url: &str, error: &reqwest::Error) -> String {
    let cause = innermost(error);
    // As rustls puts it.
    if cause.starts_with("invalid peer certificate") {
        return format!("{cause}; name the file of who signed its certificate with --ca");
    }
    // A listener says only after the client's part of a handshake that it wants a certificate, and not always
    // is that read before the connection is found closed.
    let after = !error.is_connect() && !error.is_timeout();
    if url.starts_with("https://") && (after || cause.contains("CertificateRequired")) {
        return format!(
            "{cause}; if it asks for a certificate, give one with --client-cert and --client-key"
        );
    }
    cause
}
