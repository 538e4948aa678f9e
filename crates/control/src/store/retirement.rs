//! The end of an old version: a share of its requests is refused for a while, and if nobody uses it, it ends before its
//! deadline.

use std::collections::BTreeMap;

use keywheel_api::time::millis;
use keywheel_api::{Evidence, Rotation, RotationState, WaitsFor};
use keywheel_keyring::Millis;
use serde_json::json;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::change::{Change, Context};
use super::db::parameters;
use super::deadlines::Due;
use super::proxies::{PROXY, seen};
use super::rows::{VersionRow, int, share, time, uint};
use super::{Refusal, Store, StoreError};
use crate::lifecycle::{self, Turn};
use crate::unused::{self, Old, Reports, Verdict, judge};

/// How long a rotation is draining, in milliseconds: reports that are on their way may still say that somebody uses
/// the old version.
const DRAIN: u64 = 2 * 60_000;
/// How often the reports are judged, in milliseconds.
const JUDGE: u64 = 60_000;
const JUDGE_DRAINING: u64 = 20_000;
/// Rotations judged in one transaction: each ring's reports are read once for all of them.
const GROUP: i64 = 100;

impl Store {
    /// Has proxies refuse a share of the old version's requests for so many milliseconds, and at most until its
    /// deadline. It ends by itself; a share of 0 ends it now.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such rotation, it has not begun, or it has ended.
    pub async fn brown_out(
        &self,
        context: &Context,
        id: &str,
        share: f64,
        length: u64,
    ) -> Result<Rotation, StoreError> {
        let mut change = self.begin(context).await?;
        let rotation = change.rotation(id).await?;
        let over = millis(rotation.overlap_ends_at).is_none_or(|at| at <= context.now);
        match rotation.state {
            RotationState::Distributing => return Err(Refusal::RotationNotBegun(rotation.id).into()),
            state if !state.is_open() || over => return Err(Refusal::RotationEnded(rotation.id).into()),
            _ => {}
        }
        change.refuse_share(&rotation, share, Millis(context.now.0.saturating_add(length))).await?;
        let rotation = change.rotation(id).await?;
        change.commit().await?;
        Ok(rotation)
    }

    /// Begins the brown-out that a rotation's policy plans and whose time has come.
    pub(super) async fn brown_out_one_due(&self, context: &Context) -> Result<Option<Due>, StoreError> {
        let mut change = self.begin(context).await?;
        let row = sqlx::query(
            "SELECT id, brownout_share FROM rotations WHERE brownout_at <= $1 ORDER BY brownout_at LIMIT 1",
        )
        .bind(int(context.now.0))
        .fetch_optional(&mut *change.tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let id: String = row.try_get("id")?;
        let part: i64 = row.try_get("brownout_share")?;
        let rotation = change.rotation(&id).await?;
        sqlx::query("UPDATE rotations SET brownout_at = NULL WHERE id = $1")
            .bind(&id)
            .execute(&mut *change.tx)
            .await?;
        let until = millis(rotation.overlap_ends_at).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "at most 10,000")]
        let share = part as f64 / 10_000.0;
        change.refuse_share(&rotation, share, until).await?;
        change.commit().await?;
        Ok(Some(Due::BrownedOut(rotation)))
    }

    /// Judges whether old versions are unused, of those rotations that are to be judged now.
    pub(super) async fn judge_due(&self, context: &Context) -> Result<Option<Due>, StoreError> {
        let mut change = self.begin(context).await?;
        let ids: Vec<String> =
            sqlx::query_scalar("SELECT id FROM rotations WHERE check_at <= $1 ORDER BY check_at LIMIT $2")
                .bind(int(context.now.0))
                .bind(GROUP)
                .fetch_all(&mut *change.tx)
                .await?;
        if ids.is_empty() {
            return Ok(None);
        }
        let mut reports: BTreeMap<i64, Vec<Reports>> = BTreeMap::new();
        let mut turned = Vec::new();
        for id in ids {
            let rotation = change.rotation(&id).await?;
            let old = change.superseded_by(&rotation).await?;
            let Some(ring) = old.first().map(|old| old.ring) else {
                change.judge_again(&id, None).await?;
                continue;
            };
            let vms = match reports.entry(ring) {
                std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
                std::collections::btree_map::Entry::Vacant(none) => {
                    let now = change.now();
                    none.insert(load_reports(&mut change.tx, ring, now).await?)
                }
            };
            let last_used = last_seen(&mut change.tx, &old).await?;
            let now = context.now;
            let unused = Old {
                overlaps_since: millis(rotation.begins_at).unwrap_or(now),
                last_used,
                quiet_period: rotation.quiet_period_seconds.unwrap_or_default().saturating_mul(1000),
            };
            if change.follow(&rotation, &old, judge(&unused, vms, now)).await? {
                turned.push(change.rotation(&id).await?);
            }
        }
        change.commit_notes().await?;
        Ok(Some(Due::Judged(turned)))
    }
}

