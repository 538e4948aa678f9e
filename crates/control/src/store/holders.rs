//! Keys that come for themselves: whoever holds a key sees it, and rotates it where its policy allows that.

use keywheel_api::self_service::{ROTATIONS_AN_HOUR, SHORTEST_OVERLAP_SECONDS};
use keywheel_api::time::timestamp;
use keywheel_api::{Key, Rotation, State, Terms, Timestamp};
use keywheel_keyring::{Digest, Millis, VersionId};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::change::Context;
use super::keys::{load_key, load_version, load_versions};
use super::policies::followed;
use super::rotations::{NewRotation, load_maker, load_open};
use super::rows::{int, optional_time, time, word};
use super::{Refusal, Store, StoreError};

const HOUR: u64 = 60 * 60 * 1000;

/// Whose secret was sent: a version that proxies accept too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub key: String,
    pub version: String,
    pub ring: String,
}

/// Why a genuine secret is not accepted. Whoever holds it may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    #[error("this version of the key has retired; use the one that took its place")]
    Retired,
    #[error("the key is revoked; ask whoever issued it for another one")]
    Revoked,
    #[error("the key has expired; ask whoever issued it for another one")]
    Expired,
    #[error("the key is not accepted before {0}")]
    NotYet(Timestamp),
    /// Nothing says which of the keys is meant.
    #[error("the secret belongs to keys of several rings; ask whoever issued it to rotate them")]
    Several,
}

/// A key as its holder sees it.
#[derive(Debug, Clone)]
pub struct OwnKey {
    pub key: Key,
    /// The name and the terms of what it follows.
    pub policy: Option<(String, Terms)>,
    pub open_rotation: Option<Rotation>,
}

/// A rotation that a key starts with itself.
#[derive(Debug, Clone)]
pub struct OwnRotation {
    /// Milliseconds; what the key's policy says when absent.
    pub overlap: Option<u64>,
    pub version: VersionId,
    pub digest: Digest,
}

/// What becomes of such a request.
enum Judged {
    /// It was carried out before.
    Repeated(Rotation),
    Granted(NewRotation),
}

impl Store {
    /// Whose secret has this digest, if it is one of ours, and whether proxies accept it now. A secret that ended in one
    /// ring is accepted in none here.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub async fn holder(
        &self,
        digest: Digest,
        now: Millis,
    ) -> Result<Option<Result<Holder, NotAccepted>>, StoreError> {
        // The rings are named for the sake of the index, which begins with them.
        let rows = sqlx::query(
            "SELECT v.id, v.key_id, r.name AS ring, v.state, v.not_before, v.expires_at, v.retire_at, k.revoked_at,
             (SELECT count(*) FROM compromised_digests WHERE digest = $1) AS compromised
             FROM versions v JOIN keys k ON k.id = v.key_id JOIN rings r ON r.id = v.ring_id
             WHERE v.ring_id IN (SELECT id FROM rings) AND v.digest = $1 ORDER BY v.ring_id",
        )
        .bind(digest.as_bytes().as_slice())
        .fetch_all(self.db.readers())
        .await?;
        for row in &rows {
            if let Some(why) = not_accepted(row, now)? {
                return Ok(Some(Err(why)));
            }
        }
        match rows.as_slice() {
            [] => Ok(None),
            [row] => Ok(Some(Ok(Holder {
                key: row.try_get("key_id")?,
                version: row.try_get("id")?,
                ring: row.try_get("ring")?,
            }))),
            _ => Ok(Some(Err(NotAccepted::Several))),
        }
    }

    /// # Errors
    ///
    /// [`StoreError`] if the database fails.
    pub async fn own_key(&self, holder: &Holder) -> Result<OwnKey, StoreError> {
        let mut tx = self.db.read().await?;
        Ok(OwnKey {
            key: load_key(&mut tx, &holder.key).await?,
            policy: followed(&mut tx, &holder.key).await?,
            open_rotation: load_open(&mut tx, &holder.key).await?,
        })
    }

    /// Starts a rotation of the holder's key, by the terms of its policy. Repeated with the same version and digest it
    /// returns what the first call made, and `false`, also for a version that is retiring by then.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: the policy does not allow it, or not with that overlap; a newer version took the place of the holder's;
    /// a rotation is open; too many were started within an hour; or as [`start_rotation`](Self::start_rotation).
    pub async fn start_own_rotation(
        &self,
        context: &Context,
        holder: &Holder,
        new: &OwnRotation,
    ) -> Result<(Rotation, bool), StoreError> {
        // Refusals and repeats wait for no change and hold none up, however often somebody asks.
        let mut tx = self.db.read().await?;
        if let Judged::Repeated(made) = judge(&mut tx, holder, new, context.now).await? {
            return Ok((made, false));
        }
        drop(tx);
        let mut change = self.begin(context).await?;
        match judge(&mut change.tx, holder, new, context.now).await? {
            Judged::Repeated(made) => Ok((made, false)),
            Judged::Granted(new) => {
                let started = change.start(&new).await?;
                change.commit().await?;
                Ok(started)
            }
        }
    }
}

