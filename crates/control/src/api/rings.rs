use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use keywheel_api::policy::MAX_SECONDS;
use keywheel_api::ring::{CANARY_PAUSE_SECONDS, MAX_CANARY_PAUSE_SECONDS, MAX_PROXY_REPORTS};
use keywheel_api::time::timestamp;
use keywheel_api::{
    Canary, CreateRing, FollowsCanary, ForgetProxies, ForgottenProxies, List, Problem, Promoted, ProxyReport,
    ProxyReports, Ring, RingProxies, RingSummary, UpdateRing,
};
use keywheel_keyring::document::AHEAD_HEADER;
use keywheel_keyring::entry::is_ring_name;
use keywheel_keyring::key_text::BadKeyPrefix;
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};
use keywheel_keyring::usage::MAX_REPORT;
use keywheel_keyring::{Digest, Epoch, KeyPrefix, Millis};
use serde::Deserialize;
use tracing::{debug, info};

use super::auth::{By, Caller};
use super::body::{self, Json, Params};
use super::error::ApiError;
use super::{After, require, texts, uncancelled};
use crate::ring::{Ask, Publisher, Signed, proxies};
use crate::store::{CanaryRule, NewCanary, NewRing, Refusal, StoreError};
use crate::{Control, clock};

/// The longest wait for a change, in seconds.
const MAX_WAIT: u64 = 60;
/// Instances that one request forgets.
const MAX_FORGET: usize = 500;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(crate) struct ChangesQuery {
    /// The epoch of the ring that the proxy holds.
    #[param(value_type = keywheel_api::openapi::Epoch)]
    epoch: Epoch,
    /// The revision that it holds.
    since: u64,
    /// How long to wait for a change, in seconds.
    #[serde(default)]
    #[param(required = false, maximum = 60)]
    wait: u64,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(crate) struct SnapshotQuery {
    /// The last digest of the page before; the first page when absent.
    #[param(required = false, value_type = keywheel_api::openapi::Digest)]
    after: Option<Digest>,
    /// The epoch of the page before.
    #[param(required = false, value_type = keywheel_api::openapi::Epoch)]
    epoch: Option<Epoch>,
    /// No page that was cut before this revision.
    #[serde(default)]
    #[param(required = false)]
    at_least: u64,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revision {
    /// The revision that is to be enforced, and no newer one than the ring has; the newest when absent.
    #[param(required = false, value_type = u64)]
    revision: Option<u64>,
}

pub(crate) async fn create(
    State(control): State<Arc<Control>>,
    By(context): By,
    Json(new): Json<CreateRing>,
) -> Result<(StatusCode, axum::Json<RingSummary>), ApiError> {
    require(
        is_ring_name(&new.name),
        "name",
        "1 to 64 letters, digits, `.`, `_` and `-`, and not `.` or `..`",
    )?;
    let canary = canary(&new)?;
    let main = match &new.canary_of {
        Some(main) => find(&control, main)?,
        None => find(&control, control.default_ring())?,
    };
    let key_prefix = new.key_prefix.as_ref().unwrap_or(&main.record.key_prefix).parse();
    let key_prefix: KeyPrefix =
        key_prefix.map_err(|error: BadKeyPrefix| Problem::field("key_prefix", error.to_string()))?;
    let same = canary.is_none() || key_prefix.as_str() == main.record.key_prefix;
    require(same, "key_prefix", "left out, or that of the main ring: a canary has the main ring's keys")?;
    let change = async move {
        let (public_key, sealed_signing_key) = control.signers.make().await?;
        let epoch = Epoch::from_bytes(uuid::Uuid::now_v7().into_bytes());
        let new = NewRing { name: new.name, epoch, key_prefix, public_key, sealed_signing_key, canary };
        let (ring, created) = control.store.create_ring(&context, &new).await?;
        let made = RingSummary {
            name: ring.name.clone(),
            epoch: ring.epoch.to_string(),
            revision: ring.revision,
            key_prefix: ring.key_prefix.clone(),
            created_at: timestamp(ring.created_at),
            held: ring.held,
            enforced: 0,
            of: 0,
            canary_of: ring.canary.as_ref().map(|canary| canary.name.clone()),
        };
        if created {
            info!(ring = ring.name, "Created ring {}", ring.name);
            context.once_committed(move || control.rings.add(ring));
            return Ok::<_, ApiError>((StatusCode::CREATED, made));
        }
        let known = control.ring(&ring.name);
        Ok((StatusCode::OK, known.map_or(made, |ring| summary(&ring))))
    };
    let (status, ring) = uncancelled(change).await?;
    Ok((status, axum::Json(ring)))
}

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Params(page): Params<After>,
) -> Result<axum::Json<List<RingSummary>>, ApiError> {
    let rings = control.rings();
    let rings = rings.iter().filter(|ring| caller.reaches(&ring.record.name));
    Ok(axum::Json(page.whole(rings.map(|ring| summary(ring)).collect(), |ring| &ring.name)?))
}

fn summary(ring: &Publisher) -> RingSummary {
    let (record, head) = (&ring.record, ring.head());
    let proof = ring.proxies.proof(head, clock::now());
    RingSummary {
        name: record.name.clone(),
        epoch: record.epoch.to_string(),
        revision: head,
        key_prefix: record.key_prefix.clone(),
        created_at: timestamp(record.created_at),
        held: record.held,
        enforced: proof.enforced,
        of: proof.of,
        canary_of: record.canary.as_ref().map(|canary| canary.name.clone()),
    }
}

/// What a ring is to be that goes ahead of another one.
fn canary(new: &CreateRing) -> Result<Option<NewCanary>, ApiError> {
    let Some(of) = new.canary_of.clone() else {
        let rule = "left out, or together with `canary_of`: only a canary has it";
        require(new.pause_seconds.is_none(), "pause_seconds", rule)?;
        require(new.promote.is_none(), "promote", rule)?;
        return Ok(None);
    };
    let pause = pause(new.pause_seconds.unwrap_or(CANARY_PAUSE_SECONDS))?;
    Ok(Some(NewCanary { of, promote: new.promote.unwrap_or_default(), pause }))
}

/// In milliseconds.
fn pause(seconds: u64) -> Result<u64, ApiError> {
    let sane = seconds <= MAX_CANARY_PAUSE_SECONDS;
    require(sane, "pause_seconds", "0 to 2592000 seconds, which are 30 days")?;
    Ok(seconds.saturating_mul(1000))
}

pub(crate) async fn update(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    By(context): By,
    Json(update): Json<UpdateRing>,
) -> Result<axum::Json<Ring>, ApiError> {
    update.pause_seconds.map(pause).transpose()?;
    let (store, name) = (control.store.clone(), ring.clone());
    uncancelled(async move { store.update_canary(&context, &name, update).await }).await?;
    info!(ring, "Changed when what is new in ring {ring} goes to its main ring");
    show(State(control), Path(ring)).await
}

pub(crate) async fn promote(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    By(context): By,
) -> Result<axum::Json<Promoted>, ApiError> {
    let change = async move {
        let (canary, versions) = control.store.promote_ring(&context, &ring).await?;
        info!(ring, canary, versions, "Brought {versions} versions from ring {canary} to ring {ring}");
        Ok::<_, StoreError>(Promoted { ring, canary, versions })
    };
    Ok(axum::Json(uncancelled(change).await?))
}

pub(crate) async fn show(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
) -> Result<axum::Json<Ring>, ApiError> {
    let publisher = find(&control, &ring)?;
    let record = &publisher.record;
    let rule = control.store.canary_rule(record).await?;
    let canary = record.canary.as_ref().zip(rule).map(|(canary, rule)| Canary {
        of: canary.name.clone(),
        promote: rule.promote,
        pause_seconds: rule.pause / 1000,
        waiting: rule.waiting,
    });
    let ahead = control.canary_of(&publisher);
    let follows = match &ahead {
        Some(ahead) => follows(&control, ahead).await?,
        None => None,
    };
    Ok(axum::Json(Ring {
        name: record.name.clone(),
        epoch: record.epoch.to_string(),
        revision: publisher.head(),
        key_prefix: record.key_prefix.clone(),
        entries: control.store.count_entries(record).await?,
        trust: control.trust(&publisher).await?.iter().map(ToString::to_string).collect(),
        held: record.held,
        created_at: timestamp(record.created_at),
        policy: control.store.ring_policy(record.main()).await?,
        proxies: publisher.proxies.list(publisher.head(), clock::now()),
        usage: control.store.usage_tally(record.id),
        canary,
        has_canary: ahead.map(|canary| canary.record.name.clone()),
        follows,
    }))
}

/// What the main ring of a canary is still to get.
async fn follows(control: &Control, canary: &Publisher) -> Result<Option<FollowsCanary>, ApiError> {
    let Some(rule) = control.store.canary_rule(&canary.record).await? else { return Ok(None) };
    let next_at = control.store.next_promotion(canary.record.main()).await?.map(timestamp);
    let CanaryRule { promote, pause, waiting } = rule;
    Ok(Some(FollowsCanary { promote, pause_seconds: pause / 1000, waiting, next_at }))
}

pub(crate) async fn proxies(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    Params(asked): Params<Revision>,
) -> Result<axum::Json<RingProxies>, ApiError> {
    let publisher = find(&control, &ring)?;
    let head = publisher.head();
    publisher.proxies.catch_up().await?;
    let (revision, now) = (asked.revision.unwrap_or(head), clock::now());
    require(revision <= head, "revision", "not newer than the ring, whose revision is in its answer")?;
    let proof = publisher.proxies.proof(revision, now);
    Ok(axum::Json(RingProxies { proof, items: publisher.proxies.list(revision, now) }))
}

pub(crate) async fn forget_proxies(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    By(context): By,
    Json(which): Json<ForgetProxies>,
) -> Result<axum::Json<ForgottenProxies>, ApiError> {
    let publisher = find(&control, &ring)?;
    let some = which.silent_for_seconds.is_some() || !which.instances.is_empty();
    require(some, "instances", "the instances to forget, unless `silent_for_seconds` says which")?;
    require(which.instances.len() <= MAX_FORGET, "instances", "at most 500 of them")?;
    // Who is there comes back with its next call, and until then nobody would wait for it.
    let sane = proxies::MAY_BE_SILENT / 1000..=MAX_SECONDS;
    let silent = which.silent_for_seconds.is_none_or(|seconds| sane.contains(&seconds));
    let rule = "60 to 315360000 seconds: a proxy that runs may be silent for 60, so less would forget some that are there";
    require(silent, "silent_for_seconds", rule)?;
    let (id, proxies) = (publisher.record.id, publisher.proxies.clone());
    let change = async move {
        // When each was heard of last must be known where they are deleted.
        proxies.write(true).await?;
        let forgotten = control.store.forget_proxies(&context, (id, &ring), &which).await?;
        let gone = forgotten.clone();
        context.once_committed(move || proxies.forget(&gone));
        info!(ring, count = forgotten.len(), "Forgot {} proxies of ring {ring}", forgotten.len());
        Ok::<_, StoreError>(ForgottenProxies { ring, forgotten })
    };
    Ok(axum::Json(uncancelled(change).await?))
}

/// What cannot be read is left aside, as in the header of a proxy that asks by itself.
pub(crate) async fn report_proxies(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let publisher = find(&control, &ring)?;
    note(&control, &publisher, request.headers()).await;
    let bytes = body::bytes(request, "a report of proxies", MAX_REPORT).await?;
    let ProxyReports { proxies: said } = body::parse(&bytes)?;
    require(said.len() <= MAX_PROXY_REPORTS, "proxies", &format!("at most {MAX_PROXY_REPORTS} of them"))?;
    let sane = said.iter().all(|said| said.ago_ms <= MAX_SECONDS.saturating_mul(1000));
    require(sane, "ago_ms", "at most 315360000000 milliseconds, which are 10 years")?;
    if let Some(at) = said.iter().position(|said| !texts::is_plain(&said.proxy)) {
        return Err(texts::refused(&format!("proxies[{at}].proxy")));
    }
    let now = clock::now();
    let read = |said: &ProxyReport| {
        let report = proxies::parse(said.proxy.as_bytes())
            .inspect_err(|error| debug!(%error, "A proxy's report is left aside"));
        Some((report.ok()?, Millis(now.0.saturating_sub(said.ago_ms))))
    };
    let reports = said.iter().filter_map(read).collect();
    let metrics = control.runtime.metrics.clone();
    let took = uncancelled(async move { publisher.report_all(reports).await }).await?;
    for took in took {
        metrics.propagated(&ring, took);
    }
    Ok(StatusCode::NO_CONTENT)
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
    note(&control, &publisher, &headers).await;
    let wait = Duration::from_secs(query.wait);
    let ask = Ask::Changes { epoch: query.epoch, since: query.since, wait };
    Ok(publisher.answer(ask).await?.into_response())
}

pub(crate) async fn snapshot(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    headers: HeaderMap,
    Params(query): Params<SnapshotQuery>,
) -> Result<Response, ApiError> {
    let publisher = find(&control, &ring)?;
    note(&control, &publisher, &headers).await;
    let ask = Ask::Page { after: query.after, epoch: query.epoch, at_least: query.at_least };
    Ok(publisher.answer(ask).await?.into_response())
}

pub(super) fn find(control: &Control, ring: &str) -> Result<Arc<Publisher>, ApiError> {
    let not_found = || StoreError::from(Refusal::NotFound { what: "ring", name: ring.to_owned() });
    Ok(control.ring(ring).ok_or_else(not_found)?)
}

pub(super) async fn note(control: &Control, publisher: &Publisher, headers: &HeaderMap) {
    let Some(header) = headers.get(proxies::HEADER) else { return };
    match proxies::parse(header.as_bytes()) {
        Ok(report) => {
            for took in publisher.report(report, clock::now()).await {
                control.runtime.metrics.propagated(&publisher.record.name, took);
            }
        }
        Err(error) => debug!(%error, "A proxy's report is left aside"),
    }
}

impl IntoResponse for Signed {
    fn into_response(self) -> Response {
        let mut response = self.body.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let ahead = self.ahead.map(|ahead| (AHEAD_HEADER, ahead.to_string()));
        let signed = [(SIGNATURE_HEADER, self.signature), (SIGNER_HEADER, self.signer)];
        for (name, value) in signed.into_iter().chain(ahead) {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}
