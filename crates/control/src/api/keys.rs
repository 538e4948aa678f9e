use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use keywheel_api::key::MAX_COMPROMISED;
use keywheel_api::{
    AddVersion, Compromised, CreateKey, Deposit, Key, KeyWithSecret, List, NewVersion, ReportCompromised,
    Revoke, ScheduleState, Timestamp, UpdateKey, time,
};
use keywheel_keyring::entry::{MAX_SCOPES, is_name, is_scope};
use keywheel_keyring::{Digest, KeyPrefix, Millis, PlainKey, VersionId};
use serde::Deserialize;
use tracing::info;

use super::auth::{By, Caller};
use super::body::{Json, JsonOrDefault, Params};
use super::clients::{NAME_RULE, check_labels};
use super::error::ApiError;
use super::{PAGE, cursor, label_filter, require, uncancelled};
use crate::Control;
use crate::ids;
use crate::secret::random;
use crate::store::{Ending, KeyFilter, KeyUpdate, NewKey, Refusal, StoreError};

/// An expiry further away is a slip of the pen: 100 years.
const MAX_EXPIRY: u64 = 100 * 365 * 24 * 60 * 60 * 1000;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Of this client only.
    #[param(required = false, value_type = keywheel_api::openapi::ClientName)]
    client: Option<String>,
    /// Only those with all of these labels: `NAME=VALUE` or `NAME`, separated by commas.
    #[param(required = false, value_type = keywheel_api::openapi::LabelFilter)]
    labels: Option<String>,
    /// Where keys stand by their policy.
    #[param(required = false, value_type = ScheduleState)]
    schedule: Option<ScheduleState>,
    /// The `next` of the page before; the first page when absent.
    #[serde(default)]
    #[param(required = false, value_type = super::Cursor)]
    after: String,
}

pub(super) const SCOPES_RULE: &str =
    "at most 32 scopes, each 1 to 64 visible ASCII characters without quotes, commas and backslashes";
pub(super) const EXPIRY_RULE: &str = "a time in the future, at most 100 years away";

/// A version as it will be stored, and its text where the server made it.
pub(super) struct Made {
    pub(super) id: VersionId,
    pub(super) digest: Digest,
    pub(super) secret: Option<PlainKey>,
}

pub(crate) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    By(context): By,
    Json(new): Json<CreateKey>,
) -> Result<(StatusCode, axum::Json<KeyWithSecret>), ApiError> {
    check_scopes(&new.scopes)?;
    check_labels(&new.labels)?;
    let expires_at = new.expires_at.map(|at| expiry(at, context.now)).transpose()?;
    let not_before = new.not_before.map(|at| beginning(at, context.now, expires_at)).transpose()?;
    let ring = new.ring.unwrap_or_else(|| control.default_ring().to_owned());
    caller.require_ring(&ring)?;
    let made = version(&control, &ring, new.version, context.now)?;
    let new = NewKey {
        ring,
        client: new.client,
        scopes: new.scopes,
        not_before,
        expires_at,
        labels: new.labels,
        policy: new.policy,
        version: made.id,
        digest: made.digest,
    };
    let (key, created) = uncancelled(async move { control.store.create_key(&context, &new).await }).await?;
    if created {
        info!(key.id, client = key.client, "Created key {} for client {}", key.id, key.client);
    }
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let secret = made.secret.map(|secret| secret.expose().to_owned());
    Ok((status, axum::Json(KeyWithSecret { key, secret })))
}

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Params(filter): Params<Filter>,
) -> Result<axum::Json<List<Key>>, ApiError> {
    let Filter { client, labels, schedule, after } = filter;
    require(client.as_deref().is_none_or(is_name), "client", NAME_RULE)?;
    let labels = label_filter(labels.as_deref())?;
    let items = control.store.keys(&KeyFilter { client, schedule, labels }, cursor(&after)?, PAGE).await?;
    let mut page = List::new(items, PAGE, |key| key.id.clone());
    // After the cursor is taken: a page may hold fewer, and `next` alone says whether it is the last.
    page.items.retain(|key| caller.reaches(&key.ring));
    Ok(axum::Json(page))
}

