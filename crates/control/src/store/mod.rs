//! All SQL, for SQLite and PostgreSQL.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`db`] | the two databases as one |
//! | [`change`] | the unit of work: state, audit record and revisions commit together |
//! | [`audit`] | the audit trail and its checkpoints |
//! | [`backup`] | a copy while it is served |
//! | [`campaigns`], [`clients`], [`keys`], [`rotations`], [`tokens`] | one resource each |
//! | [`restore`] | what makes a restored copy fit to be served |
//! | [`rings`] | rings, and the rows that documents are cut from |
//! | [`setup`] | what the first start makes |
//! | [`signing_keys`] | who signs |
//! | [`deadlines`] | what happens to versions and rotations by its time |
//! | [`endings`] | revoked, compromised, brought back |
//! | [`policies`] | what keys follow |
//! | [`sweeps`] | many keys that are to be planned anew |
//! | [`plans`] | what a key's policy makes of it: due times, notices, deposits |
//! | [`selection`] | which keys a campaign has |
//! | [`waves`], [`campaign_facts`], [`campaign_keys`] | what campaigns do by themselves, what that depends on, and what others do to their keys |
//! | [`campaign_progress`] | how far they are |
//! | [`canary`] | rings that get what is new before their main ring |
//! | [`retirement`] | the end of an old version: brown-outs, and before its deadline when it is unused |
//! | [`import`] | many digests at once |
//! | [`proxies`] | what proxies said of themselves |
//! | [`usage`] | what proxies counted, written for all who wait |
//! | [`figures`] | counts for whoever watches |
//! | [`holders`] | keys that come for themselves |
//! | [`rows`] | rows as types |
//! | [`presence`] | whether the database file is still there |
//! | [`repeats`] | requests that are carried out once, and their answers |
//! | [`replicas`] | what other control planes on the same database commit |

mod audit;
pub(crate) mod backup;
mod campaign_facts;
mod campaign_keys;
mod campaign_progress;
mod campaigns;
mod canary;
pub mod change;
mod clients;
mod db;
mod deadlines;
mod endings;
mod figures;
mod holders;
mod import;
mod keys;
mod migrations;
mod plans;
mod policies;
mod preconditions;
mod presence;
mod proxies;
mod repeats;
mod replicas;
mod restore;
mod retirement;
mod rings;
mod rotations;
mod rows;
mod selection;
mod setup;
mod signing_keys;
mod sweeps;
mod tokens;
mod usage;
mod waves;

pub use audit::AuditFilter;
pub use canary::{CanaryOf, CanaryRule, Promotion, Waiting};
pub use change::{Committed, Context};
pub use db::{BadUrl, Location, PostgresUrl};
pub use deadlines::{Due, News};
pub use endings::Ending;
pub use figures::{AGES, Ages, Figures};
pub(crate) use holders::overlaps;
pub use holders::{Holder, NotAccepted, OwnKey, OwnRotation};
pub use keys::{KeyFilter, KeyUpdate, NewKey};
pub use migrations::OpenError;
pub use plans::AUTOMATIC_STARTS_A_MINUTE;
pub use preconditions::{Precondition, Resource, Tags, entity_tag};
pub use presence::Vanished;
pub use repeats::{Answered, Attempt, Found, KEEP_ANSWERS, Request, Reused};
pub use replicas::Alone;
pub use restore::{Restoration, RestorePoint, Restored};
pub use rings::{Cut, RingRecord};
pub use rotations::{NewRotation, RollBackTo, RotationFilter};
pub use setup::{MAX_RINGS, NewCanary, NewRing, Setup};
pub use signing_keys::{Signer, Standing};
pub use tokens::{Bearer, NewToken, TokenEnd};
pub use usage::NewUsage;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use keywheel_api::self_service::ROTATIONS_AN_HOUR;
use keywheel_api::{SigningKeyState, Timestamp};
use keywheel_keyring::Digest;
use sqlx::postgres::PgDatabaseError;
use tokio::sync::{Notify, watch};

use change::Heads;
use db::Db;
use usage::UsageQueue;

