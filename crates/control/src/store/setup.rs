use keywheel_api::SigningKeyState;
use keywheel_keyring::{Epoch, KeyPrefix, PublicKey};
use serde_json::json;

use super::change::{Change, Context};
use super::rows::int;
use super::tokens::NewToken;
use super::{Store, StoreError};
use crate::secret::HashedToken;

/// What the first start makes, all of it or nothing.
#[derive(Debug)]
pub struct Setup {
    pub ring: String,
    pub epoch: Epoch,
    pub key_prefix: KeyPrefix,
    pub public_key: PublicKey,
    pub sealed_signing_key: Vec<u8>,
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
        sqlx::query(
            "INSERT INTO rings (name, epoch, revision, key_prefix, created_at) VALUES ($1, $2, 0, $3, $4)",
        )
        .bind(&setup.ring)
        .bind(setup.epoch.to_string())
        .bind(setup.key_prefix.as_str())
        .bind(int(context.now.0))
        .execute(&mut *change.tx)
        .await
        .map_err(StoreError::from)?;
        let ring_id = change.ring_id(&setup.ring).await?;
        let (key, sealed) = (&setup.public_key, &setup.sealed_signing_key);
        change.insert_signing_key(ring_id, key, sealed, SigningKeyState::Active).await?;
        let (epoch, signer) = (setup.epoch, setup.public_key.id().to_string());
        let ring = json!({ "epoch": epoch, "key_prefix": setup.key_prefix.as_str(), "signer": signer });
        change.audit("ring.create", &setup.ring, None, Some(ring)).await?;
        change.insert_token(&NewToken::admin("made by the first start", setup.admin_token)).await?;
        hand_over()?;
        change.commit().await?;
        Ok(true)
    }
}

impl Change<'_> {
    async fn has_rings(&mut self) -> Result<bool, StoreError> {
        let ring = sqlx::query("SELECT id FROM rings LIMIT 1").fetch_optional(&mut *self.tx).await?;
        Ok(ring.is_some())
    }
}
