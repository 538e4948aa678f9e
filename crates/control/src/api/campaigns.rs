use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use keywheel_api::campaign::{MAX_CLIENTS, MAX_KEYS, MAX_PAUSE_SECONDS, MAX_WAVE, is_campaign_name};
use keywheel_api::labels::{MAX_LABELS, is_label};
use keywheel_api::policy::MAX_SECONDS;
use keywheel_api::{
    Campaign, CampaignKey, CampaignKeyState, CampaignPreview, CampaignProgress, CreateCampaign, List,
    WaveSize, time,
};
use keywheel_keyring::Millis;
use keywheel_keyring::entry::{is_name, is_ring_name, is_scope};
use serde::Deserialize;
use tracing::info;

use super::auth::{By, Caller};
use super::body::{Json, Params};
use super::clients::NAME_RULE;
use super::error::ApiError;
use super::keys::is_expiry;
use super::{After, PAGE, cursor, require, rotations, uncancelled};
use crate::{Control, clock};

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyFilter {
    /// Only those that stand so.
    #[param(required = false, value_type = CampaignKeyState)]
    state: Option<CampaignKeyState>,
    /// The `next` of the page before; the first page when absent.
    #[serde(default)]
    #[param(required = false, value_type = super::Cursor)]
    after: String,
}

pub(crate) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    By(context): By,
    Json(new): Json<CreateCampaign>,
) -> Result<(StatusCode, axum::Json<Campaign>), ApiError> {
    let new = checked(&control, &caller, new, context.now)?;
    let change = async move { control.store.create_campaign(&context, &new).await };
    let (campaign, created) = uncancelled(change).await?;
    if created {
        let Campaign { name, selected, ring, .. } = &campaign;
        info!(campaign = name, selected, ring, "Created campaign {name} of {selected} keys of ring {ring}");
    }
    Ok((if created { StatusCode::CREATED } else { StatusCode::OK }, axum::Json(campaign)))
}

pub(crate) async fn preview(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Json(new): Json<CreateCampaign>,
) -> Result<axum::Json<CampaignPreview>, ApiError> {
    let now = clock::now();
    let new = checked(&control, &caller, new, now)?;
    let (keys, skipped) = control.store.preview_campaign(&new, now).await?;
    let rotatable = keys.waiting.saturating_add(keys.waiting_for_deposit);
    let selected = rotatable.saturating_add(keys.skipped);
    let keys_per_wave = new.wave.of(selected);
    let waves = rotatable.div_ceil(keys_per_wave.max(1));
    let ring = new.ring.unwrap_or_default();
    Ok(axum::Json(CampaignPreview { ring, selected, keys, skipped, keys_per_wave, waves }))
}

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Params(page): Params<After>,
) -> Result<axum::Json<List<Campaign>>, ApiError> {
    let items = control.store.campaigns(page.read()?, PAGE).await?;
    let mut page = List::new(items, PAGE, |campaign| campaign.name.clone());
    // After the cursor is taken, as in the list of keys.
    page.items.retain(|campaign| caller.reaches(&campaign.ring));
    Ok(axum::Json(page))
}

pub(crate) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(campaign): Path<String>,
) -> Result<axum::Json<CampaignProgress>, ApiError> {
    caller.require_campaign(&control, &campaign).await?;
    Ok(axum::Json(control.store.campaign_progress(&campaign, clock::now()).await?))
}

pub(crate) async fn keys(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(campaign): Path<String>,
    Params(filter): Params<KeyFilter>,
) -> Result<axum::Json<List<CampaignKey>>, ApiError> {
    caller.require_campaign(&control, &campaign).await?;
    let KeyFilter { state, after } = filter;
    let items = control.store.campaign_keys(&campaign, state, cursor(&after)?, PAGE).await?;
    Ok(axum::Json(List::new(items, PAGE, |key| key.key.clone())))
}

pub(crate) async fn pause(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(campaign): Path<String>,
    By(context): By,
) -> Result<axum::Json<Campaign>, ApiError> {
    caller.require_campaign(&control, &campaign).await?;
    let change = async move { control.store.pause_campaign(&context, &campaign).await };
    told(uncancelled(change).await?)
}

