//! The keys that sign, opened when they are first needed.
//!
//! Which key signs stands in the database, read with the rows that it signs. So a switch needs no restart, and
//! each replica signs with the new key from its next look at the database on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use keywheel_keyring::{PublicKey, SigningKey};
use zeroize::Zeroizing;

use crate::seal::{CannotOpen, MasterKey};
use crate::secret::{NoRandomness, random};
use crate::store::{Signer, Store, StoreError};

/// Every signing key of one database.
#[derive(Debug)]
pub struct Signers {
    store: Arc<Store>,
    master: MasterKey,
    open: Mutex<BTreeMap<String, Arc<SigningKey>>>,
}

/// Why a new key is not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Sealed all the same it could never be opened again, once this process ends.
    #[error("the master key was rotated under this control plane; start it again")]
    OldMasterKey,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

impl Signers {
    #[must_use]
    pub const fn new(store: Arc<Store>, master: MasterKey) -> Self {
        Self { store, master, open: Mutex::new(BTreeMap::new()) }
    }

    /// # Errors
    ///
    /// [`StoreError`]; [`StoreError::Corrupt`] for a key that is not there, or is sealed under another master key.
    pub async fn key(&self, id: &str) -> Result<Arc<SigningKey>, StoreError> {
        if let Some(key) = self.cached().get(id) {
            return Ok(key.clone());
        }
        let missing = || StoreError::Corrupt(format!("there is no signing key {id}"));
        let signer = self.store.signer(id).await?.ok_or_else(missing)?;
        let key = open(&self.master, &signer).map_err(|error| {
            let rotated = "if the master key was rotated, start the control plane again";
            StoreError::Corrupt(format!("signing key {id}: {error}; {rotated}"))
        })?;
        let key = Arc::new(key);
        self.cached().insert(id.to_owned(), key.clone());
        Ok(key)
    }

    /// A new key, and its private half as it is stored.
    ///
    /// # Errors
    ///
    /// [`SealError`].
    pub async fn make(&self) -> Result<(PublicKey, Vec<u8>), SealError> {
        let others = self.store.signers().await?;
        if others.iter().any(|signer| open(&self.master, signer).is_err()) {
            return Err(SealError::OldMasterKey);
        }
        Ok(make(&self.master)?)
    }

    // A std mutex: it is held for a lookup, never across an await.
    fn cached(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<SigningKey>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new key, and its private half sealed under `master`.
///
/// # Errors
///
/// [`NoRandomness`].
pub fn make(master: &MasterKey) -> Result<(PublicKey, Vec<u8>), NoRandomness> {
    let seed = Zeroizing::new(random::<32>()?);
    let public = SigningKey::from_seed(*seed).public();
    let sealed = master.seal(&public.to_string(), seed.as_slice())?;
    Ok((public, sealed))
}

/// # Errors
///
/// [`CannotOpen`].
pub fn open(master: &MasterKey, signer: &Signer) -> Result<SigningKey, CannotOpen> {
    let seed = master.open(&signer.key.public_key, &signer.sealed)?;
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.as_slice().try_into().map_err(|_| CannotOpen)?);
    Ok(SigningKey::from_seed(*seed))
}
