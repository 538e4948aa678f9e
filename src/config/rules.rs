//! `rules`, `default` and `route_overrides`.

use keywheel_keyring::entry::{is_name, is_scope};
use serde_json::Value;

use super::fields::Fields;
use super::is_token;
use crate::path::Pattern;
use crate::policy::{Access, Demand, Host, Policy, Rule};

const ACCESS: &str = "open, optional, any_key, deny, or an object with scopes, any_scope or clients";
const MATCH: &str = "an object with host, path, path_prefix or path_template, methods, route, route_metadata";

/// The most rules, so that a request's time is bounded.
const MAX_RULES: usize = 1000;

pub(super) fn read(fields: &mut Fields<'_, '_>) -> Option<Policy> {
    let rules = fields.objects("rules", rule);
    let route_overrides = fields.flag("route_overrides", false);
    let has_rules = rules.as_ref().is_some_and(|rules| !rules.is_empty());
    if has_rules {
        fields.require("default", "any_key or deny, for what no rule matches");
    }
    let default = fields.word("default", &[("any_key", Access::ANY_KEY), ("deny", Access::DENY)]);
    if rules.as_ref().is_some_and(|rules| rules.len() > MAX_RULES) {
        fields.refuse("rules".into(), format!("must be at most {MAX_RULES} rules"));
    }
    Some(Policy { rules: rules?, default: default?.clone(), route_overrides: route_overrides? })
}

fn rule(mut fields: Fields<'_, '_>) -> Option<Rule> {
    fields.require("match", MATCH);
    let matcher = fields.object("match", |mut fields| {
        let host = fields
            .value("host", "a host such as api.example.com or *.example.com", |value| host(value.as_str()?));
        let kinds = ["path", "path_prefix", "path_template"].map(|kind| fields.has(kind));
        if kinds.iter().filter(|present| **present).count() > 1 {
            fields.refuse(
                fields.path_of("path"),
                "must be alone: path, path_prefix and path_template exclude each other",
            );
        }
        let mut pattern = |name, allowed, read: fn(&str) -> Option<Pattern>| {
            fields.value(name, allowed, |value| value.as_str().and_then(read))
        };
        let exact = pattern("path", "a canonical path such as /quotes, without a query", Pattern::exact);
        let prefix =
            pattern("path_prefix", "a canonical path such as /orders, without a query", Pattern::prefix);
        let template = pattern(
            "path_template",
            "a canonical path in which {name} stands for one segment, such as /orders/{id}",
            Pattern::template,
        );
        let methods =
            strings(&mut fields, "methods", "a list of at least one method such as POST", 1, |method| {
                is_token(method) && !method.bytes().any(|byte| byte.is_ascii_lowercase())
            });
        let route = fields.text("route", "a route's name", is_route_name);
        let route_metadata = fields.value(
            "route_metadata",
            "an object of at most 8 strings, compared with filter_metadata.keywheel",
            |value| {
                let map = value.as_object().filter(|map| map.len() <= 8)?;
                map.iter().map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
            },
        );
        fields.finish();
        Some((host, exact.or(prefix).or(template), methods, route, route_metadata))
    });
    fields.require("access", ACCESS);
    let access = fields.value("access", ACCESS, access);
    fields.finish();
    let (host, path, methods, route, route_metadata) = matcher?;
    Some(Rule {
        host,
        path,
        methods: methods.unwrap_or_default(),
        route,
        route_metadata: route_metadata.unwrap_or_default(),
        access: access?,
    })
}

fn access(value: &Value) -> Option<Access> {
    match value {
        Value::String(word) => word_access(word),
        Value::Object(map) => {
            let list = |name: &str| -> Option<Option<Vec<String>>> {
                let Some(value) = map.get(name) else { return Some(None) };
                let items = value.as_array()?;
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>().map(Some)
            };
            access_from(map.keys().map(String::as_str), list("scopes")?, list("any_scope")?, list("clients")?)
        }
        _ => None,
    }
}

/// `open`, `optional`, `any_key` or `deny`.
pub(crate) fn word_access(word: &str) -> Option<Access> {
    match word {
        "open" => Some(Access::Open),
        "optional" => Some(Access::Optional),
        "any_key" => Some(Access::default()),
        "deny" => Some(Access::Deny),
        _ => None,
    }
}

/// What an object asks for, from its fields. One that asks for nothing, or for what no key can have, is
/// a mistake.
pub(crate) fn access_from<'a>(
    mut fields: impl Iterator<Item = &'a str>,
    scopes: Option<Vec<String>>,
    any_scope: Option<Vec<String>>,
    clients: Option<Vec<String>>,
) -> Option<Access> {
    let known = fields.all(|field| matches!(field, "scopes" | "any_scope" | "clients"));
    let asks = scopes.is_some() || any_scope.is_some() || clients.is_some();
    let named = scopes.iter().chain(&any_scope).flatten().all(|scope| is_scope(scope))
        && clients.iter().flatten().all(|client| is_name(client))
        && scopes.as_ref().is_none_or(|scopes| !scopes.is_empty());
    (known && asks && named)
        .then(|| Access::Keyed(Demand { scopes: scopes.unwrap_or_default(), any_scope, clients }))
}

fn strings(
    fields: &mut Fields<'_, '_>,
    name: &'static str,
    allowed: &str,
    least: usize,
    fits: fn(&str) -> bool,
) -> Option<Vec<String>> {
    fields.value(name, allowed, |value| {
        let items = value.as_array().filter(|items| items.len() >= least)?;
        items.iter().map(|item| item.as_str().filter(|text| fits(text)).map(str::to_owned)).collect()
    })
}

fn host(text: &str) -> Option<Host> {
    let plain = |text: &str| {
        (1..=255).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'[' | b']'))
            && !text.ends_with('.')
    };
    let lower = text.to_ascii_lowercase();
    match lower.strip_prefix('*') {
        Some(suffix) => (suffix.starts_with('.') && suffix.len() > 1 && plain(suffix))
            .then(|| Host::Below(suffix.to_owned())),
        // The colons of an IPv6 address stand in brackets; a port is not compared.
        None => (plain(&lower.replace(':', "")) && (lower.starts_with('[') || !lower.contains(':')))
            .then_some(Host::Exact(lower)),
    }
}

fn is_route_name(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
}
