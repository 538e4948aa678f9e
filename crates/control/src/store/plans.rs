//! What a key's policy makes of it. A plan is kept in the key's row and made anew with every change of the key, so
//! that whoever comes next finds what is due by an index.

use keywheel_api::time::{millis, timestamp};
use keywheel_api::{Key, Notice, NoticeKind, Rotation, ScheduleState, State, Terms};
use keywheel_keyring::{Digest, Millis, VersionId};
use serde_json::json;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::change::{Change, Context};
use super::deadlines::Due;
use super::rotations::NewRotation;
use super::rows::{digest, int, time, uint, word};
use super::{Refusal, Store, StoreError};
use crate::schedule::{Announcement, Plan, Situation};

/// Rotations that schedules start in one minute. What was missed in a long time is made up for at this pace.
pub const AUTOMATIC_STARTS_A_MINUTE: u32 = 60;
const MINUTE: u64 = 60_000;
/// Rows of one DELETE, so that nobody waits long for the writer.
const CHUNK: i64 = 10_000;
/// Keys looked at in one transaction.
const LOOKS: i64 = 100;

impl Store {
    /// Deposits the version to which the key's schedule, or a campaign, is to rotate it. It takes the place of an earlier one;
    /// doing it twice is doing it once.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such key, it follows no schedule and is in no campaign, or has ended, the version or digest is taken, or the digest
    /// is compromised.
    pub async fn deposit(
        &self,
        context: &Context,
        key: &str,
        version: &VersionId,
        digest: Digest,
    ) -> Result<Key, StoreError> {
        let mut change = self.begin(context).await?;
        let before = change.key(key).await?;
        if change.deposited(key).await? == Some((version.clone(), digest)) {
            return Ok(before);
        }
        change.refuse_ended(&before)?;
        let terms = change.terms(key).await?;
        let scheduled = terms.is_some_and(|terms| terms.rotate_every_seconds.is_some());
        if !scheduled && !change.is_wanted(key).await? {
            let why = "it follows no policy with `rotate_every_seconds` and no campaign waits for it, so nothing would rotate it".into();
            return Err(Refusal::Policy { key: before.id, why }.into());
        }
        if change.version(version.as_str()).await?.is_some() {
            return Err(Refusal::VersionExists(version.to_string()).into());
        }
        change.refuse_compromised(&[digest]).await?;
        if change.is_taken(key, digest).await? {
            return Err(Refusal::DigestTaken.into());
        }
        change.set_deposit(key, Some((version, digest))).await?;
        change.wake_campaigns_of(key).await?;
        let key = change.audit_key("key.deposit", key, &before).await?;
        change.commit().await?;
        Ok(key)
    }

