use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use keywheel_api::policy::is_policy_name;
use keywheel_api::{CreatePolicy, List, Policy, Problem, Ring, SetPolicy, Terms};
use tracing::info;

use super::auth::By;
use super::body::{Json, Params};
use super::error::ApiError;
use super::{After, PAGE, require, rings, uncancelled};
use crate::Control;

pub(crate) async fn create(
    State(control): State<Arc<Control>>,
    By(context): By,
    Json(new): Json<CreatePolicy>,
) -> Result<(StatusCode, axum::Json<Policy>), ApiError> {
    require(
        is_policy_name(&new.name),
        "name",
        "1 to 64 letters, digits, `.`, `_` and `-`, and not `none`, `.` or `..`",
    )?;
    check(&new.terms, "terms.")?;
    let change = async move { control.store.create_policy(&context, &new).await };
    let (policy, created) = uncancelled(change).await?;
    if created {
        info!(policy = policy.name, "Created policy {}", policy.name);
    }
    Ok((if created { StatusCode::CREATED } else { StatusCode::OK }, axum::Json(policy)))
}

pub(crate) async fn list(
    State(control): State<Arc<Control>>,
    Params(page): Params<After>,
) -> Result<axum::Json<List<Policy>>, ApiError> {
    let items = control.store.policies(page.read()?, PAGE).await?;
    Ok(axum::Json(List::new(items, PAGE, |policy| policy.name.clone())))
}

pub(crate) async fn show(
    State(control): State<Arc<Control>>,
    Path(policy): Path<String>,
) -> Result<axum::Json<Policy>, ApiError> {
    Ok(axum::Json(control.store.policy(&policy).await?))
}

/// All of its terms: what is absent has its default.
pub(crate) async fn update(
    State(control): State<Arc<Control>>,
    Path(policy): Path<String>,
    By(context): By,
    Json(terms): Json<Terms>,
) -> Result<axum::Json<Policy>, ApiError> {
    check(&terms, "")?;
    let change = async move { control.store.update_policy(&context, &policy, &terms).await };
    let policy = uncancelled(change).await?;
    info!(policy = policy.name, "Updated policy {}", policy.name);
    Ok(axum::Json(policy))
}

pub(crate) async fn delete(
    State(control): State<Arc<Control>>,
    Path(policy): Path<String>,
    By(context): By,
) -> Result<axum::Json<Policy>, ApiError> {
    let change = async move { control.store.delete_policy(&context, &policy).await };
    let policy = uncancelled(change).await?;
    info!(policy = policy.name, "Deleted policy {}", policy.name);
    Ok(axum::Json(policy))
}

pub(crate) async fn set_for_ring(
    State(control): State<Arc<Control>>,
    Path(ring): Path<String>,
    By(context): By,
    Json(set): Json<SetPolicy>,
) -> Result<axum::Json<Ring>, ApiError> {
    let (store, name) = (control.store.clone(), ring.clone());
    let change = async move { store.set_ring_policy(&context, &name, set.policy.as_deref()).await };
    uncancelled(change).await?;
    info!(ring, "Changed the policy of ring {ring}");
    rings::show(State(control), Path(ring)).await
}

fn check(terms: &Terms, path: &str) -> Result<(), ApiError> {
    terms.check().map_err(|(field, rule)| Problem::field(format!("{path}{field}"), rule).into())
}
