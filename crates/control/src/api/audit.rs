use std::sync::Arc;

use axum::extract::State;
use keywheel_api::{AuditRecord, Checkpoint, Checkpoints, List};
use serde::Deserialize;

use super::body::Params;
use super::error::ApiError;
use super::{PAGE, require, uncancelled};
use crate::{Control, clock};

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    /// The `next` of the page before, a number; the first page when absent.
    #[serde(default)]
    #[param(required = false, pattern = "^[0-9]{0,18}$")]
    after: String,
    /// At most so many.
    #[param(required = false, value_type = u32, minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    Params(page): Params<Page>,
) -> Result<axum::Json<List<AuditRecord>>, ApiError> {
    let (after, limit) = page.read()?;
    let items = control.store.audit_records(after, limit).await?;
    Ok(axum::Json(List::new(items, limit, |record| record.seq.to_string())))
}

pub(crate) async fn checkpoints(
    State(control): State<Arc<Control>>,
    Params(page): Params<Page>,
) -> Result<axum::Json<Checkpoints>, ApiError> {
    let (after, limit) = page.read()?;
    let found = control.store.checkpoints(after, limit).await?;
    let List { items, next } = List::new(found, limit, |(id, _)| id.to_string());
    let page = List { items: items.into_iter().map(|(_, checkpoint)| checkpoint).collect(), next };
    let trust = control.store.signers().await?.into_iter().map(|signer| signer.key.public_key).collect();
    Ok(axum::Json(Checkpoints { page, trust }))
}

/// Changes nothing that the trail would have to say.
pub(crate) async fn sign(State(control): State<Arc<Control>>) -> Result<axum::Json<Checkpoint>, ApiError> {
    let signed = uncancelled(async move { control.notary.sign(clock::now()).await });
    Ok(axum::Json(signed.await?))
}

impl Page {
    /// After which number, and how many at most.
    pub(super) fn read(self) -> Result<(u64, u32), ApiError> {
        let after = if self.after.is_empty() { Some(0) } else { self.after.parse().ok() };
        require(after.is_some(), "after", "the `next` of the page before, a number")?;
        let limit = self.limit.unwrap_or(PAGE);
        require((1..=PAGE).contains(&limit), "limit", "1 to 500")?;
        Ok((after.unwrap_or_default(), limit))
    }
}
