//! The control plane as one value: opened from a data directory, served on two listeners or three.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keywheel_api::SigningKeyState;
use keywheel_keyring::entry::is_ring_name;
use keywheel_keyring::{Epoch, KeyPrefix, PublicKey};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::app;
use crate::clock;
use crate::jobs::{self, checkpoints, fold, purge, scheduler};
use crate::metrics::Listener;
use crate::notary::Notary;
use crate::rekey;
use crate::ring::Publisher;
use crate::rings::Rings;
use crate::runtime::Runtime;
use crate::seal::{MasterKey, MasterKeyError, write_private};
use crate::secret::{NoRandomness, PlainToken};
use crate::serve::{self, Endpoint, Limits};
use crate::signers::{self, Signers};
use crate::store::backup;
use crate::store::{
    Alone, Context, Location, NewRing, NewToken, OpenError, PostgresUrl, Setup, Signer, Store, StoreError,
};

/// How long open connections may take to end after the listeners have closed.
const DRAIN: Duration = Duration::from_secs(5);

/// Where the control plane lives, and what its first start makes.
#[derive(Debug, Clone)]
pub struct Options {
    pub data: PathBuf,
    /// SQLite in the data directory when absent. On PostgreSQL several control planes may serve one database.
    pub database: Option<PostgresUrl>,
    /// `<data>/master.key` when absent.
    pub master_key_file: Option<PathBuf>,
    /// Where the first start writes its admin token, instead of returning it.
    pub admin_token_file: Option<PathBuf>,
    /// Used at the first start only.
    pub ring_name: String,
    /// Used at the first start only.
    pub key_prefix: KeyPrefix,
    pub ring_auth: RingAuth,
    /// How long ended versions stay in the ring.
    pub keep_ended: Duration,
}

/// Who may read rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingAuth {
    /// Bearers of a `proxy` or `admin` token, and whoever has a client certificate.
    Token,
    /// Everyone who reaches the listener.
    Open,
}

/// An open control plane.
#[derive(Debug)]
pub struct Control {
    pub store: Arc<Store>,
    pub ring_auth: RingAuth,
    pub(crate) notary: Arc<Notary>,
    pub(crate) runtime: Runtime,
    pub(crate) signers: Arc<Signers>,
    /// Where a copy has space.
    pub(crate) data: PathBuf,
    pub(crate) rings: Rings,
    default_ring: String,
    keep_ended: Duration,
    stop: watch::Sender<bool>,
    /// Held as long as this lives: two control planes on one SQLite database would each miss the other's
    /// changes.
    _lock: Option<File>,
}

/// Why the control plane cannot start. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the data directory {}: {cause}; give --data a directory that this user may write", .path.display())]
    Directory { path: PathBuf, cause: io::Error },
    #[error("another keywheel serves the data directory {}; stop it first, or give --data another directory", .path.display())]
    Locked { path: PathBuf },
    #[error("a control plane serves {0}; stop all that do, and try again")]
    Served(PostgresUrl),
    #[error("there is no control plane in {}; give --data the directory that `keywheel serve` was given", .path.display())]
    NoDatabase { path: PathBuf },
    #[error(transparent)]
    Database(#[from] OpenError),
    #[error("cannot read the master key {}: {cause}; restore the file that belongs to this database, or name it with --master-key-file", .path.display())]
    MasterKey { path: PathBuf, cause: MasterKeyError },
    #[error("the master key {} does not open this database's signing key; give --master-key-file the one that belongs to it", .path.display())]
    WrongMasterKey { path: PathBuf },
    #[error("the rotation of the master key {} was cut off; finish it with `keywheel master-key rotate`", .path.display())]
    HalfRotated { path: PathBuf },
    #[error("cannot write the admin token to {}: {cause}; give --admin-token-file a path that this user may write", .path.display())]
    TokenFile { path: PathBuf, cause: io::Error },
    #[error("`{0}` cannot name a ring: 1 to 64 letters, digits, `.`, `_` and `-`, and not `.` or `..`")]
    RingName(String),
    #[error("the database cannot be used: {0}; check its disk, or restore a backup")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

impl Options {
    /// The defaults for a data directory.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>, key_prefix: KeyPrefix) -> Self {
        Self {
            data: data.into(),
            database: None,
            master_key_file: None,
            admin_token_file: None,
            ring_name: "production".into(),
            key_prefix,
            ring_auth: RingAuth::Open,
            keep_ended: purge::KEEP_ENDED,
        }
    }
}

