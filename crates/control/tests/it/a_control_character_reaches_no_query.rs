use axum::http::StatusCode;
use keywheel_api::{Imported, RingUsage};
use keywheel_control::{RingAuth, app};
use serde_json::{Value, json};

use crate::support::plane_with;

const NUL: &str = "a\u{0}b";

/// A schema, or what it refers to.
fn resolve<'a>(schema: &'a Value, document: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(to) => resolve(document.pointer(to.trim_start_matches('#')).unwrap(), document),
        None => schema,
    }
}

/// `body` once for each text that the schema has a place for: with NUL there, and what that field is called.
fn spoiled(schema: &Value, document: &Value, body: &Value, field: &str, found: &mut Vec<(String, Value)>) {
    let schema = resolve(schema, document);
    for kind in ["allOf", "anyOf", "oneOf"] {
        for part in schema[kind].as_array().into_iter().flatten() {
            spoiled(part, document, body, field, found);
        }
    }
    let types = &schema["type"];
    let is = |name: &str| types == name || types.as_array().is_some_and(|names| names.contains(&json!(name)));
    if is("string") {
        found.push((field.to_owned(), json!(NUL)));
    }
    let mut within = |inner: &Value, before: &Value, name: &str, put: &dyn Fn(Value) -> Value| {
        let mut inside = Vec::new();
        let name =
            if field.is_empty() { name.trim_start_matches('.').to_owned() } else { format!("{field}{name}") };
        spoiled(inner, document, before, &name, &mut inside);
        found.extend(inside.into_iter().map(|(field, value)| (field, put(value))));
    };
    if is("array") {
        let before = body.get(0).unwrap_or(&Value::Null);
        within(&schema["items"], before, "[0]", &|value| json!([value]));
    }
    if is("object") {
        let with = |name: &str, value| {
            let mut body = if body.is_object() { body.clone() } else { json!({}) };
            body[name] = value;
            body
        };
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            within(inner, &body[name], &format!(".{name}"), &|value| with(name, value));
        }
        if schema["additionalProperties"].is_object() {
            let inner = &schema["additionalProperties"];
            within(inner, &Value::Null, ".any", &|value| with("any", value));
            found.push((format!("{field}.a\u{fffd}b"), with(NUL, json!("any"))));
        }
    }
}

#[tokio::test]
async fn a_control_character_in_any_path_query_or_body_is_refused_by_name() {
    let plane = plane_with(RingAuth::Token).await;
    let (mut in_paths, mut in_queries, mut in_bodies) = (0, 0, 0);
    for app in [app::admin(plane.control.clone()), app::ring(plane.control.clone())] {
        let ask = async |method: &str, path: &str, body: &str| {
            plane.ask(app.clone(), Some(&plane.token), &method.to_uppercase(), path, body).await
        };
        let document: Value = ask("GET", "/openapi.json", "").await.json(StatusCode::OK);
        for (template, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let path = template.replace("{ring}", "production");
                let refused = async |field: &str, path: &str, body: &str| {
                    let answer = ask(method, path, body).await;
                    let problem = answer.problem("invalid-request");
                    assert_eq!(problem.errors[0].field, field, "{method} {path} {body}");
                    assert!(problem.errors[0].rule.contains("control character"), "{problem:?}");
                };
                for parameter in operation["parameters"].as_array().unwrap() {
                    let name = parameter["name"].as_str().unwrap();
                    if parameter["in"] == "path" {
                        refused(name, &template.replace(&format!("{{{name}}}"), "a%00b"), "").await;
                        in_paths += 1;
                    } else if parameter["in"] == "query" && !["wait", "timeout"].contains(&name) {
                        refused(name, &format!("{path}?{name}=a%00b"), "").await;
                        in_queries += 1;
                    }
                }
                let content = &operation["requestBody"]["content"]["application/json"];
                let mut bodies = Vec::new();
                spoiled(&content["schema"], &document, &content["example"], "", &mut bodies);
                for (field, body) in bodies {
                    // Of an import each item is judged by itself.
                    if !template.ends_with("/import") {
                        let field = if field.is_empty() { "." } else { &field };
                        refused(field, &path, &body.to_string()).await;
                        in_bodies += 1;
                    }
                }
            }
        }
    }
    assert!(in_paths > 25 && in_queries > 15 && in_bodies > 30, "{in_paths} {in_queries} {in_bodies}");
}

#[tokio::test]
async fn an_item_or_a_batch_with_a_control_character_is_left_out_by_itself() {
    let plane = plane_with(RingAuth::Open).await;
    let digest = "ab".repeat(32);
    for item in [
        json!({ "digest": digest, "client": NUL }),
        json!({ "digest": digest, "client": "acme", "scopes": [NUL] }),
    ] {
        let body = json!({ "items": [item], "create_clients": true });
        let report: Imported = plane.post("/v1/rings/production/import", body).await.json(StatusCode::OK);
        assert_eq!((report.imported, report.refused.len()), (0, 1), "{report:?}");
    }
    let count = json!({ "version": "kv_1", "outcome": "valid", "minute": 0, "count": 1 });
    let batch =
        json!({ "node": "a", "instance": "1", "vm": "1", "batch": 1, "from": 0, "to": 1, "counts": [count] });
    for pointer in ["/node", "/instance", "/vm", "/counts/0/version", "/counts/0/outcome"] {
        let mut batch = batch.clone();
        *batch.pointer_mut(pointer).unwrap() = json!(NUL);
        assert_eq!(plane.report(json!([batch])).await.status, StatusCode::NO_CONTENT, "{pointer}");
    }
    let tally: RingUsage = plane.store().usage_tally(1);
    assert_eq!((tally.refused_batches, tally.unknown_counts), (5, 0));
    assert_eq!(plane.report(json!([batch])).await.status, StatusCode::NO_CONTENT);
    assert_eq!(plane.store().usage_tally(1).unknown_counts, 1, "as it is, it is taken");
}
