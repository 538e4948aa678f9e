//! Has the scheduler look at many keys, without a transaction for which everybody waits: at those that follow what
//! has changed, up to a thousand in a transaction.

use keywheel_keyring::Millis;
use sqlx::Row as _;

use super::change::{Change, Context};
use super::deadlines::Due;
use super::rows::int;
use super::{Store, StoreError};

/// Keys of one transaction.
const TOGETHER: i64 = 1_000;

/// Whose keys are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sweep {
    /// Those that have the policy themselves.
    Policy,
    Client,
    Ring,
}

impl Sweep {
    const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Client => "client",
            Self::Ring => "ring",
        }
    }

    fn named(name: &str) -> Result<Self, StoreError> {
        let all = [Self::Policy, Self::Client, Self::Ring];
        let found = all.into_iter().find(|sweep| sweep.name() == name);
        found.ok_or_else(|| StoreError::Corrupt(format!("the sweep of a `{name}`")))
    }

    /// The id at which a step ends that begins after `$1` and has `$2` keys. Few keys have a policy of their own or are
    /// one client's, and an index finds those of `$3`. A ring's are most of all that there are, so all are gone through.
    const fn end(self) -> &'static str {
        match self {
            Self::Policy => {
                "SELECT max(id) FROM (SELECT id FROM keys WHERE policy_id = $3 AND id > $1 ORDER BY id LIMIT $2) AS step"
            }
            Self::Client => {
                "SELECT max(id) FROM (SELECT id FROM keys WHERE client_id = $3 AND id > $1 ORDER BY id LIMIT $2) AS step"
            }
            Self::Ring => {
                "SELECT max(id) FROM (SELECT id FROM keys WHERE id > $1 ORDER BY id LIMIT $2) AS step"
            }
        }
    }

    /// Marks the keys of `$4` after `$2` and up to `$3`.
    const fn mark(self) -> &'static str {
        match self {
            Self::Policy => "UPDATE keys SET look_at = $1 WHERE id > $2 AND id <= $3 AND policy_id = $4",
            Self::Client => "UPDATE keys SET look_at = $1 WHERE id > $2 AND id <= $3 AND client_id = $4",
            Self::Ring => "UPDATE keys SET look_at = $1 WHERE id > $2 AND id <= $3 AND ring_id = $4",
        }
    }
}

impl Store {
    /// When there is something to mark: at once.
    pub(super) async fn next_sweep(&self) -> Result<Option<Millis>, StoreError> {
        let at: Option<i64> =
            sqlx::query_scalar("SELECT min(at) FROM sweeps").fetch_one(self.db.readers()).await?;
        Ok(at.map(|at| Millis(super::rows::uint(at))))
    }

    /// Marks up to a thousand keys.
    pub(super) async fn sweep(&self, context: &Context) -> Result<Option<Due>, StoreError> {
        // Hardly ever there is one, so the writer is not held up to see that.
        if self.next_sweep().await?.is_none() {
            return Ok(None);
        }
        let mut change = self.begin(context).await?;
        let row = sqlx::query("SELECT id, what, of_id, past FROM sweeps ORDER BY id LIMIT 1")
            .fetch_optional(&mut *change.tx)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let (id, of, past): (i64, i64, String) =
            (row.try_get("id")?, row.try_get("of_id")?, row.try_get("past")?);
        let what = Sweep::named(row.try_get("what")?)?;
        let end = sqlx::query_scalar(what.end()).bind(&past).bind(TOGETHER);
        let end = if matches!(what, Sweep::Ring) { end } else { end.bind(of) };
        let end: Option<String> = end.fetch_one(&mut *change.tx).await?;
        match end {
            Some(end) => {
                let mark = sqlx::query(what.mark()).bind(int(context.now.0)).bind(&past).bind(&end).bind(of);
                mark.execute(&mut *change.tx).await?;
                let past = sqlx::query("UPDATE sweeps SET past = $1 WHERE id = $2").bind(end).bind(id);
                past.execute(&mut *change.tx).await?;
            }
            None => {
                sqlx::query("DELETE FROM sweeps WHERE id = $1").bind(id).execute(&mut *change.tx).await?;
            }
        }
        change.commit_notes().await?;
        Ok(Some(Due::Planned(Vec::new())))
    }
}

impl Change<'_> {
    /// Has the scheduler look at the keys of a client or a ring, or at those that have a policy.
    pub(super) async fn look_at_keys(&mut self, what: Sweep, of: i64) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO sweeps (what, of_id, at) VALUES ($1, $2, $3)")
            .bind(what.name())
            .bind(of)
            .bind(int(self.now().0))
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// The same for all keys that follow a policy.
    pub(super) async fn look_at_followers(&mut self, policy: i64) -> Result<(), StoreError> {
        self.look_at_keys(Sweep::Policy, policy).await?;
        for (what, table) in [(Sweep::Client, "clients"), (Sweep::Ring, "rings")] {
            let sql = format!(
                "INSERT INTO sweeps (what, of_id, at) SELECT $1, id, $2 FROM {table} WHERE policy_id = $3"
            );
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(what.name())
                .bind(int(self.now().0))
                .bind(policy)
                .execute(&mut *self.tx)
                .await?;
        }
        Ok(())
    }
}
