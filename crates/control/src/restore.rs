//! Makes a restored copy of a database fit to be served.
//!
//! A copy knows nothing of what was revoked after it was made. So it gets a new epoch, later than any that a proxy
//! has seen: proxies keep every denial that they know of over it. And nothing of it is published until the
//! denials since then are merged back, or somebody accepts that they are not.
//!
//! | module | holds |
//! |---|---|
//! | this one | reads the files and carries it out, while nobody serves the database |
//! | [`evidence`] | what a trail or a document says of the time since: pure |

pub mod evidence;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use keywheel_api::audit::Checkpoint;
use keywheel_api::{AuditRecord, SigningKeyState};
use keywheel_keyring::{Document, Epoch, PublicKey};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock;
use crate::control::{self, StartError};
use crate::seal::MasterKey;
use crate::signers;
use crate::store::{Context, Location, OpenError, PostgresUrl, Restoration, RestorePoint, Store, StoreError};
use evidence::{EvidenceError, Journal, JournalError, Sealed, joins};

/// What is restored, and what is known of the time since.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    pub data: PathBuf,
    pub database: Option<PostgresUrl>,
    pub master_key_file: Option<PathBuf>,
    /// A copy to take; otherwise what the data directory or the PostgreSQL database holds.
    pub from: Option<PathBuf>,
    /// Exported audit records, as `keywheel audit list --output json` prints them.
    pub journals: Vec<PathBuf>,
    pub checkpoints: Vec<PathBuf>,
    /// Signed documents, as `keywheel ring export --seed` prints them.
    pub documents: Vec<PathBuf>,
    /// Signing keys that are younger than the copy.
    pub trust: Vec<PublicKey>,
    /// The latest epoch that a proxy reports.
    pub at_least: Option<Epoch>,
    pub accept_loss: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The new one.
    pub epoch: String,
    /// Until when the copy is complete: its last audit record.
    pub copy_record: u64,
    /// The last record of the trail that was merged, and the last of them that a checkpoint covers.
    pub journal_record: Option<u64>,
    pub covered: u64,
    /// Versions that are denied again.
    pub denied: Vec<String>,
    /// Versions that were accepted and that the copy does not have. Their holders need new keys.
    pub lost: Vec<String>,
    /// Leaked secrets that the trail counts but does not name.
    pub unnamed: u64,
    /// Nothing is published yet.
    pub held: bool,
    pub master_key: FoundMasterKey,
}

/// Whether the master key that is there belongs to the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FoundMasterKey {
    Right,
    Missing,
    Wrong,
}

/// Why nothing was restored. Nothing changed then.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{} exists; move it away, or restore it as it is with --in-place", .0.display())]
    Exists(PathBuf),
    #[error("there is no database {}; give --from a backup, or --data the directory that has one", .0.display())]
    Absent(PathBuf),
    #[error("cannot copy {} to {}: {cause}", .from.display(), .to.display())]
    Copy { from: PathBuf, to: PathBuf, cause: io::Error },
    #[error("{} is not a whole copy of a keywheel database: {cause}; take another one", .path.display())]
    Damaged { path: PathBuf, cause: String },
    #[error("the database holds no ring: nothing was ever served from it")]
    Empty,
    #[error("cannot read {}: {cause}", .path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("cannot use the audit trail that was given: {0}")]
    Journal(#[from] JournalError),
    #[error("cannot use the document {}: {cause}", .path.display())]
    Document { path: PathBuf, cause: EvidenceError },
    #[error("no epoch is later than {0}")]
    NoLaterEpoch(Epoch),
}

/// Opens a new epoch on a copy and merges what is known of the time since, in one transaction.
///
/// # Errors
///
/// [`RestoreError`].
pub async fn restore(options: &RestoreOptions) -> Result<Report, RestoreError> {
    let database = options.data.join("keywheel.db");
    let restoring = options.data.join("keywheel.db.restoring");
    let _alone = control::alone(options.database.as_ref()).await?;
    let (location, _lock) = match (&options.database, &options.from) {
        (Some(url), _) => (Location::Postgres(url.clone()), None),
        (None, None) if !database.exists() => return Err(RestoreError::Absent(database)),
        (None, None) => {
            let lock = control::lock(&options.data)?;
            (Location::Sqlite(database.clone()), Some(lock))
        }
        (None, Some(from)) => {
            let lock = control::lock(&options.data)?;
            if database.exists() {
                return Err(RestoreError::Exists(database));
            }
            copy(from, &restoring)?;
            (Location::Sqlite(restoring.clone()), Some(lock))
        }
    };
    let restored = restore_at(&location, options).await;
    if options.database.is_some() || options.from.is_none() {
        return restored;
    }
    // Only what is done has the name under which it can be served.
    let failed = |cause| RestoreError::Copy { from: restoring.clone(), to: database.clone(), cause };
    match restored {
        Ok(report) => {
            fs::rename(&restoring, &database).map_err(failed)?;
            File::open(&options.data).and_then(|dir| dir.sync_all()).map_err(failed)?;
            Ok(report)
        }
        Err(error) => {
            remove(&restoring).map_err(failed)?;
            Err(error)
        }
    }
}

async fn restore_at(location: &Location, options: &RestoreOptions) -> Result<Report, RestoreError> {
    let store = Store::open(location).await.map_err(|error: OpenError| StartError::from(error))?;
    let report = merge(&store, options).await;
    // So that all of it is in the one file.
    store.close().await;
    report
}

