//! Rules by route, and routes that say what they need.

use keywheel_testkit::EnvoyConfig;
use serde_json::{Value, json};

use crate::stage::{Stage, seen, with_fields};

const ROUTES: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";

/// A route to the upstream, which sees where it came by.
fn route(name: &str, matches: Value, metadata: Value) -> Value {
    json!({
        "name": name, "match": matches, "route": {"cluster": "upstream"},
        "metadata": {"filter_metadata": {"keywheel": metadata}},
        "request_headers_to_add": [{"header": {"key": "x-route", "value": name}}],
    })
}

fn with_routes(config: EnvoyConfig, routes: Vec<Value>, fields: &Value) -> EnvoyConfig {
    with_fields(config, fields).with(ROUTES, Value::Array(routes))
}

#[tokio::test]
async fn a_rule_may_name_a_route_or_its_metadata() {
    let routes = vec![
        route("admin", json!({"prefix": "/admin"}), json!({})),
        route("desk", json!({"prefix": "/desk"}), json!({"team": "desk"})),
        route("rest", json!({"prefix": "/"}), json!({})),
    ];
    let rules = json!({
        "rules": [
            {"match": {"route": "admin"}, "access": {"scopes": ["trade"]}},
            {"match": {"route_metadata": {"team": "desk"}}, "access": {"clients": ["desk"]}},
        ],
        "default": "any_key",
        "stable_routes": true,
    });
    let stage = Stage::of(|config| with_routes(config, routes, &rules)).await;
    assert_eq!(stage.outcome("/admin", &[("x-api-key", "good")]).await, "403 insufficient_scope");
    assert_eq!(stage.outcome("/admin", &[("x-api-key", "trader")]).await, "200");
    assert_eq!(stage.outcome("/desk", &[("x-api-key", "good")]).await, "403 client_not_allowed");
    assert_eq!(stage.outcome("/desk", &[("x-api-key", "trader")]).await, "200");
    assert_eq!(stage.outcome("/else", &[("x-api-key", "good")]).await, "200");
}

#[tokio::test]
async fn a_route_may_say_what_it_needs() {
    let routes = vec![
        route("open", json!({"prefix": "/open"}), json!({"access": "open"})),
        route("any", json!({"prefix": "/any"}), json!({"access": {"any_scope": ["audit", "trade"]}})),
        route("all", json!({"prefix": "/all"}), json!({"access": {"scopes": ["trade", "market:read"]}})),
        route("client", json!({"prefix": "/client"}), json!({"access": {"clients": ["desk"]}})),
        route("nobody", json!({"prefix": "/nobody"}), json!({"access": {"clients": []}})),
        route("typo", json!({"prefix": "/typo"}), json!({"access": "opne"})),
        route("wrong", json!({"prefix": "/wrong"}), json!({"access": {"scope": ["trade"]}})),
        route("number", json!({"prefix": "/number"}), json!({"access": 7})),
        route("null", json!({"prefix": "/null"}), json!({"access": null})),
        route("empty", json!({"prefix": "/empty"}), json!({"access": {"scopes": null}})),
        route("part", json!({"prefix": "/part"}), json!({"access": {"scopes": ["trade", null]}})),
        route("rest", json!({"prefix": "/"}), json!({})),
    ];
    let config = |fields: Value| {
        let routes = routes.clone();
        move |config| with_routes(config, routes, &fields)
    };
    let on = Stage::of(config(json!({"route_overrides": true, "stable_routes": true}))).await;
    let key = |key: &'static str| [("x-api-key", key)];
    assert_eq!(on.outcome("/open", &[]).await, "200");
    assert_eq!(on.outcome("/any", &key("good")).await, "403 insufficient_scope");
    assert_eq!(on.outcome("/any", &key("trader")).await, "200");
    assert_eq!(on.outcome("/all", &key("reader")).await, "403 insufficient_scope");
    assert_eq!(on.outcome("/all", &key("trader")).await, "200");
    assert_eq!(on.outcome("/client", &key("good")).await, "403 client_not_allowed");
    assert_eq!(on.outcome("/client", &key("trader")).await, "200");
    assert_eq!(on.outcome("/nobody", &key("trader")).await, "403 client_not_allowed");
    for path in ["/typo", "/wrong", "/number", "/null", "/empty", "/part"] {
        assert_eq!(on.outcome(path, &key("trader")).await, "403 no_rule", "{path}");
        assert_eq!(on.outcome(path, &[]).await, "401 missing_key", "{path}");
    }
    assert_eq!(on.outcome("/", &[]).await, "401 missing_key");
    assert_eq!(on.outcome("/", &key("good")).await, "200");

    let off = Stage::of(config(json!({}))).await;
    assert_eq!(off.outcome("/open", &[]).await, "401 missing_key", "who writes routes opens no gate");
}

/// After a header was changed Envoy chooses the route anew, and shows the filter the old one until then. So
/// a configuration in which that could matter is refused, and with one that is taken, the route that was
/// checked is the route that is taken.
#[tokio::test]
async fn the_route_that_is_taken_is_the_one_that_was_checked() {
    let exactly = |header: &str, value: &str| json!({"prefix": "/", "headers": [{"name": header, "string_match": {"exact": value}}]});
    let routes = vec![
        route("desk", exactly("x-client-id", "desk"), json!({})),
        route("keyed", exactly("x-api-key", "good"), json!({})),
        route("rest", json!({"prefix": "/"}), json!({})),
    ];
    let rules = json!({
        "rules": [
            {"match": {"route": "desk"}, "access": {"scopes": ["audit"]}},
            {"match": {"route": "keyed"}, "access": "open"},
        ],
        "default": "any_key",
        "identity": null,
        "hide_credential": false,
    });
    let stage = Stage::of(|config| with_routes(config, routes, &rules)).await;
    let trader = [("x-api-key", "trader"), ("x-client-id", "desk")];
    assert_eq!(stage.outcome("/", &trader).await, "403 insufficient_scope");
    assert_eq!(seen(&stage.get("/", &trader[..1]).await, "x-route"), "rest");
    assert_eq!(seen(&stage.get("/", &[("x-api-key", "good")]).await, "x-route"), "keyed");
}
