//! Rows as types.

use keywheel_api::time::timestamp;
use keywheel_api::{
    Key, Retire, Rotation, RotationEnd, RotationState, Schedule, ScheduleState, Timestamp, Version, WaitsFor,
};
use keywheel_keyring::{Brownout, Digest, Millis, State};
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::StoreError;
use crate::lifecycle::accepted_until;

/// Shares are stored as so many parts of the whole.
const SHARES: f64 = 10_000.0;

/// A version as the store works on it.
#[derive(Debug, Clone)]
pub(super) struct VersionRow {
    pub(super) id: String,
    pub(super) key: String,
    pub(super) ring: i64,
    pub(super) digest: Digest,
    pub(super) state: State,
    pub(super) expires_at: Option<Millis>,
    pub(super) retire_at: Option<Millis>,
    pub(super) not_before: Option<Millis>,
    pub(super) ended_at: Option<Millis>,
    /// When proxies were told to forget it.
    pub(super) removed_at: Option<Millis>,
    pub(super) reinstated: bool,
    pub(super) created_at: Millis,
    brownout: Option<Brownout>,
    /// Below 0 in the database while it waits: then it is 0.
    revision: u64,
    pub(super) canary_revision: Option<u64>,
    /// While it waits in a canary: when its ring gets it at the latest.
    pub(super) promote_at: Option<Millis>,
    last_used_at: Option<Millis>,
}

/// SQLite's integers are signed. No revision and no time comes near the end of them.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

pub(super) fn version(row: &AnyRow) -> Result<VersionRow, StoreError> {
    Ok(VersionRow {
        id: row.try_get("id")?,
        key: row.try_get("key_id")?,
        ring: row.try_get("ring_id")?,
        digest: digest(row, "digest")?,
        state: word(row, "state")?,
        not_before: optional_time(row, "not_before")?,
        expires_at: optional_time(row, "expires_at")?,
        retire_at: optional_time(row, "retire_at")?,
        revision: uint(row.try_get("revision")?),
        canary_revision: row.try_get::<Option<i64>, _>("canary_revision")?.map(uint),
        promote_at: optional_time(row, "promote_at")?,
        created_at: time(row, "created_at")?,
        ended_at: optional_time(row, "ended_at")?,
        removed_at: optional_time(row, "removed_at")?,
        reinstated: row.try_get::<Option<&str>, _>("reinstated_in")?.is_some(),
        last_used_at: optional_time(row, "last_used_at")?,
        brownout: brownout(row)?,
    })
}

/// A key without its versions.
pub(super) fn key(row: &AnyRow) -> Result<Key, StoreError> {
    Ok(Key {
        id: row.try_get("id")?,
        ring: row.try_get("ring")?,
        client: row.try_get("client")?,
        scopes: json(row.try_get("scopes")?)?,
        created_at: timestamp(time(row, "created_at")?),
        expires_at: optional_timestamp(row, "expires_at")?,
        revoked_at: optional_timestamp(row, "revoked_at")?,
        open_rotation: row.try_get("open_rotation")?,
        labels: json(row.try_get("labels")?)?,
        policy: row.try_get("policy")?,
        schedule: schedule(row)?,
        versions: Vec::new(),
    })
}

/// Where the key stands by the policy that it follows, if it does.
fn schedule(row: &AnyRow) -> Result<Option<Schedule>, StoreError> {
    let policy: Option<String> = row.try_get("follows")?;
    let state: Option<&str> = row.try_get("schedule")?;
    let (Some(policy), Some(state)) = (policy, state) else { return Ok(None) };
    Ok(Some(Schedule {
        policy,
        state: named::<ScheduleState>(state)?,
        due_at: optional_timestamp(row, "due_at")?,
        next_version: row.try_get("next_version")?,
    }))
}

