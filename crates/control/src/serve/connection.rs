//! One connection, from its first byte to its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use keywheel_keyring::Digest;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::{ServiceExt as _, service_fn};
use tracing::{debug, trace};

use super::Limits;
use super::room::Guest;
use crate::metrics::{Handshake, Listener, Metrics};

/// A connection may idle for this long between two requests; the next head has to be whole by then. Longer
/// than clients pause that report regularly: each time a connection ends as it is used again, a request fails.
const NEXT_HEAD: Duration = Duration::from_secs(75);
/// How often a connection is looked at that may have nothing to do. What was idle twice in a row ends.
const LOOK: Duration = Duration::from_secs(60);
/// Silence after which an HTTP/2 peer is asked whether it is there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);
/// How long a client that was refused may take to read why.
const LINGER: Duration = Duration::from_secs(2);
/// The most that an HTTP/1 head may hold, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
const PLAIN_ON_TLS: &str = "this listener speaks TLS: use https://\n";

/// The peer proved that it holds the key of a certificate which the listener's client CA signed.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// `cert_` and the first 16 hexadecimal digits of the certificate's SHA-256.
    pub id: String,
}

pub(super) struct Connection {
    pub(super) kind: Listener,
    pub(super) peer: SocketAddr,
    pub(super) app: Router,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: Limits,
    pub(super) guest: Guest,
    pub(super) stopping: watch::Receiver<bool>,
}

/// How a handshake ended that made no connection.
enum NoTls {
    /// The client spoke plain HTTP.
    Plain(TcpStream),
    Failed(std::io::Error, TcpStream),
    Closed,
}

/// What a connection has been asked.
#[derive(Debug, Default)]
struct Activity {
    begun: AtomicU64,
    open: AtomicU64,
}

/// A request under way. Dropped, it is over.
struct Open(Arc<Activity>);

impl Connection {
    pub(super) async fn serve(self, stream: TcpStream) {
        // A change is one small write, which must not wait for an earlier one to be acknowledged.
        let _ = stream.set_nodelay(true);
        let _count = self.metrics.connection(self.kind);
        let Some(config) = self.tls.clone() else {
            return self.http(stream, None, Builder::new(TokioExecutor::new())).await;
        };
        let mut stopping = self.stopping.clone();
        let shaken = tokio::select! {
            shaken = timeout(self.limits.handshake, handshake(stream, config)) => shaken,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let outcome = match &shaken {
            Ok(Ok(_)) => Handshake::Done,
            Ok(Err(NoTls::Plain(_))) => Handshake::Plain,
            Ok(Err(NoTls::Failed(..))) => Handshake::Failed,
            Ok(Err(NoTls::Closed)) => Handshake::Closed,
            Err(_) => Handshake::TimedOut,
        };
        self.metrics.handshake(self.kind, outcome);
        match shaken {
            Ok(Ok(stream)) => {
                let session = stream.get_ref().1;
                let leaf = session.peer_certificates().and_then(<[_]>::first);
                let certificate = leaf.map(|leaf| ClientCertificate::new(leaf));
                if let Some(certificate) = &certificate {
                    self.guest.vouch(|| certificate.id.clone());
                }
                let builder = Builder::new(TokioExecutor::new());
                let builder = match session.alpn_protocol() {
                    Some(b"h2") => builder.http2_only(),
                    _ => builder.http1_only(),
                };
                self.http(stream, certificate, builder).await;
            }
            Ok(Err(NoTls::Plain(stream))) => {
                let _ = timeout(LINGER, refuse_plain(stream)).await;
            }
            Ok(Err(NoTls::Failed(error, stream))) => {
                debug!(listener = self.kind.name(), peer = %self.peer, %error, "A TLS handshake failed");
                let _ = timeout(LINGER, linger(stream)).await;
            }
            Ok(Err(NoTls::Closed)) | Err(_) => {}
        }
    }

    async fn http<IO>(
        self,
        io: IO,
        certificate: Option<ClientCertificate>,
        mut builder: Builder<TokioExecutor>,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { kind, peer, app, limits, guest, mut stopping, .. } = self;
        builder.http1().timer(TokioTimer::new()).header_read_timeout(NEXT_HEAD).max_buf_size(MAX_HEAD);
        builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
        let activity = Arc::new(Activity::default());
        let service = {
            let (activity, of_request) = (activity.clone(), guest.clone());
            service_fn(move |request: Request<hyper::body::Incoming>| {
                let open = activity.begin();
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                request.extensions_mut().insert(of_request.clone());
                if let Some(certificate) = &certificate {
                    request.extensions_mut().insert(certificate.clone());
                }
                let answer = app.clone().oneshot(request);
                async move {
                    let answer: Result<_, Infallible> = answer.await;
                    drop(open);
                    answer
                }
            })
        };
        let mut http = pin!(builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(service)));
        let (mut told, mut seen, mut good, mut next_look) = (false, 0, 0, limits.first_head);
        let mut look = pin!(sleep(next_look));
        loop {
            tokio::select! {
                ended = http.as_mut() => {
                    if let Err(error) = ended {
                        trace!(listener = kind.name(), %peer, %error, "A connection ended early");
                    }
                    return;
                }
                _ = stopping.wait_for(|stopping| *stopping), if !told => {
                    told = true;
                    http.as_mut().graceful_shutdown();
                }
                () = look.as_mut() => {
                    let begun = activity.begun.load(Ordering::Relaxed);
                    if begun == seen && activity.open.load(Ordering::Relaxed) == 0 {
                        trace!(listener = kind.name(), %peer, "A connection with nothing to do is closed");
                        return;
                    }
                    // What it showed may be revoked since; a request that is held open was let in, and is told of an end.
                    let shown = guest.good();
                    if shown == good && activity.open.load(Ordering::Relaxed) == 0 {
                        guest.doubt();
                    }
                    (seen, good, next_look) = (begun, shown, LOOK);
                    look.set(sleep(next_look));
                }
            }
        }
    }
}

async fn handshake(stream: TcpStream, config: Arc<ServerConfig>) -> Result<TlsStream<TcpStream>, NoTls> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) => return Err(NoTls::Closed),
        Ok(_) if first == [TLS_HANDSHAKE] => {}
        // A method's name, which no TLS record begins with.
        Ok(_) if first.iter().all(u8::is_ascii_uppercase) => return Err(NoTls::Plain(stream)),
        Ok(_) => {}
        Err(error) => return Err(NoTls::Failed(error, stream)),
    }
    let accepted = TlsAcceptor::from(config).accept(stream).into_fallible().await;
    accepted.map_err(|(error, stream)| NoTls::Failed(error, stream))
}

/// Says what is wrong to whoever forgot the `s` of `https`.
async fn refuse_plain(mut stream: TcpStream) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{PLAIN_ON_TLS}",
        PLAIN_ON_TLS.len(),
    );
    stream.write_all(answer.as_bytes()).await?;
    linger(stream).await
}

/// Closes a connection once the client has. Closed with bytes unread, it would be reset, and what was said last
/// would be lost with it.
async fn linger(mut stream: TcpStream) -> std::io::Result<()> {
    stream.shutdown().await?;
    let mut left = [0; 4096];
    while stream.read(&mut left).await? > 0 {}
    Ok(())
}

// === impl ClientCertificate ===

impl ClientCertificate {
    fn new(certificate: &[u8]) -> Self {
        let digest = hex::encode(Digest::of(certificate).as_bytes());
        Self { id: format!("cert_{}", digest.get(..16).unwrap_or_default()) }
    }
}

// === impl Activity ===

impl Activity {
    fn begin(self: &Arc<Self>) -> Open {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
