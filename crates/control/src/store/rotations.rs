use keywheel_api::time::{self, timestamp};
use keywheel_api::{Retire, Rotation, RotationEnd, RotationState, State};
use keywheel_keyring::{Digest, Millis, VersionId};
use serde_json::json;
use sqlx::AnyConnection;

use super::change::{Change, Context};
use super::keys::NewVersion;
use super::rows::{VersionRow, int, optional_time, rotation, share, time as time_of};
use super::{Refusal, Store, StoreError};
use crate::ids;
use crate::lifecycle::{self, Event, Turn, accepted_until};

const ROTATION: &str = "SELECT id, key_id, old_version, new_version, state, ended_by, begins_at,
    overlap_ends_at, deadline, created_at, ended_at, retire, quiet, automatic, waits_for, evidence, only_old,
    CASE WHEN waits_for IS NOT NULL THEN (SELECT rings.promote FROM keys JOIN rings ON rings.canary_of = keys.ring_id
        WHERE keys.id = rotations.key_id) END AS canary_promote
    FROM rotations ";

/// A rotation to start.
#[derive(Debug, Clone)]
pub struct NewRotation {
    pub key: String,
    /// Milliseconds; what the key's policy says when absent.
    pub overlap: Option<u64>,
    /// From when on the new version is accepted; at once when absent or past.
    pub not_before: Option<Millis>,
    /// Whether to take the place of a rotation that is open.
    pub supersede: bool,
    /// The version that gives way. When absent, the newest active one, and with it every other.
    pub replaces: Option<String>,
    /// Whether its schedule starts it.
    pub automatic: bool,
    pub version: VersionId,
    pub digest: Digest,
}

impl NewRotation {
    /// A rotation at once, by the terms of the key's policy.
    #[must_use]
    pub const fn to(key: String, version: VersionId, digest: Digest) -> Self {
        Self {
            key,
            overlap: None,
            not_before: None,
            supersede: false,
            replaces: None,
            automatic: false,
            version,
            digest,
        }
    }

    /// Whether this is the request that `made` and its new version came from.
    pub(super) fn repeats(&self, made: &Rotation, version: &VersionRow) -> bool {
        made.key == self.key
            && self.overlap.is_none_or(|asked| overlap(made) == Some(asked))
            && self.replaces.as_ref().is_none_or(|replaces| made.old_version == *replaces)
            && version.digest == self.digest
            && version.not_before == self.not_before
    }
}

/// Which rotations to list; all of them by default.
#[derive(Debug, Clone, Default)]
pub struct RotationFilter {
    pub key: Option<String>,
    pub client: Option<String>,
    pub open: Option<bool>,
    /// Of keys of these rings only.
    pub rings: Option<Vec<String>>,
}

/// What becomes of the new version of a rotation that is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollBackTo {
    /// It is accepted for so many milliseconds more; without a number, for as long as the rotation's own
    /// overlap.
    Overlap(Option<u64>),
    Revoke,
}

impl Store {
    /// Publishes a new version, then gives the old one its deadline. Without an overlap the old one
    /// retires in the same transaction; with a `not_before` it stays as it is until then. Repeated with
    /// the same version and digest it returns what the first call made, and `false`.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such key, a rotation is open and not to be superseded, the key is revoked, not
    /// accepted yet or has expired, the version or digest is taken, or the digest is compromised.
    pub async fn start_rotation(
        &self,
        context: &Context,
        new: &NewRotation,
    ) -> Result<(Rotation, bool), StoreError> {
        let mut change = self.begin(context).await?;
        let (rotation, started) = change.start(new).await?;
        if started {
            change.commit().await?;
        }
        Ok((rotation, started))
    }

    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn rotation(&self, id: &str) -> Result<Rotation, StoreError> {
        let mut connection = self.db.readers().acquire().await?;
        load(&mut connection, id).await
    }