pub(super) fn rotation(row: &AnyRow) -> Result<Rotation, StoreError> {
    let ended_by: Option<String> = row.try_get("ended_by")?;
    let waits_for: Option<&str> = row.try_get("waits_for")?;
    let mut waits_for: Vec<WaitsFor> = waits_for.map(json).transpose()?.unwrap_or_default();
    let rule: Option<&str> = row.try_get("canary_promote")?;
    for reason in &mut waits_for {
        if let (WaitsFor::Canary { promote, .. }, Some(rule)) = (reason, rule) {
            *promote = named(rule)?;
        }
    }
    let evidence: Option<&str> = row.try_get("evidence")?;
    Ok(Rotation {
        id: row.try_get("id")?,
        key: row.try_get("key_id")?,
        old_version: row.try_get("old_version")?,
        new_version: row.try_get("new_version")?,
        state: word::<RotationState>(row, "state")?,
        ended_by: ended_by.map(|text| named::<RotationEnd>(&text)).transpose()?,
        begins_at: timestamp(time(row, "begins_at")?),
        overlap_ends_at: timestamp(time(row, "overlap_ends_at")?),
        deadline: timestamp(time(row, "deadline")?),
        created_at: timestamp(time(row, "created_at")?),
        ended_at: optional_timestamp(row, "ended_at")?,
        retire: word::<Retire>(row, "retire")?,
        quiet_period_seconds: optional_time(row, "quiet")?.map(|quiet| quiet.0 / 1000),
        automatic: row.try_get::<i64, _>("automatic")? != 0,
        waits_for,
        evidence: evidence.map(json).transpose()?,
    })
}

fn brownout(row: &AnyRow) -> Result<Option<Brownout>, StoreError> {
    let share: Option<i64> = row.try_get("brownout_share")?;
    Ok(brownout_of(share, optional_time(row, "brownout_until")?))
}

/// From a share as it is stored.
pub(super) fn brownout_of(share: Option<i64>, until: Option<Millis>) -> Option<Brownout> {
    // At most 10,000, so nothing is lost.
    let share = share.and_then(|share| i32::try_from(share).ok()).map(|share| f64::from(share) / SHARES);
    share.zip(until).map(|(share, until)| Brownout { share: share.clamp(0.0, 1.0), until })
}

/// A share of requests as a whole number of ten-thousandths.
pub(super) fn share(share: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "0 to 10,000")]
    let share = (share.clamp(0.0, 1.0) * SHARES).round() as i64;
    share
}

pub(super) fn time(row: &AnyRow, column: &str) -> Result<Millis, StoreError> {
    Ok(Millis(uint(row.try_get(column)?)))
}

pub(super) fn optional_time(row: &AnyRow, column: &str) -> Result<Option<Millis>, StoreError> {
    let value: Option<i64> = row.try_get(column)?;
    Ok(value.map(|value| Millis(uint(value))))
}

pub(super) fn optional_timestamp(row: &AnyRow, column: &str) -> Result<Option<Timestamp>, StoreError> {
    Ok(optional_time(row, column)?.map(timestamp))
}

pub(super) fn digest(row: &AnyRow, column: &str) -> Result<Digest, StoreError> {
    let bytes: &[u8] = row.try_get(column)?;
    let bytes = bytes.try_into().map_err(|_| StoreError::Corrupt("a digest of a wrong length".into()))?;
    Ok(Digest::from_bytes(bytes))
}

/// A word that the type's own serde names define.
pub(super) fn word<T: DeserializeOwned>(row: &AnyRow, column: &str) -> Result<T, StoreError> {
    named(row.try_get(column)?)
}

pub(super) fn named<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| StoreError::Corrupt(format!("the word `{text}`")))
}

pub(super) fn json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// The name under which a state is stored.
pub(super) const fn state_name(state: State) -> &'static str {
    match state {
        State::Pending => "pending",
        State::Active => "active",
        State::Retiring => "retiring",
        State::Retired => "retired",
        State::Revoked => "revoked",
        State::Compromised | State::Unreadable => "compromised",
    }
}

// === impl VersionRow ===

impl From<VersionRow> for Version {
    fn from(row: VersionRow) -> Self {
        Self {
            expires_at: accepted_until(row.expires_at, row.retire_at).map(timestamp),
            brownout: row.brownout.filter(|_| row.state == State::Retiring).map(|brownout| {
                keywheel_api::Brownout { share: brownout.share, until: timestamp(brownout.until) }
            }),
            id: row.id,
            state: row.state,
            not_before: row.not_before.map(timestamp),
            revision: row.revision,
            canary_revision: row.canary_revision,
            waits_until: row.promote_at.map(timestamp),
            created_at: timestamp(row.created_at),
            ended_at: row.ended_at.map(timestamp),
            last_used_at: row.last_used_at.map(timestamp),
        }
    }
}
