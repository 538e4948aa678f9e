//! What a key sees and does of itself.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use keywheel_api::{
    SelfKey, SelfPolicy, SelfRotation, SelfRotationWithSecret, SelfVersion, StartSelfRotation,
};
use tracing::info;

use super::auth::{By, not_found};
use super::body::JsonOrDefault;
use super::error::ApiError;
use super::holder::For;
use super::{keys, rings, rotations, uncancelled};
use crate::Control;
use crate::store::{OwnKey, OwnRotation, overlaps};

pub(crate) async fn show(
    State(control): State<Arc<Control>>,
    For(holder): For,
) -> Result<axum::Json<SelfKey>, ApiError> {
    let OwnKey { key, policy, open_rotation } = control.store.own_key(&holder).await?;
    let key_prefix = rings::find(&control, &holder.ring)?.record.key_prefix.clone();
    let versions = key.versions.into_iter().map(SelfVersion::from);
    let (own, other_versions): (Vec<_>, Vec<_>) = versions.partition(|version| version.id == holder.version);
    let gone = || ApiError::Internal(format!("version {} is not one of its key's", holder.version));
    let policy = policy.map(|(name, terms)| {
        let (shortest_overlap_seconds, overlap_seconds) = overlaps(&terms);
        SelfPolicy { name, self_rotation: terms.self_rotation, overlap_seconds, shortest_overlap_seconds }
    });
    Ok(axum::Json(SelfKey {
        client: key.client,
        key: key.id,
        scopes: key.scopes,
        expires_at: key.expires_at,
        version: own.into_iter().next().ok_or_else(gone)?,
        other_versions,
        open_rotation: open_rotation.map(SelfRotation::from),
        policy,
        rotation_due_at: key.schedule.and_then(|schedule| schedule.due_at),
        key_prefix,
    }))
}

pub(crate) async fn rotate(
    State(control): State<Arc<Control>>,
    For(holder): For,
    By(context): By,
    JsonOrDefault(new): JsonOrDefault<StartSelfRotation>,
) -> Result<(StatusCode, axum::Json<SelfRotationWithSecret>), ApiError> {
    let overlap = new.overlap_seconds.map(rotations::overlap).transpose()?;
    let made = keys::version(&control, &holder.ring, new.version, context.now)?;
    let new = OwnRotation { overlap, version: made.id, digest: made.digest };
    let change = async move { control.store.start_own_rotation(&context, &holder, &new).await };
    let (rotation, created) = uncancelled(change).await?;
    if created {
        info!(
            rotation.id,
            key.id = rotation.key,
            "Key {} rotates itself: {} until {}, and {} from now on",
            rotation.key,
            rotation.old_version,
            rotation.overlap_ends_at,
            rotation.new_version,
        );
    }
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let secret = made.secret.map(|secret| secret.expose().to_owned());
    Ok((status, axum::Json(SelfRotationWithSecret { rotation: rotation.into(), secret })))
}

pub(crate) async fn rotation(
    State(control): State<Arc<Control>>,
    For(holder): For,
    Path(id): Path<String>,
) -> Result<axum::Json<SelfRotation>, ApiError> {
    let rotation = control.store.rotation(&id).await?;
    // Whether another key has such a rotation is not for this one to know.
    if rotation.key != holder.key {
        return Err(not_found("rotation", &id));
    }
    Ok(axum::Json(rotation.into()))
}
