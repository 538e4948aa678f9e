use keywheel_keyring::key_text::random_id;
use keywheel_keyring::{Digest, Millis, VersionId};
use serde_json::json;
use sqlx::{QueryBuilder, Sqlite};

use super::change::Context;
use super::rows::int;
use super::{Refusal, Store, StoreError, unless_taken};
use crate::secret::random;

/// Rows of one INSERT: few enough for SQLite's limit of 32,766 parameters.
const ROWS: usize = 500;

/// A key from elsewhere: one active version of a key of its own.
#[derive(Debug, Clone)]
pub struct ImportedVersion {
    pub digest: Digest,
    pub scopes: Vec<String>,
    pub expires_at: Option<Millis>,
}

impl Store {
    /// Brings in many digests for one client: a run of revisions, one transaction, all or none.
    /// Returns the run's last revision.
    ///
    /// # Errors
    ///
    /// [`Refusal::DigestTaken`] if the ring has one of the digests already, or two are the same;
    /// [`Refusal::DigestCompromised`].
    pub async fn import(
        &self,
        context: &Context,
        ring: &str,
        client: &str,
        versions: Vec<ImportedVersion>,
    ) -> Result<u64, StoreError> {
        let mut change = self.begin(context).await?;
        let ring_id = change.ring_id(ring).await?;
        let client_id = change.client_id(client).await?;
        let last = change.next_revisions(ring_id, versions.len() as u64).await?;
        let mut revision = last.saturating_sub(versions.len() as u64);
        let now = int(context.now.0);

        for chunk in versions.chunks(ROWS) {
            let mut rows = Vec::with_capacity(chunk.len());
            for version in chunk {
                revision = revision.saturating_add(1);
                let key = random_id("key", random()?);
                rows.push((key, VersionId::from_random(random()?), revision, version));
            }
            let digests: Vec<_> = chunk.iter().map(|version| version.digest).collect();
            change.refuse_compromised(&digests).await?;
            // Of full chunks the text is the same, so SQLite prepares it once.
            let mut keys: QueryBuilder<Sqlite> = QueryBuilder::new(
                "INSERT INTO keys (id, ring_id, client_id, scopes, expires_at, created_at) ",
            );
            keys.push_values(&rows, |mut row, (key, _, _, version)| {
                row.push_bind(key)
                    .push_bind(ring_id)
                    .push_bind(client_id)
                    .push_bind(json!(version.scopes).to_string())
                    .push_bind(version.expires_at.map(|at| int(at.0)))
                    .push_bind(now);
            });
            keys.build().execute(&mut *change.tx).await?;
            let mut entries: QueryBuilder<Sqlite> = QueryBuilder::new(
                "INSERT INTO versions (id, key_id, ring_id, digest, state, expires_at, revision, created_at) ",
            );
            entries.push_values(&rows, |mut row, (key, id, revision, version)| {
                row.push_bind(id.as_str())
                    .push_bind(key)
                    .push_bind(ring_id)
                    .push_bind(version.digest.as_bytes().as_slice())
                    .push("'active'")
                    .push_bind(version.expires_at.map(|at| int(at.0)))
                    .push_bind(int(*revision))
                    .push_bind(now);
            });
            let inserted = entries.build().execute(&mut *change.tx).await;
            inserted.map_err(|error| unless_taken(error, || Refusal::DigestTaken))?;
        }
        let imported = json!({ "client": client, "versions": versions.len(), "revision": last });
        let before = json!({ "revision": last.saturating_sub(versions.len() as u64) });
        change.audit("ring.import", ring, Some(before), Some(imported)).await?;
        change.commit().await?;
        Ok(last)
    }
}