pub(crate) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<axum::Json<Key>, ApiError> {
    caller.require_key(&control, &key).await?;
    Ok(axum::Json(control.store.key(&key).await?))
}

pub(crate) async fn update(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(key): Path<String>,
    By(context): By,
    Json(update): Json<UpdateKey>,
) -> Result<axum::Json<Key>, ApiError> {
    caller.require_key(&control, &key).await?;
    let UpdateKey { labels, policy, scopes, expires_at } = update;
    let scopes = scopes.map(Option::unwrap_or_default);
    check_scopes(scopes.as_deref().unwrap_or_default())?;
    let expires_at = expires_at.map(|at| at.map(|at| expiry(at, context.now)).transpose()).transpose()?;
    let update = KeyUpdate { labels, policy, scopes, expires_at };
    let change = async move { control.store.update_key(&context, &key, &update).await };
    let key = uncancelled(change).await?;
    info!(key.id, "Updated key {}", key.id);
    Ok(axum::Json(key))
}

/// A version beside the others.
pub(crate) async fn add_version(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(key): Path<String>,
    By(context): By,
    JsonOrDefault(new): JsonOrDefault<AddVersion>,
) -> Result<(StatusCode, axum::Json<KeyWithSecret>), ApiError> {
    caller.require_key(&control, &key).await?;
    let found = control.store.key(&key).await?;
    let expires_at = found.expires_at.and_then(time::millis);
    let not_before = new.not_before.map(|at| beginning(at, context.now, expires_at)).transpose()?;
    let made = version(&control, &found.ring, new.version, context.now)?;
    let Made { id, digest, secret } = made;
    let added = id.clone();
    let change = async move { control.store.add_version(&context, &key, &id, digest, not_before).await };
    let (key, created) = uncancelled(change).await?;
    if created {
        info!(key.id, version.id = added.as_str(), "Added version {added} to key {}", key.id);
    }
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let secret = secret.map(|secret| secret.expose().to_owned());
    Ok((status, axum::Json(KeyWithSecret { key, secret })))
}

/// The version to which the key's schedule rotates it.
pub(crate) async fn deposit(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(key): Path<String>,
    By(context): By,
    Json(new): Json<Deposit>,
) -> Result<axum::Json<Key>, ApiError> {
    caller.require_key(&control, &key).await?;
    let found = control.store.key(&key).await?;
    let Made { id, digest, .. } = version(&control, &found.ring, Some(new.version), context.now)?;
    let key = uncancelled(async move { control.store.deposit(&context, &key, &id, digest).await }).await?;
    info!(key.id, "The next version of key {} was deposited", key.id);
    Ok(axum::Json(key))
}

pub(crate) async fn withdraw(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(key): Path<String>,
    By(context): By,
) -> Result<axum::Json<Key>, ApiError> {
    caller.require_key(&control, &key).await?;
    let key = uncancelled(async move { control.store.withdraw(&context, &key).await }).await?;
    info!(key.id, "Key {} has no deposited version", key.id);
    Ok(axum::Json(key))
}

pub(crate) async fn revoke(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(key): Path<String>,
    By(context): By,
    JsonOrDefault(how): JsonOrDefault<Revoke>,
) -> Result<axum::Json<Key>, ApiError> {
    caller.require_key(&control, &key).await?;
    let change = async move { control.store.revoke_key(&context, &key, ending(how)).await };
    let key = uncancelled(change).await?;
    info!(key.id, compromised = how.compromised, "Revoked key {}", key.id);
    Ok(axum::Json(key))
}

pub(crate) async fn revoke_version(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path((key, version)): Path<(String, String)>,
    By(context): By,
    JsonOrDefault(how): JsonOrDefault<Revoke>,
) -> Result<axum::Json<Key>, ApiError> {
    caller.require_key(&control, &key).await?;
    let change = async move {
        let key = control.store.revoke_version(&context, &key, &version, ending(how)).await?;
        let compromised = how.compromised;
        info!(key.id, version.id = version, compromised, "Revoked version {version} of key {}", key.id);
        Ok::<_, StoreError>(key)
    };
    Ok(axum::Json(uncancelled(change).await?))
}

