//! What proxies counted.
//!
//! A count is no state change, so it has no audit record and takes no revision. Reports come from
//! every proxy at once and each must be on disk before its answer. So whoever writes, writes for all who
//! wait, in one transaction of a few statements: a flush to disk serves many reports, and a revocation
//! waits for one of them at most.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use keywheel_api::time::timestamp;
use keywheel_api::{Reporting, Requests, RingUsage, UsageHour};
use keywheel_keyring::Millis;
use keywheel_keyring::usage::{Batch, MINUTE};
use serde_json::{Value, json};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use tokio::sync::oneshot;

use super::db::{Dialect, Sql};
use super::rows::{int, optional_time, optional_timestamp, time, uint};
use super::{Refusal, Store, StoreError};
use crate::usage::{HOUR, Ledger, MAX_COUNT, Vm, VmId};

/// Rows of one transaction, unless a single report has more. More would hold up a revocation for longer.
const GROUP: usize = 1_000;
/// Rows that may wait for their turn, about 100 MB. Whoever brings more is told to come back.
const MAX_WAITING: usize = 500_000;
/// VMs kept of one ring; those not heard of for longest give way.
const MAX_VMS: u64 = 50_000;
/// Rows of one DELETE, so that nobody waits long for the writer.
const CHUNK: u64 = 10_000;

// Rows come as one array of JSON, so that a statement is prepared once however many there are. In SQLite's
// form of the two that name versions, each row looks its version up, and never each version of the ring its row:
// hence the cross join, and the `+` that keeps the index by ring out of it.
const ADD_HOURS: Sql = Sql {
    sqlite: "INSERT INTO usage_hours (version, hour, outcome, count, last_minute)
        SELECT v.id, value ->> 1, value ->> 2, value ->> 3, value ->> 4
        FROM json_each($1) CROSS JOIN versions v WHERE v.id = value ->> 0 AND v.ring_id = $2
        ON CONFLICT (version, hour, outcome) DO UPDATE SET
            count = min(count + excluded.count, $3), last_minute = max(last_minute, excluded.last_minute)",
    postgres: "INSERT INTO usage_hours AS u (version, hour, outcome, count, last_minute)
        SELECT v.id, (value ->> 1)::bigint, value ->> 2, (value ->> 3)::bigint, (value ->> 4)::bigint
        FROM jsonb_array_elements($1::jsonb) JOIN versions v ON v.id = value ->> 0 AND v.ring_id = $2
        ON CONFLICT (version, hour, outcome) DO UPDATE SET
            count = least(u.count + excluded.count, $3),
            last_minute = greatest(u.last_minute, excluded.last_minute)",
};
const SET_LAST_USED: Sql = Sql {
    sqlite: "UPDATE versions SET last_used_at = used.at
        FROM (SELECT value ->> 0 AS id, value ->> 1 AS at FROM json_each($1)) AS used
        WHERE versions.id = used.id AND +versions.ring_id = $2
            AND (versions.last_used_at IS NULL OR versions.last_used_at < used.at)",
    postgres: "UPDATE versions SET last_used_at = used.at
        FROM (SELECT value ->> 0 AS id, (value ->> 1)::bigint AS at
              FROM jsonb_array_elements($1::jsonb)) AS used
        WHERE versions.id = used.id AND versions.ring_id = $2
            AND (versions.last_used_at IS NULL OR versions.last_used_at < used.at)",
};
const ADD_MINUTES: Sql = Sql {
    sqlite: "INSERT INTO usage_minutes (version, minute, count)
        SELECT v.id, value ->> 1, value ->> 2
        FROM json_each($1) CROSS JOIN versions v WHERE v.id = value ->> 0 AND v.ring_id = $2
        ON CONFLICT (version, minute) DO UPDATE SET count = min(count + excluded.count, $3)",
    postgres: "INSERT INTO usage_minutes AS u (version, minute, count)
        SELECT v.id, (value ->> 1)::bigint, (value ->> 2)::bigint
        FROM jsonb_array_elements($1::jsonb) JOIN versions v ON v.id = value ->> 0 AND v.ring_id = $2
        ON CONFLICT (version, minute) DO UPDATE SET count = least(u.count + excluded.count, $3)",
};
const LOAD_VMS: Sql = Sql {
    sqlite: "SELECT * FROM usage_vms WHERE ring_id = $1
        AND (instance, vm) IN (SELECT value ->> 0, value ->> 1 FROM json_each($2))",
    postgres: "SELECT * FROM usage_vms WHERE ring_id = $1
        AND (instance, vm) IN (SELECT value ->> 0, value ->> 1 FROM jsonb_array_elements($2::jsonb))",
};
macro_rules! save_vms {
    ($rows:literal) => {
        concat!(
            "INSERT INTO usage_vms (ring_id, instance, vm, node, first_seen, last_batch, missing,
                 missing_since, covered_from, covered_to, received_at) ",
            $rows,
            " ON CONFLICT (ring_id, instance, vm) DO UPDATE SET node = excluded.node,
                 first_seen = excluded.first_seen, last_batch = excluded.last_batch,
                 missing = excluded.missing, missing_since = excluded.missing_since,
                 covered_from = excluded.covered_from, covered_to = excluded.covered_to,
                 received_at = excluded.received_at"
        )
    };
}
const SAVE_VMS: Sql = Sql {
    // Without a WHERE, ON would be read as a part of a join.
    sqlite: save_vms!(
        "SELECT $1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
             value ->> 7, value ->> 8, value ->> 9
         FROM json_each($2) WHERE true"
    ),
    postgres: save_vms!(
        "SELECT $1, value ->> 0, value ->> 1, value ->> 2, (value ->> 3)::bigint, (value ->> 4)::bigint,
             (value ->> 5)::bigint, (value ->> 6)::bigint, (value ->> 7)::bigint, (value ->> 8)::bigint,
             (value ->> 9)::bigint
         FROM jsonb_array_elements($2::jsonb)"
    ),
};