/// The database.
#[derive(Debug)]
pub struct Store {
    db: Db,
    location: Location,
    heads: Heads,
    usage: UsageQueue,
    /// How often a signing key became active.
    activation: AtomicU64,
    /// The newest audit record's number.
    pub(crate) audited: watch::Sender<u64>,
    /// Counts what other replicas may have written down of proxies.
    pub(crate) proxies_written: watch::Sender<u64>,
    /// Woken when a deadline may have come closer.
    pub(crate) deadlines: Notify,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Asking again unchanged will not help.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Asking again later may help: locked, read-only, out of space.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Nothing that is changed would last.
    #[error(transparent)]
    Vanished(#[from] Vanished),
    #[error("the database failed: {0}")]
    Failed(#[source] sqlx::Error),
    /// Somebody else was quicker with the same request; what they were answered is in its [`Attempt`].
    #[error("the request was carried out meanwhile")]
    Repeated,
    /// Asking again later will help.
    #[error("too much waits to be written")]
    Busy,
    /// One failure of a write that was made for many.
    #[error(transparent)]
    Shared(Arc<StoreError>),
    #[error("the database holds what no version of keywheel writes: {0}")]
    Corrupt(String),
    #[error(transparent)]
    Random(#[from] crate::secret::NoRandomness),
}

/// What stands in the way of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{what} `{name}` was changed meanwhile: its ETag is {tag} now; look at it again, then decide")]
    Changed { what: &'static str, name: String, tag: String },
    #[error("there is no {what} `{name}`")]
    NotFound { what: &'static str, name: String },
    #[error("client `{0}` exists already")]
    ClientExists(String),
    #[error("version `{0}` exists already, made by a different request")]
    VersionExists(String),
    #[error(
        "the digest belongs to another key version of this ring, or to one with another client, other scopes or another end"
    )]
    DigestTaken,
    #[error("version `{0}` has ended already and is refused everywhere")]
    VersionEnded(String),
    #[error("{what} `{name}` has not ended, so there is nothing to reinstate")]
    NotEnded { what: &'static str, name: String },
    #[error(
        "version `{0}` ended so long ago that proxies have forgotten it; create a new key, or rotate this one"
    )]
    VersionRemoved(String),
    #[error(
        "version `{0}` is compromised, which is for ever; create a new key, unless this one has another version that is accepted"
    )]
    VersionCompromised(String),
    #[error("digest {0} is known to be compromised and is never accepted again; make another key")]
    DigestCompromised(Digest),
    #[error("rotation `{0}` is open; wait for its end, roll it back, or start this one with `supersede`")]
    RotationOpen(String),
    #[error(
        "version `{0}` may not start a rotation: a newer version of the key took its place, so use that one"
    )]
    VersionSuperseded(String),
    #[error("the key was rotated {most} times within an hour; start the next one in {wait} seconds", most = ROTATIONS_AN_HOUR)]
    TooManyRotations { wait: u64 },
    #[error("{least} to {most} seconds, which is what the key's policy allows")]
    OwnOverlap { least: u64, most: u64 },
    #[error("rotation `{0}` has ended; reinstate a version of its key to have that accepted again")]
    RotationEnded(String),
    #[error("rotation `{0}` has begun, and its new version may be in use; roll it back instead")]
    RotationBegun(String),
    #[error("key `{key}` is not accepted before {at}; wait until then, or revoke it and create another one")]
    KeyPending { key: String, at: Timestamp },
    #[error(
        "key `{0}` has no active version: create a new key, or reinstate this one if what ended it can be taken back"
    )]
    KeyRevoked(String),
    #[error(
        "version `{version}` begins at {at}, and would end before that; take it back first, or choose a later end"
    )]
    EndsBeforeItBegins { version: String, at: Timestamp },
    #[error("key `{0}` has expired; create a new key")]
    KeyExpired(String),
    #[error(
        "token `{0}` is the last of role `admin` that reaches all rings and never expires; make another such one first, with `keywheel token create --role admin`"
    )]
    LastAdmin(String),
    #[error("token `{0}` is revoked or has expired; make another one")]
    TokenEnded(String),
    #[error("at most 32 labels, whose names and values are 1 to 63 letters, digits, `.`, `_`, `/` and `-`")]
    Labels,
    #[error("ring `{0}` exists already, and its keys begin with something else")]
    RingExists(String),
    #[error("a control plane has at most {MAX_RINGS} rings; start another one for more")]
    TooManyRings,
    #[error("ring `{ring}` is the canary of `{of}` and has that one's keys alone; name `{of}` instead")]
    CanaryHasNoKeys { ring: String, of: String },
    #[error("ring `{ring}` has a canary, `{canary}`, and cannot have another one")]
    HasCanary { ring: String, canary: String },
    #[error("ring `{0}` has no canary, so nothing waits for it")]
    NoCanary(String),
    #[error("ring `{0}` is no canary, so nothing waits in it; name the canary")]
    NotACanary(String),
    #[error("policy `{0}` exists already, with other terms")]
    PolicyExists(String),
    #[error("policy `{0}` is in use; give its keys, clients and rings another one first")]
    PolicyInUse(String),
    #[error("key `{key}`: {why}")]
    Policy { key: String, why: String },
    #[error("key `{0}` follows no policy, so the rotation needs an overlap of its own")]
    NoOverlap(String),
    #[error("rotation `{0}` has not begun, so no version of it is about to end; cancel it, or wait")]
    RotationNotBegun(String),
    #[error("campaign `{0}` exists already, and was asked for in another way")]
    CampaignExists(String),
    #[error("campaign `{campaign}`: {refused}")]
    CampaignState { campaign: String, refused: String },
    #[error("1 to {} keys; this selects {_0}", keywheel_api::campaign::MAX_KEYS)]
    Selected(u64),
    #[error("signing key `{key}` is {}; {}", signing_keys::name(*from), step(*from, *to))]
    SigningKeyStep { key: String, from: SigningKeyState, to: SigningKeyState },
}

