use keywheel_keyring::document::MAX_ENTRIES;
use keywheel_keyring::{Digest, Entry, Epoch, Millis};
use serde_json::json;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::change::Context;
use super::rows::{ENTRY, digest, entry, int, time, uint};
use super::signing_keys::{Standing, standing};
use super::{Store, StoreError};

/// A ring's row.
#[derive(Debug, Clone)]
pub struct RingRecord {
    pub id: i64,
    pub name: String,
    pub epoch: Epoch,
    pub revision: u64,
    pub key_prefix: String,
    pub created_at: Millis,
    /// A restored copy that is not to be published yet.
    pub held: bool,
}

/// Rows for one document, all from one moment.
#[derive(Debug, Clone)]
pub struct Cut {
    /// The ring's head at that moment.
    pub head: u64,
    /// Its epoch, and the id of the key that signs, likewise.
    pub epoch: Epoch,
    pub signer: String,
    pub entries: Vec<Entry>,
    pub removed: Vec<Digest>,
    /// The last revision that the rows hold, or the head when they hold everything.
    pub revision: u64,
    /// Whether more rows follow.
    pub more: bool,
}

impl Store {
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn rings(&self) -> Result<Vec<RingRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, name, epoch, revision, key_prefix, created_at, (SELECT count(*) FROM restores
                 WHERE ring_id = rings.id AND finished_at IS NULL) AS held FROM rings ORDER BY id",
        )
        .fetch_all(self.db.readers())
        .await?;
        rows.iter().map(ring).collect()
    }

    /// How many entries a complete copy of the ring has.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn count_entries(&self, ring: i64) -> Result<u64, StoreError> {
        let count =
            sqlx::query_scalar("SELECT count(*) FROM versions WHERE ring_id = $1 AND removed_at IS NULL")
                .bind(ring)
                .fetch_one(self.db.readers())
                .await?;
        Ok(uint(count))
    }

    /// A ring's head as it is committed now, whoever committed it. Those who wait for it are woken.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn look_at_head(&self, ring: i64) -> Result<u64, StoreError> {
        let head = self.standing(ring).await?.revision;
        self.known(ring, head);
        Ok(head)
    }

    /// The changes after revision `since`, in the order of their revisions.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn cut_changes(&self, ring: i64, since: u64) -> Result<Cut, StoreError> {
        let sql = format!("{ENTRY} WHERE v.ring_id = $1 AND v.revision > $2 ORDER BY v.revision LIMIT $3");
        // One transaction, so that head and rows are of one moment.
        let mut tx = self.db.read().await?;
        let head = standing(&mut tx, ring).await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(ring)
            .bind(int(since))
            .bind(int(MAX_ENTRIES as u64 + 1))
            .fetch_all(&mut *tx)
            .await?;
        self.known(ring, head.revision);
        self.signed_by(head.activation);
        Cut::new(head, &rows)
    }

    /// The entries after digest `after`, in the order of their digests.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn cut_page(&self, ring: i64, after: Option<Digest>) -> Result<Cut, StoreError> {
        let after = after.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec());
        let sql = format!(
            "{ENTRY} WHERE v.ring_id = $1 AND v.digest > $2 AND v.removed_at IS NULL ORDER BY v.digest LIMIT $3"
        );
        let mut tx = self.db.read().await?;
        let head = standing(&mut tx, ring).await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(ring)
            .bind(after)
            .bind(int(MAX_ENTRIES as u64 + 1))
            .fetch_all(&mut *tx)
            .await?;
        self.known(ring, head.revision);
        self.signed_by(head.activation);
        Cut::new(head, &rows)
    }

    /// Where the page behind `after` ends now, unless it is the last: that one ends with the ring.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn end_of_page(&self, ring: i64, after: Digest) -> Result<Option<Digest>, StoreError> {
        let rows = sqlx::query(
            "SELECT digest FROM versions WHERE ring_id = $1 AND digest > $2 AND removed_at IS NULL
             ORDER BY digest LIMIT 2 OFFSET $3",
        )
        .bind(ring)
        .bind(after.as_bytes().as_slice())
        .bind(int(MAX_ENTRIES as u64 - 1))
        .fetch_all(self.db.readers())
        .await?;
        rows.first().filter(|_| rows.len() > 1).map(|row| digest(row, "digest")).transpose()
    }

    /// Has proxies forget up to one document's worth of versions that ended before `before`. Their
    /// records stay. Returns how many.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn remove_ended(&self, context: &Context, before: Millis) -> Result<usize, StoreError> {
        let mut change = self.begin(context).await?;
        let rows = sqlx::query(
            "SELECT id, ring_id FROM versions WHERE ended_at < $1 AND removed_at IS NULL ORDER BY ended_at LIMIT $2",
        )
        .bind(int(before.0))
        .bind(int(MAX_ENTRIES as u64))
        .fetch_all(&mut *change.tx)
        .await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut versions = Vec::with_capacity(rows.len());
        for row in &rows {
            let id: String = row.try_get("id")?;
            let revision = change.next_revision(row.try_get("ring_id")?).await?;
            sqlx::query("UPDATE versions SET removed_at = $1, revision = $2 WHERE id = $3")
                .bind(int(context.now.0))
                .bind(int(revision))
                .bind(&id)
                .execute(&mut *change.tx)
                .await?;
            versions.push(id);
        }
        let removed = json!({ "removed_versions": versions });
        change.audit("ring.remove", "ended versions", None, Some(removed)).await?;
        change.commit().await?;
        Ok(rows.len())
    }
}

impl Cut {
    /// What a heartbeat holds.
    #[must_use]
    pub fn nothing(at: Standing) -> Self {
        let Standing { revision, epoch, signer, .. } = at;
        let (entries, removed) = (Vec::new(), Vec::new());
        Self { head: revision, epoch, signer, entries, removed, revision, more: false }
    }

    /// From one row more than a document holds.
    fn new(at: Standing, rows: &[AnyRow]) -> Result<Self, StoreError> {
        let mut cut = Self { more: rows.len() > MAX_ENTRIES, ..Self::nothing(at) };
        for row in rows.iter().take(MAX_ENTRIES) {
            let (entry, removed) = entry(row)?;
            if cut.more {
                cut.revision = entry.revision;
            }
            if removed {
                cut.removed.push(entry.digest);
            } else {
                cut.entries.push(entry);
            }
        }
        Ok(cut)
    }
}

fn ring(row: &AnyRow) -> Result<RingRecord, StoreError> {
    let epoch: &str = row.try_get("epoch")?;
    Ok(RingRecord {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        epoch: epoch.parse().map_err(|_| StoreError::Corrupt(format!("the epoch `{epoch}`")))?,
        revision: uint(row.try_get("revision")?),
        key_prefix: row.try_get("key_prefix")?,
        created_at: time(row, "created_at")?,
        held: row.try_get::<i64, _>("held")? > 0,
    })
}
