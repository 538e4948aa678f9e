//! From a socket to the application: TLS, deadlines and bounds on connections.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`tls`] | certificates, read again when their files change |
//! | [`connection`] | one connection, from its first byte to its end |
//! | [`room`] | who stays when a listener is full |
//!
//! # Invariants
//!
//! - No connection waits for another's handshake: each has a task of its own.
//! - Nothing that a client leaves undone is waited for without end: not a handshake, not a head, not a body.
//! - Whoever can show no credential keeps nobody out who can, as far as addresses tell him apart.

mod connection;
mod room;
pub mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::{trace, warn};

use crate::metrics::{Listener, Metrics};
use connection::Connection;
use room::Room;
use tls::Tls;

pub use connection::ClientCertificate;
pub use room::vouch;

/// How long to wait when the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_secs(1);
/// How often the log says that others wait.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// How long clients may take, and how many there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From accepting a connection to the end of its TLS handshake.
    pub handshake: Duration,
    /// From there to the end of the first request's head.
    pub first_head: Duration,
    /// From the end of a request's head to that of its body.
    pub body: Duration,
    /// The most connections that the admin listener has open. For one more a stranger's ends ([`room`]); where there is none it
    /// waits until one ends, and those behind it in the system's queue.
    pub admin_connections: usize,
    /// As `admin_connections`. A proxy holds one or two.
    pub ring_connections: usize,
    /// As `admin_connections`. An Envoy in front of it holds a few.
    pub consumer_connections: usize,
}

/// Where connections come in.
#[derive(Debug)]
pub struct Endpoint {
    pub listener: TcpListener,
    /// Plain HTTP without.
    pub tls: Option<Arc<Tls>>,
}

impl From<TcpListener> for Endpoint {
    fn from(listener: TcpListener) -> Self {
        Self { listener, tls: None }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            first_head: Duration::from_secs(10),
            body: Duration::from_secs(20),
            admin_connections: 1024,
            ring_connections: 16_384,
            consumer_connections: 1024,
        }
    }
}

/// Serves another program's application on a ring listener, until `stopping`: a relay's.
pub async fn ring(
    endpoint: Endpoint,
    app: Router,
    metrics: Arc<Metrics>,
    limits: Limits,
    stopping: watch::Receiver<bool>,
) {
    run(Listener::Ring, endpoint, app, metrics, limits, stopping).await;
}

/// Serves until `stopping`, then until every request that is under way is answered.
pub(crate) async fn run(
    kind: Listener,
    endpoint: Endpoint,
    app: Router,
    metrics: Arc<Metrics>,
    limits: Limits,
    mut stopping: watch::Receiver<bool>,
) {
    let Endpoint { listener, tls } = endpoint;
    let most = match kind {
        Listener::Admin => limits.admin_connections,
        Listener::Ring => limits.ring_connections,
        Listener::Consumer => limits.consumer_connections,
    };
    let room = Room::new(most);
    let mut said: Option<Instant> = None;
    // Closed once every connection has dropped its end.
    let (open, mut all_closed) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // The client was gone before it was accepted.
            Err(error) if is_the_clients(&error) => continue,
            Err(error) => {
                warn!(listener = kind.name(), %error, "A connection cannot be accepted; raise the limit of open files if it is that");
                tokio::time::sleep(NO_ROOM).await;
                continue;
            }
        };
        if room.is_full() {
            let gives_way = room.show_one_out();
            if gives_way {
                metrics.shown_out(kind);
            }
            if said.is_none_or(|said| said.elapsed() > SAY_AGAIN) {
                said = Some(Instant::now());
                let outcome =
                    if gives_way { "one without a credential ends for each new one" } else { "others wait" };
                warn!(
                    listener = kind.name(),
                    most, "The listener has as many connections open as it may; {outcome}"
                );
            }
        }
        let place = tokio::select! {
            place = room.enter(peer.ip()) => place,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let Ok(place) = place else { break };
        let connection = Connection {
            kind,
            peer,
            app: app.clone(),
            tls: tls.as_ref().map(|tls| tls.current()),
            metrics: metrics.clone(),
            limits,
            guest: place.guest(),
            stopping: stopping.clone(),
        };
        let open = open.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = connection.serve(stream) => {}
                () = place.given_up() => {
                    trace!(listener = kind.name(), %peer, "A connection without a credential ends for a new one");
                }
            }
            drop((open, place));
        });
    }
    drop((open, listener));
    all_closed.recv().await;
}

fn is_the_clients(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