impl Change<'_> {
    /// Does what the verdict says. Returns whether the rotation's state changed.
    async fn follow(
        &mut self,
        rotation: &Rotation,
        old: &[VersionRow],
        verdict: Verdict,
    ) -> Result<bool, StoreError> {
        let now = self.now();
        let draining = rotation.state == RotationState::Draining;
        let deadline = millis(rotation.deadline).unwrap_or_default();
        match verdict {
            Verdict::Retire(evidence) if !draining => {
                let end = Millis(now.0.saturating_add(DRAIN));
                if end >= deadline {
                    // The deadline is as near.
                    self.judge_again(&rotation.id, None).await?;
                    return Ok(false);
                }
                self.drain(rotation, old, &evidence, end).await?;
                Ok(true)
            }
            Verdict::Wait(reasons) if draining => {
                // What only became unknown takes nothing back.
                let used = reasons.iter().any(|reason| matches!(reason, WaitsFor::Used { .. }));
                if used {
                    self.resume(rotation, old, &reasons, deadline).await?;
                } else {
                    self.judge_again(&rotation.id, Some(JUDGE_DRAINING)).await?;
                }
                Ok(used)
            }
            Verdict::Retire(_) => {
                self.judge_again(&rotation.id, Some(JUDGE_DRAINING)).await?;
                Ok(false)
            }
            Verdict::Wait(reasons) => {
                sqlx::query("UPDATE rotations SET waits_for = $1 WHERE id = $2")
                    .bind(json!(reasons).to_string())
                    .bind(&rotation.id)
                    .execute(&mut *self.tx)
                    .await?;
                self.judge_again(&rotation.id, Some(JUDGE)).await?;
                Ok(false)
            }
        }
    }

    async fn drain(
        &mut self,
        rotation: &Rotation,
        old: &[VersionRow],
        evidence: &Evidence,
        end: Millis,
    ) -> Result<(), StoreError> {
        lifecycle::turn(rotation.state, Turn::Drain)?;
        let key = self.key(&rotation.key).await?;
        self.move_end(rotation, old, end).await?;
        sqlx::query("UPDATE rotations SET state = 'draining', waits_for = NULL, evidence = $1 WHERE id = $2")
            .bind(json!(evidence).to_string())
            .bind(&rotation.id)
            .execute(&mut *self.tx)
            .await?;
        self.judge_again(&rotation.id, Some(JUDGE_DRAINING)).await?;
        self.audit_rotation("rotation.drain", &rotation.id, &key).await
    }

    async fn resume(
        &mut self,
        rotation: &Rotation,
        old: &[VersionRow],
        reasons: &[WaitsFor],
        deadline: Millis,
    ) -> Result<(), StoreError> {
        lifecycle::turn(rotation.state, Turn::Resume)?;
        let key = self.key(&rotation.key).await?;
        self.move_end(rotation, old, deadline).await?;
        sqlx::query(
            "UPDATE rotations SET state = 'overlapping', waits_for = $1, evidence = NULL WHERE id = $2",
        )
        .bind(json!(reasons).to_string())
        .bind(&rotation.id)
        .execute(&mut *self.tx)
        .await?;
        self.judge_again(&rotation.id, Some(JUDGE)).await?;
        self.audit_rotation("rotation.resume", &rotation.id, &key).await
    }

    /// Gives the old versions another end, which takes a revision each.
    async fn move_end(
        &mut self,
        rotation: &Rotation,
        old: &[VersionRow],
        end: Millis,
    ) -> Result<(), StoreError> {
        for version in old {
            let revisions = self.revisions(version.ring, &version.id, false).await?;
            sqlx::query(
                "UPDATE versions SET retire_at = $1, revision = $2, canary_revision = $3, promote_at = $4
                 WHERE id = $5",
            )
            .bind(int(end.0))
            .bind(revisions.main)
            .bind(revisions.canary)
            .bind(revisions.promote_at)
            .bind(&version.id)
            .execute(&mut *self.tx)
            .await?;
        }
        sqlx::query("UPDATE rotations SET overlap_ends_at = $1 WHERE id = $2")
            .bind(int(end.0))
            .bind(&rotation.id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    async fn judge_again(&mut self, id: &str, after: Option<u64>) -> Result<(), StoreError> {
        let at = after.map(|after| int(self.now().0.saturating_add(after)));
        sqlx::query("UPDATE rotations SET check_at = $1 WHERE id = $2")
            .bind(at)
            .bind(id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    async fn refuse_share(
        &mut self,
        rotation: &Rotation,
        part: f64,
        until: Millis,
    ) -> Result<(), StoreError> {
        let key = self.key(&rotation.key).await?;
        let until = millis(rotation.overlap_ends_at).map_or(until, |end| until.min(end));
        let part = Some(share(part)).filter(|part| *part > 0);
        for version in self.superseded_by(rotation).await? {
            let revisions = self.revisions(version.ring, &version.id, false).await?;
            sqlx::query(
                "UPDATE versions SET brownout_share = $1, brownout_until = $2, revision = $3, canary_revision = $4,
                 promote_at = $5 WHERE id = $6",
            )
            .bind(part)
            .bind(part.map(|_| int(until.0)))
            .bind(revisions.main)
            .bind(revisions.canary)
            .bind(revisions.promote_at)
            .bind(&version.id)
            .execute(&mut *self.tx)
            .await?;
        }
        self.audit_rotation("rotation.brownout", &rotation.id, &key).await
    }
}

/// Every VM of a ring and of its canary that has reported in the last weeks, and those that should have.
async fn load_reports(
    connection: &mut AnyConnection,
    ring: i64,
    now: Millis,
) -> Result<Vec<Reports>, StoreError> {
    const RINGS: &str = "ring_id IN (SELECT id FROM rings WHERE id = $1 OR canary_of = $1)";
    let sql = format!(
        "SELECT node, instance, vm, missing, covered_from, covered_to, received_at FROM usage_vms WHERE {RINGS}"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(ring).fetch_all(&mut *connection).await?;
    let reports = |row: &AnyRow| {
        Ok(Reports {
            node: row.try_get("node")?,
            instance: row.try_get("instance")?,
            vm: row.try_get("vm")?,
            missing: uint(row.try_get("missing")?),
            covered_from: time(row, "covered_from")?,
            covered_to: time(row, "covered_to")?,
            received_at: time(row, "received_at")?,
        })
    };
    let reports = rows.iter().map(reports).collect::<Result<Vec<_>, StoreError>>()?;
    let sql = format!("{PROXY} WHERE {RINGS}");
    let proxies = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(ring).fetch_all(connection).await?;
    let proxies = proxies.iter().map(seen).collect::<Result<Vec<_>, _>>()?;
    Ok(unused::with_proxies(reports, &proxies, now))
}

/// The newest minute of any request with one of the versions, refused ones included: a brown-out refuses those who
/// still use it.
async fn last_seen(
    connection: &mut AnyConnection,
    versions: &[VersionRow],
) -> Result<Option<Millis>, StoreError> {
    let parameters = parameters(versions.len(), 1);
    let sql = format!("SELECT max(last_minute) FROM usage_hours WHERE version IN ({parameters})");
    let mut query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
    for version in versions {
        query = query.bind(&version.id);
    }
    let at: Option<i64> = query.fetch_one(connection).await?;
    Ok(at.map(|at| Millis(uint(at))))
}
