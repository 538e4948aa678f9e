//! The relay as one value: opened from a data directory, served on one listener.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keywheel_control::failed_logins::FailedLogins;
use keywheel_control::metrics::Metrics;
use keywheel_control::serve::{self, Limits};
use keywheel_control::{Endpoint, StartError, control};
use keywheel_keyring::PublicKey;
use keywheel_keyring::entry::is_ring_name;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::access::Access;
use crate::app::app;
use crate::behind::Proxies;
use crate::caller::Caller;
use crate::ring::Ring;
use crate::upstream::{TokenFault, Upstream, UpstreamToken};
use crate::usage::Spool;
use crate::{follow, metrics};

/// How often the files of tokens, and of certificates for the upstream, are looked at.
const LOOK: Duration = Duration::from_secs(3);
/// How long open requests have once the relay stops.
const DRAIN: Duration = Duration::from_secs(5);

/// What a relay is started with.
#[derive(Debug)]
pub struct Options {
    /// The directory that it keeps everything in; made if there is none.
    pub data: PathBuf,
    /// The rings that it serves.
    pub rings: Vec<String>,
    /// Who may have signed them.
    pub trust: Vec<PublicKey>,
    /// Ring listeners, in order: the next is asked where one does not answer.
    pub upstreams: Vec<String>,
    pub token: UpstreamToken,
    /// Reaches the upstreams, with the certificates that this takes.
    pub caller: Caller,
    /// What it is called in the upstream's list of proxies.
    pub node: String,
    pub access: Access,
    pub limits: Bounds,
}

/// What is chosen by us, and by tests.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How often the first of several upstreams is tried again.
    pub return_after: Duration,
    /// Usage reports of one ring that wait on disk, in bytes; the oldest give way. A gap then shows.
    pub usage: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { return_after: Duration::from_secs(60), usage: 256 << 20 }
    }
}

/// A relay that has its disk, and follows nobody yet.
#[derive(Debug)]
pub struct Relay {
    pub(crate) access: Access,
    pub(crate) failed_logins: FailedLogins,
    /// What the listener counts.
    pub(crate) listener: Arc<Metrics>,
    rings: BTreeMap<String, Arc<Ring>>,
    upstream: Arc<Upstream>,
    limits: Bounds,
    stop: watch::Sender<bool>,
    /// Held as long as the relay is there.
    _lock: File,
}

/// Why a relay cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Directory(#[from] StartError),
    #[error("`{0}` is no name of a ring: 1 to 64 letters, digits, `.`, `_` and `-`")]
    RingName(String),
    #[error(transparent)]
    Token(#[from] TokenFault),
    #[error("cannot read what is stored of ring `{ring}` in {}: {cause}", .path.display())]
    Stored { ring: String, path: PathBuf, cause: io::Error },
}

impl Relay {
    /// Takes what the disk has, so that it can be served before any upstream answers. It blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let Options { data, rings: names, trust, upstreams, token, caller, node, access, limits } = options;
        if let Some(bad) = names.iter().find(|name| !is_ring_name(name)) {
            return Err(OpenError::RingName(bad.clone()));
        }
        token.check()?;
        let lock = control::lock(&data)?;
        let upstream = Arc::new(Upstream::new(caller, &upstreams, token));
        let stop = watch::Sender::new(false);
        let node: String = form_urlencoded::byte_serialize(node.as_bytes()).collect();
        let mut rings = BTreeMap::new();
        for name in names {
            let ring =
                Ring::open(&data, &name, &trust, upstream.clone(), &node, limits.usage, stop.subscribe())
                    .map_err(|cause| OpenError::Stored { ring: name.clone(), path: data.clone(), cause })?;
            match ring.position() {
                Some((epoch, head, age)) => {
                    let seconds = age / 1000;
                    info!(ring = name, %epoch, head, seconds, "Ring {name} is on disk, {seconds} seconds old");
                    if !ring.is_installable() {
                        let about = "proxies without a ring get none until the upstream answers";
                        warn!(ring = name, "What is stored of ring {name} has expired: {about}");
                    }
                }
                None => info!(ring = name, "Ring {name} is fetched from the upstream"),
            }
            rings.insert(name, Arc::new(ring));
        }
        Ok(Self {
            access,
            failed_logins: FailedLogins::default(),
            listener: Arc::default(),
            rings,
            upstream,
            limits,
            stop,
            _lock: lock,
        })
    }

    #[must_use]
    pub fn ring(&self, name: &str) -> Option<Arc<Ring>> {
        self.rings.get(name).cloned()
    }

    pub(crate) fn rings(&self) -> impl Iterator<Item = &Arc<Ring>> + Clone {
        self.rings.values()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    pub(crate) fn metrics(&self) -> Result<String, std::fmt::Error> {
        metrics::text(self.rings.values(), self.upstream.failures(), &self.listener)
    }

    /// Serves and follows the upstream until `shutdown`.
    pub async fn serve(self: Arc<Self>, endpoint: Endpoint, shutdown: impl Future<Output = ()>) {
        let mut jobs = Vec::new();
        for ring in self.rings.values() {
            jobs.push(tokio::spawn(follow::run(
                ring.clone(),
                self.limits.return_after,
                self.stop.subscribe(),
            )));
            jobs.push(tokio::spawn(Proxies::run(ring.clone(), self.stop.subscribe())));
            jobs.push(tokio::spawn(Spool::run(ring.clone(), self.stop.subscribe())));
        }
        jobs.push(tokio::spawn(self.clone().look_at_files(self.stop.subscribe())));
        if let Some(tls) = &endpoint.tls {
            jobs.push(tokio::spawn(tls.clone().follow(self.stop.subscribe())));
        }
        let listener = tokio::spawn(serve::ring(
            endpoint,
            app(self.clone()),
            self.listener.clone(),
            Limits::default(),
            self.stop.subscribe(),
        ));
        shutdown.await;
        info!("Stopping");
        self.stop.send_replace(true);
        if tokio::time::timeout(DRAIN, listener).await.is_err() {
            warn!("Some connections did not end in time and were cut");
        }
        for job in jobs {
            let _ = job.await;
        }
    }

    /// Reads the tokens of proxies, and the certificates for the upstream, again where they have changed.
    pub fn look(&self) {
        self.upstream.look();
        if let Access::Credentials(Some(tokens)) = &self.access {
            tokens.look();
        }
    }

    async fn look_at_files(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stopped(&mut stopping) => return,
            }
            let relay = self.clone();
            let _ = tokio::task::spawn_blocking(move || relay.look()).await;
        }
    }
}

/// Ends when the relay stops.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
