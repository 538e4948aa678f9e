use keywheel_api::time::{self, timestamp};
use keywheel_api::{Key, LabelChanges, Labels, ScheduleState, State, labels};
use keywheel_keyring::{Digest, Millis, VersionId};
use serde_json::{Value, json};
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, Row as _};

use super::change::{Change, Context};
use super::db::{Dialect, parameters};
use super::rows::{VersionRow, int, key, state_name, uint, version};
use super::{Refusal, Store, StoreError, unless_taken};
use crate::ids;
use crate::lifecycle::{self, Event};

const KEY: &str = "SELECT k.id, r.name AS ring, c.name AS client, k.scopes, k.created_at, k.expires_at,
    k.revoked_at, k.labels, k.schedule, k.due_at, k.next_version, p.name AS policy, f.name AS follows,
    o.id AS open_rotation
    FROM keys k JOIN rings r ON r.id = k.ring_id JOIN clients c ON c.id = k.client_id
    LEFT JOIN policies p ON p.id = k.policy_id
    LEFT JOIN policies f ON f.id = coalesce(k.policy_id, c.policy_id, r.policy_id)
    LEFT JOIN rotations o ON o.key_id = k.id AND o.ended_at IS NULL ";

pub(super) const VERSION: &str =
    "SELECT id, key_id, ring_id, digest, state, not_before, expires_at, retire_at,
    revision, canary_revision, promote_at, created_at, ended_at, removed_at, reinstated_in, last_used_at, brownout_share, brownout_until
    FROM versions ";

/// A key to make, with its first version.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub ring: String,
    pub client: String,
    pub scopes: Vec<String>,
    pub not_before: Option<Millis>,
    pub expires_at: Option<Millis>,
    pub labels: Labels,
    pub policy: Option<String>,
    pub version: VersionId,
    pub digest: Digest,
}

/// What is to change of a key; nothing by default. `Some(None)` takes away.
#[derive(Debug, Clone, Default)]
pub struct KeyUpdate {
    pub labels: LabelChanges,
    pub policy: Option<Option<String>>,
    /// All of them.
    pub scopes: Option<Vec<String>>,
    pub expires_at: Option<Option<Millis>>,
}

/// Which keys to list; all of them by default.
#[derive(Debug, Clone, Default)]
pub struct KeyFilter {
    pub client: Option<String>,
    pub schedule: Option<ScheduleState>,
    /// Names, each with the value that it must have, if any.
    pub labels: Vec<(String, Option<String>)>,
}

/// A version to publish.
pub(super) struct NewVersion<'a> {
    pub(super) id: &'a VersionId,
    pub(super) digest: Digest,
    pub(super) not_before: Option<Millis>,
    pub(super) expires_at: Option<Millis>,
}

impl Store {
    /// Makes a key whose first version is active, or pending until its `not_before`. Repeated with the same version and digest
    /// it returns what the first call made, and `false`.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such ring or client, the version or digest is taken, or the digest is compromised.
    pub async fn create_key(&self, context: &Context, new: &NewKey) -> Result<(Key, bool), StoreError> {
        let mut change = self.begin(context).await?;
        if let Some(existing) = change.version(new.version.as_str()).await? {
            let key = load_key(&mut change.tx, &existing.key).await?;
            // The version may have a successor by now; a repeat is still a repeat.
            let same = existing.digest == new.digest
                && key.versions.first().is_some_and(|first| first.id == existing.id)
                && (&key.ring, &key.client, &key.scopes) == (&new.ring, &new.client, &new.scopes)
                && key.expires_at == new.expires_at.map(timestamp)
                && (&key.labels, &key.policy) == (&new.labels, &new.policy)
                && existing.not_before == new.not_before;
            return if same { Ok((key, false)) } else { Err(Refusal::VersionExists(existing.id).into()) };
        }
        let ring = change.main_ring_id(&new.ring).await?;
        let client = change.client_id(&new.client).await?;
        let policy = change.policy_id(new.policy.as_deref()).await?;
        let id = ids::new("key", context.now)?;
        sqlx::query(
            "INSERT INTO keys (id, ring_id, client_id, scopes, expires_at, created_at, labels, policy_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&id)
        .bind(ring)
        .bind(client)
        .bind(json!(new.scopes).to_string())
        .bind(new.expires_at.map(|at| int(at.0)))
        .bind(int(context.now.0))
        .bind(json!(new.labels).to_string())
        .bind(policy)
        .execute(&mut *change.tx)
        .await?;
        let version = NewVersion {
            id: &new.version,
            digest: new.digest,
            not_before: new.not_before,
            expires_at: new.expires_at,
        };
        change.insert_version(&id, ring, &version).await?;
        change.plan(&id).await?;
        let key = load_key(&mut change.tx, &id).await?;
        change.audit("key.create", &id, None, Some(json!(key))).await?;
        change.commit().await?;
        Ok((key, true))
    }

    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn key(&self, id: &str) -> Result<Key, StoreError> {
        // One transaction, so that key and versions are of one moment.
        let mut tx = self.db.read().await?;
        load_key(&mut tx, id).await
    }

    /// Up to `limit` keys in the order of their ids, after `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn keys(&self, filter: &KeyFilter, after: &str, limit: u32) -> Result<Vec<Key>, StoreError> {
        let mut tx = self.db.read().await?;
        let labelled = label_conditions(self.db.dialect, "k", &filter.labels, 5);
        let sql = format!(
            "{KEY} WHERE k.id > $1 AND (CAST($2 AS TEXT) IS NULL OR c.name = $2)
             AND (CAST($3 AS TEXT) IS NULL OR k.schedule = $3){labelled} ORDER BY k.id LIMIT $4"
        );
        let schedule = filter.schedule.map(|state| json!(state));
        let query = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(after)
            .bind(&filter.client)
            .bind(schedule.as_ref().and_then(Value::as_str))
            .bind(i64::from(limit));
        let rows = bind_labels(query, &filter.labels).fetch_all(&mut *tx).await?;
        let mut keys = rows.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Ok(keys);
        }
        let parameters = parameters(keys.len(), 1);
        let sql = format!("{VERSION} WHERE key_id IN ({parameters}) ORDER BY created_at, id");
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for key in &keys {
            query = query.bind(key.id.clone());
        }
        for row in query.fetch_all(&mut *tx).await? {
            let version = version(&row)?;
            if let Ok(at) = keys.binary_search_by(|key| key.id.cmp(&version.key))
                && let Some(key) = keys.get_mut(at)
            {
                key.versions.push(version.into());
            }
        }
        Ok(keys)
    }
}

