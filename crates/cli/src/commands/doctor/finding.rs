//! What doctor says of one thing that it looked at.

use keywheel_api::Proxy;
use serde::Serialize;

/// So many of a list are named.
pub(super) const NAMED: usize = 5;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) about: String,
    pub(super) what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) todo: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Good,
    Warning,
    Problem,
}

pub(super) fn names(proxies: &[&Proxy]) -> String {
    let names: Vec<_> = proxies.iter().take(NAMED).map(|proxy| proxy.node.as_str()).collect();
    names.join(", ") + &more(proxies.len())
}

pub(super) fn more(count: usize) -> String {
    if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() }
}

pub(super) fn good(about: &str, what: String) -> Finding {
    Finding { level: Level::Good, about: about.into(), what, todo: None }
}

pub(super) fn warning(about: &str, what: String, todo: &str) -> Finding {
    Finding { level: Level::Warning, about: about.into(), what, todo: Some(todo.into()) }
}

pub(super) fn problem(about: &str, what: String, todo: &str) -> Finding {
    Finding { level: Level::Problem, about: about.into(), what, todo: Some(todo.into()) }
}
