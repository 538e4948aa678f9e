use std::sync::Arc;

use axum::extract::State;

use super::error::ApiError;
use crate::Control;

/// The process answers.
pub(crate) async fn live() -> &'static str {
    "ok\n"
}

/// The database answers too.
pub(crate) async fn ready(State(control): State<Arc<Control>>) -> Result<&'static str, ApiError> {
    control.store.ping().await?;
    Ok("ready\n")
}