impl Store {
    /// Changes what is said of a key. What proxies enforce of it they learn at once: each of its versions takes a
    /// revision.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such key or policy, the labels would break a rule, the key has ended and is to get other scopes
    /// or another end, or a version of it begins only after that.
    pub async fn update_key(
        &self,
        context: &Context,
        id: &str,
        update: &KeyUpdate,
    ) -> Result<Key, StoreError> {
        let mut change = self.begin(context).await?;
        let before = change.key(id).await?;
        let labels = labels::changed(&before.labels, &update.labels).ok_or(Refusal::Labels)?;
        let policy = update.policy.as_ref().unwrap_or(&before.policy);
        let scopes = update.scopes.as_ref().unwrap_or(&before.scopes);
        let until = before.expires_at.and_then(time::millis);
        let expires_at = update.expires_at.unwrap_or(until);
        let enforced = *scopes != before.scopes || expires_at != until;
        if labels == before.labels && *policy == before.policy && !enforced {
            return Ok(before);
        }
        let policy = change.policy_id(policy.as_deref()).await?;
        sqlx::query(
            "UPDATE keys SET labels = $1, policy_id = $2, scopes = $3, expires_at = $4 WHERE id = $5",
        )
        .bind(json!(labels).to_string())
        .bind(policy)
        .bind(json!(scopes).to_string())
        .bind(expires_at.map(|at| int(at.0)))
        .bind(id)
        .execute(&mut *change.tx)
        .await?;
        if enforced {
            change.refuse_ended(&before)?;
            change.republish(id, expires_at).await?;
        }
        let key = change.audit_key("key.update", id, &before).await?;
        change.commit().await?;
        Ok(key)
    }

    /// Publishes a version beside those that are accepted. Repeated with the same version and digest it returns
    /// the key as it is, and `false`.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such key, its policy allows no more versions, it has ended, the version or digest is taken,
    /// or the digest is compromised.
    pub async fn add_version(
        &self,
        context: &Context,
        key: &str,
        id: &VersionId,
        digest: Digest,
        not_before: Option<Millis>,
    ) -> Result<(Key, bool), StoreError> {
        let mut change = self.begin(context).await?;
        let before = change.key(key).await?;
        if let Some(existing) = change.version(id.as_str()).await? {
            let same = existing.key == key && existing.digest == digest && existing.not_before == not_before;
            return if same { Ok((before, false)) } else { Err(Refusal::VersionExists(existing.id).into()) };
        }
        let expires_at = change.refuse_ended(&before)?;
        let terms = change.terms(key).await?;
        let Some(most) = terms.and_then(|terms| terms.max_versions) else {
            let why = "the policy that it follows sets no `max_versions`";
            return Err(Refusal::Policy { key: before.id, why: why.into() }.into());
        };
        let versions = change.versions(key).await?;
        change.refuse_more_versions(key, &versions, most)?;
        let ring = change.ring_id(&before.ring).await?;
        let version = NewVersion { id, digest, not_before, expires_at };
        change.insert_version(key, ring, &version).await?;
        let key = change.audit_key("version.add", id.as_str(), &before).await?;
        change.commit().await?;
        Ok((key, true))
    }
}

