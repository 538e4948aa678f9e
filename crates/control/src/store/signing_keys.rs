use std::sync::atomic::Ordering;

use keywheel_api::time::timestamp;
use keywheel_api::{RingSigningKey, SigningKeyState};
use keywheel_keyring::{Epoch, PublicKey};
use serde_json::json;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::change::{Change, Context};
use super::rows::{int, named, time, uint};
use super::{Refusal, Store, StoreError};

const SIGNER: &str =
    "SELECT id, ring_id, public_key, sealed, state, created_at, changed_at FROM signing_keys ";

/// A signing key as it is stored.
#[derive(Debug, Clone)]
pub struct Signer {
    pub ring: i64,
    pub key: RingSigningKey,
    pub sealed: Vec<u8>,
}

/// Where a ring stands, and who signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub revision: u64,
    pub epoch: Epoch,
    /// The id of its active signing key.
    pub signer: String,
    pub(super) activation: u64,
}

impl Store {
    /// The signing keys of all rings, in the order in which they were made.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn signers(&self) -> Result<Vec<Signer>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{SIGNER} ORDER BY created_at, id")))
            .fetch_all(self.db.readers())
            .await?;
        rows.iter().map(signer).collect()
    }

    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn signer(&self, id: &str) -> Result<Option<Signer>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SIGNER} WHERE id = $1")))
            .bind(id)
            .fetch_optional(self.db.readers())
            .await?;
        row.as_ref().map(signer).transpose()
    }

    /// A ring as it is committed now, whoever committed it.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn standing(&self, ring: i64) -> Result<Standing, StoreError> {
        self.db.check()?;
        let standing = standing(&mut *self.db.readers().acquire().await?, ring).await?;
        self.signed_by(standing.activation);
        Ok(standing)
    }

    /// How often a signing key became active, as far as is known here. What was signed before the last time is
    /// not handed out again.
    #[must_use]
    pub fn activation(&self) -> u64 {
        self.activation.load(Ordering::Acquire)
    }

    pub(super) fn signed_by(&self, activation: u64) {
        self.activation.fetch_max(activation, Ordering::AcqRel);
    }

    /// Keeps a new key, which nobody is told of yet.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`] for the ring.
    pub async fn create_signing_key(
        &self,
        context: &Context,
        ring: &str,
        public: &PublicKey,
        sealed: &[u8],
    ) -> Result<RingSigningKey, StoreError> {
        let mut change = self.begin(context).await?;
        let ring_id = change.ring_id(ring).await?;
        let id = public.id().to_string();
        change.insert_signing_key(ring_id, public, sealed, SigningKeyState::Created).await?;
        let key = change.signing_key(ring_id, &id).await?.key;
        change.audit("signing_key.create", &id, None, Some(json!({ "ring": ring, "key": key }))).await?;
        change.commit().await?;
        Ok(key)
    }

    /// Brings a key to its next state. The key that was active stays published. To be there already changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such ring or key, or the step cannot be taken from where the key is.
    pub async fn move_signing_key(
        &self,
        context: &Context,
        ring: &str,
        id: &str,
        to: SigningKeyState,
    ) -> Result<RingSigningKey, StoreError> {
        use SigningKeyState::{Active, Created, Published, Retired};
        let mut change = self.begin(context).await?;
        let ring_id = change.ring_id(ring).await?;
        let before = change.signing_key(ring_id, id).await?.key;
        let action = match (before.state, to) {
            (from, to) if from == to => return Ok(before),
            (Created, Published) => "signing_key.publish",
            (Published, Active) => "signing_key.activate",
            (Created | Published, Retired) => "signing_key.retire",
            (from, to) => return Err(Refusal::SigningKeyStep { key: id.to_owned(), from, to }.into()),
        };
        let mut replaced = None;
        let mut activation = None;
        if to == Active {
            let standing = standing(&mut change.tx, ring_id).await?;
            change.set_signing_key(&standing.signer, Published, None).await?;
            replaced = Some(standing.signer);
            let last: i64 = sqlx::query_scalar("SELECT max(activation) FROM signing_keys")
                .fetch_one(&mut *change.tx)
                .await?;
            activation = Some(uint(last).saturating_add(1));
        }
        change.set_signing_key(id, to, activation).await?;
        let key = change.signing_key(ring_id, id).await?.key;
        let after = json!({ "ring": ring, "key": key, "replaces": replaced });
        change.audit(action, id, Some(json!({ "ring": ring, "key": before })), Some(after)).await?;
        change.activation = activation;
        change.commit().await?;
        Ok(key)
    }

    /// Seals every signing key anew, in one transaction.
    ///
    /// # Errors
    ///
    /// [`StoreError`], or what `seal` said; nothing changed then.
    pub async fn reseal<E: From<StoreError>>(
        &self,
        context: &Context,
        seal: impl Fn(&Signer) -> Result<Vec<u8>, E>,
    ) -> Result<usize, E> {
        let mut change = self.begin(context).await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{SIGNER} ORDER BY id")))
            .fetch_all(&mut *change.tx)
            .await
            .map_err(StoreError::from)?;
        let mut ids = Vec::with_capacity(rows.len());
        for row in &rows {
            let signer = signer(row)?;
            let sealed = seal(&signer)?;
            sqlx::query("UPDATE signing_keys SET sealed = $1 WHERE id = $2")
                .bind(sealed)
                .bind(&signer.key.id)
                .execute(&mut *change.tx)
                .await
                .map_err(StoreError::from)?;
            ids.push(signer.key.id);
        }
        change.audit("master_key.rotate", "signing keys", None, Some(json!({ "sealed": ids }))).await?;
        change.commit().await?;
        Ok(rows.len())
    }
}

