use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use keywheel_api::{
    Client, CreateClient, Labels, List, Revoke, RevokedClient, UpdateClient,
    labels::{MAX_LABELS, is_label},
};
use keywheel_keyring::entry::is_client_name;
use serde::Deserialize;
use tracing::info;

use super::auth::By;
use super::body::{Json, JsonOrDefault, Params};
use super::error::ApiError;
use super::{PAGE, cursor, keys, label_filter, require, uncancelled};
use crate::Control;
use crate::store::Refusal;

pub(crate) const NAME_RULE: &str =
    "1 to 128 visible ASCII characters without quotes, commas and backslashes, and not `.` or `..`";

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Only those with all of these labels: `NAME=VALUE` or `NAME`, separated by commas.
    #[param(required = false, value_type = keywheel_api::openapi::LabelFilter)]
    labels: Option<String>,
    /// The `next` of the page before; the first page when absent.
    #[serde(default)]
    #[param(required = false, value_type = super::Cursor)]
    after: String,
}

pub(crate) async fn create(
    State(control): State<Arc<Control>>,
    By(context): By,
    Json(new): Json<CreateClient>,
) -> Result<(StatusCode, axum::Json<Client>), ApiError> {
    require(is_client_name(&new.name), "name", NAME_RULE)?;
    check_texts(new.owner.as_deref(), new.contact.as_deref())?;
    check_labels(&new.labels)?;
    let (client, created) =
        uncancelled(async move { control.store.create_client(&context, &new).await }).await?;
    if created {
        info!(client = client.name, "Created client {}", client.name);
    }
    Ok((if created { StatusCode::CREATED } else { StatusCode::OK }, axum::Json(client)))
}

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    Params(filter): Params<Filter>,
) -> Result<axum::Json<List<Client>>, ApiError> {
    let labels = label_filter(filter.labels.as_deref())?;
    let items = control.store.clients(&labels, cursor(&filter.after)?, PAGE).await?;
    Ok(axum::Json(List::new(items, PAGE, |client| client.name.clone())))
}

pub(crate) async fn show(
    State(control): State<Arc<Control>>,
    Path(client): Path<String>,
) -> Result<axum::Json<Client>, ApiError> {
    Ok(axum::Json(control.store.client(&client).await?))
}

pub(crate) async fn update(
    State(control): State<Arc<Control>>,
    Path(client): Path<String>,
    By(context): By,
    Json(update): Json<UpdateClient>,
) -> Result<axum::Json<Client>, ApiError> {
    let (owner, contact) = (update.owner.clone().flatten(), update.contact.clone().flatten());
    check_texts(owner.as_deref(), contact.as_deref())?;
    let change = async move { control.store.update_client(&context, &client, &update).await };
    let client = uncancelled(change).await?;
    info!(client = client.name, "Updated client {}", client.name);
    Ok(axum::Json(client))
}

fn check_texts(owner: Option<&str>, contact: Option<&str>) -> Result<(), ApiError> {
    for (field, text) in [("owner", owner), ("contact", contact)] {
        let fits = |text: &str| text.chars().count() <= 256 && !text.chars().any(char::is_control);
        let rule = "at most 256 characters, none of them a control character";
        require(text.is_none_or(fits), field, rule)?;
    }
    Ok(())
}

pub(super) fn check_labels(labels: &Labels) -> Result<(), ApiError> {
    let fit =
        labels.len() <= MAX_LABELS && labels.iter().all(|(name, value)| is_label(name) && is_label(value));
    require(fit, "labels", &Refusal::Labels.to_string())
}

/// Every key of the client.
pub(crate) async fn revoke(
    State(control): State<Arc<Control>>,
    Path(client): Path<String>,
    By(context): By,
    JsonOrDefault(how): JsonOrDefault<Revoke>,
) -> Result<axum::Json<RevokedClient>, ApiError> {
    let ending = keys::ending(how);
    let change = async move { control.store.revoke_client(&context, &client, ending).await };
    let revoked = uncancelled(change).await?;
    info!(client = revoked.client, "Revoked {} keys of client {}", revoked.keys, revoked.client);
    Ok(axum::Json(revoked))
}
