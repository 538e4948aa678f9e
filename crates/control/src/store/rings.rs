use keywheel_keyring::document::MAX_ENTRIES;
use keywheel_keyring::{Digest, Entry, Epoch, Millis, State};
use serde::Deserialize;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::QueryScalar;
use sqlx::{Any, AnyConnection, Row as _};

use super::canary::CanaryOf;
use super::change::Context;
use super::db::Sql;
use super::rows::{brownout_of, digest, int, json, time, uint};
use super::signing_keys::{Standing, standing};
use super::{Store, StoreError};
use crate::lifecycle::accepted_until;

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
    /// Of a canary.
    pub canary: Option<CanaryOf>,
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

/// A version as documents show it. The database writes all of them as one text: each row that SQLite hands over by
/// itself wakes two threads, which takes longer than to find it.
#[derive(Debug, Deserialize)]
struct Row {
    digest: Digest,
    version: String,
    key: String,
    client: String,
    revision: u64,
    state: State,
    not_before: Option<Millis>,
    expires_at: Option<Millis>,
    retire_at: Option<Millis>,
    /// When proxies were told to forget it.
    removed_at: Option<Millis>,
    reinstated_in: Option<String>,
    brownout_share: Option<i64>,
    brownout_until: Option<Millis>,
    scopes: Vec<String>,
}

type Rows<'q> = QueryScalar<'q, Any, String, AnyArguments>;

/// Rows that [`select`] found as [`Row`]s, in the given order.
macro_rules! rows {
    ($rows:expr, $order:literal) => {
        Sql {
            sqlite: concat!(
                "SELECT json_group_array(json_array(lower(hex(digest)), id, key_id, client, shown, state, not_before,
                    expires_at, retire_at, removed_at, reinstated_in, brownout_share, brownout_until, json(scopes))
                    ORDER BY ", $order, ") FROM (", $rows, ")"
            ),
            postgres: concat!(
                "SELECT coalesce(json_agg(json_build_array(encode(digest, 'hex'), id, key_id, client, shown, state,
                    not_before, expires_at, retire_at, removed_at, reinstated_in, brownout_share, brownout_until,
                    scopes::json) ORDER BY ", $order, "), '[]')::text FROM (", $rows, ") AS rows"
            ),
        }
    };
}

/// Up to `$3` versions of a ring, or of a canary's main ring, each by the revision that is shown of it.
macro_rules! select {
    ($shown:literal, $which:literal, $order:literal) => {
        concat!(
            "SELECT v.*, ",
            $shown,
            " AS shown, c.name AS client, k.scopes
             FROM versions v JOIN keys k ON k.id = v.key_id JOIN clients c ON c.id = k.client_id
             WHERE v.ring_id = $1 AND ",
            $which,
            " ORDER BY ",
            $order,
            " LIMIT $3"
        )
    };
}

const CHANGES: Sql = rows!(select!("v.revision", "v.revision > $2", "v.revision"), "shown");
// What waits in a canary has a revision below 0. The `+` keeps the index by revisions out of it.
const PAGE: Sql = rows!(
    select!("v.revision", "v.digest > $2 AND v.removed_at IS NULL AND +v.revision > 0", "v.digest"),
    "digest"
);
// What has not changed since the canary was made is shown by its revision in the main ring, and comes before all that
// has: `$4` is where the one ends and the other begins. Each half is a run of one index.
const CANARY_CHANGES: Sql = rows!(
    concat!(
        "SELECT * FROM (SELECT * FROM (",
        select!(
            "v.revision",
            "v.revision > $2 AND v.revision <= $4 AND v.canary_revision IS NULL",
            "v.revision"
        ),
        ") AS old UNION ALL SELECT * FROM (",
        select!("v.canary_revision", "v.canary_revision > $2", "v.canary_revision"),
        ") AS new) AS both_of_them ORDER BY shown LIMIT $3"
    ),
    "shown"
);
const CANARY_PAGE: Sql = rows!(
    select!("coalesce(v.canary_revision, v.revision)", "v.digest > $2 AND v.removed_at IS NULL", "v.digest"),
    "digest"
);