/// What one report says of a ring. Its batches kept their rules.
#[derive(Debug, Clone)]
pub struct NewUsage {
    pub ring: i64,
    pub batches: Vec<Batch>,
    pub now: Millis,
}

/// Reports on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct UsageQueue {
    line: Mutex<Line>,
    /// Held by whoever writes.
    turn: tokio::sync::Mutex<()>,
    tallies: Mutex<BTreeMap<i64, RingUsage>>,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// Of all who wait.
    rows: usize,
}

#[derive(Debug)]
struct Waiting {
    report: NewUsage,
    answer: oneshot::Sender<Result<(), Arc<StoreError>>>,
}

impl NewUsage {
    /// About how many rows it changes.
    fn rows(&self) -> usize {
        let rows = self.batches.iter().map(|batch| batch.counts.len().saturating_add(1)).sum::<usize>();
        rows.saturating_add(1)
    }
}

impl Store {
    /// Counts a report, all of it or nothing. It is on disk when this returns. What was counted before
    /// is skipped.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; sending the same report again counts nothing twice.
    pub async fn record_usage(&self, report: NewUsage) -> Result<(), StoreError> {
        let (answer, mut answered) = oneshot::channel();
        self.usage.wait(Waiting { report, answer })?;
        loop {
            let turn = tokio::select! {
                biased;
                answer = &mut answered => {
                    let lost = || StoreError::Corrupt("a usage report was dropped before it was written".into());
                    return answer.map_err(|_| lost())?.map_err(StoreError::Shared);
                }
                turn = self.usage.turn.lock() => turn,
            };
            let group = self.usage.take();
            let done = self.write_usage(&group).await.map_err(Arc::new);
            drop(turn);
            for waiting in group {
                let _ = waiting.answer.send(done.clone());
            }
        }
    }

