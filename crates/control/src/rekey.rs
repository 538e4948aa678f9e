//! Puts another master key in the place of the present one, while nobody serves the database.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::clock;
use crate::control::{self, StartError};
use crate::seal::{MasterKey, MasterKeyError};
use crate::signers;
use crate::store::{Context, Location, PostgresUrl, Signer, Store, StoreError};

/// Which database, and which master key.
#[derive(Debug, Clone)]
pub struct RekeyOptions {
    pub data: PathBuf,
    pub database: Option<PostgresUrl>,
    /// `<data>/master.key` when absent.
    pub master_key_file: Option<PathBuf>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rekeyed {
    pub signing_keys: usize,
    pub master_key: PathBuf,
    /// Where the key is that opens older backups.
    pub old: PathBuf,
}

/// Seals every signing key under a new master key. Cut off at any moment, it is finished by doing it again: the new
/// key is on the disk before anything is sealed under it, and the old one is there until everything is.
///
/// # Errors
///
/// [`StartError`].
pub async fn rotate(options: &RekeyOptions) -> Result<Rekeyed, StartError> {
    let path = options.master_key_file.clone().unwrap_or_else(|| options.data.join("master.key"));
    let (new_path, old_path) = (beside(&path, ".new"), beside(&path, ".old"));
    let failed = |cause| StartError::MasterKey { path: path.clone(), cause };
    let old = MasterKey::read(&path).map_err(failed)?;
    let file = options.data.join("keywheel.db");
    let _alone = control::alone(options.database.as_ref()).await?;
    let (location, _lock) = match &options.database {
        Some(url) => (Location::Postgres(url.clone()), None),
        None => {
            let lock = control::lock(&options.data)?;
            if !file.exists() {
                let cause = io::Error::new(io::ErrorKind::NotFound, "it holds no database");
                return Err(StartError::Directory { path: options.data.clone(), cause });
            }
            (Location::Sqlite(file), Some(lock))
        }
    };
    let new = match MasterKey::read(&new_path) {
        Err(MasterKeyError::Missing) => MasterKey::create(&new_path),
        found => found,
    };
    let new = new.map_err(|cause| StartError::MasterKey { path: new_path.clone(), cause })?;

    let store = Store::open(&location).await?;
    let seal = |signer: &Signer| {
        let name = &signer.key.public_key;
        let wrong = |_| StartError::WrongMasterKey { path: path.clone() };
        // Under the new one already, if this was cut off before.
        let seed =
            old.open(name, &signer.sealed).or_else(|_| new.open(name, &signer.sealed)).map_err(wrong)?;
        Ok::<_, StartError>(new.seal(name, &seed)?)
    };
    let sealed = store.reseal(&Context::system(clock::now()), seal).await;
    store.close().await;
    let signing_keys = sealed?;
    let moved = |cause| failed(MasterKeyError::Io(cause));
    replace(&path, &new_path, &old_path).map_err(moved)?;
    Ok(Rekeyed { signing_keys, master_key: path, old: old_path })
}

/// At no moment is there no file of that name.
fn replace(path: &Path, new: &Path, old: &Path) -> io::Result<()> {
    match fs::remove_file(old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::hard_link(path, old)?;
    fs::rename(new, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether the rotation to a new master key was cut off halfway.
pub(crate) async fn is_halfway(store: &Store, path: &Path) -> Result<bool, StoreError> {
    let Ok(new) = MasterKey::read(&beside(path, ".new")) else { return Ok(false) };
    Ok(store.signers().await?.iter().all(|signer| signers::open(&new, signer).is_ok()))
}