impl Store {
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn rings(&self) -> Result<Vec<RingRecord>, StoreError> {
        load(&mut *self.db.readers().acquire().await?).await
    }

    /// How many entries a complete copy of the ring has.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn count_entries(&self, ring: &RingRecord) -> Result<u64, StoreError> {
        // Asked for those that are not removed, SQLite would look at each row.
        let sql = if ring.canary.is_some() {
            "SELECT (SELECT count(*) FROM versions WHERE ring_id = $1)
                 - (SELECT count(*) FROM versions WHERE ring_id = $1 AND removed_at IS NOT NULL)"
        } else {
            "SELECT (SELECT count(*) FROM versions WHERE ring_id = $1)
                 - (SELECT count(*) FROM versions WHERE ring_id = $1 AND removed_at IS NOT NULL)
                 - (SELECT count(*) FROM versions WHERE ring_id = $1 AND promote_at IS NOT NULL)"
        };
        let count = sqlx::query_scalar(sql).bind(ring.main()).fetch_one(self.db.readers()).await?;
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
    pub async fn cut_changes(&self, ring: &RingRecord, since: u64) -> Result<Cut, StoreError> {
        let mut tx = self.db.read().await?;
        let sql = if ring.canary.is_some() { &CANARY_CHANGES } else { &CHANGES };
        let changes = sqlx::query_scalar(self.db.dialect.pick(sql)).bind(ring.main()).bind(int(since));
        self.cut(&mut tx, ring, changes, ring.canary.as_ref().map(|canary| canary.base)).await
    }

    /// The entries after digest `after`, in the order of their digests.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn cut_page(&self, ring: &RingRecord, after: Option<Digest>) -> Result<Cut, StoreError> {
        let after = after.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec());
        let mut tx = self.db.read().await?;
        let sql = if ring.canary.is_some() { &CANARY_PAGE } else { &PAGE };
        let page = sqlx::query_scalar(self.db.dialect.pick(sql)).bind(ring.main()).bind(after);
        self.cut(&mut tx, ring, page, None).await
    }

    /// In one transaction, so that head and rows are of one moment.
    async fn cut(
        &self,
        tx: &mut AnyConnection,
        ring: &RingRecord,
        mut rows: Rows<'_>,
        base: Option<u64>,
    ) -> Result<Cut, StoreError> {
        let head = standing(tx, ring.id).await?;
        rows = rows.bind(int(MAX_ENTRIES as u64 + 1));
        if let Some(base) = base {
            rows = rows.bind(int(base));
        }
        let rows: String = rows.fetch_one(tx).await?;
        self.known(ring.id, head.revision);
        self.signed_by(head.activation);
        Cut::new(head, json(&rows)?)
    }

    /// Where the page behind `after` ends now, unless it is the last: that one ends with the ring.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn end_of_page(&self, ring: &RingRecord, after: Digest) -> Result<Option<Digest>, StoreError> {
        // A guess, so what waits in a canary may count here.
        let rows = sqlx::query(
            "SELECT digest FROM versions WHERE ring_id = $1 AND digest > $2 AND removed_at IS NULL
             ORDER BY digest LIMIT 2 OFFSET $3",
        )
        .bind(ring.main())
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
            let revisions = change.revisions(row.try_get("ring_id")?, &id, true).await?;
            sqlx::query(
                "UPDATE versions SET removed_at = $1, revision = $2, canary_revision = $3 WHERE id = $4",
            )
            .bind(int(context.now.0))
            .bind(revisions.main)
            .bind(revisions.canary)
            .bind(&id)
            .execute(&mut *change.tx)
            .await?;
            versions.push(id);
        }
        let removed = serde_json::json!({ "removed_versions": versions });
        change.audit("ring.remove", "ended versions", None, Some(removed)).await?;
        change.commit().await?;
        Ok(rows.len())
    }
}

