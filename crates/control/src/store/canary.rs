//! Canaries: rings that show the versions of their main ring by revisions of their own, and get what is new first.
//!
//! A version that is new waits: its main ring has no revision of it, but a number below 0, so that no run of changes
//! and no page there has it. Whatever else happens to a version takes a revision in both rings in one transaction;
//! while it waits, in the canary alone, unless it is denied.

use keywheel_api::time::{millis, timestamp};
use keywheel_api::{Promote, Rotation, RotationState, State, UpdateRing, WaitsFor};
use keywheel_keyring::Millis;
use serde_json::json;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::change::{Change, Context};
use super::keys::VERSION;
use super::rows::{VersionRow, int, named, time, uint};
use super::{Refusal, RingRecord, Store, StoreError};
use crate::canary::Because;

/// Versions that are promoted in one transaction: revocations wait for it.
const TOGETHER: usize = 50;
/// Versions that are looked at together.
const LOOKED_AT: i64 = 1_000;

/// The canary of a ring, for changes of that ring.
#[derive(Debug, Clone)]
pub(super) struct Canary {
    id: i64,
    pub(super) name: String,
    /// Milliseconds.
    pause: u64,
}

/// Which ring a canary goes ahead of, for whoever reads it. That never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryOf {
    pub ring: i64,
    pub name: String,
    /// The main ring's revision when the canary was made.
    pub base: u64,
}

/// When what waits in a canary goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CanaryRule {
    pub promote: Promote,
    /// Milliseconds.
    pub pause: u64,
    /// Versions that wait.
    pub waiting: u64,
}

/// A version that the canary alone has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub version: String,
    /// The main ring.
    pub ring: i64,
    pub canary_revision: u64,
    pub promote_at: Millis,
}

/// A version that its main ring has from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct Promotion {
    pub key: String,
    pub version: String,
    pub because: Because,
    /// That began with it.
    pub rotation: Option<Rotation>,
}

/// The revisions that a change of a version takes, as their columns hold them.
pub(super) struct Revisions {
    pub(super) main: i64,
    pub(super) canary: Option<i64>,
    pub(super) promote_at: Option<i64>,
}

