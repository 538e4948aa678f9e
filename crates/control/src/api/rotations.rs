use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use keywheel_api::rotation::MAX_OVERLAP_SECONDS;
use keywheel_api::{Rotation, RotationWithSecret, StartRotation};
use tracing::info;

use super::auth::By;
use super::body::Json;
use super::error::ApiError;
use super::{keys, require, uncancelled};
use crate::Control;
use crate::store::NewRotation;

pub(crate) async fn start(
    State(control): State<Arc<Control>>,
    Path(key): Path<String>,
    By(context): By,
    Json(new): Json<StartRotation>,
) -> Result<(StatusCode, axum::Json<RotationWithSecret>), ApiError> {
    let sane = new.overlap_seconds <= MAX_OVERLAP_SECONDS;
    require(sane, "overlap_seconds", "0 to 7776000 seconds, which are 90 days")?;
    let ring = control.store.key(&key).await?.ring;
    let made = keys::version(&control, &ring, new.version)?;
    let overlap = new.overlap_seconds.saturating_mul(1000);
    let new = NewRotation { key, overlap, version: made.id, digest: made.digest };
    let (rotation, created) =
        uncancelled(async move { control.store.start_rotation(&context, &new).await }).await?;
    if created {
        info!(
            rotation.id,
            key.id = rotation.key,
            "Rotating key {}: {} until {}, then only {}",
            rotation.key,
            rotation.old_version,
            rotation.overlap_ends_at,
            rotation.new_version,
        );
    }
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let secret = made.secret.map(|secret| secret.expose().to_owned());
    Ok((status, axum::Json(RotationWithSecret { rotation, secret })))
}

pub(crate) async fn show(
    State(control): State<Arc<Control>>,
    Path(rotation): Path<String>,
) -> Result<axum::Json<Rotation>, ApiError> {
    Ok(axum::Json(control.store.rotation(&rotation).await?))
}