// === impl RingRecord ===

impl RingRecord {
    /// The ring whose versions it shows: of a canary, its main ring.
    #[must_use]
    pub fn main(&self) -> i64 {
        self.canary.as_ref().map_or(self.id, |canary| canary.ring)
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
    fn new(at: Standing, rows: Vec<Row>) -> Result<Self, StoreError> {
        let mut cut = Self { more: rows.len() > MAX_ENTRIES, ..Self::nothing(at) };
        for row in rows.into_iter().take(MAX_ENTRIES) {
            let removed = row.removed_at.is_some();
            let entry = Entry::try_from(row)?;
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

// === impl Row ===

impl TryFrom<Row> for Entry {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let epoch =
            |text: String| text.parse().map_err(|_| StoreError::Corrupt(format!("the epoch `{text}`")));
        let retiring = row.state == State::Retiring;
        Ok(Self {
            digest: row.digest,
            version: row.version,
            key: row.key,
            client: row.client,
            revision: row.revision,
            state: row.state,
            not_before: row.not_before,
            expires_at: accepted_until(row.expires_at, row.retire_at),
            scopes: row.scopes,
            successor: retiring,
            brownout: brownout_of(row.brownout_share, row.brownout_until).filter(|_| retiring),
            reinstated_in: row.reinstated_in.map(epoch).transpose()?,
        })
    }
}

pub(super) async fn load(connection: &mut AnyConnection) -> Result<Vec<RingRecord>, StoreError> {
    let rows = sqlx::query(
        "SELECT r.id, r.name, r.epoch, r.revision, r.key_prefix, r.created_at, (SELECT count(*) FROM restores
             WHERE ring_id = r.id AND finished_at IS NULL) AS held, r.canary_of, r.canary_base, m.name AS main
         FROM rings r LEFT JOIN rings m ON m.id = r.canary_of ORDER BY r.id",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(ring).collect()
}

fn ring(row: &AnyRow) -> Result<RingRecord, StoreError> {
    let epoch: &str = row.try_get("epoch")?;
    let canary = match row.try_get::<Option<i64>, _>("canary_of")? {
        Some(ring) => {
            Some(CanaryOf { ring, name: row.try_get("main")?, base: uint(row.try_get("canary_base")?) })
        }
        None => None,
    };
    Ok(RingRecord {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        epoch: epoch.parse().map_err(|_| StoreError::Corrupt(format!("the epoch `{epoch}`")))?,
        revision: uint(row.try_get("revision")?),
        key_prefix: row.try_get("key_prefix")?,
        created_at: time(row, "created_at")?,
        held: row.try_get::<i64, _>("held")? > 0,
        canary,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Location;

    /// Of a million versions a page or a run reads its own.
    #[tokio::test]
    async fn each_document_is_a_run_of_one_index() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Sqlite(dir.path().join("keywheel.db"))).await.unwrap();
        for (sql, wanted) in [
            (&CHANGES, &["versions_by_revision (ring_id=? AND revision>?)"][..]),
            (&PAGE, &["versions_by_digest (ring_id=? AND digest>?)"]),
            (&CANARY_PAGE, &["versions_by_digest (ring_id=? AND digest>?)"]),
            (
                &CANARY_CHANGES,
                &[
                    "versions_by_revision (ring_id=? AND revision>? AND revision<?)",
                    "versions_by_canary_revision (ring_id=? AND canary_revision>?)",
                ],
            ),
        ] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", sql.sqlite));
            let rows = sqlx::query(explain).fetch_all(store.db.readers()).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
            let of_versions: Vec<_> =
                plan.iter().filter_map(|step| step.split_once(" v USING INDEX ")).collect();
            assert_eq!(of_versions.iter().map(|(_, index)| *index).collect::<Vec<_>>(), wanted, "{plan:?}");
            assert!(!plan.iter().any(|step| step == "SCAN v"), "{plan:?}");
        }
    }
}
