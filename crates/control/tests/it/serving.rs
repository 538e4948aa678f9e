//! A control plane on real sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keywheel_control::serve::Limits;
use keywheel_control::serve::tls::{Tls, TlsFiles, WithoutCertificate};
use keywheel_control::{Control, Endpoint};
use reqwest::{Certificate, Client, ClientBuilder, Identity};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::pki::Pair;
use crate::support::Plane;

pub(crate) struct Serving {
    pub(crate) plane: Plane,
    pub(crate) admin: SocketAddr,
    pub(crate) ring: SocketAddr,
    pub(crate) consumer: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

/// What the listeners speak.
#[derive(Default)]
pub(crate) struct Certificates {
    pub(crate) admin: Option<Arc<Tls>>,
    pub(crate) ring: Option<Arc<Tls>>,
    pub(crate) consumer: Option<Arc<Tls>>,
}

impl Serving {
    pub(crate) async fn plain(plane: Plane) -> Self {
        Self::with(plane, Certificates::default()).await
    }

    pub(crate) async fn with(plane: Plane, certificates: Certificates) -> Self {
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ring = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let consumer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let consumer_address = consumer.local_addr().unwrap();
        let (admin_address, ring_address) = (admin.local_addr().unwrap(), ring.local_addr().unwrap());
        let admin = Endpoint { listener: admin, tls: certificates.admin };
        let ring = Endpoint { listener: ring, tls: certificates.ring };
        let consumer = Endpoint { listener: consumer, tls: certificates.consumer };
        let (stop, stopped) = oneshot::channel::<()>();
        let control: Arc<Control> = plane.control.clone();
        let server = tokio::spawn(async move {
            control.serve(admin, ring, Some(consumer), async { drop(stopped.await) }).await.unwrap();
        });
        let (admin, ring, consumer) = (admin_address, ring_address, consumer_address);
        Self { plane, admin, ring, consumer, stop, server }
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        self.server.await.unwrap();
    }

    /// What `/metrics` says now.
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.plane.get("/metrics").await;
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body).unwrap()
    }

    /// A `changes` request that is held open, and will be for a minute.
    pub(crate) fn long_poll(&self) -> String {
        let (epoch, since) = (self.plane.epoch(), self.plane.head());
        format!("/v1/rings/production/changes?epoch={epoch}&since={since}&wait=60")
    }
}

/// The value of a sample, named with its labels.
#[track_caller]
pub(crate) fn sample(metrics: &str, name: &str) -> f64 {
    let found = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).parse().unwrap()
}

/// Without it reqwest and rustls do not know whose cryptography to use.
pub(crate) fn http() -> ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().timeout(Duration::from_secs(20))
}

/// Trusts these authorities and nobody else.
pub(crate) fn https(authorities: &[&str]) -> ClientBuilder {
    let trusted = authorities.iter().map(|pem| Certificate::from_pem(pem.as_bytes()).unwrap());
    http().tls_certs_only(trusted)
}

pub(crate) fn identity(pair: &Pair) -> Identity {
    Identity::from_pem(format!("{}\n{}", pair.cert, pair.key).as_bytes()).unwrap()
}

pub(crate) fn tls(files: TlsFiles, without: WithoutCertificate) -> Arc<Tls> {
    Arc::new(Tls::open("test", files, without).unwrap())
}

/// The plane, quicker to lose patience.
pub(crate) fn impatient(plane: Plane, limits: Limits) -> Plane {
    let Plane { dir, control, token } = plane;
    let control = Arc::into_inner(control).unwrap().with_limits(limits);
    Plane { dir, control: Arc::new(control), token }
}

/// Looks again and again until it holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..300 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within 15 seconds");
}

pub(crate) async fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

impl Pair {
    /// Both files in a directory, and their names.
    pub(crate) fn write(&self, dir: &Path) -> TlsFiles {
        let (cert, key) = self.save(dir);
        TlsFiles { cert, key, client_ca: None }
    }
}