    /// Up to `limit` rotations in the order of their ids, after `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn rotations(
        &self,
        filter: &RotationFilter,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Rotation>, StoreError> {
        let mut sql = format!("{ROTATION} WHERE id > $1");
        let mut texts: Vec<&str> = Vec::new();
        let mut place = |text| {
            texts.push(text);
            // After `after` and the limit.
            texts.len().saturating_add(2)
        };
        if let Some(key) = &filter.key {
            sql.push_str(&format!(" AND key_id = ${}", place(key)));
        }
        if let Some(client) = &filter.client {
            let of = "SELECT k.id FROM keys k JOIN clients c ON c.id = k.client_id WHERE c.name";
            sql.push_str(&format!(" AND key_id IN ({of} = ${})", place(client)));
        }
        if let Some(rings) = &filter.rings {
            let of = "SELECT k.id FROM keys k JOIN rings r ON r.id = k.ring_id WHERE r.name";
            let places: Vec<_> = rings.iter().map(|ring| format!("${}", place(ring))).collect();
            sql.push_str(&format!(" AND key_id IN ({of} IN ({}))", places.join(", ")));
        }
        sql.push_str(match filter.open {
            Some(true) => " AND ended_at IS NULL",
            Some(false) => " AND ended_at IS NOT NULL",
            None => "",
        });
        sql.push_str(" ORDER BY id LIMIT $2");
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(after).bind(i64::from(limit));
        for text in texts {
            query = query.bind(text);
        }
        query.fetch_all(self.db.readers()).await?.iter().map(rotation).collect()
    }

    /// Makes the old version active again, and then gives the new one a deadline or ends it. Rolling back
    /// twice is rolling back once, but for a new version that is to end now.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such rotation, it has ended, or the key has expired.
    pub async fn roll_back(
        &self,
        context: &Context,
        id: &str,
        to: RollBackTo,
    ) -> Result<Rotation, StoreError> {
        let mut change = self.begin(context).await?;
        let rotation = change.rotation(id).await?;
        let new = change.version_in(&rotation, &rotation.new_version).await?;
        if rotation.ended_by == Some(RotationEnd::RolledBack) {
            if to != RollBackTo::Revoke || new.state != State::Retiring {
                return Ok(rotation);
            }
            let key = change.key(&rotation.key).await?;
            change.apply(&new, Event::Revoke).await?;
            change.audit_key("version.revoke", &new.id, &key).await?;
            change.commit().await?;
            return Ok(rotation);
        }
        let rotation = change.take_back(&rotation, to).await?;
        change.commit().await?;
        Ok(rotation)
    }

    /// Takes a rotation back whose new version is not accepted yet. Cancelling twice is cancelling once.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such rotation, it has begun, or it has ended.
    pub async fn cancel_rotation(&self, context: &Context, id: &str) -> Result<Rotation, StoreError> {
        let mut change = self.begin(context).await?;
        let rotation = change.rotation(id).await?;
        if rotation.ended_by == Some(RotationEnd::Cancelled) {
            return Ok(rotation);
        }
        let new = change.version_in(&rotation, &rotation.new_version).await?;
        // Proxies accept the version from its `not_before` on, whether the scheduler came by or not; those of a canary
        // are the first to.
        let begun = new.promote_at.is_none() && new.not_before.is_none_or(|at| at <= context.now);
        match lifecycle::turn(rotation.state, Turn::Cancel) {
            Err(lifecycle::NoTurn::Ended) => return Err(Refusal::RotationEnded(rotation.id).into()),
            Ok(_) if !begun => {}
            _ => return Err(Refusal::RotationBegun(rotation.id).into()),
        }
        let key = change.key(&rotation.key).await?;
        change.apply(&new, Event::Revoke).await?;
        change.end_rotation(&rotation, Turn::Cancel, RotationEnd::Cancelled).await?;
        change.audit_key("rotation.cancel", id, &key).await?;
        let rotation = change.rotation(id).await?;
        change.commit().await?;
        Ok(rotation)
    }
}

