//! Query parameters that an operation does not have are refused: whoever misspells one would believe that it did
//! something.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use keywheel_api::Problem;

use super::error::ApiError;
use super::texts;

/// Those that an operation has.
pub(crate) type Known = Arc<[String]>;

pub(crate) async fn known(
    State(known): State<Known>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let query = request.uri().query().unwrap_or_default();
    texts::check_query(query)?;
    for (name, _) in form_urlencoded::parse(query.as_bytes()) {
        if !known.iter().any(|known| *known == name) {
            let names: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
            let rule = match names.as_slice() {
                [] => "this operation has no parameters in its query".to_owned(),
                names => format!("this operation has no such parameter; it has {}", names.join(", ")),
            };
            return Err(Problem::field(name, rule).into());
        }
    }
    Ok(next.run(request).await)
}
