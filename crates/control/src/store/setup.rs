use keywheel_api::{Promote, SigningKeyState};
use keywheel_keyring::{Epoch, KeyPrefix, PublicKey};
use serde_json::{Value, json};

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
    pub canary: Option<NewCanary>,
}

/// What a ring is that goes ahead of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCanary {
    /// The main ring's name.
    pub of: String,
    pub promote: Promote,
    /// Milliseconds.
    pub pause: u64,
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
    /// Makes an empty ring, or a canary, which has the entries of its main ring from the first moment on. Repeated with the
    /// same prefix it returns what the first call made, and `false`.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: there is another ring of this name, or too many rings, or no such main ring, or that one has a canary
    /// or is one.
    pub async fn create_ring(
        &self,
        context: &Context,
        new: &NewRing,
    ) -> Result<(RingRecord, bool), StoreError> {
        let mut change = self.begin(context).await?;
        let rings = rings::load(&mut change.tx).await?;
        let count = rings.len();
        if let Some(ring) = rings.into_iter().find(|ring| ring.name == new.name) {
            let of = new.canary.as_ref().map(|canary| canary.of.as_str());
            let same = ring.key_prefix == new.key_prefix.as_str()
                && ring.canary.as_ref().map(|canary| canary.name.as_str()) == of;
            return if same { Ok((ring, false)) } else { Err(Refusal::RingExists(ring.name).into()) };
        }
        if count >= MAX_RINGS {
            return Err(Refusal::TooManyRings.into());
        }
        let id = change.insert_ring(new).await?;
        let made = rings::load(&mut change.tx).await?.into_iter().find(|ring| ring.id == id);
        let made = made.ok_or_else(|| StoreError::Corrupt(format!("ring `{}` is not there", new.name)))?;
        change.tell_of_ring(id, made.revision);
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
        if let Some(canary) = &new.canary {
            self.set_ahead(id, canary).await?;
        }
        self.insert_signing_key(id, &new.public_key, &new.sealed_signing_key, SigningKeyState::Active)
            .await?;
        let (prefix, signer) = (new.key_prefix.as_str(), new.public_key.id().to_string());
        let mut ring = json!({ "epoch": new.epoch, "key_prefix": prefix, "signer": signer });
        if let (Some(canary), Value::Object(ring)) = (&new.canary, &mut ring) {
            ring.insert("canary_of".into(), json!(canary.of));
            ring.insert("promote".into(), json!(canary.promote));
            ring.insert("pause_seconds".into(), json!(canary.pause / 1000));
        }
        self.audit("ring.create", &new.name, None, Some(ring)).await?;
        Ok(id)
    }

    /// Has a ring go ahead of another one. It begins at that one's revision, by which it shows what has not changed since,
    /// so that no version has to be touched.
    async fn set_ahead(&mut self, id: i64, canary: &NewCanary) -> Result<(), StoreError> {
        let main = self.main_ring_id(&canary.of).await?;
        if let Some(other) = self.canary(main).await? {
            return Err(Refusal::HasCanary { ring: canary.of.clone(), canary: other.name }.into());
        }
        let promote = json!(canary.promote);
        sqlx::query(
            "UPDATE rings SET canary_of = $1, promote = $2, pause = $3,
                 revision = (SELECT m.revision FROM rings m WHERE m.id = $1),
                 canary_base = (SELECT m.revision FROM rings m WHERE m.id = $1)
             WHERE id = $4",
        )
        .bind(main)
        .bind(promote.as_str())
        .bind(int(canary.pause))
        .bind(id)
        .execute(&mut *self.tx)
        .await?;
        self.canaries.remove(&main);
        Ok(())
    }

    async fn has_rings(&mut self) -> Result<bool, StoreError> {
        let ring = sqlx::query("SELECT id FROM rings LIMIT 1").fetch_optional(&mut *self.tx).await?;
        Ok(ring.is_some())
    }
}