impl Change<'_> {
    /// Tells proxies of every version of a key again, since something of the key changed that they enforce. Denied
    /// ones, too: a page and a run must not say two things of one revision.
    async fn republish(&mut self, key: &str, expires_at: Option<Millis>) -> Result<(), StoreError> {
        for version in self.versions(key).await?.iter().filter(|version| version.removed_at.is_none()) {
            let expires_at = if version.state.is_denied() { version.expires_at } else { expires_at };
            if let Some(begins) = version.not_before.filter(|_| version.state == State::Pending)
                && expires_at.is_some_and(|end| end <= begins)
            {
                let (version, at) = (version.id.clone(), timestamp(begins));
                return Err(Refusal::EndsBeforeItBegins { version, at }.into());
            }
            let revisions = self.revisions(version.ring, &version.id, version.state.is_denied()).await?;
            sqlx::query(
                "UPDATE versions SET revision = $1, canary_revision = $2, promote_at = $3, expires_at = $4
                 WHERE id = $5",
            )
            .bind(revisions.main)
            .bind(revisions.canary)
            .bind(revisions.promote_at)
            .bind(expires_at.map(|at| int(at.0)))
            .bind(&version.id)
            .execute(&mut *self.tx)
            .await?;
        }
        Ok(())
    }

    /// When the key expires.
    ///
    /// # Errors
    ///
    /// [`Refusal`] for a key that takes no new version.
    pub(super) fn refuse_ended(&self, key: &Key) -> Result<Option<Millis>, StoreError> {
        if key.revoked_at.is_some() {
            return Err(Refusal::KeyRevoked(key.id.clone()).into());
        }
        let expires_at = key.expires_at.and_then(time::millis);
        if expires_at.is_some_and(|at| at <= self.now()) {
            return Err(Refusal::KeyExpired(key.id.clone()).into());
        }
        Ok(expires_at)
    }

    /// # Errors
    ///
    /// [`Refusal::Policy`] if one more would be too many.
    pub(super) fn refuse_more_versions(
        &self,
        key: &str,
        versions: &[VersionRow],
        most: u32,
    ) -> Result<(), StoreError> {
        let live = versions.iter().filter(|version| !version.state.is_denied()).count();
        if u32::try_from(live).is_ok_and(|live| live < most) {
            return Ok(());
        }
        let why = format!("it has {live} versions, and its policy allows {most} at one time");
        Err(Refusal::Policy { key: key.to_owned(), why }.into())
    }

    /// Publishes a new version, which takes one revision, of the canary if the ring has one. Returns until when it waits
    /// there.
    pub(super) async fn insert_version(
        &mut self,
        key: &str,
        ring: i64,
        new: &NewVersion<'_>,
    ) -> Result<Option<Millis>, StoreError> {
        self.refuse_compromised(&[new.digest]).await?;
        let pending = new.not_before.is_some_and(|at| at > self.now());
        let state = if pending { State::Pending } else { State::Active };
        let revisions = self.revisions_of_new(ring, new.id.as_str()).await?;
        sqlx::query(
            "INSERT INTO versions
             (id, key_id, ring_id, digest, state, not_before, expires_at, revision, canary_revision, promote_at,
              created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(new.id.as_str())
        .bind(key)
        .bind(ring)
        .bind(new.digest.as_bytes().as_slice())
        .bind(state_name(state))
        .bind(new.not_before.map(|at| int(at.0)))
        .bind(new.expires_at.map(|at| int(at.0)))
        .bind(revisions.main)
        .bind(revisions.canary)
        .bind(revisions.promote_at)
        .bind(int(self.context.now.0))
        .execute(&mut *self.tx)
        .await
        .map_err(|error| unless_taken(error, || Refusal::DigestTaken))?;
        Ok(revisions.promote_at.map(|at| Millis(uint(at))))
    }

    /// Moves a version to its next state, which takes one revision, and one of the canary.
    pub(super) async fn apply(&mut self, version: &VersionRow, event: Event) -> Result<(), StoreError> {
        let state = match lifecycle::next(version.state, event)? {
            // It ended before its time had come, which is still when it begins.
            State::Active
                if event == Event::Reinstate && version.not_before.is_some_and(|at| at > self.now()) =>
            {
                State::Pending
            }
            state => state,
        };
        if event == Event::Compromise {
            self.remember_compromised(version.digest).await?;
        }
        // What is active has no end of overlap; what ended keeps it for the record.
        let retire_at = version.retire_at.filter(|_| state != State::Active);
        let ended_at = state.is_denied().then_some(int(self.context.now.0));
        let revisions = self.revisions(version.ring, &version.id, state.is_denied()).await?;
        // Proxies hear again of a version that they had forgotten, should its state still change. A brown-out
        // belongs to one overlap.
        sqlx::query(
            "UPDATE versions SET state = $1, retire_at = $2, ended_at = $3, removed_at = NULL, revision = $4,
             brownout_share = NULL, brownout_until = NULL, canary_revision = $8, promote_at = $9,
             reinstated_in = CASE WHEN $5 THEN (SELECT epoch FROM rings WHERE rings.id = ring_id)
                                  WHEN $6 THEN NULL ELSE reinstated_in END
             WHERE id = $7",
        )
        .bind(state_name(state))
        .bind(retire_at.map(|at| int(at.0)))
        .bind(ended_at)
        .bind(revisions.main)
        .bind(event == Event::Reinstate)
        .bind(state.is_denied())
        .bind(&version.id)
        .bind(revisions.canary)
        .bind(revisions.promote_at)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    pub(super) async fn version(&mut self, id: &str) -> Result<Option<VersionRow>, StoreError> {
        load_version(&mut self.tx, id).await
    }

    pub(super) async fn versions(&mut self, key: &str) -> Result<Vec<VersionRow>, StoreError> {
        load_versions(&mut self.tx, key).await
    }

    pub(super) async fn key(&mut self, id: &str) -> Result<Key, StoreError> {
        load_key(&mut self.tx, id).await
    }

    pub(super) async fn ring_id(&mut self, name: &str) -> Result<i64, StoreError> {
        let row =
            sqlx::query("SELECT id FROM rings WHERE name = $1").bind(name).fetch_optional(&mut *self.tx);
        let row = row.await?.ok_or_else(|| Refusal::NotFound { what: "ring", name: name.to_owned() })?;
        Ok(row.try_get(0)?)
    }

    pub(super) async fn client_id(&mut self, name: &str) -> Result<i64, StoreError> {
        let row =
            sqlx::query("SELECT id FROM clients WHERE name = $1").bind(name).fetch_optional(&mut *self.tx);
        let row = row.await?.ok_or_else(|| Refusal::NotFound { what: "client", name: name.to_owned() })?;
        Ok(row.try_get(0)?)
    }
}

/// ` AND …` for each label, whose name and value are parameters from number `first` on.
pub(super) fn label_conditions(
    dialect: Dialect,
    table: &str,
    labels: &[(String, Option<String>)],
    first: usize,
) -> String {
    let mut conditions = String::new();
    let mut next = first;
    for (_, value) in labels {
        let value_of = match dialect {
            Dialect::Sqlite => format!("({table}.labels ->> CAST(${next} AS TEXT))"),
            Dialect::Postgres => format!("({table}.labels::jsonb ->> CAST(${next} AS TEXT))"),
        };
        next = next.saturating_add(1);
        if value.is_some() {
            conditions.push_str(&format!(" AND {value_of} = ${next}"));
            next = next.saturating_add(1);
        } else {
            conditions.push_str(&format!(" AND {value_of} IS NOT NULL"));
        }
    }
    conditions
}

pub(super) fn bind_labels<'q>(
    mut query: Query<'q, Any, AnyArguments>,
    labels: &'q [(String, Option<String>)],
) -> Query<'q, Any, AnyArguments> {
    for (name, value) in labels {
        query = query.bind(name);
        if let Some(value) = value {
            query = query.bind(value);
        }
    }
    query
}

pub(super) async fn load_key(connection: &mut AnyConnection, id: &str) -> Result<Key, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{KEY} WHERE k.id = $1"));
    let row = sqlx::query(sql).bind(id).fetch_optional(&mut *connection).await?;
    let row = row.ok_or_else(|| Refusal::NotFound { what: "key", name: id.to_owned() })?;
    let mut key = key(&row)?;
    key.versions = load_versions(connection, id).await?.into_iter().map(Into::into).collect();
    Ok(key)
}

pub(super) async fn load_version(
    connection: &mut AnyConnection,
    id: &str,
) -> Result<Option<VersionRow>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{VERSION} WHERE id = $1"));
    let row = sqlx::query(sql).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(version).transpose()
}

pub(super) async fn load_versions(
    connection: &mut AnyConnection,
    key: &str,
) -> Result<Vec<VersionRow>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{VERSION} WHERE key_id = $1 ORDER BY created_at, id"));
    let rows = sqlx::query(sql).bind(key).fetch_all(connection).await?;
    rows.iter().map(version).collect()
}