    /// What became of a ring's reports since this control plane started.
    #[must_use]
    pub fn usage_tally(&self, ring: i64) -> RingUsage {
        self.usage
            .tallies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&ring)
            .copied()
            .unwrap_or_default()
    }

    /// Batches that broke a rule and were left out.
    pub fn tally_refused(&self, ring: i64, batches: u64) {
        self.usage.tally(ring, RingUsage { refused_batches: batches, ..RingUsage::default() });
    }

    async fn write_usage(&self, group: &[Waiting]) -> Result<(), StoreError> {
        let mut rings: BTreeMap<i64, Vec<&NewUsage>> = BTreeMap::new();
        for waiting in group {
            rings.entry(waiting.report.ring).or_default().push(&waiting.report);
        }
        let mut tallies = Vec::with_capacity(rings.len());
        let mut tx = self.db.write().await?;
        for (ring, reports) in rings {
            let unknown_counts = write_ring(self.db.dialect, &mut tx, ring, &reports).await?;
            let reports = reports.len() as u64;
            tallies.push((ring, RingUsage { reports, unknown_counts, refused_batches: 0 }));
        }
        self.db.commit(tx).await?;
        for (ring, tally) in tallies {
            self.usage.tally(ring, tally);
        }
        Ok(())
    }

    /// What was counted of a key's versions from the hour of `from` on and before `to`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn usage_hours(
        &self,
        key: &str,
        from: Millis,
        to: Millis,
    ) -> Result<Vec<UsageHour>, StoreError> {
        let rows = sqlx::query(
            "SELECT u.hour, u.version, u.outcome, u.count, u.last_minute
             FROM versions v JOIN usage_hours u ON u.version = v.id
             WHERE v.key_id = $1 AND u.hour >= $2 AND u.hour < $3 ORDER BY u.hour, u.version, u.outcome",
        )
        .bind(key)
        .bind(int(crate::usage::floor(from.0, crate::usage::HOUR)))
        .bind(int(to.0))
        .fetch_all(self.db.readers())
        .await?;
        let hour = |row: &AnyRow| {
            Ok(UsageHour {
                hour: timestamp(time(row, "hour")?),
                version: row.try_get("version")?,
                outcome: row.try_get("outcome")?,
                count: uint(row.try_get("count")?),
                last_minute: timestamp(time(row, "last_minute")?),
            })
        };
        rows.iter().map(hour).collect()
    }

    /// How many requests came with a version lately, whatever came of them.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn requests_lately(&self, version: &str, now: Millis) -> Result<Requests, StoreError> {
        let minutes = async |from: u64| {
            let sql = "SELECT CAST(coalesce(sum(count), 0) AS BIGINT) FROM usage_minutes
                       WHERE version = $1 AND minute >= $2";
            let sum = sqlx::query_scalar(sql).bind(version).bind(int(from));
            sum.fetch_one(self.db.readers()).await.map(uint)
        };
        // The minute under way is not over, and reports of the one before may be on their way.
        let newest = crate::usage::floor(now.0, MINUTE);
        let day = sqlx::query_scalar(
            "SELECT CAST(coalesce(sum(count), 0) AS BIGINT) FROM usage_hours WHERE version = $1 AND hour > $2",
        );
        let since = crate::usage::floor(now.0, HOUR).saturating_sub(24 * HOUR);
        let day = day.bind(version).bind(int(since)).fetch_one(self.db.readers()).await.map(uint)?;
        Ok(Requests {
            minute: minutes(newest.saturating_sub(MINUTE)).await?,
            hour: minutes(newest.saturating_sub(HOUR)).await?,
            day,
        })
    }

    /// How many VMs of a ring and of its canary report, and up to `limit` of them: those first whose batches are missing,
    /// then those not heard of for longest.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn reporting(&self, ring: &str, limit: u32) -> Result<(u64, Vec<Reporting>), StoreError> {
        let mut tx = self.db.read().await?;
        let id: Option<i64> = sqlx::query_scalar("SELECT id FROM rings WHERE name = $1")
            .bind(ring)
            .fetch_optional(&mut *tx)
            .await?;
        let id = id.ok_or_else(|| Refusal::NotFound { what: "ring", name: ring.to_owned() })?;
        let canary: Option<i64> = sqlx::query_scalar("SELECT id FROM rings WHERE canary_of = $1")
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?;
        let mut count = count_vms(&mut tx, id).await?;
        if let Some(canary) = canary {
            count = count.saturating_add(count_vms(&mut tx, canary).await?);
        }
        let rows = sqlx::query(
            "SELECT * FROM usage_vms WHERE ring_id IN ($1, $3)
             ORDER BY missing > 0 DESC, received_at, instance, vm LIMIT $2",
        )
        .bind(id)
        .bind(i64::from(limit))
        .bind(canary.unwrap_or(id))
        .fetch_all(&mut *tx)
        .await?;
        let reporting = |row: &AnyRow| {
            Ok(Reporting {
                node: row.try_get("node")?,
                instance: row.try_get("instance")?,
                vm: row.try_get("vm")?,
                covered_from: timestamp(time(row, "covered_from")?),
                covered_to: timestamp(time(row, "covered_to")?),
                missing: uint(row.try_get("missing")?),
                missing_since: optional_timestamp(row, "missing_since")?,
                first_seen: timestamp(time(row, "first_seen")?),
                received_at: timestamp(time(row, "received_at")?),
            })
        };
        Ok((count, rows.iter().map(reporting).collect::<Result<_, StoreError>>()?))
    }

    /// Forgets the minutes before `minutes`; the hours keep what was counted in them.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn forget_minutes(&self, minutes: Millis) -> Result<(), StoreError> {
        let gone = sqlx::query("DELETE FROM usage_minutes WHERE minute < $1").bind(int(minutes.0));
        gone.execute(self.db.writer()).await?;
        Ok(())
    }

    /// Forgets what was counted before `hours`, and VMs that were not heard of since `vms`. Returns how
    /// many rows of each.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was forgotten before it stays so.
    pub async fn forget_usage(&self, hours: Millis, vms: Millis) -> Result<(u64, u64), StoreError> {
        let mut forgotten: u64 = 0;
        loop {
            let rows = sqlx::query(
                "DELETE FROM usage_hours WHERE (version, hour, outcome) IN
                 (SELECT version, hour, outcome FROM usage_hours WHERE hour < $1 LIMIT $2)",
            )
            .bind(int(hours.0))
            .bind(int(CHUNK))
            .execute(self.db.writer())
            .await?
            .rows_affected();
            forgotten = forgotten.saturating_add(rows);
            if rows < CHUNK {
                break;
            }
        }
        let gone = sqlx::query("DELETE FROM usage_vms WHERE received_at < $1").bind(int(vms.0));
        Ok((forgotten, gone.execute(self.db.writer()).await?.rows_affected()))
    }
}

