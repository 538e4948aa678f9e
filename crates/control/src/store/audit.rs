//! The audit trail. Nothing here changes or removes a record.

use keywheel_api::Key;
use keywheel_api::audit::{AuditEvent, AuditRecord, Checkpoint, Head};
use keywheel_api::time::{millis, timestamp};
use keywheel_keyring::Millis;

use serde_json::{Value, json};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AnyPool, Row as _};

use super::change::{Change, Context};
use super::db::{self, Dialect};
use super::rows::{digest, int, time, uint};
use super::{Store, StoreError};

const RECORD: &str = "SELECT seq, at, actor, action, resource, before, after, request_id, client_address,
    previous, hash FROM audit ";

const CHECKPOINT: &str = "SELECT id, seq, hash, at, signer, signature FROM audit_checkpoints ";

/// Records that one look for some of them passes: the database is others' too.
const LOOKED_AT: u64 = 20_000;

/// Which records are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub since: Option<Millis>,
    pub actor: Option<String>,
    /// Or what it begins with, up to a point.
    pub action: Option<String>,
    pub resource: Option<String>,
}

impl Store {
    /// Up to `limit` records after number `after` that a filter finds among the next ones, and after which number
    /// to look on, if there are more. The trail has no index but its numbers.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn find_audit_records(
        &self,
        filter: &AuditFilter,
        after: u64,
        limit: u32,
    ) -> Result<(Vec<AuditRecord>, Option<u64>), StoreError> {
        let AuditFilter { since, actor, action, resource } = filter;
        let end = after.saturating_add(LOOKED_AT);
        let family = action.as_ref().filter(|action| action.ends_with('.'));
        let whole = action.as_ref().filter(|action| !action.ends_with('.'));
        let sql = format!(
            "{RECORD} WHERE seq > $1 AND seq <= $2 AND at >= $3
             AND (CAST($4 AS TEXT) IS NULL OR actor = $4) AND (CAST($5 AS TEXT) IS NULL OR action = $5)
             AND (CAST($6 AS TEXT) IS NULL OR substr(action, 1, length($6)) = $6)
             AND (CAST($7 AS TEXT) IS NULL OR resource = $7) ORDER BY seq LIMIT $8"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(int(after))
            .bind(int(end))
            .bind(int(since.unwrap_or_default().0))
            .bind(actor)
            .bind(whole)
            .bind(family)
            .bind(resource)
            .bind(i64::from(limit))
            .fetch_all(self.db.readers())
            .await?;
        let found = rows.iter().map(record).collect::<Result<Vec<_>, _>>()?;
        let looked_up_to = match found.last() {
            Some(last) if found.len() >= limit as usize => last.seq,
            _ => end,
        };
        let more = looked_up_to < self.audit_head().await?.seq;
        Ok((found, more.then_some(looked_up_to)))
    }

    /// Up to `limit` records after number `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn audit_records(&self, after: u64, limit: u32) -> Result<Vec<AuditRecord>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{RECORD} WHERE seq > $1 ORDER BY seq LIMIT $2")))
            .bind(int(after))
            .bind(i64::from(limit))
            .fetch_all(self.db.readers())
            .await?;
        rows.iter().map(record).collect()
    }

    /// Where the trail ends.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn audit_head(&self) -> Result<Head, StoreError> {
        let mut connection = self.db.readers().acquire().await?;
        head(&mut connection).await
    }

    /// Up to `limit` checkpoints in the order in which they were signed, each with its id, after id `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn checkpoints(&self, after: u64, limit: u32) -> Result<Vec<(u64, Checkpoint)>, StoreError> {
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(format!("{CHECKPOINT} WHERE id > $1 ORDER BY id LIMIT $2")))
                .bind(int(after))
                .bind(i64::from(limit))
                .fetch_all(self.db.readers())
                .await?;
        rows.iter().map(|row| Ok((uint(row.try_get("id")?), checkpoint(row)?))).collect()
    }

    /// The checkpoint that was signed last.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn last_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{CHECKPOINT} ORDER BY id DESC LIMIT 1")))
            .fetch_optional(self.db.readers())
            .await?;
        row.as_ref().map(checkpoint).transpose()
    }

    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn keep_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.db.check()?;
        sqlx::query(
            "INSERT INTO audit_checkpoints (seq, hash, at, signer, signature) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(int(checkpoint.seq))
        .bind(checkpoint.hash.as_bytes().as_slice())
        .bind(int(millis(checkpoint.at).unwrap_or_default().0))
        .bind(&checkpoint.signer)
        .bind(&checkpoint.signature)
        .execute(self.db.writer())
        .await?;
        Ok(())
    }
}

impl Store {
    /// Records that somebody took a whole copy out, which changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then it was not recorded.
    pub async fn note_reading(
        &self,
        context: &Context,
        action: &'static str,
        resource: &str,
    ) -> Result<(), StoreError> {
        let mut change = self.begin(context).await?;
        change.audit(action, resource, None, None).await?;
        change.commit().await
    }
}

