//! An HTTP server that answers with what it was asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::extract::{Request, State};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::Reply;

/// Answers every request with 200 and what it saw:
/// `{"method": "GET", "path": "/x?y", "headers": [["host", "…"], …]}`.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    seen: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Upstream {
    /// # Errors
    ///
    /// No port can be had.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(crate::port::free()).await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(AtomicU64::new(0));
        let app = axum::Router::new().fallback(echo).with_state(Arc::clone(&seen));
        let task = tokio::spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, seen, task })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests arrived.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The values of a header that the upstream saw, of an answer that it gave.
#[must_use]
pub fn seen_header(reply: &Reply, name: &str) -> Vec<String> {
    let body = reply.json();
    let headers = body["headers"].as_array().into_iter().flatten();
    let values = headers.filter(|pair| pair[0] == name).filter_map(|pair| pair[1].as_str());
    values.map(str::to_owned).collect()
}

async fn echo(State(seen): State<Arc<AtomicU64>>, request: Request) -> Json<Value> {
    seen.fetch_add(1, Ordering::Relaxed);
    let headers: Vec<Value> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    Json(json!({
        "method": request.method().as_str(),
        "path": request.uri().to_string(),
        "headers": headers,
    }))
}