impl Store {
    /// Of a canary.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn canary_rule(&self, ring: &RingRecord) -> Result<Option<CanaryRule>, StoreError> {
        let Some(canary) = &ring.canary else { return Ok(None) };
        let row = sqlx::query(
            "SELECT promote, pause, (SELECT count(*) FROM versions WHERE ring_id = $1 AND promote_at IS NOT NULL)
                 AS waiting FROM rings WHERE id = $2",
        )
        .bind(canary.ring)
        .bind(ring.id)
        .fetch_one(self.db.readers())
        .await?;
        Ok(Some(rule(&row)?))
    }

    /// Those that wait for longest, as far as they are looked at together: in the order in which they are to go on.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn waiting(&self, main: i64) -> Result<Vec<Waiting>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, ring_id, canary_revision, promote_at FROM versions
             WHERE ring_id = $1 AND promote_at IS NOT NULL ORDER BY promote_at, canary_revision LIMIT $2",
        )
        .bind(main)
        .bind(LOOKED_AT)
        .fetch_all(self.db.readers())
        .await?;
        rows.iter().map(waiting).collect()
    }

    /// When the first version that waits goes to this main ring at the latest.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn next_promotion(&self, main: i64) -> Result<Option<Millis>, StoreError> {
        let sql = "SELECT promote_at FROM versions WHERE ring_id = $1 AND promote_at IS NOT NULL
                   ORDER BY promote_at LIMIT 1";
        let row = sqlx::query(sql).bind(main).fetch_optional(self.db.readers()).await?;
        row.as_ref().map(|row| time(row, "promote_at")).transpose()
    }

    /// A version as it waits now; nothing if its main ring has it.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn still_waiting(&self, version: &str) -> Result<Option<Waiting>, StoreError> {
        let sql = "SELECT id, ring_id, canary_revision, promote_at FROM versions
                   WHERE id = $1 AND promote_at IS NOT NULL";
        let row = sqlx::query(sql).bind(version).fetch_optional(self.db.readers()).await?;
        row.as_ref().map(waiting).transpose()
    }

    /// Brings versions to their main ring, up to 50 in a transaction, and begins the rotations that waited for it. What
    /// changed since it was judged is left for the next time, and so is what somebody else was faster with.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was promoted before it stays so.
    pub async fn promote(
        &self,
        context: &Context,
        judged: &[(Waiting, Because)],
    ) -> Result<Vec<Promotion>, StoreError> {
        let mut done = Vec::new();
        for together in judged.chunks(TOGETHER) {
            let mut change = self.begin(context).await?;
            let before = done.len();
            for (waiting, because) in together {
                let version = change.version(&waiting.version).await?;
                let as_judged = |version: &VersionRow| {
                    version.promote_at == Some(waiting.promote_at)
                        && version.canary_revision == Some(waiting.canary_revision)
                };
                if let Some(version) = version.filter(as_judged) {
                    done.extend(change.promote(&version, *because).await?);
                }
            }
            if done.len() > before {
                change.commit().await?;
            }
        }
        Ok(done)
    }

    /// Brings everything that waits to a main ring. Broken off, it goes on when it is repeated. Returns the canary's
    /// name, and how many versions.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such ring, or it has no canary.
    pub async fn promote_ring(&self, context: &Context, ring: &str) -> Result<(String, u64), StoreError> {
        let context = &context.in_parts();
        let (mut name, mut promoted) = (None, 0_u64);
        loop {
            let mut change = self.begin(context).await?;
            let id = change.main_ring_id(ring).await?;
            let Some(canary) = change.canary(id).await? else {
                return Err(Refusal::NoCanary(ring.to_owned()).into());
            };
            let sql = format!(
                "{VERSION} WHERE ring_id = $1 AND promote_at IS NOT NULL ORDER BY promote_at, canary_revision LIMIT $2"
            );
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(id)
                .bind(int(TOGETHER as u64))
                .fetch_all(&mut *change.tx)
                .await?;
            let name = name.get_or_insert(canary.name);
            if rows.is_empty() {
                return Ok((name.clone(), promoted));
            }
            for row in &rows {
                // One of them may have taken another along.
                if let Some(version) = change.version(row.try_get("id")?).await? {
                    let made = change.promote(&version, Because::Asked).await?;
                    promoted = promoted.saturating_add(made.len() as u64);
                }
            }
            change.commit().await?;
        }
    }

    /// Brings the new version of a rotation to its main ring, so that the overlap begins. Without a wait nothing
    /// happens. A rotation whose old version was revoked is over, and its new version may wait all the same.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such rotation, or it has ended and nothing of it waits.
    pub async fn promote_rotation(&self, context: &Context, id: &str) -> Result<Rotation, StoreError> {
        let mut change = self.begin(context).await?;
        let rotation = change.rotation(id).await?;
        let new = change.version_in(&rotation, &rotation.new_version).await?;
        if change.promote(&new, Because::Asked).await?.is_empty() {
            let ended = || Refusal::RotationEnded(rotation.id.clone()).into();
            return if rotation.state.is_open() { Ok(rotation) } else { Err(ended()) };
        }
        let rotation = change.rotation(id).await?;
        change.commit().await?;
        Ok(rotation)
    }

    /// Changes when what is new in a canary goes to its main ring. What waits already keeps its time.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such ring, or it is no canary.
    pub async fn update_canary(
        &self,
        context: &Context,
        ring: &str,
        update: UpdateRing,
    ) -> Result<(), StoreError> {
        let mut change = self.begin(context).await?;
        let id = change.ring_id(ring).await?;
        let row = sqlx::query(
            "SELECT promote, pause, 0 AS waiting FROM rings WHERE id = $1 AND canary_of IS NOT NULL",
        )
        .bind(id)
        .fetch_optional(&mut *change.tx)
        .await?;
        let row = row.ok_or_else(|| Refusal::NotACanary(ring.to_owned()))?;
        let before = rule(&row)?;
        let pause = update.pause_seconds.map_or(before.pause, |seconds| seconds.saturating_mul(1000));
        let after = CanaryRule { promote: update.promote.unwrap_or(before.promote), pause, ..before };
        if before == after {
            return Ok(());
        }
        let promote = json!(after.promote);
        sqlx::query("UPDATE rings SET promote = $1, pause = $2 WHERE id = $3")
            .bind(promote.as_str())
            .bind(int(pause))
            .bind(id)
            .execute(&mut *change.tx)
            .await?;
        let shown = |rule: CanaryRule| json!({ "promote": rule.promote, "pause_seconds": rule.pause / 1000 });
        change.audit("ring.set-canary", ring, Some(shown(before)), Some(shown(after))).await?;
        change.commit().await
    }
}

