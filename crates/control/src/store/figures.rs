//! Figures for whoever watches the control plane, and whether the database can be written.

use keywheel_keyring::Millis;
use sqlx::Row as _;

use super::rows::{int, uint};
use super::{Store, StoreError};

/// Ages, in days, that active versions are counted by.
pub const AGES: [u64; 5] = [0, 30, 90, 180, 365];

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
        let mut figures = Figures::default();
        let rows = sqlx::query(
            "SELECT ring_id, state, COUNT(*) AS n FROM versions WHERE removed_at IS NULL GROUP BY ring_id, state",
        )
        .fetch_all(&self.readers)
        .await?;
        for row in &rows {
            figures.entries.push((row.try_get("ring_id")?, row.try_get("state")?, uint(row.try_get("n")?)));
        }
        let rows = sqlx::query("SELECT state, COUNT(*) AS n FROM rotations GROUP BY state")
            .fetch_all(&self.readers)
            .await?;
        for row in &rows {
            figures.rotations.push((row.try_get("state")?, uint(row.try_get("n")?)));
        }
        let mut query = sqlx::query(
            "SELECT ring_id, MIN(created_at) AS oldest,
                COUNT(CASE WHEN created_at <= $1 THEN 1 END) AS n0,
                COUNT(CASE WHEN created_at <= $2 THEN 1 END) AS n1,
                COUNT(CASE WHEN created_at <= $3 THEN 1 END) AS n2,
                COUNT(CASE WHEN created_at <= $4 THEN 1 END) AS n3,
                COUNT(CASE WHEN created_at <= $5 THEN 1 END) AS n4
             FROM versions WHERE state = 'active' GROUP BY ring_id",
        );
        for days in AGES {
            query = query.bind(int(now.0.saturating_sub(days.saturating_mul(DAY))));
        }
        for row in &query.fetch_all(&self.readers).await? {
            let mut at_least = [0; AGES.len()];
            for (count, column) in at_least.iter_mut().zip(["n0", "n1", "n2", "n3", "n4"]) {
                *count = uint(row.try_get(column)?);
            }
            let oldest_created_at = Millis(uint(row.try_get("oldest")?));
            figures.ages.push(Ages { ring: row.try_get("ring_id")?, at_least, oldest_created_at });
        }
        Ok(figures)
    }

    /// Whether the database takes a write; `false` says that this control plane is writing itself just now.
    /// Nothing changes.
    ///
    /// # Errors
    ///
    /// [`StoreError`], such as of a database that is read-only.
    pub async fn can_write(&self) -> Result<bool, StoreError> {
        let Some(mut connection) = self.writer.try_acquire() else { return Ok(false) };
        // No ring has this id, but the lock is taken and the right to write is needed all the same.
        sqlx::query("UPDATE rings SET revision = revision WHERE id = $1")
            .bind(-1_i64)
            .execute(&mut *connection)
            .await?;
        Ok(true)
    }
}