impl Change<'_> {
    pub(super) async fn insert_signing_key(
        &mut self,
        ring: i64,
        public: &PublicKey,
        sealed: &[u8],
        state: SigningKeyState,
    ) -> Result<(), StoreError> {
        let now = int(self.now().0);
        sqlx::query(
            "INSERT INTO signing_keys (id, ring_id, public_key, sealed, state, activation, created_at, changed_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(public.id().to_string())
        .bind(ring)
        .bind(public.to_string())
        .bind(sealed)
        .bind(name(state))
        .bind(i64::from(state == SigningKeyState::Active))
        .bind(now)
        .bind(now)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    async fn set_signing_key(
        &mut self,
        id: &str,
        state: SigningKeyState,
        activation: Option<u64>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE signing_keys SET state = $1, activation = coalesce($2, activation), changed_at = $3 WHERE id = $4",
        )
        .bind(name(state))
        .bind(activation.map(int))
        .bind(int(self.now().0))
        .bind(id)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    async fn signing_key(&mut self, ring: i64, id: &str) -> Result<Signer, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SIGNER} WHERE ring_id = $1 AND id = $2")))
            .bind(ring)
            .bind(id)
            .fetch_optional(&mut *self.tx)
            .await?;
        let missing = || Refusal::NotFound { what: "signing key", name: id.to_owned() };
        signer(&row.ok_or_else(missing)?)
    }
}

pub(super) async fn standing(connection: &mut AnyConnection, ring: i64) -> Result<Standing, StoreError> {
    let row = sqlx::query(
        "SELECT r.revision, r.epoch, s.id, s.activation FROM rings r
         JOIN signing_keys s ON s.ring_id = r.id AND s.state = 'active' WHERE r.id = $1",
    )
    .bind(ring)
    .fetch_optional(connection)
    .await?;
    let row = row.ok_or_else(|| StoreError::Corrupt("a ring without an active signing key".into()))?;
    let epoch: &str = row.try_get("epoch")?;
    Ok(Standing {
        revision: uint(row.try_get("revision")?),
        epoch: epoch.parse().map_err(|_| StoreError::Corrupt(format!("the epoch `{epoch}`")))?,
        signer: row.try_get("id")?,
        activation: uint(row.try_get("activation")?),
    })
}

fn signer(row: &AnyRow) -> Result<Signer, StoreError> {
    Ok(Signer {
        ring: row.try_get("ring_id")?,
        key: RingSigningKey {
            id: row.try_get("id")?,
            public_key: row.try_get("public_key")?,
            state: named(row.try_get("state")?)?,
            created_at: timestamp(time(row, "created_at")?),
            changed_at: timestamp(time(row, "changed_at")?),
        },
        sealed: row.try_get("sealed")?,
    })
}

pub(super) const fn name(state: SigningKeyState) -> &'static str {
    match state {
        SigningKeyState::Created => "created",
        SigningKeyState::Published => "published",
        SigningKeyState::Active => "active",
        SigningKeyState::Retired => "retired",
    }
}