impl Change<'_> {
    /// The canary of a ring, if it has one.
    pub(super) async fn canary(&mut self, ring: i64) -> Result<Option<Canary>, StoreError> {
        if let Some(known) = self.canaries.get(&ring) {
            return Ok(known.clone());
        }
        let row = sqlx::query("SELECT id, name, pause FROM rings WHERE canary_of = $1")
            .bind(ring)
            .fetch_optional(&mut *self.tx)
            .await?;
        let canary = |row: AnyRow| {
            let pause = time(&row, "pause")?.0;
            Ok::<_, StoreError>(Canary { id: row.try_get("id")?, name: row.try_get("name")?, pause })
        };
        let canary = row.map(canary).transpose()?;
        self.canaries.insert(ring, canary.clone());
        Ok(canary)
    }

    /// A ring that keys can be in.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such ring, or it is a canary.
    pub(super) async fn main_ring_id(&mut self, name: &str) -> Result<i64, StoreError> {
        let id = self.ring_id(name).await?;
        let of: Option<String> = sqlx::query_scalar(
            "SELECT m.name FROM rings r JOIN rings m ON m.id = r.canary_of WHERE r.id = $1",
        )
        .bind(id)
        .fetch_optional(&mut *self.tx)
        .await?;
        match of {
            Some(of) => Err(Refusal::CanaryHasNoKeys { ring: name.to_owned(), of }.into()),
            None => Ok(id),
        }
    }

    /// For a version that comes to be: where its ring has a canary with a pause, it waits there.
    pub(super) async fn revisions_of_new(&mut self, ring: i64, id: &str) -> Result<Revisions, StoreError> {
        let Some(canary) = self.canary(ring).await? else {
            return Ok(Revisions {
                main: int(self.next_revision(ring).await?),
                canary: None,
                promote_at: None,
            });
        };
        let ahead = int(self.next_revision(canary.id).await?);
        if canary.pause == 0 {
            let main = int(self.next_revision(ring).await?);
            return Ok(Revisions { main, canary: Some(ahead), promote_at: None });
        }
        self.waits.push(id.to_owned());
        let promote_at = int(self.now().0.saturating_add(canary.pause));
        Ok(Revisions { main: ahead.saturating_neg(), canary: Some(ahead), promote_at: Some(promote_at) })
    }

    /// For a version that changes. One that is denied waits no longer: denials go to all rings at once.
    pub(super) async fn revisions(
        &mut self,
        ring: i64,
        id: &str,
        denied: bool,
    ) -> Result<Revisions, StoreError> {
        let Some(canary) = self.canary(ring).await? else {
            return Ok(Revisions {
                main: int(self.next_revision(ring).await?),
                canary: None,
                promote_at: None,
            });
        };
        // As it is now, whatever whoever asks has read before.
        let waits: Option<i64> = sqlx::query_scalar("SELECT promote_at FROM versions WHERE id = $1")
            .bind(id)
            .fetch_one(&mut *self.tx)
            .await?;
        let ahead = int(self.next_revision(canary.id).await?);
        let promote_at = waits.filter(|_| !denied);
        let main = match promote_at {
            Some(_) => ahead.saturating_neg(),
            None => int(self.next_revision(ring).await?),
        };
        Ok(Revisions { main, canary: Some(ahead), promote_at })
    }

    /// The last revisions of so many that a ring, and its canary, take for versions that do not wait.
    pub(super) async fn runs_of_revisions(
        &mut self,
        ring: i64,
        count: u64,
    ) -> Result<(u64, Option<u64>), StoreError> {
        let last = self.next_revisions(ring, count).await?;
        Ok(match self.canary(ring).await? {
            Some(canary) => (last, Some(self.next_revisions(canary.id, count).await?)),
            None => (last, None),
        })
    }

    /// What a rotation waits for whose new version does.
    pub(super) async fn waits_for_canary(
        &mut self,
        ring: i64,
        until: Millis,
    ) -> Result<Option<WaitsFor>, StoreError> {
        let canary = self.canary(ring).await?;
        // As the rule is when somebody looks.
        let promote = Promote::default();
        let until = timestamp(until);
        Ok(canary.map(|canary| WaitsFor::Canary { ring: canary.name, until, promote }))
    }

    /// Brings a version to its main ring, and those of its key before it that wait, too: what a rotation is to give a
    /// deadline must be there. Nothing if it does not wait.
    async fn promote(
        &mut self,
        version: &VersionRow,
        because: Because,
    ) -> Result<Vec<Promotion>, StoreError> {
        if version.promote_at.is_none() {
            return Ok(Vec::new());
        }
        let mut waiting = self.versions(&version.key).await?;
        waiting.retain(|other| {
            other.promote_at.is_some() && other.created_at <= version.created_at && other.id != version.id
        });
        waiting.push(version.clone());
        let mut promoted = Vec::with_capacity(waiting.len());
        for version in waiting {
            promoted.push(self.promote_one(&version, because).await?);
        }
        Ok(promoted)
    }

    async fn promote_one(&mut self, version: &VersionRow, because: Because) -> Result<Promotion, StoreError> {
        let before = self.key(&version.key).await?;
        // No revision of the canary: nothing changes for its proxies.
        let revision = self.next_revision(version.ring).await?;
        sqlx::query("UPDATE versions SET revision = $1, promote_at = NULL WHERE id = $2")
            .bind(int(revision))
            .bind(&version.id)
            .execute(&mut *self.tx)
            .await?;
        let action = match because {
            Because::Enforced => "version.promote",
            Because::Pause => "version.promote-after-pause",
            Because::Asked => "version.promote-at-once",
        };
        let before = self.audit_key(action, &version.id, &before).await?;
        let rotation = self.open_rotation(&version.key).await?;
        let rotation = rotation.filter(|rotation| {
            rotation.new_version == version.id && rotation.state == RotationState::Distributing
        });
        let mut promotion =
            Promotion { key: version.key.clone(), version: version.id.clone(), because, rotation: None };
        let Some(rotation) = rotation else { return Ok(promotion) };
        sqlx::query("UPDATE rotations SET waits_for = NULL WHERE id = $1")
            .bind(&rotation.id)
            .execute(&mut *self.tx)
            .await?;
        if version.state == State::Pending {
            // Both rings have it in time, and begin by their proxies' clocks.
            self.begin_by(&rotation, version.not_before).await?;
            return Ok(promotion);
        }
        // The new version first, and only then the old one.
        self.begin_overlap(&rotation).await?;
        // The wave that it belongs to is enforced when this is.
        sqlx::query(
            "UPDATE campaigns SET wave_revision = (SELECT revision FROM rings WHERE rings.id = campaigns.ring_id)
             WHERE wave_revision > 0 AND id IN (SELECT campaign_id FROM campaign_keys WHERE rotation_id = $1)",
        )
        .bind(&rotation.id)
        .execute(&mut *self.tx)
        .await?;
        self.audit_key("rotation.begin", &rotation.id, &before).await?;
        self.complete_if_over(&rotation.id).await?;
        promotion.rotation = Some(self.rotation(&rotation.id).await?);
        Ok(promotion)
    }

    /// Moves what a rotation plans to when its new version begins.
    async fn begin_by(&mut self, rotation: &Rotation, at: Option<Millis>) -> Result<(), StoreError> {
        let planned = |at| millis(at).unwrap_or_default();
        let begins_at = at.unwrap_or_else(|| planned(rotation.begins_at));
        let overlap = planned(rotation.deadline).saturating_since(planned(rotation.begins_at));
        sqlx::query("UPDATE rotations SET begins_at = $1, overlap_ends_at = $2, deadline = $2 WHERE id = $3")
            .bind(int(begins_at.0))
            .bind(int(begins_at.0.saturating_add(overlap)))
            .bind(&rotation.id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}

fn waiting(row: &AnyRow) -> Result<Waiting, StoreError> {
    Ok(Waiting {
        version: row.try_get("id")?,
        ring: row.try_get("ring_id")?,
        canary_revision: uint(row.try_get("canary_revision")?),
        promote_at: time(row, "promote_at")?,
    })
}

fn rule(row: &AnyRow) -> Result<CanaryRule, StoreError> {
    Ok(CanaryRule {
        promote: named(row.try_get("promote")?)?,
        pause: time(row, "pause")?.0,
        waiting: uint(row.try_get::<i64, _>("waiting")?),
    })
}
