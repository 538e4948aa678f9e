use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use keywheel_api::Ring;
use keywheel_api::time::timestamp;
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};
use keywheel_keyring::{Digest, Epoch};
use serde::Deserialize;
use tracing::debug;

use super::body::Params;
use super::error::ApiError;
use super::require;
use crate::ring::{Ask, Publisher, Signed, proxies};
use crate::store::{Refusal, StoreError};
use crate::{Control, clock};

/// The longest wait for a change, in seconds.
const MAX_WAIT: u64 = 60;

#[derive(Debug, Deserialize)]
pub(crate) struct ChangesQuery {
    epoch: Epoch,
    since: u64,
    #[serde(default)]
    wait: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SnapshotQuery {
    after: Option<Digest>,
    epoch: Option<Epoch>,
    #[serde(default)]
    at_least: u64,
}

pub(crate) async fn show(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
) -> Result<axum::Json<Ring>, ApiError> {
    let publisher = find(&control, &ring)?;
    let record = &publisher.record;
    Ok(axum::Json(Ring {
        name: record.name.clone(),
        epoch: record.epoch.to_string(),
        revision: publisher.head(),
        key_prefix: record.key_prefix.clone(),
        entries: control.store.count_entries(record.id).await?,
        trust: control.trust(publisher).await?.iter().map(ToString::to_string).collect(),
        held: record.held,
        created_at: timestamp(record.created_at),
        proxies: publisher.proxies.list(),
        usage: control.store.usage_tally(record.id),
    }))
}

/// Unknown parameters are ignored, so that a newer proxy can talk to an older server.
pub(crate) async fn changes(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    headers: HeaderMap,
    Params(query): Params<ChangesQuery>,
) -> Result<Response, ApiError> {
    require(query.wait <= MAX_WAIT, "wait", "0 to 60 seconds")?;
    let publisher = find(&control, &ring)?;
    note(publisher, &headers);
    let wait = Duration::from_secs(query.wait);
    let ask = Ask::Changes { epoch: query.epoch, since: query.since, wait };
    Ok(signed(publisher.answer(ask).await?))
}

pub(crate) async fn snapshot(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    headers: HeaderMap,
    Params(query): Params<SnapshotQuery>,
) -> Result<Response, ApiError> {
    let publisher = find(&control, &ring)?;
    note(publisher, &headers);
    let ask = Ask::Page { after: query.after, epoch: query.epoch, at_least: query.at_least };
    Ok(signed(publisher.answer(ask).await?))
}

pub(super) fn find<'a>(control: &'a Control, ring: &str) -> Result<&'a Publisher, ApiError> {
    let not_found = || StoreError::from(Refusal::NotFound { what: "ring", name: ring.to_owned() });
    Ok(control.ring(ring).ok_or_else(not_found)?)
}

pub(super) fn note(publisher: &Publisher, headers: &HeaderMap) {
    let Some(header) = headers.get(proxies::HEADER) else { return };
    match proxies::parse(header.as_bytes(), clock::now()) {
        Ok(proxy) => publisher.proxies.report(proxy),
        Err(error) => debug!(%error, "A proxy's report is left aside"),
    }
}

fn signed(document: Signed) -> Response {
    let mut response = document.body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in [(SIGNATURE_HEADER, document.signature), (SIGNER_HEADER, document.signer)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}