async fn merge(store: &Store, options: &RestoreOptions) -> Result<Report, RestoreError> {
    let failed = |error: StoreError| RestoreError::Start(error.into());
    if let Some(path) = &options.from {
        let cause = store.damage().await.map_err(failed)?;
        if let Some(cause) = cause {
            return Err(RestoreError::Damaged { path: path.clone(), cause });
        }
    }
    let points = store.restore_points().await.map_err(failed)?;
    let copy = points.first().ok_or(RestoreError::Empty)?.audited;
    let all = store.signers().await.map_err(failed)?;
    let mut trust = options.trust.clone();
    let known = all.iter().filter(|signer| signer.key.state != SigningKeyState::Created);
    trust.extend(known.filter_map(|signer| signer.key.public_key.parse().ok()));

    let mut journal = None;
    if !options.journals.is_empty() {
        let mut records: Vec<AuditRecord> = Vec::new();
        for path in &options.journals {
            records.extend(read(path)?);
        }
        records.sort_by_key(|record| record.seq);
        records.dedup();
        let mut checkpoints: Vec<Checkpoint> = Vec::new();
        for path in &options.checkpoints {
            checkpoints.extend(read(path)?);
        }
        journal = Some(Journal::read(copy, &records, checkpoints, &trust)?);
    }
    let mut documents = Vec::new();
    for path in &options.documents {
        let wrong = |cause| RestoreError::Document { path: path.clone(), cause };
        for sealed in read::<Sealed>(path)? {
            let document = sealed.open(&trust).map_err(wrong)?;
            check(&document, &points).map_err(wrong)?;
            documents.push(document);
        }
    }

    let seen = points.iter().flat_map(|point| [point.epoch, point.ring.epoch]);
    let seen = seen.chain(options.at_least).chain(documents.iter().map(|document| document.epoch)).max();
    let fresh = Epoch::from_bytes(uuid::Uuid::now_v7().into_bytes());
    let epoch = match seen {
        Some(seen) if fresh <= seen => seen.next().ok_or(RestoreError::NoLaterEpoch(seen))?,
        _ => fresh,
    };
    let (journal, verified) = journal.unzip();
    // A trail that ends where the copy does tells of nothing since.
    let trail_is_later = verified.as_ref().is_some_and(|verified| verified.head.seq > copy.seq);
    let joined = |point: &RestorePoint| {
        let of_it: Vec<_> = documents.iter().filter(|document| document.ring == point.ring.name).collect();
        joins(point.epoch, point.revision, &of_it)
    };
    // A denial goes to a canary and to its main ring at once, so either tells of it.
    let documents_join = points
        .iter()
        .all(|point| points.iter().any(|other| other.ring.main() == point.ring.main() && joined(other)));
    let finish = options.accept_loss || trail_is_later || documents_join;
    let unnamed = journal.as_ref().map_or(0, |journal| journal.unnamed);
    let restoration = Restoration { epoch, journal: journal.unwrap_or_default(), documents, finish };
    let context = Context::system(clock::now());
    let trail = verified.as_ref().map(|verified| verified.head);
    let done = store.restore(&context, &points, &restoration, trail).await.map_err(failed)?;
    let master_key = options.master_key_file.clone().unwrap_or_else(|| options.data.join("master.key"));
    let master_key = match MasterKey::read(&master_key) {
        Ok(master) if all.iter().all(|signer| signers::open(&master, signer).is_ok()) => {
            FoundMasterKey::Right
        }
        Ok(_) => FoundMasterKey::Wrong,
        Err(_) => FoundMasterKey::Missing,
    };
    Ok(Report {
        epoch: epoch.to_string(),
        copy_record: copy.seq,
        journal_record: trail.map(|head| head.seq),
        covered: verified.map_or(0, |verified| verified.covered),
        denied: done.denied,
        lost: done.lost,
        unnamed,
        held: !finish,
        master_key,
    })
}

fn check(document: &Document, points: &[RestorePoint]) -> Result<(), EvidenceError> {
    let point = points.iter().find(|point| point.ring.name == document.ring);
    let point = point.ok_or_else(|| EvidenceError::OtherRing(document.ring.clone()))?;
    let later = (document.epoch, document.revision) > (point.epoch, point.revision);
    if later { Ok(()) } else { Err(EvidenceError::Older) }
}

/// A JSON array, or one value after the other.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, RestoreError> {
    let failed = |cause| RestoreError::File { path: path.to_owned(), cause };
    let bytes = fs::read(path).map_err(failed)?;
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return serde_json::from_slice(&bytes).map_err(|error| failed(error.into()));
    }
    let values = serde_json::Deserializer::from_slice(&bytes).into_iter::<T>();
    values.collect::<Result<_, _>>().map_err(|error| failed(error.into()))
}

/// Private, and down to the disk.
fn copy(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let failed = |cause| RestoreError::Copy { from: from.to_owned(), to: to.to_owned(), cause };
    remove(to).map_err(failed)?;
    let mut source = File::open(from).map_err(failed)?;
    let mut magic = [0; 16];
    if source.read_exact(&mut magic).is_err() || magic != *b"SQLite format 3\0" {
        let cause = "it does not begin as a SQLite database does".into();
        return Err(RestoreError::Damaged { path: from.to_owned(), cause });
    }
    let mut source = File::open(from).map_err(failed)?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
    io::copy(&mut source, &mut target).map_err(failed)?;
    target.sync_all().map_err(failed)
}

/// With what SQLite keeps beside it.
fn remove(database: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = database.as_os_str().to_owned();
        path.push(suffix);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
