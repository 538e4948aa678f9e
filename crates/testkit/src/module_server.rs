//! An HTTP server with one file, as Envoy Gateway keeps modules for its proxies.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Answers every request with the same bytes.
#[derive(Debug)]
pub struct ModuleServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl ModuleServer {
    /// # Errors
    ///
    /// No port can be had.
    pub async fn start(module: Vec<u8>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(crate::port::free()).await?;
        let address = listener.local_addr()?;
        let module = Bytes::from(module);
        let app = Router::new().fallback(get(async move || module.clone()));
        let task = tokio::spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, task })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for ModuleServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
