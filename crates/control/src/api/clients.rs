use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use keywheel_api::{Client, CreateClient, List, Revoke, RevokedClient};
use keywheel_keyring::entry::is_name;
use tracing::info;

use super::auth::By;
use super::body::{Json, JsonOrDefault, Params};
use super::error::ApiError;
use super::{After, PAGE, keys, require, uncancelled};
use crate::Control;

pub(crate) const NAME_RULE: &str = "1 to 128 visible ASCII characters without quotes, commas and backslashes";

pub(crate) async fn create(
    State(control): State<Arc<Control>>,
    By(context): By,
    Json(new): Json<CreateClient>,
) -> Result<(StatusCode, axum::Json<Client>), ApiError> {
    require(is_name(&new.name), "name", NAME_RULE)?;
    for (field, text) in [("owner", &new.owner), ("contact", &new.contact)] {
        let fits = |text: &String| text.chars().count() <= 256 && !text.chars().any(char::is_control);
        require(
            text.as_ref().is_none_or(fits),
            field,
            "at most 256 characters, none of them a control character",
        )?;
    }
    let (client, created) =
        uncancelled(async move { control.store.create_client(&context, &new).await }).await?;
    if created {
        info!(client = client.name, "Created client {}", client.name);
    }
    Ok((if created { StatusCode::CREATED } else { StatusCode::OK }, axum::Json(client)))
}

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    Params(page): Params<After>,
) -> Result<axum::Json<List<Client>>, ApiError> {
    let items = control.store.clients(page.read()?, PAGE).await?;
    Ok(axum::Json(List::new(items, PAGE, |client| client.name.clone())))
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