/// Writes what the reports add up to. Returns how many counts named no version of the ring.
async fn write_ring(
    dialect: Dialect,
    connection: &mut AnyConnection,
    ring: i64,
    reports: &[&NewUsage],
) -> Result<u64, StoreError> {
    let known = load_vms(dialect, connection, ring, reports).await?;
    let before = known.len();
    let mut ledger = Ledger::new(known);
    for report in reports {
        ledger.add(&report.batches, report.now);
    }
    save_vms(dialect, connection, ring, &ledger).await?;
    if ledger.vms.len() > before {
        bound_vms(connection, ring).await?;
    }
    // The proxies of a canary count the versions of its main ring.
    let main = sqlx::query_scalar("SELECT coalesce(canary_of, id) FROM rings WHERE id = $1").bind(ring);
    let main: i64 = main.fetch_optional(&mut *connection).await?.unwrap_or(ring);
    save_hours(dialect, connection, main, &ledger).await
}

async fn load_vms(
    dialect: Dialect,
    connection: &mut AnyConnection,
    ring: i64,
    reports: &[&NewUsage],
) -> Result<BTreeMap<VmId, Vm>, StoreError> {
    let batches = reports.iter().flat_map(|report| &report.batches);
    let ids: Value = batches.map(|batch| json!([batch.instance, batch.vm])).collect();
    let rows =
        sqlx::query(dialect.pick(&LOAD_VMS)).bind(ring).bind(ids.to_string()).fetch_all(connection).await?;
    let vm = |row: &AnyRow| {
        let id = VmId { instance: row.try_get("instance")?, vm: row.try_get("vm")? };
        let vm = Vm {
            node: row.try_get("node")?,
            first_seen: time(row, "first_seen")?,
            last_batch: uint(row.try_get("last_batch")?),
            missing: uint(row.try_get("missing")?),
            missing_since: optional_time(row, "missing_since")?,
            covered_from: time(row, "covered_from")?,
            covered_to: time(row, "covered_to")?,
            received_at: time(row, "received_at")?,
        };
        Ok((id, vm))
    };
    rows.iter().map(vm).collect()
}

async fn save_vms(
    dialect: Dialect,
    connection: &mut AnyConnection,
    ring: i64,
    ledger: &Ledger,
) -> Result<(), StoreError> {
    let row = |(id, vm): (&VmId, &Vm)| {
        json!([
            id.instance,
            id.vm,
            vm.node,
            int(vm.first_seen.0),
            int(vm.last_batch),
            int(vm.missing),
            vm.missing_since.map(|at| int(at.0)),
            int(vm.covered_from.0),
            int(vm.covered_to.0),
            int(vm.received_at.0),
        ])
    };
    let rows: Value = ledger.vms.iter().map(row).collect();
    sqlx::query(dialect.pick(&SAVE_VMS)).bind(ring).bind(rows.to_string()).execute(connection).await?;
    Ok(())
}

/// Whoever may report could make up VMs without end.
async fn bound_vms(connection: &mut AnyConnection, ring: i64) -> Result<(), StoreError> {
    let surplus = count_vms(connection, ring).await?.saturating_sub(MAX_VMS);
    if surplus == 0 {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM usage_vms WHERE (ring_id, instance, vm) IN
         (SELECT ring_id, instance, vm FROM usage_vms WHERE ring_id = $1 ORDER BY received_at LIMIT $2)",
    )
    .bind(ring)
    .bind(int(surplus))
    .execute(connection)
    .await?;
    Ok(())
}

async fn count_vms(connection: &mut AnyConnection, ring: i64) -> Result<u64, StoreError> {
    let count = sqlx::query_scalar("SELECT count(*) FROM usage_vms WHERE ring_id = $1").bind(ring);
    Ok(uint(count.fetch_one(connection).await?))
}

