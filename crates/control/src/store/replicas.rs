//! What other control planes on the same PostgreSQL commit.
//!
//! Each commit notifies a channel of what it changed. A notification is lost when the connection that
//! listens is, so the same is read from the tables every second.

use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnection, PgListener};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::db::{Location, PostgresUrl, SERVED};
use super::rows::uint;
use super::{OpenError, Store, StoreError, audit};

pub(super) const CHANNEL: &str = "keywheel";
/// The payload of whoever wrote down what proxies said.
pub(super) const PROXIES: &str = "proxies";
/// How long a change may go unnoticed whose notification was lost.
const POLL: Duration = Duration::from_secs(1);
const RECONNECT: Duration = Duration::from_secs(1);

/// Holds a PostgreSQL database against every control plane that would serve it, as long as it lives.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "the lock is held by its session")] PgConnection);

impl Alone {
    /// `None` while a control plane serves the database.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn on(url: &PostgresUrl) -> Result<Option<Self>, OpenError> {
        let failed = |error| OpenError::new(&Location::Postgres(url.clone()), &error);
        let mut session = url.options().map_err(failed)?.connect().await.map_err(failed)?;
        let lock = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(SERVED);
        let held: bool = lock.fetch_one(&mut session).await.map_err(failed)?;
        Ok(held.then_some(Self(session)))
    }
}

impl Store {
    /// Wakes those who wait here for what others commit, until `shutdown`. On SQLite there are no others.
    pub async fn follow_replicas(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        if self.location.is_file() {
            return;
        }
        tokio::select! {
            () = self.listen() => {}
            () = self.poll() => {}
            _ = shutdown.wait_for(|stopping| *stopping) => {}
        }
    }

    async fn listen(&self) {
        loop {
            match self.notifications().await {
                Ok(mut listener) => {
                    debug!("Listening for what other replicas commit");
                    while let Ok(Some(notification)) = listener.try_recv().await {
                        self.heard(notification.payload());
                    }
                    warn!(
                        "The connection that tells of other replicas' changes was lost; polling until it is back"
                    );
                }
                Err(error) => debug!(%error, "Cannot listen for what other replicas commit"),
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn notifications(&self) -> Result<PgListener, sqlx::Error> {
        let Location::Postgres(url) = &self.location else { return Err(sqlx::Error::PoolClosed) };
        let pool =
            sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_with(url.options()?).await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        sqlx::query("SELECT pg_advisory_lock_shared($1)").bind(SERVED).execute(&mut listener).await?;
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    async fn poll(&self) {
        loop {
            tokio::time::sleep(POLL).await;
            if let Err(error) = self.look().await {
                debug!(%error, "Cannot see what other replicas committed");
            }
        }
    }

    async fn look(&self) -> Result<(), StoreError> {
        for ring in self.rings().await? {
            self.known(ring.id, ring.revision);
            // Whoever signs now is seen here at the latest.
            self.standing(ring.id).await?;
        }
        let head = audit::head(&mut *self.db.readers().acquire().await?).await?;
        self.committed(head.seq);
        self.proxies_written.send_modify(|writes| *writes = writes.wrapping_add(1));
        Ok(())
    }

    /// `<audit record> <ring>:<revision> …`, or [`PROXIES`].
    fn heard(&self, payload: &str) {
        if payload == PROXIES {
            self.proxies_written.send_modify(|writes| *writes = writes.wrapping_add(1));
            return;
        }
        let mut words = payload.split(' ');
        let audited = words.next().and_then(|word| word.parse().ok());
        for word in words {
            if let Some((ring, revision)) = word.split_once(':')
                && let (Ok(ring), Ok(revision)) = (ring.parse(), revision.parse())
            {
                self.known(ring, uint(revision));
            }
        }
        if let Some(audited) = audited {
            self.committed(audited);
        }
    }

    /// Wakes whoever looks at what was committed.
    pub(super) fn committed(&self, audited: u64) {
        let newer = self.audited.send_if_modified(|known| {
            let newer = audited > *known;
            *known = audited.max(*known);
            newer
        });
        if newer {
            self.deadlines.notify_one();
        }
    }
}
