//! What proxies said of themselves. It is no state change, so it has no audit record; forgetting a proxy is one.

use keywheel_api::{ForgetProxies, ProxyName};
use keywheel_keyring::Millis;
use serde_json::json;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::change::Context;
use super::db::{Dialect, parameters};
use super::replicas::{CHANNEL, PROXIES};
use super::rows::{int, optional_time, time, uint};
use super::{Store, StoreError};
use crate::ring::proxies::{Report, Seen};

pub(super) const PROXY: &str =
    "SELECT node, instance, filter, vms, epoch, stored, enforced, age, refuse_after, trust, via,
    first_seen, last_seen FROM proxies ";
const COLUMNS: usize = 14;
/// Rows of one statement.
const ROWS: usize = 500;

impl Store {
    /// The proxies of a ring that were seen at or after `since`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn proxies(&self, ring: i64, since: Millis) -> Result<Vec<Seen>, StoreError> {
        let sql = format!("{PROXY} WHERE ring_id = $1 AND last_seen >= $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(ring).bind(int(since.0));
        rows.fetch_all(self.db.readers()).await?.iter().map(seen).collect()
    }

    /// Keeps what proxies said last. An older word does not take the place of a newer one.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; some of them may be kept.
    pub async fn save_proxies(&self, ring: i64, proxies: &[Seen]) -> Result<(), StoreError> {
        for rows in proxies.chunks(ROWS) {
            let sql = format!(
                "INSERT INTO proxies (ring_id, node, instance, filter, vms, epoch, stored, enforced, age,
                     refuse_after, trust, via, first_seen, last_seen) VALUES {}
                 ON CONFLICT (ring_id, node, instance) DO UPDATE SET filter = excluded.filter,
                     vms = excluded.vms, epoch = excluded.epoch, stored = excluded.stored,
                     enforced = excluded.enforced, age = excluded.age, refuse_after = excluded.refuse_after, trust = excluded.trust,
                     via = excluded.via,
                     last_seen = excluded.last_seen
                 WHERE excluded.last_seen >= proxies.last_seen",
                parameters(rows.len(), COLUMNS)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for Seen { report, first_seen, last_seen } in rows {
                query = query
                    .bind(ring)
                    .bind(&report.node)
                    .bind(&report.instance)
                    .bind(&report.filter)
                    .bind(i64::from(report.vms))
                    .bind(report.epoch.map(|epoch| epoch.to_string()))
                    .bind(int(report.stored))
                    .bind(int(report.enforced))
                    .bind(int(report.age))
                    .bind(report.refuse_after.map(int))
                    .bind(report.trust.as_ref().map(|ids| ids.join(",")))
                    .bind(&report.via)
                    .bind(int(first_seen.0))
                    .bind(int(last_seen.0));
            }
            query.execute(self.db.writer()).await?;
        }
        if self.db.dialect == Dialect::Postgres && !proxies.is_empty() {
            let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(PROXIES);
            notify.execute(self.db.writer()).await?;
        }
        Ok(())
    }

    /// Forgets proxies that are gone for good. Nothing waits for them from then on.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn forget_proxies(
        &self,
        context: &Context,
        ring: (i64, &str),
        which: &ForgetProxies,
    ) -> Result<Vec<ProxyName>, StoreError> {
        let mut change = self.begin(context).await?;
        let mut forgotten = Vec::new();
        for instance in &which.instances {
            let sql = "DELETE FROM proxies WHERE ring_id = $1 AND instance = $2 RETURNING node, instance";
            let gone = sqlx::query(sql).bind(ring.0).bind(instance).fetch_all(&mut *change.tx).await?;
            forgotten.extend(gone);
        }
        if let Some(seconds) = which.silent_for_seconds {
            let before = context.now.0.saturating_sub(seconds.saturating_mul(1000));
            let sql = "DELETE FROM proxies WHERE ring_id = $1 AND last_seen < $2 RETURNING node, instance";
            let gone = sqlx::query(sql).bind(ring.0).bind(int(before)).fetch_all(&mut *change.tx).await?;
            forgotten.extend(gone);
        }
        let forgotten = forgotten.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        if forgotten.is_empty() {
            return Ok(forgotten);
        }
        change.wake_campaigns_on(ring.0).await?;
        let audited = json!({ "forgotten": forgotten });
        change.audit("proxies.forget", ring.1, Some(audited), None).await?;
        change.commit().await?;
        Ok(forgotten)
    }
}

fn name(row: &AnyRow) -> Result<ProxyName, StoreError> {
    Ok(ProxyName { node: row.try_get("node")?, instance: row.try_get("instance")? })
}

pub(super) fn seen(row: &AnyRow) -> Result<Seen, StoreError> {
    let epoch: Option<&str> = row.try_get("epoch")?;
    let refuse_after: Option<i64> = row.try_get("refuse_after")?;
    let trust: Option<&str> = row.try_get("trust")?;
    let vms = uint(row.try_get("vms")?);
    Ok(Seen {
        report: Report {
            node: row.try_get("node")?,
            instance: row.try_get("instance")?,
            filter: row.try_get("filter")?,
            vms: u32::try_from(vms).unwrap_or(u32::MAX),
            epoch: epoch.and_then(|epoch| epoch.parse().ok()),
            stored: uint(row.try_get("stored")?),
            enforced: uint(row.try_get("enforced")?),
            age: uint(row.try_get("age")?),
            refuse_after: refuse_after.map(uint),
            trust: trust.map(|ids| ids.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect()),
            via: row.try_get("via")?,
        },
        first_seen: time(row, "first_seen")?,
        last_seen: optional_time(row, "last_seen")?.unwrap_or_default(),
    })
}
