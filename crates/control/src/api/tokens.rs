use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use keywheel_api::rotation::MAX_OVERLAP_SECONDS;
use keywheel_api::token::{DEFAULT_OVERLAP_SECONDS, MAX_NAME, MAX_RINGS};
use keywheel_api::{CreateToken, List, RotateToken, Token, TokenWithSecret};
use keywheel_keyring::entry::is_ring_name;
use tracing::info;

use super::auth::By;
use super::body::{Json, JsonOrDefault, Params};
use super::error::ApiError;
use super::{After, PAGE, keys, require, uncancelled};
use crate::secret::PlainToken;
use crate::store::NewToken;
use crate::{Control, clock};

pub(crate) async fn create(
    State(control): State<Arc<Control>>,
    By(context): By,
    Json(new): Json<CreateToken>,
) -> Result<(StatusCode, axum::Json<TokenWithSecret>), ApiError> {
    let name = new.name.unwrap_or_default();
    let fits = name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control);
    require(fits, "name", "at most 128 characters, none of them a control character")?;
    if let Some(rings) = &new.rings {
        let fits = (1..=MAX_RINGS).contains(&rings.len()) && rings.iter().all(|ring| is_ring_name(ring));
        require(fits, "rings", "1 to 32 names of rings; leave it out for a token that reaches all of them")?;
    }
    let expires_at = new.expires_at.map(|at| keys::expiry(at, context.now)).transpose()?;
    let secret = PlainToken::generate()?;
    let new = NewToken { role: new.role, name, rings: new.rings, expires_at, hash: secret.hash() };
    let change = async move { control.store.create_token(&context, &new).await };
    let token = uncancelled(change).await?;
    info!(token.id, role = %token.role, "Created token {} of role {}", token.id, token.role);
    Ok((StatusCode::CREATED, axum::Json(handed_over(token, &secret))))
}

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    Params(page): Params<After>,
) -> Result<axum::Json<List<Token>>, ApiError> {
    let items = control.store.tokens(page.read()?, PAGE, clock::now()).await?;
    Ok(axum::Json(List::new(items, PAGE, |token| token.id.clone())))
}

pub(crate) async fn show(
    State(control): State<Arc<Control>>,
    Path(token): Path<String>,
) -> Result<axum::Json<Token>, ApiError> {
    Ok(axum::Json(control.store.token(&token, clock::now()).await?))
}

pub(crate) async fn revoke(
    State(control): State<Arc<Control>>,
    Path(token): Path<String>,
    By(context): By,
) -> Result<axum::Json<Token>, ApiError> {
    let change = async move { control.store.revoke_token(&context, &token).await };
    let token = uncancelled(change).await?;
    info!(token.id, "Revoked token {}", token.id);
    Ok(axum::Json(token))
}

pub(crate) async fn rotate(
    State(control): State<Arc<Control>>,
    Path(token): Path<String>,
    By(context): By,
    JsonOrDefault(how): JsonOrDefault<RotateToken>,
) -> Result<axum::Json<TokenWithSecret>, ApiError> {
    let overlap = how.overlap_seconds.unwrap_or(DEFAULT_OVERLAP_SECONDS);
    let sane = overlap <= MAX_OVERLAP_SECONDS;
    require(sane, "overlap_seconds", "0 to 7776000 seconds, which are 90 days")?;
    let overlap = overlap.saturating_mul(1000);
    let secret = PlainToken::generate()?;
    let hash = secret.hash();
    let change = async move { control.store.rotate_token(&context, &token, hash, overlap).await };
    let token = uncancelled(change).await?;
    info!(token.id, "Rotated token {}", token.id);
    Ok(axum::Json(handed_over(token, &secret)))
}

fn handed_over(about: Token, secret: &PlainToken) -> TokenWithSecret {
    TokenWithSecret { about, token: Some(secret.expose().to_owned()) }
}
