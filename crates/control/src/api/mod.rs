//! HTTP: one file per resource owns its handlers. No SQL here.

pub(crate) mod applied;
pub(crate) mod audit;
pub(crate) mod auth;
pub(crate) mod backup;
pub(crate) mod body;
pub(crate) mod campaigns;
pub(crate) mod clients;
pub(crate) mod error;
pub(crate) mod figures;
pub(crate) mod health;
pub(crate) mod holder;
pub(crate) mod import;
pub(crate) mod keys;
mod matching;
pub(crate) mod notices;
pub(crate) mod once;
pub(crate) mod openapi;
pub(crate) mod parameters;
pub(crate) mod policies;
pub(crate) mod request;
pub(crate) mod rings;
pub(crate) mod rotations;
pub(crate) mod routes;
pub(crate) mod self_service;
pub(crate) mod signing_keys;
mod texts;
pub(crate) mod tokens;
pub(crate) mod usage;
mod wording;

use std::future::Future;

use error::ApiError;
use keywheel_api::{List, Problem, labels};
use serde::Deserialize;
use tracing::Instrument as _;

/// The most items of one list.
pub(crate) const PAGE: u32 = 500;

/// Where a page of a list begins.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct After {
    /// The `next` of the page before; the first page when absent.
    #[serde(default)]
    #[param(required = false, value_type = Cursor)]
    after: String,
}

/// What a list calls its items.
#[derive(utoipa::ToSchema)]
#[schema(as = Cursor, pattern = "^[!-~]{0,128}$")]
pub(crate) struct Cursor(#[allow(dead_code, reason = "a schema only")] String);

impl After {
    fn read(&self) -> Result<&str, ApiError> {
        cursor(&self.after)
    }

    /// A list that is never longer than a page, which is whole or, after its end, empty.
    fn whole<T>(&self, items: Vec<T>, name: impl Fn(&T) -> &str) -> Result<List<T>, ApiError> {
        let after = self.read()?;
        Ok(List { items: items.into_iter().filter(|item| name(item) > after).collect(), next: None })
    }
}

fn cursor(after: &str) -> Result<&str, ApiError> {
    let fits = after.len() <= 128 && after.bytes().all(|byte| byte.is_ascii_graphic());
    require(fits, "after", "the `next` of the page before")?;
    Ok(after)
}

/// Runs a change to its end even if the caller hangs up: between the commit and the waking of those
/// who wait for it nothing may be dropped.
pub(crate) async fn uncancelled<T, E>(
    change: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, ApiError>
where
    T: Send + 'static,
    E: Send + 'static,
    ApiError: From<E>,
{
    match tokio::spawn(change.in_current_span()).await {
        Ok(done) => Ok(done?),
        Err(panicked) => Err(ApiError::Internal(panicked.to_string())),
    }
}

/// The labels that a list is filtered by.
pub(crate) fn label_filter(text: Option<&str>) -> Result<Vec<(String, Option<String>)>, ApiError> {
    text.map_or(Ok(Vec::new()), |text| {
        let rule = |part| format!("`NAME=VALUE` or `NAME`, separated by commas; `{part}` is neither");
        labels::parse_filter(text).map_err(|part| Problem::field("labels", rule(part)).into())
    })
}

/// A rule that a field must keep.
pub(crate) fn require(holds: bool, field: &str, rule: &str) -> Result<(), ApiError> {
    if holds { Ok(()) } else { Err(Problem::field(field, rule).into()) }
}