impl Control {
    /// Opens the data directory and carries out every deadline that passed meanwhile. The first
    /// start also returns the admin token, unless a file takes it.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is lost then.
    pub async fn open(options: &Options) -> Result<(Self, Option<PlainToken>), StartError> {
        if !is_ring_name(&options.ring_name) {
            return Err(StartError::RingName(options.ring_name.clone()));
        }
        let file = options.data.join("keywheel.db");
        let (location, lock) = match &options.database {
            Some(url) => {
                directory(&options.data)?;
                (Location::Postgres(url.clone()), None)
            }
            None => {
                let lock = prepare(&options.data, &file)?;
                (Location::Sqlite(file), Some(lock))
            }
        };
        if lock.is_some() {
            backup::remove_unfinished(&options.data);
        }
        let store = Arc::new(Store::open(&location).await?);
        let master_key = options.master_key_file.clone().unwrap_or_else(|| options.data.join("master.key"));

        let mut token = None;
        if store.rings().await?.is_empty() {
            token = set_up(&store, options, &master_key).await?;
        }
        let master = unseal(&store, &master_key).await?;
        let signers = Arc::new(Signers::new(store.clone(), master));
        scheduler::catch_up_deadlines(&store, clock::now()).await?;

        let (stop, stopping) = watch::channel(false);
        let (default_ring_id, default_ring) =
            store.rings().await?.first().map(|ring| (ring.id, ring.name.clone())).unwrap_or_default();
        let rings = Rings::new(store.clone(), signers.clone(), stopping);
        rings.open().await?;
        let notary = Arc::new(Notary::new(store.clone(), signers.clone(), default_ring_id));
        let control = Self {
            store,
            signers,
            data: options.data.clone(),
            notary,
            runtime: Runtime::default(),
            ring_auth: options.ring_auth,
            rings,
            default_ring,
            keep_ended: options.keep_ended,
            stop,
            _lock: lock,
        };
        Ok((control, token))
    }

    /// Makes an admin token in the database of a control plane that does not run: for whoever lost all of them. On
    /// PostgreSQL it may run.
    ///
    /// # Errors
    ///
    /// [`StartError`]: there is no control plane in this directory or database, or it runs.
    pub async fn admin_token(data: &Path, database: Option<&PostgresUrl>) -> Result<PlainToken, StartError> {
        let nothing = || StartError::NoDatabase { path: data.to_owned() };
        let file = data.join("keywheel.db");
        let (location, _lock) = match database {
            Some(url) => (Location::Postgres(url.clone()), None),
            None if !file.is_file() => return Err(nothing()),
            None => {
                let lock = lock(data)?;
                (Location::Sqlite(file), Some(lock))
            }
        };
        let store = Store::open(&location).await?;
        if store.rings().await?.is_empty() {
            return Err(nothing());
        }
        let token = PlainToken::generate()?;
        let new = NewToken::admin("made by `keywheel admin-token`", token.hash());
        store.create_token(&Context::system(clock::now()), &new).await?;
        store.close().await;
        Ok(token)
    }

