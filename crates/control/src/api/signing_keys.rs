use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use keywheel_api::time::{millis, timestamp};
use keywheel_api::{
    ActivateSigningKey, List, Problem, ProblemKind, Proxy, RingSigningKey, SigningKeyState, Timestamp,
};
use keywheel_keyring::Millis;
use tracing::info;

use super::auth::By;
use super::body::{JsonOrDefault, Params};
use super::error::ApiError;
use super::{After, rings, uncancelled};
use crate::Control;
use crate::ring::Publisher;
use crate::signers::SealError;

/// A proxy that was silent for longer is not asked what it trusts, in milliseconds.
const RECENT: u64 = 10 * 60 * 1000;
/// The most proxies that a refusal names.
const NAMED: usize = 5;

type Found = Result<axum::Json<RingSigningKey>, ApiError>;

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    Params(page): Params<After>,
) -> Result<axum::Json<List<RingSigningKey>>, ApiError> {
    let id = rings::find(&control, &ring)?.record.id;
    let items = control.store.signers().await?.into_iter().filter(|key| key.ring == id).map(|key| key.key);
    Ok(axum::Json(page.whole(items.collect(), |key| &key.id)?))
}

pub(crate) async fn create(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    By(context): By,
) -> Result<(StatusCode, axum::Json<RingSigningKey>), ApiError> {
    rings::find(&control, &ring)?;
    let key = uncancelled(async move {
        let (public, sealed) = control.signers.make().await?;
        let key = control.store.create_signing_key(&context, &ring, &public, &sealed).await?;
        info!(signer = key.id, ring, "Created signing key {} of ring {ring}", key.id);
        Ok::<_, ApiError>(key)
    });
    Ok((StatusCode::CREATED, axum::Json(key.await?)))
}

pub(crate) async fn publish(
    State(control): State<Arc<Control>>,
    Path((ring, key)): Path<(String, String)>,
    By(context): By,
) -> Found {
    step(control, context, ring, key, SigningKeyState::Published).await
}

/// A switch. Proxies that do not trust the key would go on with the ring that they have.
pub(crate) async fn activate(
    State(control): State<Arc<Control>>,
    Path((ring, key)): Path<(String, String)>,
    By(context): By,
    JsonOrDefault(how): JsonOrDefault<ActivateSigningKey>,
) -> Found {
    let publisher = rings::find(&control, &ring)?;
    if !how.force {
        unless_stranded(&publisher, &key, context.now)?;
    }
    step(control, context, ring, key, SigningKeyState::Active).await
}

pub(crate) async fn retire(
    State(control): State<Arc<Control>>,
    Path((ring, key)): Path<(String, String)>,
    By(context): By,
) -> Found {
    step(control, context, ring, key, SigningKeyState::Retired).await
}

async fn step(
    control: Arc<Control>,
    context: crate::store::Context,
    ring: String,
    key: String,
    to: SigningKeyState,
) -> Found {
    rings::find(&control, &ring)?;
    let key = uncancelled(async move {
        let key = control.store.move_signing_key(&context, &ring, &key, to).await?;
        info!(signer = key.id, ring, state = ?key.state, "Signing key {} of ring {ring} is {:?}", key.id, key.state);
        Ok::<_, ApiError>(key)
    });
    Ok(axum::Json(key.await?))
}

/// Refuses what recent proxies do not say that they trust.
fn unless_stranded(publisher: &Publisher, key: &str, now: Millis) -> Result<(), ApiError> {
    let oldest = timestamp(Millis(now.0.saturating_sub(RECENT)));
    let recent = |proxy: &Proxy| recent(proxy.last_seen, oldest);
    let trusts = |proxy: &Proxy| proxy.trust.as_ref().is_some_and(|ids| ids.iter().any(|id| id == key));
    let mut nodes: Vec<String> = publisher
        .proxies
        .list(publisher.head(), now)
        .into_iter()
        .filter(recent)
        .filter(|proxy| !trusts(proxy))
        .map(|proxy| proxy.node)
        .collect();
    nodes.dedup();
    if nodes.is_empty() {
        return Ok(());
    }
    let count = nodes.len();
    nodes.truncate(NAMED);
    let detail = format!(
        "{count} proxies do not say that they trust signing key {key}, and would refuse what it signs: {}{}. Add it to \
         their `control.trust` first, or force the switch",
        nodes.join(", "),
        if count > NAMED { ", …" } else { "" },
    );
    Err(Problem::new(ProblemKind::ProxiesStranded, detail).into())
}

fn recent(seen: Timestamp, oldest: Timestamp) -> bool {
    millis(seen) >= millis(oldest)
}

impl From<SealError> for ApiError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::OldMasterKey => Self::Internal(error.to_string()),
            SealError::Store(error) => error.into(),
            SealError::Random(error) => error.into(),
        }
    }
}
