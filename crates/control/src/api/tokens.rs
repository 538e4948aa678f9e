use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use keywheel_api::time::timestamp;
use keywheel_api::{CreateToken, Token};
use tracing::info;

use super::auth::By;
use super::body::Json;
use super::error::ApiError;
use super::uncancelled;
use crate::Control;
use crate::secret::PlainToken;

pub(crate) async fn create(
    State(control): State<Arc<Control>>,
    By(context): By,
    Json(new): Json<CreateToken>,
) -> Result<(StatusCode, axum::Json<Token>), ApiError> {
    let token = PlainToken::generate()?;
    let (hash, created_at) = (token.hash(), timestamp(context.now));
    let change = async move { control.store.create_token(&context, new.role, hash).await };
    let id = uncancelled(change).await?;
    info!(token.id = id, role = %new.role, "Created token {id} of role {}", new.role);
    let token = Token { id, role: new.role, created_at, token: token.expose().to_owned() };
    Ok((StatusCode::CREATED, axum::Json(token)))
}