    /// With other limits than the usual ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.runtime.limits = limits;
        self
    }

    #[must_use]
    pub fn ring(&self, name: &str) -> Option<Arc<Publisher>> {
        self.rings.get(name)
    }

    /// The keys that proxies of a ring should trust: the one that signs, and the published ones.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn trust(&self, ring: &Publisher) -> Result<Vec<PublicKey>, StoreError> {
        let signers = self.store.signers().await?.into_iter().filter(|signer| signer.ring == ring.record.id);
        let trusted = signers.filter(|signer| {
            matches!(signer.key.state, SigningKeyState::Published | SigningKeyState::Active)
        });
        let parse = |signer: Signer| {
            let text = &signer.key.public_key;
            text.parse().map_err(|_| StoreError::Corrupt(format!("the public key `{text}`")))
        };
        trusted.map(parse).collect()
    }

    /// The ring of whoever names none.
    #[must_use]
    pub fn default_ring(&self) -> &str {
        &self.default_ring
    }

    /// The ring that goes ahead of this one, if there is one.
    #[must_use]
    pub fn canary_of(&self, ring: &Publisher) -> Option<Arc<Publisher>> {
        let of = |canary: &Arc<Publisher>| canary.record.canary.as_ref().map(|canary| canary.ring);
        self.rings().into_iter().find(|canary| of(canary) == Some(ring.record.id))
    }

    /// By name.
    #[must_use]
    pub fn rings(&self) -> Vec<Arc<Publisher>> {
        self.rings.all()
    }

    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(crate) async fn can_sign(&self) -> bool {
        for ring in self.rings() {
            if !ring.can_sign().await {
                return false;
            }
        }
        true
    }

    /// Whether no ring is held back.
    pub(crate) fn publishes(&self) -> bool {
        self.rings().iter().all(|ring| ring.published().is_ok())
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Ends every wait and every job.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Serves until `shutdown` resolves, then answers whoever waits and ends.
    ///
    /// # Errors
    ///
    /// None that a listener survives: accepting is tried again.
    pub async fn serve(
        self: Arc<Self>,
        admin: impl Into<Endpoint>,
        ring: impl Into<Endpoint>,
        consumer: Option<Endpoint>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let (admin, ring) = (admin.into(), ring.into());
        let mut jobs = vec![
            tokio::spawn(scheduler::run(self.store.clone(), self.stop.subscribe())),
            tokio::spawn(checkpoints::run(self.store.clone(), self.notary.clone(), self.stop.subscribe())),
            tokio::spawn(self.store.clone().follow_replicas(self.stop.subscribe())),
            tokio::spawn(fold::run(self.store.clone(), self.stop.subscribe())),
            tokio::spawn(purge::run(self.store.clone(), self.keep_ended, self.stop.subscribe())),
        ];
        let consumer_tls = consumer.as_ref().and_then(|consumer| consumer.tls.as_ref());
        for tls in [admin.tls.as_ref(), ring.tls.as_ref(), consumer_tls].into_iter().flatten() {
            jobs.push(tokio::spawn(tls.clone().follow(self.stop.subscribe())));
        }
        jobs.push(tokio::spawn(self.clone().serve_rings()));
        let listen = |kind, endpoint, app| {
            let (metrics, limits) = (self.runtime.metrics.clone(), self.runtime.limits);
            tokio::spawn(serve::run(kind, endpoint, app, metrics, limits, self.stop.subscribe()))
        };
        let mut listeners = vec![
            listen(Listener::Admin, admin, app::admin(self.clone())),
            listen(Listener::Ring, ring, app::ring(self.clone())),
        ];
        if let Some(consumer) = consumer {
            listeners.push(listen(Listener::Consumer, consumer, app::consumer(self.clone())));
        }
        shutdown.await;
        info!("Stopping");
        self.stop();
        let drained = tokio::time::timeout(DRAIN, async {
            for listener in listeners {
                let _ = listener.await;
            }
        });
        if drained.await.is_err() {
            warn!("Some connections did not end in time and were cut");
        }
        for job in jobs {
            let _ = job.await;
        }
        // Nothing changes any more, so this covers every record.
        if let Err(error) = self.notary.sign(clock::now()).await {
            warn!(%error, "The audit trail could not be signed; the next start signs it");
        }
        self.store.close().await;
        Ok(())
    }
}

