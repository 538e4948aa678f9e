use keywheel_keyring::key_text::random_id;
use keywheel_keyring::{Digest, Millis, State, VersionId};
use serde_json::json;

use super::change::Context;
use super::db::parameters;
use super::rows::{int, state_name};
use super::{Refusal, Store, StoreError, unless_taken};
use crate::secret::random;

/// Rows of one INSERT: few enough for the limits of 32,766 and 65,535 parameters.
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
            // Of full chunks the text is the same, so it is prepared once.
            let columns = "id, ring_id, client_id, scopes, expires_at, created_at";
            let sql = format!("INSERT INTO keys ({columns}) VALUES {}", parameters(rows.len(), 6));
            let mut keys = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (key, _, _, version) in &rows {
                keys = keys
                    .bind(key)
                    .bind(ring_id)
                    .bind(client_id)
                    .bind(json!(version.scopes).to_string())
                    .bind(version.expires_at.map(|at| int(at.0)))
                    .bind(now);
            }
            keys.execute(&mut *change.tx).await?;
            let columns = "id, key_id, ring_id, digest, state, expires_at, revision, created_at";
            let sql = format!("INSERT INTO versions ({columns}) VALUES {}", parameters(rows.len(), 8));
            let mut entries = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (key, id, revision, version) in &rows {
                entries = entries
                    .bind(id.as_str())
                    .bind(key)
                    .bind(ring_id)
                    .bind(version.digest.as_bytes().as_slice())
                    .bind(state_name(State::Active))
                    .bind(version.expires_at.map(|at| int(at.0)))
                    .bind(int(*revision))
                    .bind(now);
            }
            let inserted = entries.execute(&mut *change.tx).await;
            inserted.map_err(|error| unless_taken(error, || Refusal::DigestTaken))?;
        }
        // Those that follow a policy are planned soon; a million of them would hold up everybody now.
        let followed: Option<i64> = sqlx::query_scalar(
            "SELECT coalesce(c.policy_id, r.policy_id) FROM clients c JOIN rings r ON r.id = $1 WHERE c.id = $2",
        )
        .bind(ring_id)
        .bind(client_id)
        .fetch_one(&mut *change.tx)
        .await?;
        if followed.is_some() {
            change.look_at_keys("schedule IS NULL AND client_id = $2", client_id).await?;
        }
        let imported = json!({ "client": client, "versions": versions.len(), "revision": last });
        let before = json!({ "revision": last.saturating_sub(versions.len() as u64) });
        change.audit("ring.import", ring, Some(before), Some(imported)).await?;
        change.commit().await?;
        Ok(last)
    }
}