    /// Takes a deposited version back. Without one nothing happens.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn withdraw(&self, context: &Context, key: &str) -> Result<Key, StoreError> {
        let mut change = self.begin(context).await?;
        let before = change.key(key).await?;
        if change.deposited(key).await?.is_none() {
            return Ok(before);
        }
        change.set_deposit(key, None).await?;
        let key = change.audit_key("key.withdraw", key, &before).await?;
        change.commit().await?;
        Ok(key)
    }

    /// Up to `limit` notices after number `after`, in the order in which they were given.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn notices(&self, after: u64, limit: u32) -> Result<Vec<Notice>, StoreError> {
        let rows = sqlx::query(
            "SELECT n.id, n.at, n.kind, n.key_id, c.name AS client, r.name AS ring, n.step_at, n.lead
             FROM notices n JOIN keys k ON k.id = n.key_id JOIN clients c ON c.id = k.client_id
             JOIN rings r ON r.id = k.ring_id
             WHERE n.id > $1 ORDER BY n.id LIMIT $2",
        )
        .bind(int(after))
        .bind(i64::from(limit))
        .fetch_all(self.db.readers())
        .await?;
        rows.iter().map(notice).collect()
    }

    /// Forgets notices that were given before that. Returns how many.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was forgotten before it stays so.
    pub async fn forget_notices(&self, before: Millis) -> Result<u64, StoreError> {
        let mut forgotten: u64 = 0;
        loop {
            let rows = sqlx::query(
                "DELETE FROM notices WHERE id IN (SELECT id FROM notices WHERE at < $1 LIMIT $2)",
            )
            .bind(int(before.0))
            .bind(CHUNK)
            .execute(self.db.writer())
            .await?
            .rows_affected();
            forgotten = forgotten.saturating_add(rows);
            if rows < uint(CHUNK) {
                return Ok(forgotten);
            }
        }
    }

    /// When the next key is to be looked at or started. What waits for its turn alone is not early.
    pub(super) async fn next_plan(&self, now: Millis) -> Result<Option<Millis>, StoreError> {
        let mut tx = self.db.read().await?;
        let look: Option<i64> = sqlx::query_scalar("SELECT min(look_at) FROM keys WHERE look_at IS NOT NULL")
            .fetch_one(&mut *tx)
            .await?;
        let start: Option<i64> =
            sqlx::query_scalar("SELECT min(start_at) FROM keys WHERE start_at IS NOT NULL")
                .fetch_one(&mut *tx)
                .await?;
        let start = match start {
            Some(at) => Some(at.max(free_at(&mut tx, now).await?.map_or(0, |at| int(at.0)))),
            None => None,
        };
        Ok(look.into_iter().chain(start).min().map(|at| Millis(uint(at))))
    }

    /// Starts the rotation that has been due for longest and whose version was deposited, unless enough were
    /// started in the last minute.
    pub(super) async fn start_one_due(&self, context: &Context) -> Result<Option<Due>, StoreError> {
        let mut change = self.begin(context).await?;
        if free_at(&mut change.tx, context.now).await?.is_some_and(|at| at > context.now) {
            return Ok(None);
        }
        let key: Option<String> =
            sqlx::query_scalar("SELECT id FROM keys WHERE start_at <= $1 ORDER BY start_at, id LIMIT 1")
                .bind(int(context.now.0))
                .fetch_optional(&mut *change.tx)
                .await?;
        let Some(key) = key else { return Ok(None) };
        // Its window may have closed while nobody looked.
        let plan = change.plan(&key).await?;
        let (Some(_), Some((version, digest))) =
            (plan.start_at.filter(|at| *at <= context.now), change.deposited(&key).await?)
        else {
            change.commit_notes().await?;
            return Ok(Some(Due::Planned(Vec::new())));
        };
        let new = NewRotation { automatic: true, ..NewRotation::to(key.clone(), version, digest) };
        match change.start(&new).await {
            Ok((rotation, _)) => {
                change.commit().await?;
                Ok(Some(Due::Started(rotation)))
            }
            Err(StoreError::Refused(refusal)) => {
                drop(change);
                self.refuse_deposit(context, &key, &refusal).await.map(Some)
            }
            Err(error) => Err(error),
        }
    }

    async fn refuse_deposit(
        &self,
        context: &Context,
        key: &str,
        refusal: &Refusal,
    ) -> Result<Due, StoreError> {
        let mut change = self.begin(context).await?;
        let why = change.drop_deposit(key, refusal).await?;
        change.commit().await?;
        Ok(Due::DepositRefused { key: key.to_owned(), why })
    }

    /// Looks at keys whose plan may have changed by the time alone, and gives their notices.
    pub(super) async fn look_at_due_keys(&self, context: &Context) -> Result<Option<Due>, StoreError> {
        let mut change = self.begin(context).await?;
        let keys: Vec<String> =
            sqlx::query_scalar("SELECT id FROM keys WHERE look_at <= $1 ORDER BY look_at LIMIT $2")
                .bind(int(context.now.0))
                .bind(LOOKS)
                .fetch_all(&mut *change.tx)
                .await?;
        if keys.is_empty() {
            return Ok(None);
        }
        let mut given = Vec::new();
        for key in keys {
            let plan = change.plan(&key).await?;
            change.keep_plan(&key, &plan, plan.look_at).await?;
            for announcement in &plan.notices {
                if change.announce(&key, announcement).await? {
                    given.push((key.clone(), *announcement));
                }
            }
        }
        change.commit_notes().await?;
        Ok(Some(Due::Planned(given)))
    }
}

