use std::sync::Arc;

use axum::extract::State;
use keywheel_api::{AuditRecord, Checkpoint, Checkpoints, List, Timestamp, time};
use serde::Deserialize;

use super::body::Params;
use super::error::ApiError;
use super::{PAGE, require, uncancelled};
use crate::store::AuditFilter;
use crate::{Control, clock};

/// The longest text that records are looked for by, in characters.
const MAX_TEXT: usize = 256;

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

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// The `next` of the page before, a number; the first page when absent.
    #[serde(default)]
    #[param(required = false, pattern = "^[0-9]{0,18}$")]
    after: String,
    /// At most so many. With a filter a page may have fewer, or none, and others follow: `next` alone says so.
    #[param(required = false, value_type = u32, minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Not before this time.
    #[param(required = false, value_type = Timestamp)]
    since: Option<Timestamp>,
    /// Of this actor only, such as a token's id.
    #[param(required = false, max_length = 256)]
    actor: Option<String>,
    /// This action only, such as `key.revoke`, or all that begin so: `key.`
    #[param(required = false, max_length = 256)]
    action: Option<String>,
    /// What was done to this only: an id or a name.
    #[param(required = false, max_length = 256)]
    resource: Option<String>,
}

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    Params(filter): Params<Filter>,
) -> Result<axum::Json<List<AuditRecord>>, ApiError> {
    let Filter { after, limit, since, actor, action, resource } = filter;
    let (after, limit) = Page { after, limit }.read()?;
    for (field, text) in [("actor", &actor), ("action", &action), ("resource", &resource)] {
        let short = text.as_ref().is_none_or(|text| text.chars().count() <= MAX_TEXT);
        require(short, field, "at most 256 characters")?;
    }
    let which = AuditFilter { since: since.and_then(time::millis), actor, action, resource };
    if which == AuditFilter::default() {
        let items = control.store.audit_records(after, limit).await?;
        return Ok(axum::Json(List::new(items, limit, |record| record.seq.to_string())));
    }
    let (items, next) = control.store.find_audit_records(&which, after, limit).await?;
    Ok(axum::Json(List { items, next: next.map(|seq| seq.to_string()) }))
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