pub(crate) async fn resume(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(campaign): Path<String>,
    By(context): By,
) -> Result<axum::Json<Campaign>, ApiError> {
    caller.require_campaign(&control, &campaign).await?;
    let change = async move { control.store.resume_campaign(&context, &campaign).await };
    told(uncancelled(change).await?)
}

pub(crate) async fn cancel(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(campaign): Path<String>,
    By(context): By,
) -> Result<axum::Json<Campaign>, ApiError> {
    caller.require_campaign(&control, &campaign).await?;
    let change = async move { control.store.cancel_campaign(&context, &campaign).await };
    told(uncancelled(change).await?)
}

pub(crate) async fn roll_back(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(campaign): Path<String>,
    By(context): By,
) -> Result<axum::Json<Campaign>, ApiError> {
    caller.require_campaign(&control, &campaign).await?;
    let change = async move { control.store.roll_back_campaign(&context, &campaign).await };
    told(uncancelled(change).await?)
}

fn told(campaign: Campaign) -> Result<axum::Json<Campaign>, ApiError> {
    let (name, state) = (&campaign.name, campaign.state.in_words());
    info!(campaign = name, state, "Campaign {name} is {state}");
    Ok(axum::Json(campaign))
}

/// A request that keeps its rules and names a ring that the caller may reach.
fn checked(
    control: &Control,
    caller: &Caller,
    mut new: CreateCampaign,
    now: Millis,
) -> Result<CreateCampaign, ApiError> {
    require(
        is_campaign_name(&new.name),
        "name",
        "1 to 64 letters, digits, `.`, `_` and `-`, and not `preview`, `.` or `..`",
    )?;
    check_selection(&new)?;
    match new.wave {
        WaveSize::Keys(keys) => require((1..=MAX_WAVE).contains(&keys), "wave.keys", "1 to 10000 keys")?,
        WaveSize::Percent(percent) => {
            require((1..=100).contains(&percent), "wave.percent", "1 to 100 percent")?;
        }
    }
    let pause = new.pause_seconds <= MAX_PAUSE_SECONDS;
    require(pause, "pause_seconds", "0 to 7776000 seconds, which are 90 days")?;
    if let Some(at) = new.not_before {
        let at = time::millis(at).unwrap_or_default();
        // A time that has come is at once.
        require(at <= now || is_expiry(at, now), "not_before", "a time at most 100 years away")?;
    }
    new.overlap_seconds.map(rotations::overlap).transpose()?;
    let rolled_back = new.stop.max_rolled_back <= MAX_KEYS;
    require(rolled_back, "stop.max_rolled_back", "0 to 100000 rotations")?;
    let share = new.stop.max_refused_share.is_none_or(|share| (0.0..=1.0).contains(&share));
    require(share, "stop.max_refused_share", "a number from 0 to 1")?;
    let ring = new.ring.take().unwrap_or_else(|| control.default_ring().to_owned());
    require(is_ring_name(&ring), "ring", "1 to 64 letters, digits, `.`, `_` and `-`")?;
    caller.require_ring(&ring)?;
    new.ring = Some(ring);
    Ok(new)
}

fn check_selection(new: &CreateCampaign) -> Result<(), ApiError> {
    let select = &new.select;
    require(select.clients.len() <= MAX_CLIENTS, "select.clients", "at most 100 clients")?;
    require(select.clients.iter().all(|client| is_name(client)), "select.clients", NAME_RULE)?;
    let good =
        |(name, value): (&String, &Option<String>)| is_label(name) && value.as_deref().is_none_or(is_label);
    let labels = select.labels.len() <= MAX_LABELS && select.labels.iter().all(good);
    let rule = "at most 32 labels, whose names and values are 1 to 63 letters, digits, `.`, `_`, `/` and `-`, or `null`";
    require(labels, "select.labels", rule)?;
    let age = select.older_than_seconds.is_none_or(|seconds| seconds <= MAX_SECONDS);
    require(age, "select.older_than_seconds", "0 to 315360000 seconds, which are 10 years")?;
    let rule = "1 to 64 visible ASCII characters without quotes, commas and backslashes";
    require(select.scope.as_deref().is_none_or(is_scope), "select.scope", rule)
}
