use std::sync::Arc;

use axum::extract::State;
use keywheel_api::{List, Notice};

use super::audit::Page;
use super::auth::Caller;
use super::body::Params;
use super::error::ApiError;
use crate::Control;

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Params(page): Params<Page>,
) -> Result<axum::Json<List<Notice>>, ApiError> {
    let (after, limit) = page.read()?;
    let items = control.store.notices(after, limit).await?;
    let mut page = List::new(items, limit, |notice| notice.id.to_string());
    // After the cursor is taken, as in the list of keys.
    page.items.retain(|notice| caller.reaches(&notice.ring));
    Ok(axum::Json(page))
}
