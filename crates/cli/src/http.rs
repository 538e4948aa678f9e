//! The admin API over HTTP.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use keywheel_api::{List, Problem};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::Connection;
use crate::failure::Failure;

/// Waits between tries.
const BACKOFF: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];

/// How long the copy of a large database may take.
const DOWNLOAD: Duration = Duration::from_secs(60 * 60);

/// The control plane, as this command line's user may use it.
pub(crate) struct Api {
    http: Client,
    url: String,
    token: String,
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
    let read = |path: PathBuf| fs::read_to_string(&path).map_err(|cause| Failure::TokenFile { path, cause });
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let text = if let Some(token) = &connection.token {
        token.clone()
    } else if let Some(path) = &connection.token_file {
        read(path.clone())?
    } else if let Some(token) = set("KEYWHEEL_TOKEN") {
        token.to_string_lossy().into_owned()
    } else if let Some(path) = set("KEYWHEEL_TOKEN_FILE") {
        read(path.into())?
    } else {
        return Err(Failure::NoToken);
    };
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::BadToken);
    }
    Ok(token.to_owned())
}

/// The token, where there is one.
pub(crate) fn optional_token(connection: &Connection) -> Result<Option<String>, Failure> {
    match token(connection) {
        Err(Failure::NoToken) => Ok(None),
        found => found.map(Some),
    }
}

impl Api {
    pub(crate) fn new(connection: &Connection) -> Result<Self, Failure> {
        let url = connection.url.trim_end_matches('/').to_owned();
        if !url.starts_with("http://") {
            return Err(Failure::Url(url));
        }
        let token = token(connection)?;
        let http = Client::builder().connect_timeout(Duration::from_secs(5)).timeout(Duration::from_secs(30));
        let http = http.build().map_err(|error| unreachable(&url, &error))?;
        Ok(Self { http, url, token })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(|| self.request(Method::GET, path), Repeat::Safe).await
    }

    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        repeat: Repeat,
    ) -> Result<T, Failure> {
        self.send(|| self.request(Method::POST, path).json(body), repeat).await
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
        unreachable(&self.url, error)
    }

    /// Every page of a list.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Vec<T>, Failure> {
        let mut items = Vec::new();
        let mut after = String::new();
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
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
        repeat: Repeat,
    ) -> Result<T, Failure> {
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
    async fn try_once<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, (Failure, Repeat)> {
        let answer = request.send().await.map_err(|error| {
            let again = if error.is_connect() { Repeat::Safe } else { Repeat::Unsafe };
            (unreachable(&self.url, &error), again)
        })?;
        let status = answer.status();
        let body = answer.bytes().await;
        let body = body.map_err(|error| (unreachable(&self.url, &error), Repeat::Unsafe))?;
        let not_keywheel = |cause: serde_json::Error| {
            let cause = format!("HTTP {status}, {cause}");
            (Failure::NotKeywheel { url: self.url.clone(), cause }, Repeat::Unsafe)
        };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(not_keywheel);
        }
        let problem: Problem = serde_json::from_slice(&body).map_err(not_keywheel)?;
        Err((Failure::Refused(Box::new(problem)), Repeat::Unsafe))
    }
}

fn transient(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable { .. } => true,
        Failure::Refused(problem) => problem.status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        _ => false,
    }
}

fn unreachable(url: &str, error: &reqwest::Error) -> Failure {
    Failure::Unreachable { url: url.to_owned(), cause: innermost(error) }
}

/// The innermost cause says it best: "Connection refused".
pub(crate) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