impl Control {
    /// Does what each ring needs while it is served, until the control plane stops.
    pub async fn serve_rings(self: Arc<Self>) {
        let mut jobs = JoinSet::new();
        let serve = |ring: Arc<Publisher>| {
            let (id, proxies) = (ring.record.id, ring.proxies.clone());
            jobs.spawn(jobs::proxies::run(self.store.clone(), id, proxies, self.stopping()));
            if ring.record.canary.is_some() {
                jobs.spawn(jobs::canary::run(self.store.clone(), ring.clone(), self.stopping()));
            }
            jobs.spawn(async move { ring.note_commits().await });
        };
        self.rings.follow(serve).await;
        jobs.join_all().await;
    }
}

/// Makes the directory and the database file, both private, and locks the directory.
fn prepare(data: &Path, database: &Path) -> Result<File, StartError> {
    let lock = lock(data)?;
    // SQLite gives its log the mode of its database.
    private(database).map_err(|cause| StartError::Directory { path: data.to_owned(), cause })?;
    Ok(lock)
}

/// Makes the directory, and holds it as long as the file is open.
///
/// # Errors
///
/// It cannot be made, or another process holds it.
pub fn lock(data: &Path) -> Result<File, StartError> {
    let failed = |cause| StartError::Directory { path: data.to_owned(), cause };
    directory(data)?;
    let lock = private(&data.join("keywheel.lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked { path: data.to_owned() }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// Holds a PostgreSQL database that nobody serves; [`lock`] does that for a directory.
pub(crate) async fn alone(database: Option<&PostgresUrl>) -> Result<Option<Alone>, StartError> {
    let Some(url) = database else { return Ok(None) };
    let alone = Alone::on(url).await?;
    Ok(Some(alone.ok_or_else(|| StartError::Served(url.clone()))?))
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn directory(data: &Path) -> Result<(), StartError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(|cause| StartError::Directory { path: data.to_owned(), cause })
}

async fn set_up(
    store: &Store,
    options: &Options,
    master_key: &Path,
) -> Result<Option<PlainToken>, StartError> {
    let failed = |cause| StartError::MasterKey { path: master_key.to_owned(), cause };
    let master = match MasterKey::read(master_key) {
        Err(MasterKeyError::Missing) => {
            let made = MasterKey::create(master_key).map_err(failed)?;
            info!(path = %master_key.display(), "Made a master key: keep a copy of it apart from the database");
            Ok(made)
        }
        found => found,
    };
    let master = master.map_err(failed)?;
    let (public_key, sealed_signing_key) = signers::make(&master)?;
    let token = PlainToken::generate()?;
    let ring = NewRing {
        name: options.ring_name.clone(),
        epoch: Epoch::from_bytes(uuid::Uuid::now_v7().into_bytes()),
        key_prefix: options.key_prefix.clone(),
        sealed_signing_key,
        public_key,
        canary: None,
    };
    let setup = Setup { ring, admin_token: token.hash() };
    let context = Context::system(clock::now());
    let hand_over = || match &options.admin_token_file {
        Some(path) => {
            let text = Zeroizing::new(format!("{}\n", token.expose()));
            write_private(path, text.as_bytes(), true)
                .map_err(|cause| StartError::TokenFile { path: path.clone(), cause })
        }
        None => Ok(()),
    };
    if !store.set_up(&context, &setup, hand_over).await? {
        return Ok(None);
    }
    info!(ring = options.ring_name, "Set up ring {} and an admin token", options.ring_name);
    Ok(options.admin_token_file.is_none().then_some(token))
}

/// The master key, if it opens every signing key.
async fn unseal(store: &Store, master_key: &Path) -> Result<MasterKey, StartError> {
    let path = || master_key.to_owned();
    let master =
        MasterKey::read(master_key).map_err(|cause| StartError::MasterKey { path: path(), cause })?;
    for signer in store.signers().await? {
        if signers::open(&master, &signer).is_err() {
            let path = path();
            return Err(match rekey::is_halfway(store, &path).await? {
                true => StartError::HalfRotated { path },
                false => StartError::WrongMasterKey { path },
            });
        }
    }
    Ok(master)
}
