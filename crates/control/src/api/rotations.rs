use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use keywheel_api::rotation::MAX_OVERLAP_SECONDS;
use keywheel_api::{
    List, NextStep, RollBack, Rotation, RotationProgress, RotationState, RotationWithSecret, StartBrownout,
    StartRotation, Step, VersionProgress, time,
};
use keywheel_keyring::entry::is_name;
use serde::Deserialize;
use tracing::info;

use super::auth::{By, Caller};
use super::body::{Json, JsonOrDefault, Params};
use super::clients::NAME_RULE;
use super::error::ApiError;
use super::{PAGE, cursor, keys, require, rings, uncancelled};
use crate::store::{NewRotation, RollBackTo, RotationFilter};
use crate::{Control, clock};

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Of this key only.
    #[param(required = false, value_type = super::Cursor)]
    key: Option<String>,
    /// Of keys of this client only.
    #[param(required = false, value_type = keywheel_api::openapi::ClientName)]
    client: Option<String>,
    /// Only those that go on, or only those that are over.
    #[param(required = false, value_type = bool)]
    open: Option<bool>,
    /// The `next` of the page before; the first page when absent.
    #[serde(default)]
    #[param(required = false, value_type = super::Cursor)]
    after: String,
}

pub(crate) async fn start(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(key): Path<String>,
    By(context): By,
    Json(new): Json<StartRotation>,
) -> Result<(StatusCode, axum::Json<RotationWithSecret>), ApiError> {
    caller.require_key(&control, &key).await?;
    let overlap = new.overlap_seconds.map(overlap).transpose()?;
    let found = control.store.key(&key).await?;
    let expires_at = found.expires_at.and_then(time::millis);
    let not_before = new.not_before.map(|at| keys::beginning(at, context.now, expires_at)).transpose()?;
    let made = keys::version(&control, &found.ring, new.version, context.now)?;
    let new = NewRotation {
        overlap,
        not_before,
        supersede: new.supersede,
        replaces: new.replaces,
        ..NewRotation::to(key, made.id, made.digest)
    };
    let (rotation, created) =
        uncancelled(async move { control.store.start_rotation(&context, &new).await }).await?;
    if created {
        info!(
            rotation.id,
            key.id = rotation.key,
            "Rotating key {}: {} until {}, and {} from {} on",
            rotation.key,
            rotation.old_version,
            rotation.overlap_ends_at,
            rotation.new_version,
            rotation.begins_at,
        );
    }
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let secret = made.secret.map(|secret| secret.expose().to_owned());
    Ok((status, axum::Json(RotationWithSecret { rotation, secret })))
}

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Params(filter): Params<Filter>,
) -> Result<axum::Json<List<Rotation>>, ApiError> {
    let Filter { key, client, open, after } = filter;
    require(client.as_deref().is_none_or(is_name), "client", NAME_RULE)?;
    let filter = RotationFilter { key, client, open, rings: caller.rings().map(<[_]>::to_vec) };
    let items = control.store.rotations(&filter, cursor(&after)?, PAGE).await?;
    Ok(axum::Json(List::new(items, PAGE, |rotation| rotation.id.clone())))
}

pub(crate) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(rotation): Path<String>,
) -> Result<axum::Json<Rotation>, ApiError> {
    caller.require_rotation(&control, &rotation).await?;
    Ok(axum::Json(control.store.rotation(&rotation).await?))
}