impl Store {
    /// Opens the database, creates it if there is none, and brings it to this version's schema.
    ///
    /// # Errors
    ///
    /// [`OpenError`], which says what to do.
    pub async fn open(location: &Location) -> Result<Self, OpenError> {
        let db = Db::open(location, |dialect, pool| migrations::run(location, dialect, pool)).await?;
        let audited = audited(&db).await.map_err(|error| OpenError::store(location, &error))?;
        Ok(Self {
            db,
            location: location.clone(),
            heads: Heads::default(),
            usage: UsageQueue::default(),
            activation: AtomicU64::default(),
            audited: watch::Sender::new(audited),
            proxies_written: watch::Sender::new(0),
            deadlines: Notify::new(),
        })
    }

    /// Whether other control planes may share the database.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        !self.location.is_file()
    }

    /// Brings what SQLite wrote ahead into the file.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then it stays in the log.
    pub async fn fold_log(&self) -> Result<(), StoreError> {
        self.db.fold_log().await
    }

    /// Ends every connection.
    pub async fn close(&self) {
        self.db.close().await;
    }

    /// # Errors
    ///
    /// [`StoreError`] if the database does not answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.db.check()?;
        sqlx::query("SELECT 1 FROM rings").fetch_optional(self.db.readers()).await?;
        Ok(())
    }
}

async fn audited(db: &Db) -> Result<u64, StoreError> {
    Ok(audit::head(&mut *db.readers().acquire().await?).await?.seq)
}

// === impl StoreError ===

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if comes_back(&error) { Self::Unavailable(error) } else { Self::Failed(error) }
    }
}

/// Whether the database may answer later.
fn comes_back(error: &sqlx::Error) -> bool {
    use sqlx::Error::{Io, PoolClosed, PoolTimedOut, Protocol, Tls, WorkerCrashed};
    if let Some(error) = error.as_database_error()
        && let Some(error) = error.try_downcast_ref::<PgDatabaseError>()
    {
        // https://www.postgresql.org/docs/current/errcodes-appendix.html: connection, resources, operator,
        // system; read-only, as after a failover; a lock that was not had in time; roles that are not there yet.
        let code = error.code();
        return ["08", "53", "57", "58", "28"].iter().any(|class| code.starts_with(class))
            || ["25006", "25P03", "55P03", "40001", "40P01"].contains(&code);
    }
    match error {
        Io(_) | Tls(_) | Protocol(_) | PoolTimedOut | PoolClosed | WorkerCrashed => true,
        // https://sqlite.org/rescode.html: busy, locked, read-only, I/O error, full, cannot open.
        error => matches!(sqlite_code(error), Some(5 | 6 | 8 | 10 | 13 | 14)),
    }
}

// Who asks for what cannot be is told so before the change; here it means that the rows contradict each other.
impl From<crate::lifecycle::Refused> for StoreError {
    fn from(refused: crate::lifecycle::Refused) -> Self {
        Self::Corrupt(format!("a version: {refused}"))
    }
}

impl From<crate::lifecycle::NoTurn> for StoreError {
    fn from(refused: crate::lifecycle::NoTurn) -> Self {
        Self::Corrupt(format!("a rotation: {refused}"))
    }
}

/// The primary code of what SQLite says.
fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// What to do instead.
const fn step(from: SigningKeyState, to: SigningKeyState) -> &'static str {
    match (from, to) {
        (SigningKeyState::Created, SigningKeyState::Active) => {
            "publish it first, and activate it once every proxy trusts it"
        }
        (SigningKeyState::Active, _) => "activate another one first",
        (SigningKeyState::Retired, _) => "it is never used again; create another one",
        _ => "it is past that step",
    }
}

/// Turns the violation of a unique index into what it means.
fn unless_taken(error: sqlx::Error, refusal: impl FnOnce() -> Refusal) -> StoreError {
    match error.as_database_error() {
        Some(inner) if inner.is_unique_violation() => refusal().into(),
        _ => error.into(),
    }
}