/// As the filter decides, but for brown-outs: whoever comes here has noticed.
fn not_accepted(row: &AnyRow, now: Millis) -> Result<Option<NotAccepted>, StoreError> {
    let over = |at: Option<Millis>| at.is_some_and(|at| at <= now);
    let compromised = row.try_get::<i64, _>("compromised")? > 0;
    let revoked = compromised || optional_time(row, "revoked_at")?.is_some();
    let begins = optional_time(row, "not_before")?.filter(|at| *at > now);
    Ok(match word::<State>(row, "state")? {
        State::Revoked | State::Compromised | State::Unreadable => Some(NotAccepted::Revoked),
        _ if revoked => Some(NotAccepted::Revoked),
        State::Retired => Some(NotAccepted::Retired),
        State::Active | State::Retiring | State::Pending => {
            if over(optional_time(row, "expires_at")?) {
                Some(NotAccepted::Expired)
            } else if over(optional_time(row, "retire_at")?) {
                Some(NotAccepted::Retired)
            } else {
                begins.map(|at| NotAccepted::NotYet(timestamp(at)))
            }
        }
    })
}

async fn judge(
    connection: &mut AnyConnection,
    holder: &Holder,
    new: &OwnRotation,
    now: Millis,
) -> Result<Judged, StoreError> {
    let asked = NewRotation {
        overlap: new.overlap,
        ..NewRotation::to(holder.key.clone(), new.version.clone(), new.digest)
    };
    if let Some(existing) = load_version(connection, new.version.as_str()).await? {
        let made = load_maker(connection, &existing.id).await?.filter(|made| asked.repeats(made, &existing));
        let taken = || Refusal::VersionExists(existing.id.clone());
        return Ok(Judged::Repeated(made.ok_or_else(taken)?));
    }
    let terms = followed(connection, &holder.key).await?.map(|(_, terms)| terms).unwrap_or_default();
    if !terms.self_rotation {
        let why =
            "no policy that it follows says `self_rotation`; ask whoever issued it to rotate it".to_owned();
        return Err(Refusal::Policy { key: holder.key.clone(), why }.into());
    }
    let versions = load_versions(connection, &holder.key).await?;
    let own = versions.iter().find(|version| version.id == holder.version);
    let newest = versions.iter().rfind(|version| version.state == State::Active);
    if own.is_none_or(|own| own.state == State::Retiring) {
        return Err(Refusal::VersionSuperseded(holder.version.clone()).into());
    }
    if let Some(open) = load_open(connection, &holder.key).await? {
        return Err(Refusal::RotationOpen(open.id).into());
    }
    // Whoever holds an older one may not be who the newest was handed to.
    if newest.is_some_and(|newest| newest.id != holder.version) {
        return Err(Refusal::VersionSuperseded(holder.version.clone()).into());
    }
    let (least, most) = overlaps(&terms);
    let allowed = least.saturating_mul(1000)..=most.saturating_mul(1000);
    if new.overlap.is_some_and(|asked| !allowed.contains(&asked)) {
        return Err(Refusal::OwnOverlap { least, most }.into());
    }
    refuse_too_many(connection, &holder.key, now).await?;
    // Where versions stand beside each other, the holder of one does not end the others.
    let replaces = terms.max_versions.is_some().then(|| holder.version.clone());
    Ok(Judged::Granted(NewRotation { replaces, ..asked }))
}

/// The shortest and the longest overlap that a holder may ask for, in seconds.
pub(crate) fn overlaps(terms: &Terms) -> (u64, u64) {
    (terms.overlap_seconds.min(SHORTEST_OVERLAP_SECONDS), terms.overlap_seconds)
}

/// Counts in the database, so that all replicas count the same.
async fn refuse_too_many(connection: &mut AnyConnection, key: &str, now: Millis) -> Result<(), StoreError> {
    let row = sqlx::query(
        "SELECT created_at FROM rotations WHERE key_id = $1 AND created_at > $2
         ORDER BY created_at DESC LIMIT 1 OFFSET $3",
    )
    .bind(key)
    .bind(int(now.0.saturating_sub(HOUR)))
    .bind(i64::from(ROTATIONS_AN_HOUR.saturating_sub(1)))
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(()) };
    let again = time(&row, "created_at")?.0.saturating_add(HOUR);
    Err(Refusal::TooManyRotations { wait: again.saturating_sub(now.0).div_ceil(1000) }.into())
}
