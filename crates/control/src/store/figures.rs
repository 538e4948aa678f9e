//! Figures for whoever watches the control plane, and whether the database can be written.

use std::collections::BTreeMap;

use keywheel_keyring::Millis;
use sqlx::Row as _;

use super::rows::uint;
use super::{Store, StoreError};

/// Ages, in days, that active versions are counted by. A day begins at midnight UTC.
pub const AGES: [u64; 5] = [0, 30, 90, 180, 365];

const ACTIVE: &str = "active";
const DAY: u64 = 24 * 60 * 60 * 1000;

/// What the database holds, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Entries that proxies hold: ring, state, count.
    pub entries: Vec<(i64, String, u64)>,
    /// Rotations since the beginning: state, count.
    pub rotations: Vec<(String, u64)>,
    /// Active versions by age, one for each ring that has any.
    pub ages: Vec<Ages>,
    /// Versions that wait in a canary, by main ring: one for each that has a canary.
    pub waiting: Vec<(i64, u64)>,
}

/// How old a ring's active versions are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ages {
    pub ring: i64,
    /// How many are at least as old as each of [`AGES`].
    pub at_least: [u64; AGES.len()],
    pub oldest_created_at: Millis,
}

impl Store {
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn figures(&self, now: Millis) -> Result<Figures, StoreError> {
        let mut entries: BTreeMap<(i64, String), u64> = BTreeMap::new();
        let mut ages: BTreeMap<i64, Ages> = BTreeMap::new();
        let today = now.0 / DAY;
        // One look at every version, of which there may be a million, and few rows to fetch.
        let rows = sqlx::query(
            "SELECT ring_id, state, created_at / 86400000 AS day, COUNT(*) AS n, MIN(created_at) AS oldest
             FROM versions WHERE removed_at IS NULL GROUP BY ring_id, state, day",
        )
        .fetch_all(self.db.readers())
        .await?;
        for row in &rows {
            let (ring, count) = (row.try_get("ring_id")?, uint(row.try_get("n")?));
            let state: String = row.try_get("state")?;
            if state == ACTIVE {
                let days = today.saturating_sub(uint(row.try_get("day")?));
                let oldest = Millis(uint(row.try_get("oldest")?));
                let ages = ages.entry(ring).or_insert(Ages {
                    ring,
                    at_least: [0; AGES.len()],
                    oldest_created_at: oldest,
                });
                ages.oldest_created_at = ages.oldest_created_at.min(oldest);
                for (at_least, age) in ages.at_least.iter_mut().zip(AGES) {
                    *at_least = at_least.saturating_add(if days >= age { count } else { 0 });
                }
            }
            let sum = entries.entry((ring, state)).or_default();
            *sum = sum.saturating_add(count);
        }
        let mut rotations = Vec::new();
        let rows = sqlx::query("SELECT state, COUNT(*) AS n FROM rotations GROUP BY state")
            .fetch_all(self.db.readers())
            .await?;
        for row in &rows {
            rotations.push((row.try_get("state")?, uint(row.try_get("n")?)));
        }
        let mut waiting = Vec::new();
        let rows = sqlx::query(
            "SELECT canary_of, (SELECT COUNT(*) FROM versions WHERE ring_id = rings.canary_of AND promote_at IS NOT NULL)
                 AS n FROM rings WHERE canary_of IS NOT NULL",
        )
        .fetch_all(self.db.readers())
        .await?;
        for row in &rows {
            waiting.push((row.try_get("canary_of")?, uint(row.try_get("n")?)));
        }
        Ok(Figures {
            entries: entries.into_iter().map(|((ring, state), count)| (ring, state, count)).collect(),
            rotations,
            ages: ages.into_values().collect(),
            waiting,
        })
    }

    /// Whether the database takes a write; `false` says that this control plane is writing itself just now.
    /// Nothing changes.
    ///
    /// # Errors
    ///
    /// [`StoreError`], such as of a database that is read-only.
    pub async fn can_write(&self) -> Result<bool, StoreError> {
        let Some(mut connection) = self.db.writer().try_acquire() else { return Ok(false) };
        // No ring has this id, but the lock is taken and the right to write is needed all the same.
        sqlx::query("UPDATE rings SET revision = revision WHERE id = $1")
            .bind(-1_i64)
            .execute(&mut *connection)
            .await?;
        Ok(true)
    }
}
