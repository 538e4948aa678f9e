use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use keywheel_api::time::{millis, timestamp};
use keywheel_api::usage::MAX_DAYS;
use keywheel_api::{KeyUsage, Problem, Timestamp};
use keywheel_keyring::Millis;
use keywheel_keyring::usage::{Batch, MAX_BATCHES, MAX_REPORT, Report};
use serde::Deserialize;
use serde_json::Value;
use tracing::warn;

use super::auth::Caller;
use super::body::{self, Params};
use super::error::ApiError;
use super::{require, rings, uncancelled};
use crate::store::NewUsage;
use crate::{Control, clock};

const DAY: u64 = 24 * crate::usage::HOUR;
const DEFAULT_SPAN: u64 = 7 * DAY;
/// The most VMs of one answer.
const MAX_REPORTING: u32 = 1000;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Span {
    /// Seven days before `to` when absent, and at most 90.
    #[param(required = false, value_type = Timestamp)]
    from: Option<Timestamp>,
    /// Now when absent.
    #[param(required = false, value_type = Timestamp)]
    to: Option<Timestamp>,
}

/// A batch that breaks a rule does not hold up the others: sent again, it would break it again.
pub(crate) async fn record(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let publisher = rings::find(&control, &ring)?;
    rings::note(&control, &publisher, request.headers()).await;
    publisher.published()?;
    let ring = publisher.record.id;
    let body = body::bytes(request, "a usage report", MAX_REPORT).await?;
    let (batches, refused) = read(&body)?;
    if let Some(BadBatch { at, why }) = refused.first() {
        let count = refused.len() as u64;
        control.store.tally_refused(ring, count);
        // What a proxy wrote is quoted, so that it forges no line of the log.
        warn!(count, batch = at, why = ?why, "Left {count} batches of a usage report out that break a rule");
    }
    let report = NewUsage { ring, batches, now: clock::now() };
    uncancelled(async move { control.store.record_usage(report).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(key): Path<String>,
    Params(span): Params<Span>,
) -> Result<axum::Json<KeyUsage>, ApiError> {
    caller.require_key(&control, &key).await?;
    let to = span.to.map_or_else(clock::now, |to| millis(to).unwrap_or_default());
    let from =
        span.from.map_or(Millis(to.0.saturating_sub(DEFAULT_SPAN)), |from| millis(from).unwrap_or_default());
    require(from < to, "from", "a time before `to`")?;
    let rule = format!("at most {MAX_DAYS} days before `to`; counts are not kept for longer");
    require(to.saturating_since(from) <= MAX_DAYS.saturating_mul(DAY), "from", &rule)?;
    let key = control.store.key(&key).await?;
    let hours = control.store.usage_hours(&key.id, from, to).await?;
    let (vms, reporting) = control.store.reporting(&key.ring, MAX_REPORTING).await?;
    let (from, to) = (timestamp(from), timestamp(to));
    Ok(axum::Json(KeyUsage { key: key.id, ring: key.ring, from, to, hours, vms, reporting }))
}

/// The batches that keep their rules, and the others.
fn read(body: &[u8]) -> Result<(Vec<Batch>, Vec<BadBatch>), ApiError> {
    let mut refused = Vec::new();
    let batches: Vec<(usize, Batch)> = match serde_json::from_slice::<Report>(body) {
        Ok(report) => report.batches.into_iter().enumerate().collect(),
        // Slower, and only for what no proxy should have sent.
        Err(_) => {
            let loose: Loose = serde_json::from_slice(body)
                .map_err(|error| Problem::field(".", format!("not a usage report: {error}")))?;
            let mut batches = Vec::new();
            for (at, value) in loose.batches.into_iter().enumerate() {
                match serde_json::from_value(value) {
                    Ok(batch) => batches.push((at, batch)),
                    Err(error) => refused.push(BadBatch { at, why: error.to_string() }),
                }
            }
            batches
        }
    };
    let count = batches.len().saturating_add(refused.len());
    require(count <= MAX_BATCHES, "batches", &format!("at most {MAX_BATCHES} batches in one report"))?;
    let mut good = Vec::with_capacity(batches.len());
    for (at, batch) in batches {
        match batch.check() {
            Ok(()) => good.push(batch),
            Err(error) => refused.push(BadBatch { at, why: error.to_string() }),
        }
    }
    Ok((good, refused))
}

/// A batch that is left out.
struct BadBatch {
    /// Its place in the report, from 0.
    at: usize,
    why: String,
}

/// A report with its batches unread.
#[derive(Deserialize)]
struct Loose {
    batches: Vec<Value>,
}
