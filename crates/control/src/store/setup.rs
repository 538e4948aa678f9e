use keywheel_api::SigningKeyState;
use keywheel_keyring::{Epoch, KeyPrefix, PublicKey};
use serde_json::json;

use super::change::{Change, Context};
use super::rows::int;
use super::tokens::NewToken;
use super::{Refusal, RingRecord, Store, StoreError, rings};
use crate::secret::HashedToken;

/// The most rings of one control plane: each keeps up to some 60 MB of signed pages at hand.
pub const MAX_RINGS: usize = 64;

/// A ring to make, with the key that signs it.
#[derive(Debug)]
pub struct NewRing {
    pub name: String,
    pub epoch: Epoch,
    pub key_prefix: KeyPrefix,
    pub public_key: PublicKey,
    pub sealed_signing_key: Vec<u8>,
}

/// What the first start makes, all of it or nothing.
#[derive(Debug)]
pub struct Setup {
    pub ring: NewRing,
    pub admin_token: HashedToken,
}

impl Store {
    /// Makes the ring, its signing key and the admin token, unless another replica did. Returns whether it did.
    ///
    /// `hand_over` runs before the commit: where it fails, the next start is the first one again.
    ///
    /// # Errors
    ///
    /// [`StoreError`], or what `hand_over` said.
    pub async fn set_up<E: From<StoreError>>(
        &self,
        context: &Context,
        setup: &Setup,
        hand_over: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut change = self.begin(context).await?;
        if change.has_rings().await? {
            return Ok(false);
        }
        change.insert_ring(&setup.ring).await?;
        change.insert_token(&NewToken::admin("made by the first start", setup.admin_token)).await?;
        hand_over()?;
        change.commit().await?;
        Ok(true)
    }
}

impl Store {
    /// Makes an empty ring. Repeated with the same prefix it returns what the first call made, and `false`.
    ///
    /// # Errors
    ///
    /// [`Refusal::RingExists`], [`Refusal::TooManyRings`].
    pub async fn create_ring(
        &self,
        context: &Context,
        new: &NewRing,
    ) -> Result<(RingRecord, bool), StoreError> {
        let mut change = self.begin(context).await?;
        let rings = rings::load(&mut change.tx).await?;
        let count = rings.len();
        if let Some(ring) = rings.into_iter().find(|ring| ring.name == new.name) {
            let same = ring.key_prefix == new.key_prefix.as_str();
            return if same { Ok((ring, false)) } else { Err(Refusal::RingExists(ring.name).into()) };
        }
        if count >= MAX_RINGS {
            return Err(Refusal::TooManyRings.into());
        }
        let id = change.insert_ring(new).await?;
        change.tell_of_ring(id);
        let made = rings::load(&mut change.tx).await?.into_iter().find(|ring| ring.id == id);
        let made = made.ok_or_else(|| StoreError::Corrupt(format!("ring `{}` is not there", new.name)))?;
        change.commit().await?;
        Ok((made, true))
    }
}

impl Change<'_> {
    async fn insert_ring(&mut self, new: &NewRing) -> Result<i64, StoreError> {
        sqlx::query(
            "INSERT INTO rings (name, epoch, revision, key_prefix, created_at) VALUES ($1, $2, 0, $3, $4)",
        )
        .bind(&new.name)
        .bind(new.epoch.to_string())
        .bind(new.key_prefix.as_str())
        .bind(int(self.now().0))
        .execute(&mut *self.tx)
        .await?;
        let id = self.ring_id(&new.name).await?;
        self.insert_signing_key(id, &new.public_key, &new.sealed_signing_key, SigningKeyState::Active)
            .await?;
        let (prefix, signer) = (new.key_prefix.as_str(), new.public_key.id().to_string());
        let ring = json!({ "epoch": new.epoch, "key_prefix": prefix, "signer": signer });
        self.audit("ring.create", &new.name, None, Some(ring)).await?;
        Ok(id)
    }

    async fn has_rings(&mut self) -> Result<bool, StoreError> {
        let ring = sqlx::query("SELECT id FROM rings LIMIT 1").fetch_optional(&mut *self.tx).await?;
        Ok(ring.is_some())
    }
}