impl Change<'_> {
    /// Makes a key's plan anew and keeps it. If it has something to announce, the scheduler comes by at once.
    pub(super) async fn plan(&mut self, key: &str) -> Result<Plan, StoreError> {
        let Some(terms) = self.terms(key).await? else {
            let sql = "UPDATE keys SET look_at = NULL, due_at = NULL, start_at = NULL, schedule = NULL
                       WHERE id = $1 AND (look_at IS NOT NULL OR schedule IS NOT NULL)";
            sqlx::query(sql).bind(key).execute(&mut *self.tx).await?;
            return Ok(Plan::default());
        };
        let plan = self.situation(key, &terms).await?;
        let look_at = if plan.notices.is_empty() { plan.look_at } else { Some(self.now()) };
        self.keep_plan(key, &plan, look_at).await?;
        Ok(plan)
    }

    /// What was deposited cannot be used, so it goes, and somebody is told. Otherwise it would be tried for ever.
    /// Returns why.
    pub(super) async fn drop_deposit(&mut self, key: &str, refusal: &Refusal) -> Result<String, StoreError> {
        let (version, _) = self.deposited(key).await?.unzip();
        self.set_deposit(key, None).await?;
        let refused = Announcement { kind: NoticeKind::DepositRefused, step_at: self.now(), lead: 0 };
        self.announce(key, &refused).await?;
        let why = refusal.to_string();
        self.plan(key).await?;
        let was = json!({ "next_version": version.as_ref().map(VersionId::as_str) });
        self.audit("key.deposit-refused", key, Some(was), Some(json!({ "refused": why }))).await?;
        Ok(why)
    }

    async fn situation(&mut self, key: &str, terms: &Terms) -> Result<Plan, StoreError> {
        let found = self.key(key).await?;
        let deposited = self.deposited(key).await?.is_some();
        let rotation = self.open_rotation(key).await?;
        let mut active: Vec<Millis> = Vec::new();
        if self.refuse_ended(&found).is_ok() {
            let versions = self.versions(key).await?;
            let versions = versions.iter().filter(|version| version.state == State::Active);
            active = versions.map(|v| v.not_before.map_or(v.created_at, |at| at.max(v.created_at))).collect();
        }
        let (oldest, newest) = (active.iter().min().copied(), active.iter().max().copied());
        // Where versions stand beside each other the oldest is next; otherwise those beside the newest were
        // brought back, and go with it.
        let active_since = if terms.max_versions.is_some() { oldest } else { newest };
        let overlap = rotation.as_ref().and_then(overlap);
        let situation = Situation {
            key,
            terms,
            active_since,
            oldest_since: oldest,
            overlap,
            rotating: rotation.is_some(),
            deposited,
        };
        Ok(Plan::new(&situation, self.now()))
    }

    async fn keep_plan(&mut self, key: &str, plan: &Plan, look_at: Option<Millis>) -> Result<(), StoreError> {
        let state = plan.state.map(state_name);
        sqlx::query("UPDATE keys SET look_at = $1, due_at = $2, start_at = $3, schedule = $4 WHERE id = $5")
            .bind(look_at.map(|at| int(at.0)))
            .bind(plan.due_at.map(|at| int(at.0)))
            .bind(plan.start_at.map(|at| int(at.0)))
            .bind(state)
            .bind(key)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Whether it was not announced before.
    async fn announce(&mut self, key: &str, announcement: &Announcement) -> Result<bool, StoreError> {
        let kind = json!(announcement.kind);
        let done = sqlx::query(
            "INSERT INTO notices (at, key_id, kind, step_at, lead) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
        )
        .bind(int(self.now().0))
        .bind(key)
        .bind(kind.as_str())
        .bind(int(announcement.step_at.0))
        .bind(int(announcement.lead))
        .execute(&mut *self.tx)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// The keys for which this digest was deposited, and its version.
    pub(super) async fn deposits_of(&mut self, digest: Digest) -> Result<Vec<(String, String)>, StoreError> {
        let rows = sqlx::query("SELECT id, next_version FROM keys WHERE next_digest = $1 ORDER BY id")
            .bind(digest.as_bytes().as_slice())
            .fetch_all(&mut *self.tx)
            .await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("next_version")?))).collect()
    }

    /// The version that was deposited for a key.
    pub(super) async fn deposited(&mut self, key: &str) -> Result<Option<(VersionId, Digest)>, StoreError> {
        let row = sqlx::query(
            "SELECT next_version, next_digest FROM keys WHERE id = $1 AND next_version IS NOT NULL",
        )
        .bind(key)
        .fetch_optional(&mut *self.tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let id: &str = row.try_get("next_version")?;
        let bad = |_| StoreError::Corrupt(format!("the version id `{id}`"));
        Ok(Some((id.parse().map_err(bad)?, digest(&row, "next_digest")?)))
    }

    pub(super) async fn set_deposit(
        &mut self,
        key: &str,
        version: Option<(&VersionId, Digest)>,
    ) -> Result<(), StoreError> {
        let (id, digest) = version.unzip();
        sqlx::query("UPDATE keys SET next_version = $1, next_digest = $2 WHERE id = $3")
            .bind(id.map(VersionId::as_str))
            .bind(digest.map(|digest| digest.as_bytes().to_vec()))
            .bind(key)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Whether the key's ring has the digest.
    async fn is_taken(&mut self, key: &str, digest: Digest) -> Result<bool, StoreError> {
        let sql = "SELECT id FROM versions WHERE ring_id = (SELECT ring_id FROM keys WHERE id = $1) AND digest = $2";
        let row = sqlx::query(sql).bind(key).bind(digest.as_bytes().as_slice());
        Ok(row.fetch_optional(&mut *self.tx).await?.is_some())
    }
}

/// When a schedule may start the next rotation, if not at once. Starts of a time that has not come count for
/// nothing: the clock was set back, and that must hold nobody up.
async fn free_at(connection: &mut sqlx::AnyConnection, now: Millis) -> Result<Option<Millis>, StoreError> {
    let row = sqlx::query(
        "SELECT created_at FROM rotations WHERE automatic = 1 AND created_at > $1 AND created_at <= $2
         ORDER BY created_at DESC LIMIT 1 OFFSET $3",
    )
    .bind(int(now.0.saturating_sub(MINUTE)))
    .bind(int(now.0))
    .bind(i64::from(AUTOMATIC_STARTS_A_MINUTE.saturating_sub(1)))
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok(Millis(time(&row, "created_at")?.0.saturating_add(MINUTE)))).transpose()
}

/// The overlap of a rotation that has begun.
fn overlap(rotation: &Rotation) -> Option<(Millis, Millis)> {
    let begun = rotation.state != keywheel_api::RotationState::Distributing;
    begun.then_some(())?;
    Some((millis(rotation.begins_at)?, millis(rotation.overlap_ends_at)?))
}

const fn state_name(state: ScheduleState) -> &'static str {
    match state {
        ScheduleState::Scheduled => "scheduled",
        ScheduleState::Due => "due",
        ScheduleState::Overdue => "overdue",
    }
}

fn notice(row: &AnyRow) -> Result<Notice, StoreError> {
    Ok(Notice {
        id: uint(row.try_get("id")?),
        at: timestamp(time(row, "at")?),
        kind: word::<NoticeKind>(row, "kind")?,
        key: row.try_get("key_id")?,
        ring: row.try_get("ring")?,
        client: row.try_get("client")?,
        step_at: timestamp(time(row, "step_at")?),
        lead_seconds: time(row, "lead")?.0 / 1000,
    })
}