pub(crate) async fn reinstate(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(key): Path<String>,
    By(context): By,
) -> Result<axum::Json<Key>, ApiError> {
    caller.require_key(&control, &key).await?;
    let key = uncancelled(async move { control.store.reinstate_key(&context, &key).await }).await?;
    info!(key.id, "Reinstated key {}", key.id);
    Ok(axum::Json(key))
}

pub(crate) async fn reinstate_version(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path((key, version)): Path<(String, String)>,
    By(context): By,
) -> Result<axum::Json<Key>, ApiError> {
    caller.require_key(&control, &key).await?;
    let change = async move {
        let key = control.store.reinstate_version(&context, &key, &version).await?;
        info!(key.id, version.id = version, "Reinstated version {version} of key {}", key.id);
        Ok::<_, StoreError>(key)
    };
    Ok(axum::Json(uncancelled(change).await?))
}

/// Secrets that leaked, by their digests.
pub(crate) async fn compromise(
    State(control): State<Arc<Control>>,
    By(context): By,
    Json(leaked): Json<ReportCompromised>,
) -> Result<axum::Json<Compromised>, ApiError> {
    require((1..=MAX_COMPROMISED).contains(&leaked.digests.len()), "digests", "1 to 500 digests")?;
    let change = async move { control.store.compromise(&context, &leaked.digests).await };
    let report = uncancelled(change).await?;
    let (versions, unknown) = (report.versions.len(), report.unknown.len());
    info!(versions, unknown, "Compromised {versions} versions; {unknown} digests are of no key here");
    Ok(axum::Json(report))
}

pub(super) const fn ending(how: Revoke) -> Ending {
    if how.compromised { Ending::Compromised } else { Ending::Revoked }
}

fn check_scopes(scopes: &[String]) -> Result<(), ApiError> {
    let fit = scopes.len() <= MAX_SCOPES && scopes.iter().all(|scope| is_scope(scope));
    require(fit, "scopes", SCOPES_RULE)
}

/// The caller's version, or a new one.
pub(super) fn version(
    control: &Control,
    ring: &str,
    given: Option<NewVersion>,
    now: Millis,
) -> Result<Made, ApiError> {
    if let Some(given) = given {
        let id = given.id.parse();
        let id =
            id.map_err(|_| keywheel_api::Problem::field("version.id", "`kv_` and 16 letters or digits"))?;
        return Ok(Made { id, digest: given.digest, secret: None });
    }
    let not_found = || StoreError::from(Refusal::NotFound { what: "ring", name: ring.to_owned() });
    let ring = control.ring(ring).ok_or_else(not_found)?;
    let prefix: KeyPrefix = ring.record.key_prefix.parse().map_err(|_| {
        ApiError::Internal(format!("the ring's key prefix `{}` is none", ring.record.key_prefix))
    })?;
    let id = ids::new_version(now)?;
    let secret = PlainKey::generate(&prefix, &id, random()?);
    Ok(Made { id, digest: secret.digest(), secret: Some(secret) })
}

pub(super) fn expiry(at: Timestamp, now: Millis) -> Result<Millis, ApiError> {
    let at = time::millis(at).unwrap_or_default();
    require(is_expiry(at, now), "expires_at", EXPIRY_RULE)?;
    Ok(at)
}

pub(super) const fn is_expiry(at: Millis, now: Millis) -> bool {
    at.0 > now.0 && at.saturating_since(now) <= MAX_EXPIRY
}

/// A beginning in the past is at once.
pub(super) fn beginning(at: Timestamp, now: Millis, end: Option<Millis>) -> Result<Millis, ApiError> {
    let at = time::millis(at).unwrap_or_default();
    let sane = at.saturating_since(now) <= MAX_EXPIRY && end.is_none_or(|end| at < end);
    require(sane, "not_before", "a time before the key's `expires_at`, at most 100 years away")?;
    Ok(at)
}
