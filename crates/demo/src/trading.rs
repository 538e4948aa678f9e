//! The upstream: a small trading API. It knows nothing of keys; who calls it is in `x-client-id`,
//! which the proxy sets.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Serves until the listener fails.
///
/// # Errors
///
/// It did.
pub(crate) async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let app = Router::new()
        .route("/v1/ticker/{symbol}", get(ticker))
        .route("/v1/orders", post(order))
        .route("/healthz", get(|| async { "ok\n" }));
    axum::serve(listener, app).await
}

async fn ticker(Path(symbol): Path<String>, headers: HeaderMap) -> Json<Value> {
    // A price that moves, and is the same for all who ask at once.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let price = 60_000.0 + 900.0 * (now / 97.0).sin() + 35.0 * (now / 3.0).sin();
    Json(json!({"symbol": symbol, "price": format!("{price:.2}"), "client": client(&headers)}))
}

async fn order(headers: HeaderMap, Json(order): Json<Value>) -> (StatusCode, Json<Value>) {
    (StatusCode::CREATED, Json(json!({"status": "accepted", "order": order, "client": client(&headers)})))
}

fn client(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-client-id")?.to_str().ok()
}
