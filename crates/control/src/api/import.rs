use std::sync::Arc;

use axum::extract::{Path, Request, State};
use keywheel_api::import::MAX_IMPORT;
use keywheel_api::object::Object;
use keywheel_api::time::{millis, timestamp};
use keywheel_api::{
    ExportedVersion, Import, ImportItem, ImportRefusal, Imported, List, Problem, RefusedItem,
};
use keywheel_keyring::entry::{MAX_SCOPES, is_client_name, is_scope};
use keywheel_keyring::{Digest, Millis};
use serde::Deserialize;
use tracing::info;

use super::auth::By;
use super::body::{Params, bytes, parse};
use super::clients::NAME_RULE;
use super::error::ApiError;
use super::{keys, require, rings, uncancelled};
use crate::Control;

/// Some 400 bytes for each item.
pub(super) const MAX_BODY: usize = 2 * 1024 * 1024;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct After {
    /// The `next` of the page before; the first page when absent or empty.
    #[serde(default)]
    #[param(required = false, value_type = keywheel_api::openapi::DigestCursor)]
    after: String,
}

/// A bad item does not hold up the others.
pub(crate) async fn import(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    By(context): By,
    request: Request,
) -> Result<axum::Json<Imported>, ApiError> {
    let Object(import): Object<Import> = parse(&bytes(request, "an import", MAX_BODY).await?)?;
    require((1..=MAX_IMPORT).contains(&import.items.len()), "items", "1 to 5,000 of them")?;
    let imported = uncancelled(async move {
        let Import { items, dry_run, create_clients } = import;
        let mut good = Vec::with_capacity(items.len());
        let mut refused = Vec::new();
        for (at, item) in items.iter().enumerate() {
            match broken(item, context.now) {
                None => good.push((at, item)),
                Some(detail) => {
                    let reason = ImportRefusal::Invalid;
                    refused.push(RefusedItem { item: at as u64, reason, detail });
                }
            }
        }
        let store = &control.store;
        let mut report = store.import(&context, &ring, &good, create_clients, dry_run).await?;
        report.refused.extend(refused);
        report.refused.sort_by_key(|refused| refused.item);
        let (count, refused) = (report.imported, report.refused.len());
        info!(ring, count, refused, dry_run, "Imported {count} keys into ring {ring}, refused {refused}");
        Ok::<_, ApiError>(report)
    });
    Ok(axum::Json(imported.await?))
}

/// Which rule an item breaks.
fn broken(item: &ImportItem, now: Millis) -> Option<String> {
    if !is_client_name(&item.client) {
        return Some(format!("client: {NAME_RULE}"));
    }
    if item.scopes.len() > MAX_SCOPES || !item.scopes.iter().all(|scope| is_scope(scope)) {
        return Some(format!("scopes: {}", keys::SCOPES_RULE));
    }
    let expiry = item.expires_at?;
    let within = millis(expiry).is_some_and(|at| keys::is_expiry(at, now));
    (!within).then(|| format!("expires_at: {}", keys::EXPIRY_RULE))
}

/// Every version that the ring has and that may be accepted again, in the order of digests.
pub(crate) async fn export(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    By(context): By,
    Params(page): Params<After>,
) -> Result<axum::Json<List<ExportedVersion>>, ApiError> {
    let publisher = rings::find(&control, &ring)?;
    let after = Some(page.after).filter(|after| !after.is_empty());
    if after.is_none() {
        // Once for all pages: whoever takes digests out is known afterwards.
        let store = control.store.clone();
        uncancelled(async move { store.note_reading(&context, "ring.export", &ring).await }).await?;
    }
    let after: Option<Digest> = after
        .map(|after| after.parse())
        .transpose()
        .map_err(|_| Problem::field("after", "the `next` of the page before: 64 hexadecimal digits"))?;
    let cut = control.store.cut_page(&publisher.record, after).await?;
    let last = cut.entries.last().filter(|_| cut.more).map(|entry| entry.digest.to_string());
    let exported = cut.entries.into_iter().map(|entry| ExportedVersion {
        digest: entry.digest,
        client: entry.client,
        scopes: entry.scopes,
        expires_at: entry.expires_at.map(timestamp),
        not_before: entry.not_before.map(timestamp),
        key: entry.key,
        version: entry.version,
        state: entry.state,
    });
    Ok(axum::Json(List { items: exported.collect(), next: last }))
}