impl Change<'_> {
    /// Starts a rotation, or finds that it was started before, and says which.
    pub(super) async fn start(&mut self, new: &NewRotation) -> Result<(Rotation, bool), StoreError> {
        let now = self.now();
        let key = self.key(&new.key).await?;
        if let Some(existing) = self.version(new.version.as_str()).await? {
            let made = self.rotation_that_made(&existing.id).await?;
            return match made {
                Some(made) if new.repeats(&made, &existing) => Ok((made, false)),
                _ => Err(Refusal::VersionExists(existing.id).into()),
            };
        }
        if key.revoked_at.is_some() {
            return Err(Refusal::KeyRevoked(key.id).into());
        }
        let terms = self.terms(&new.key).await?;
        let open = self.open_rotation(&key.id).await?;
        if let Some(open) = open.as_ref().filter(|_| !new.supersede) {
            return Err(Refusal::RotationOpen(open.id.clone()).into());
        }
        let expires_at = self.refuse_ended(&key)?;
        let versions = self.versions(&key.id).await?;
        let most = terms.as_ref().and_then(|terms| terms.max_versions);
        if let Some(most) = most.filter(|_| !new.supersede) {
            self.refuse_more_versions(&key.id, &versions, most)?;
        }
        let mut active = versions.iter().filter(|version| version.state == State::Active);
        let old = match &new.replaces {
            Some(id) => {
                let found = active.find(|version| version.id == *id);
                Some(found.ok_or_else(|| Refusal::NotFound { what: "active version", name: id.clone() })?)
            }
            // Where versions stand beside each other, one gives way at a time.
            None if new.automatic && most.is_some() => active.next(),
            // After a reinstatement there may be several; the newest is what most clients have.
            None => active.next_back(),
        };
        let only_old = new.replaces.is_some() || new.automatic && most.is_some();
        let Some(old) = old else {
            let pending = versions.iter().find(|version| version.state == State::Pending);
            return Err(match pending.and_then(|version| version.not_before) {
                Some(at) => Refusal::KeyPending { key: key.id, at: timestamp(at) },
                None => Refusal::KeyRevoked(key.id),
            }
            .into());
        };

        // The new version first: no proxy may see the old one end before it has the new one.
        let version =
            NewVersion { id: &new.version, digest: new.digest, not_before: new.not_before, expires_at };
        let waits_until = self.insert_version(&key.id, old.ring, &version).await?;
        if let Some(open) = &open {
            self.give_way(open).await?;
        }
        let Some(overlap) =
            new.overlap.or_else(|| Some(terms.as_ref()?.overlap_seconds.saturating_mul(1000)))
        else {
            return Err(Refusal::NoOverlap(key.id).into());
        };
        if self.deposited(&key.id).await?.is_some_and(|(id, _)| id == new.version) {
            self.set_deposit(&key.id, None).await?;
        }
        let terms = terms.unwrap_or_default();
        let begins_at = new.not_before.max(waits_until).map_or(now, |at| at.max(now));
        let waits_for = match waits_until {
            Some(until) => self.waits_for_canary(old.ring, until).await?,
            None => None,
        };
        // The old version ends by itself before, where that is earlier.
        let ends_at = accepted_until(Some(Millis(begins_at.0.saturating_add(overlap))), old.expires_at);
        let ends_at = ends_at.unwrap_or_default().max(begins_at);
        let retire = json!(terms.retire);
        let id = ids::new("rot", now)?;
        sqlx::query(
            "INSERT INTO rotations
             (id, key_id, old_version, new_version, state, begins_at, overlap_ends_at, deadline, created_at,
              retire, quiet, automatic, only_old, brownout_share, brownout_before, waits_for)
             VALUES ($1, $2, $3, $4, 'distributing', $5, $6, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind(&id)
        .bind(&key.id)
        .bind(&old.id)
        .bind(new.version.as_str())
        .bind(int(begins_at.0))
        .bind(int(ends_at.0))
        .bind(int(now.0))
        .bind(retire.as_str())
        .bind(terms.quiet_period_seconds.map(|seconds| int(seconds.saturating_mul(1000))))
        .bind(i64::from(new.automatic))
        .bind(i64::from(only_old))
        .bind(terms.brownout.map(|plan| share(plan.share)))
        .bind(terms.brownout.map(|plan| int(plan.before_seconds.saturating_mul(1000))))
        .bind(waits_for.map(|reason| json!([reason]).to_string()))
        .execute(&mut *self.tx)
        .await?;
        self.count_for_campaigns(&id, &key.id, &old.id, only_old).await?;
        let begins_now = begins_at <= now;
        if begins_now {
            let rotation = self.rotation(&id).await?;
            self.begin_overlap(&rotation).await?;
        }
        self.audit_key("rotation.start", &id, &key).await?;
        if begins_now {
            self.complete_if_over(&id).await?;
        }
        let rotation = self.rotation(&id).await?;
        Ok((rotation, true))
    }

    /// Makes the old version of an open rotation active again, and gives the new one a deadline or ends it.
    ///
    /// # Errors
    ///
    /// [`Refusal`], before anything changed: it has ended, or the key has expired.
    pub(super) async fn take_back(
        &mut self,
        rotation: &Rotation,
        to: RollBackTo,
    ) -> Result<Rotation, StoreError> {
        // A deadline that passed while nobody was looking is not undone: proxies have kept it.
        let over = rotation.state != RotationState::Distributing
            && time::millis(rotation.overlap_ends_at).is_none_or(|at| at <= self.now());
        if over || lifecycle::turn(rotation.state, Turn::RollBack).is_err() {
            return Err(Refusal::RotationEnded(rotation.id.clone()).into());
        }
        let new = self.version_in(rotation, &rotation.new_version).await?;
        let old = self.version_in(rotation, &rotation.old_version).await?;
        if old.expires_at.is_some_and(|at| at <= self.now()) {
            return Err(Refusal::KeyExpired(rotation.key.clone()).into());
        }
        let key = self.key(&rotation.key).await?;
        // The old version first: at no moment may a proxy have neither.
        for old in self.superseded_by(rotation).await? {
            self.apply(&old, Event::Restore).await?;
        }
        let kept = match to {
            RollBackTo::Overlap(overlap) => overlap.or_else(|| self::overlap(rotation)),
            RollBackTo::Revoke => None,
        };
        match kept {
            Some(overlap) if new.state == State::Active && new.promote_at.is_none() => {
                self.supersede(new, overlap).await?;
            }
            // What nobody could use yet, or a canary alone accepts, has nobody to move.
            _ => self.apply(&new, Event::Revoke).await?,
        }
        self.end_rotation(rotation, Turn::RollBack, RotationEnd::RolledBack).await?;
        self.audit_key("rotation.rollback", &rotation.id, &key).await?;
        self.rotation(&rotation.id).await
    }

    pub(super) async fn rotation(&mut self, id: &str) -> Result<Rotation, StoreError> {
        load(&mut self.tx, id).await
    }

    /// The rotation of a key that goes on.
    pub(super) async fn open_rotation(&mut self, key: &str) -> Result<Option<Rotation>, StoreError> {
        load_open(&mut self.tx, key).await
    }

    pub(super) async fn end_rotation(
        &mut self,
        rotation: &Rotation,
        turn: Turn,
        ended_by: RotationEnd,
    ) -> Result<(), StoreError> {
        let state = lifecycle::turn(rotation.state, turn)?;
        self.settle_for_campaigns(rotation, state, ended_by).await?;
        let (state, ended_by) = (json!(state), json!(ended_by));
        sqlx::query(
            "UPDATE rotations SET state = $1, ended_by = $2, ended_at = $3, check_at = NULL, brownout_at = NULL,
                 waits_for = CASE WHEN state = 'distributing' THEN NULL ELSE waits_for END
             WHERE id = $4",
        )
            .bind(state.as_str())
            .bind(ended_by.as_str())
            .bind(int(self.context.now.0))
            .bind(&rotation.id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Gives every other active version of the key its deadline, since the new one is accepted now. The
    /// overlap counts from now: who was late with the beginning must not shorten it.
    pub(super) async fn begin_overlap(&mut self, rotation: &Rotation) -> Result<(), StoreError> {
        let now = self.now();
        let ends_at = Millis(now.0.saturating_add(overlap(rotation).unwrap_or_default()));
        let own_end = self.version_in(rotation, &rotation.old_version).await?.expires_at;
        let ends_at = accepted_until(Some(ends_at), own_end).unwrap_or_default().max(now);
        lifecycle::turn(rotation.state, Turn::Begin)?;
        let row = sqlx::query(
            "UPDATE rotations SET state = 'overlapping', begins_at = $1, overlap_ends_at = $2, deadline = $2
             WHERE id = $3 RETURNING quiet, brownout_before, only_old",
        )
        .bind(int(now.0))
        .bind(int(ends_at.0))
        .bind(&rotation.id)
        .fetch_one(&mut *self.tx)
        .await?;
        let quiet = optional_time(&row, "quiet")?.filter(|_| rotation.retire == Retire::WhenUnused);
        let brownout = optional_time(&row, "brownout_before")?;
        let brownout_at = brownout.map(|before| ends_at.0.saturating_sub(before.0).max(now.0));
        sqlx::query("UPDATE rotations SET check_at = $1, brownout_at = $2 WHERE id = $3")
            .bind(quiet.map(|quiet| int(now.0.saturating_add(quiet.0))))
            .bind(brownout_at.map(int))
            .bind(&rotation.id)
            .execute(&mut *self.tx)
            .await?;
        let only_old = time_of(&row, "only_old")?.0 != 0;
        for mut old in self.versions(&rotation.key).await? {
            let gives_way =
                if only_old { old.id == rotation.old_version } else { old.id != rotation.new_version };
            if old.state == State::Active && gives_way {
                old.retire_at = Some(ends_at);
                self.apply(&old, Event::Supersede).await?;
            }
        }
        Ok(())
    }

    /// Completes a rotation that has no overlap as soon as it has begun.
    pub(super) async fn complete_if_over(&mut self, id: &str) -> Result<(), StoreError> {
        let rotation = self.rotation(id).await?;
        if time::millis(rotation.overlap_ends_at).is_some_and(|at| at <= self.now()) {
            self.complete(&rotation).await?;
        }
        Ok(())
    }

    /// Retires the versions that the rotation superseded.
    pub(super) async fn complete(&mut self, rotation: &Rotation) -> Result<(), StoreError> {
        let key = self.key(&rotation.key).await?;
        for old in self.superseded_by(rotation).await? {
            self.apply(&old, Event::Retire).await?;
        }
        let unused = rotation.state == RotationState::Draining;
        let ended_by = if unused { RotationEnd::Unused } else { RotationEnd::Deadline };
        self.end_rotation(rotation, Turn::Complete, ended_by).await?;
        self.audit_rotation("rotation.complete", &rotation.id, &key).await
    }

    /// The versions to which an open rotation gave its deadline: the old one, and what was reinstated
    /// beside it.
    pub(super) async fn superseded_by(&mut self, rotation: &Rotation) -> Result<Vec<VersionRow>, StoreError> {
        let ends_at = time::millis(rotation.overlap_ends_at);
        let mut versions = self.versions(&rotation.key).await?;
        versions.retain(|version| version.state == State::Retiring && version.retire_at == ends_at);
        Ok(versions)
    }

    pub(super) async fn version_in(
        &mut self,
        rotation: &Rotation,
        id: &str,
    ) -> Result<VersionRow, StoreError> {
        let missing = || StoreError::Corrupt(format!("rotation {} without version {id}", rotation.id));
        self.version(id).await?.ok_or_else(missing)
    }

    /// Gives an active version a deadline; one that is over already ends it.
    async fn supersede(&mut self, mut version: VersionRow, overlap: u64) -> Result<(), StoreError> {
        version.retire_at = Some(Millis(self.now().0.saturating_add(overlap)));
        self.apply(&version, Event::Supersede).await?;
        if overlap == 0 {
            version.state = State::Retiring;
            self.apply(&version, Event::Retire).await?;
        }
        Ok(())
    }

    /// Ends an open rotation in favour of the next one. A version that is retiring keeps its deadline, and one
    /// that was never accepted ends.
    async fn give_way(&mut self, open: &Rotation) -> Result<(), StoreError> {
        let new = self.version_in(open, &open.new_version).await?;
        let turn = if new.state == State::Pending || new.promote_at.is_some() {
            self.apply(&new, Event::Revoke).await?;
            Turn::Cancel
        } else {
            Turn::Complete
        };
        self.end_rotation(open, turn, RotationEnd::Superseded).await
    }

    async fn rotation_that_made(&mut self, version: &str) -> Result<Option<Rotation>, StoreError> {
        load_maker(&mut self.tx, version).await
    }
}

/// In milliseconds.
fn overlap(rotation: &Rotation) -> Option<u64> {
    let begins_at = time::millis(rotation.begins_at)?;
    Some(time::millis(rotation.deadline)?.saturating_since(begins_at))
}

/// The rotation of a key that goes on.
pub(super) async fn load_open(
    connection: &mut AnyConnection,
    key: &str,
) -> Result<Option<Rotation>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{ROTATION} WHERE key_id = $1 AND ended_at IS NULL"));
    let row = sqlx::query(sql).bind(key).fetch_optional(connection).await?;
    row.as_ref().map(rotation).transpose()
}

/// The rotation that made a version.
pub(super) async fn load_maker(
    connection: &mut AnyConnection,
    version: &str,
) -> Result<Option<Rotation>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{ROTATION} WHERE new_version = $1"));
    let row = sqlx::query(sql).bind(version).fetch_optional(connection).await?;
    row.as_ref().map(rotation).transpose()
}

async fn load(connection: &mut AnyConnection, id: &str) -> Result<Rotation, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{ROTATION} WHERE id = $1"));
    let row = sqlx::query(sql).bind(id).fetch_optional(connection).await?;
    let row = row.ok_or_else(|| Refusal::NotFound { what: "rotation", name: id.to_owned() })?;
    rotation(&row)
}