impl Change<'_> {
    /// Records what was done to `resource`, which was `before` and is `after`. Neither may hold a secret.
    pub(super) async fn audit(
        &mut self,
        action: &'static str,
        resource: &str,
        before: Option<Value>,
        after: Option<Value>,
    ) -> Result<(), StoreError> {
        let context = self.context;
        // An object's members are written in the order of their names and without spaces.
        let canonical = |value: Value| value.to_string();
        let event = AuditEvent {
            at: timestamp(context.now),
            actor: context.actor.clone(),
            action: action.to_owned(),
            resource: resource.to_owned(),
            before: before.map(canonical),
            after: after.map(canonical),
            request_id: context.request_id.clone(),
            client_address: context.client_address.map(|address| address.to_string()),
        };
        let head = match self.audited {
            Some(head) => head,
            // The transaction holds the write lock, so nobody else appends.
            None => head(&mut self.tx).await?,
        };
        let record = head.append(event);
        insert(&mut self.tx, &record).await?;
        self.audited = Some(record.head());
        Ok(())
    }

    /// Records what was done to a key, or to a version or a rotation of it. Returns the key as it is.
    pub(super) async fn audit_key(
        &mut self,
        action: &'static str,
        resource: &str,
        before: &Key,
    ) -> Result<Key, StoreError> {
        self.plan(&before.id).await?;
        let after = self.key(&before.id).await?;
        self.audit(action, resource, Some(state(before, &after)), Some(state(&after, before))).await?;
        Ok(after)
    }
}

impl Change<'_> {
    /// As [`audit_key`](Self::audit_key), for a step of a rotation that has its reasons: they are recorded.
    pub(super) async fn audit_rotation(
        &mut self,
        action: &'static str,
        id: &str,
        before: &Key,
    ) -> Result<(), StoreError> {
        self.plan(&before.id).await?;
        let after = self.key(&before.id).await?;
        let rotation = self.rotation(id).await?;
        let mut recorded = state(&after, before);
        if let Value::Object(members) = &mut recorded {
            members.insert("rotation".into(), json!(rotation));
        }
        self.audit(action, id, Some(state(before, &after)), Some(recorded)).await
    }
}

/// A key and those of its versions that are not the same in `other`: a key may have had many.
fn state(key: &Key, other: &Key) -> Value {
    let mut key = key.clone();
    key.versions.retain(|version| !other.versions.contains(version));
    json!(key)
}

/// Chains the records of a database whose schema is older than the chain. What they say of a change is what
/// was recorded then, in `after`.
pub(super) async fn chain_older_records(pool: &AnyPool) -> Result<(), StoreError> {
    let unchained = "SELECT count(*) FROM sqlite_schema WHERE name = 'audit_unchained'";
    if sqlx::query_scalar::<_, i64>(unchained).fetch_one(pool).await? == 0 {
        return Ok(());
    }
    let mut tx = db::write(Dialect::Sqlite, pool).await?;
    let mut head = head(&mut tx).await?;
    loop {
        // A number that is missing there stays missing, and verification says so.
        let row = sqlx::query(
            "SELECT seq, at, actor, action, subject, details, request_id FROM audit_unchained
             WHERE seq > $1 ORDER BY seq LIMIT 1",
        )
        .bind(int(head.seq))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { break };
        let event = AuditEvent {
            at: timestamp(time(&row, "at")?),
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            resource: row.try_get("subject")?,
            before: None,
            after: row.try_get("details")?,
            request_id: row.try_get("request_id")?,
            client_address: None,
        };
        let seq = uint(row.try_get("seq")?);
        let record = Head { seq: seq.saturating_sub(1), ..head }.append(event);
        insert(&mut tx, &record).await?;
        head = record.head();
    }
    sqlx::query("DROP TABLE audit_unchained").execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn head(connection: &mut AnyConnection) -> Result<Head, StoreError> {
    let row = sqlx::query("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1");
    match row.fetch_optional(connection).await? {
        Some(row) => Ok(Head { seq: uint(row.try_get("seq")?), hash: digest(&row, "hash")? }),
        None => Ok(Head::START),
    }
}

async fn insert(connection: &mut AnyConnection, record: &AuditRecord) -> Result<(), StoreError> {
    let AuditRecord { seq, event, previous, hash } = record;
    sqlx::query(
        "INSERT INTO audit (seq, at, actor, action, resource, before, after, request_id, client_address,
             previous, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(int(*seq))
    .bind(int(millis(event.at).unwrap_or_default().0))
    .bind(&event.actor)
    .bind(&event.action)
    .bind(&event.resource)
    .bind(&event.before)
    .bind(&event.after)
    .bind(&event.request_id)
    .bind(&event.client_address)
    .bind(previous.as_bytes().as_slice())
    .bind(hash.as_bytes().as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// A row as it is, whatever was done to it: to judge it is for whoever verifies.
fn record(row: &AnyRow) -> Result<AuditRecord, StoreError> {
    let seq = uint(row.try_get("seq")?);
    let read = || {
        let event = AuditEvent {
            at: timestamp(time(row, "at")?),
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            resource: row.try_get("resource")?,
            before: row.try_get("before")?,
            after: row.try_get("after")?,
            request_id: row.try_get("request_id")?,
            client_address: row.try_get("client_address")?,
        };
        let (previous, hash) = (digest(row, "previous")?, digest(row, "hash")?);
        Ok(AuditRecord { seq, event, previous, hash })
    };
    read().map_err(|error: StoreError| StoreError::Corrupt(format!("audit record {seq}: {error}")))
}

fn checkpoint(row: &AnyRow) -> Result<Checkpoint, StoreError> {
    Ok(Checkpoint {
        seq: uint(row.try_get("seq")?),
        hash: digest(row, "hash")?,
        at: timestamp(time(row, "at")?),
        signer: row.try_get("signer")?,
        signature: row.try_get("signature")?,
    })
}