async fn save_hours(
    dialect: Dialect,
    connection: &mut AnyConnection,
    ring: i64,
    ledger: &Ledger,
) -> Result<u64, StoreError> {
    if ledger.hours.is_empty() {
        return Ok(0);
    }
    let rows: Value = ledger
        .hours
        .iter()
        .map(|(slot, uses)| {
            json!([slot.version, int(slot.hour.0), slot.outcome, int(uses.count), int(uses.last_minute.0)])
        })
        .collect();
    let stored = sqlx::query(dialect.pick(&ADD_HOURS))
        .bind(rows.to_string())
        .bind(ring)
        .bind(int(MAX_COUNT))
        .execute(&mut *connection)
        .await?
        .rows_affected();

    let rows = ledger.minutes.iter().map(|((version, at), count)| json!([version, int(at.0), int(*count)]));
    let rows: Value = rows.collect();
    sqlx::query(dialect.pick(&ADD_MINUTES))
        .bind(rows.to_string())
        .bind(ring)
        .bind(int(MAX_COUNT))
        .execute(&mut *connection)
        .await?;

    let used: Value = ledger.used.iter().map(|(version, at)| json!([version, int(at.0)])).collect();
    sqlx::query(dialect.pick(&SET_LAST_USED)).bind(used.to_string()).bind(ring).execute(connection).await?;
    Ok((ledger.hours.len() as u64).saturating_sub(stored))
}

// === impl UsageQueue ===

impl UsageQueue {
    fn wait(&self, waiting: Waiting) -> Result<(), StoreError> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = line.rows.saturating_add(waiting.report.rows());
        if rows > MAX_WAITING && !line.waiting.is_empty() {
            return Err(StoreError::Busy);
        }
        line.rows = rows;
        line.waiting.push_back(waiting);
        Ok(())
    }

    /// Those who wait for longest, at least one if any does.
    fn take(&self) -> Vec<Waiting> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut group, mut rows) = (Vec::new(), 0_usize);
        while let Some(first) = line.waiting.front() {
            let more = first.report.rows();
            rows = rows.saturating_add(more);
            if rows > GROUP && !group.is_empty() {
                break;
            }
            line.rows = line.rows.saturating_sub(more);
            group.extend(line.waiting.pop_front());
        }
        group
    }

    fn tally(&self, ring: i64, more: RingUsage) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = tallies.entry(ring).or_default();
        tally.reports = tally.reports.saturating_add(more.reports);
        tally.unknown_counts = tally.unknown_counts.saturating_add(more.unknown_counts);
        tally.refused_batches = tally.refused_batches.saturating_add(more.refused_batches);
    }
}

#[cfg(test)]
mod tests {
    use keywheel_keyring::usage::Count;

    use super::*;
    use crate::store::Location;

    #[test]
    fn who_waits_is_taken_in_groups_and_too_many_are_turned_away() {
        let queue = UsageQueue::default();
        let count = Count { version: "kv".into(), outcome: "valid".into(), minute: Millis(0), count: 1 };
        let wait = |counts: usize| {
            let batch = Batch {
                node: "edge".into(),
                instance: "1".into(),
                vm: "1".into(),
                batch: 1,
                from: Millis(0),
                to: Millis(0),
                counts: vec![count.clone(); counts],
            };
            let report = NewUsage { ring: 1, batches: vec![batch], now: Millis(0) };
            queue.wait(Waiting { report, answer: oneshot::channel().0 })
        };
        for counts in [GROUP * 2, GROUP - 10, 2, 2, GROUP] {
            wait(counts).unwrap();
        }
        let groups: Vec<usize> =
            std::iter::from_fn(|| Some(queue.take().len()).filter(|len| *len > 0)).collect();
        assert_eq!(groups, [1, 3, 1]);

        wait(MAX_WAITING * 2).unwrap();
        assert!(matches!(wait(1), Err(StoreError::Busy)));
        queue.take();
        wait(1).unwrap();
    }

    #[tokio::test]
    async fn no_report_reads_every_version_of_its_ring() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Sqlite(dir.path().join("keywheel.db"))).await.unwrap();
        for sql in [ADD_HOURS.sqlite, SET_LAST_USED.sqlite] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let rows = sqlx::query(explain).fetch_all(store.db.readers()).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
            assert!(plan[0].starts_with("SCAN json_each"), "{plan:?}");
            assert!(plan[1].ends_with("USING PRIMARY KEY (id=?)"), "{plan:?}");
        }
    }
}
