//! An external authorization server over gRPC that allows everything, as fast as it can.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response};
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A gRPC message, not compressed and 4 bytes long: a `CheckResponse` with `status {}`, which is OK, and
/// `ok_response {}`.
const ALLOW: &[u8] = &[0, 0, 0, 0, 4, 0x0a, 0, 0x1a, 0];

/// It ends when this is dropped.
pub(crate) struct Authz {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Authz {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(keywheel_testkit::port::free()).await?;
        let address = listener.local_addr()?;
        let listener = listener.tap_io(|connection| {
            // Small answers would wait for acknowledgements.
            let _ = connection.set_nodelay(true);
        });
        let app = Router::new().fallback(async || allow());
        let task = tokio::spawn(async move {
            // It ends with the measurement.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, task })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Authz {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn allow() -> Response<Body> {
    let ok = async {
        let trailers = HeaderMap::from_iter([("grpc-status".parse().ok()?, HeaderValue::from_static("0"))]);
        Some(Ok::<_, Infallible>(trailers))
    };
    let mut response = Response::new(Body::new(Full::new(Bytes::from_static(ALLOW)).with_trailers(ok)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