pub(crate) async fn progress(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(rotation): Path<String>,
) -> Result<axum::Json<RotationProgress>, ApiError> {
    caller.require_rotation(&control, &rotation).await?;
    let rotation = control.store.rotation(&rotation).await?;
    let key = control.store.key(&rotation.key).await?;
    let ring = rings::find(&control, &key.ring)?;
    let now = clock::now();
    let (mut versions, mut revision) = (Vec::new(), 0);
    for id in [&rotation.old_version, &rotation.new_version] {
        let Some(version) = key.versions.iter().find(|version| version.id == *id) else { continue };
        revision = version.revision.max(revision);
        versions.push(VersionProgress {
            version: version.id.clone(),
            state: version.state,
            last_used_at: version.last_used_at,
            requests: control.store.requests_lately(id, now).await?,
            share: None,
        });
    }
    let all = versions.iter().fold(0_u64, |sum, version| sum.saturating_add(version.requests.hour));
    for version in versions.iter_mut().filter(|_| all > 0) {
        version.share = Some(version.requests.hour as f64 / all as f64);
    }
    // What its own ring has not got yet is for the proxies of the canary to enforce.
    let new = key.versions.iter().find(|version| version.id == rotation.new_version);
    let ahead =
        new.filter(|version| version.waits_until.is_some()).and_then(|version| version.canary_revision);
    let (ring, revision) = match (ahead, control.canary_of(&ring)) {
        (Some(ahead), Some(canary)) => (canary, ahead),
        _ => (ring, revision),
    };
    ring.proxies.catch_up().await?;
    let proxies = ring.proxies.proof(revision, now);
    let next = match rotation.state {
        RotationState::Distributing => Some(NextStep { step: Step::Begin, at: rotation.begins_at }),
        RotationState::Overlapping | RotationState::Draining => {
            Some(NextStep { step: Step::Retire, at: rotation.overlap_ends_at })
        }
        RotationState::Completed | RotationState::RolledBack => None,
    };
    Ok(axum::Json(RotationProgress { rotation, versions, proxies, next }))
}

pub(crate) async fn roll_back(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(rotation): Path<String>,
    By(context): By,
    JsonOrDefault(how): JsonOrDefault<RollBack>,
) -> Result<axum::Json<Rotation>, ApiError> {
    caller.require_rotation(&control, &rotation).await?;
    let to = if how.revoke_new {
        let rule = "not together with `revoke_new`, which leaves no overlap";
        require(how.overlap_seconds.is_none(), "overlap_seconds", rule)?;
        RollBackTo::Revoke
    } else {
        RollBackTo::Overlap(how.overlap_seconds.map(overlap).transpose()?)
    };
    let change = async move { control.store.roll_back(&context, &rotation, to).await };
    let rotation = uncancelled(change).await?;
    info!(
        rotation.id,
        key.id = rotation.key,
        "Rolled rotation {} back: version {} is active",
        rotation.id,
        rotation.old_version,
    );
    Ok(axum::Json(rotation))
}

pub(crate) async fn cancel(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(rotation): Path<String>,
    By(context): By,
) -> Result<axum::Json<Rotation>, ApiError> {
    caller.require_rotation(&control, &rotation).await?;
    let change = async move { control.store.cancel_rotation(&context, &rotation).await };
    let rotation = uncancelled(change).await?;
    info!(rotation.id, key.id = rotation.key, "Cancelled rotation {}", rotation.id);
    Ok(axum::Json(rotation))
}

pub(crate) async fn promote(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(rotation): Path<String>,
    By(context): By,
) -> Result<axum::Json<Rotation>, ApiError> {
    caller.require_rotation(&control, &rotation).await?;
    let change = async move { control.store.promote_rotation(&context, &rotation).await };
    let rotation = uncancelled(change).await?;
    info!(
        rotation.id,
        key.id = rotation.key,
        version.id = rotation.new_version,
        "Rotation {}: version {} waits for no canary",
        rotation.id,
        rotation.new_version,
    );
    Ok(axum::Json(rotation))
}

pub(crate) async fn brown_out(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(rotation): Path<String>,
    By(context): By,
    Json(how): Json<StartBrownout>,
) -> Result<axum::Json<Rotation>, ApiError> {
    caller.require_rotation(&control, &rotation).await?;
    require((0.0..=1.0).contains(&how.share), "share", "a number from 0 to 1")?;
    let sane = (1..=MAX_OVERLAP_SECONDS).contains(&how.seconds) || how.share == 0.0;
    require(sane, "seconds", "1 to 7776000 seconds, which are 90 days")?;
    let length = how.seconds.saturating_mul(1000);
    let change = async move { control.store.brown_out(&context, &rotation, how.share, length).await };
    let rotation = uncancelled(change).await?;
    info!(
        rotation.id,
        key.id = rotation.key,
        share = how.share,
        seconds = how.seconds,
        "Rotation {}: a share of {} of the requests with version {} is refused for {} seconds",
        rotation.id,
        how.share,
        rotation.old_version,
        how.seconds,
    );
    Ok(axum::Json(rotation))
}

/// In milliseconds.
pub(super) fn overlap(seconds: u64) -> Result<u64, ApiError> {
    let sane = seconds <= MAX_OVERLAP_SECONDS;
    require(sane, "overlap_seconds", "0 to 7776000 seconds, which are 90 days")?;
    Ok(seconds.saturating_mul(1000))
}
