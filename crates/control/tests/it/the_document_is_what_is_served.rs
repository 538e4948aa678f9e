use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use axum::Router;
use axum::http::StatusCode;
use keywheel_api::{ProblemKind, Role};
use keywheel_control::{RingAuth, app};
use serde_json::{Value, json};

use crate::support::{Plane, plane_with};

/// The only operations that need no token.
const OPEN: [&str; 3] = ["/healthz", "/openapi.json", "/readyz"];

fn listeners(plane: &Plane) -> [Router; 3] {
    let control = || plane.control.clone();
    [app::admin(control()), app::ring(control()), app::consumer(control())]
}

async fn document(plane: &Plane, app: &Router) -> Value {
    plane.ask(app.clone(), None, "GET", "/openapi.json", "").await.json(StatusCode::OK)
}

/// Method, path as it is asked for, operation.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let concrete: Vec<_> = path
            .split('/')
            .map(|part| match part {
                "{ring}" => "production",
                part if part.starts_with('{') => "none",
                part => part,
            })
            .collect();
        for (method, operation) in item.as_object().unwrap() {
            found.push((method.to_uppercase(), concrete.join("/"), operation.clone()));
        }
    }
    found
}

#[tokio::test]
async fn every_operation_asks_for_the_role_that_it_declares() {
    let plane = plane_with(RingAuth::Token).await;
    let mut tokens = BTreeMap::new();
    for role in Role::ALL {
        tokens.insert(role.as_str(), plane.token_of(json!({ "role": role })).await);
    }
    let mut checked = 0;
    for app in [app::admin(plane.control.clone()), app::ring(plane.control.clone())] {
        for (method, path, operation) in operations(&document(&plane, &app).await) {
            let roles: BTreeSet<_> = operation["x-keywheel-role"]
                .as_array()
                .unwrap()
                .iter()
                .map(|role| role.as_str().unwrap())
                .collect();
            let open = plane.ask(app.clone(), None, &method, &path, "").await;
            if OPEN.contains(&path.as_str()) {
                assert_eq!((roles.len(), open.status), (0, StatusCode::OK), "{method} {path}");
                continue;
            }
            assert!(!roles.is_empty(), "{method} {path} is open");
            assert_ne!(operation["security"], json!([]), "{method} {path}");
            open.problem("unauthorized");
            for (role, token) in &tokens {
                // A body that is refused once the token is taken, so that nothing changes.
                let answer = plane.ask(app.clone(), Some(token), &method, &path, "{\"no\": 1}").await;
                if roles.contains(role) {
                    let refused = matches!(answer.status.as_u16(), 401 | 403 | 500..);
                    assert!(!refused, "{role}: {method} {path}: {}", answer.status);
                } else {
                    answer.problem("forbidden");
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

#[tokio::test]
async fn every_operation_of_the_consumer_listener_asks_for_a_key_and_takes_no_token() {
    let plane = plane_with(RingAuth::Token).await;
    let app = app::consumer(plane.control.clone());
    let mut paths = BTreeSet::new();
    for (method, path, operation) in operations(&document(&plane, &app).await) {
        let nobody = plane.ask(app.clone(), None, &method, &path, "").await;
        if OPEN.contains(&path.as_str()) {
            assert_eq!((&operation["security"], nobody.status), (&json!([]), StatusCode::OK), "{path}");
            continue;
        }
        assert_eq!(operation["security"], json!([{ "key": [] }, { "keyHeader": [] }]), "{path}");
        nobody.problem("key-not-accepted");
        for role in Role::ALL {
            let token = plane.token_of(json!({ "role": role })).await;
            let answer = plane.ask(app.clone(), Some(&token), &method, &path, "").await;
            answer.problem("key-not-accepted");
        }
        paths.insert(path);
    }
    let expected = ["/v1/self", "/v1/self/rotations", "/v1/self/rotations/none"];
    assert_eq!(paths, expected.into_iter().map(str::to_owned).collect());
}

#[tokio::test]
async fn what_is_documented_is_served_and_nothing_else() {
    let plane = plane_with(RingAuth::Open).await;
    for app in listeners(&plane) {
        let mut methods: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (method, path, _) in operations(&document(&plane, &app).await) {
            methods.entry(path).or_default().insert(method);
        }
        for (path, documented) in methods {
            let answer = plane.ask(app.clone(), Some(&plane.token), "TRACE", &path, "").await;
            let allowed = answer.headers["allow"].to_str().unwrap().to_owned();
            answer.problem("method-not-allowed");
            // Whoever may GET may ask for the headers alone.
            let allowed: BTreeSet<_> = allowed
                .split(',')
                .map(str::trim)
                .filter(|method| *method != "HEAD")
                .map(str::to_owned)
                .collect();
            assert_eq!(allowed, documented, "{path}");
        }
    }
}

/// The table is the one place, as long as no other has routes.
#[test]
fn routes_are_added_in_one_place() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut with_routes = Vec::new();
    let mut directories = vec![source.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if fs::read_to_string(&path).unwrap().contains(".route(") {
                with_routes.push(path.strip_prefix(&source).unwrap().display().to_string());
            }
        }
    }
    assert_eq!(with_routes, ["api/routes.rs"]);
}

#[tokio::test]
async fn every_documented_problem_has_its_page() {
    let plane = plane_with(RingAuth::Open).await;
    let known: BTreeSet<_> = ProblemKind::ALL.into_iter().map(ProblemKind::page).collect();
    let mut found = BTreeSet::new();
    for app in listeners(&plane) {
        for (method, path, operation) in operations(&document(&plane, &app).await) {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let schema = &response["content"]["application/problem+json"]["schema"];
                for page in schema["allOf"][1]["properties"]["type"]["enum"].as_array().into_iter().flatten()
                {
                    let page = page.as_str().unwrap().to_owned();
                    assert!(known.contains(&page), "{method} {path}: {page}");
                    let kind = ProblemKind::ALL.into_iter().find(|kind| kind.page() == page).unwrap();
                    assert_eq!(kind.status().to_string(), *status, "{method} {path}");
                    found.insert(page);
                }
            }
        }
    }
    // It is the answer to what is no operation.
    found.insert(ProblemKind::MethodNotAllowed.page());
    // A relay answers with it, and no control plane does.
    found.insert(ProblemKind::RelayBehind.page());
    assert_eq!(found, known);
}

/// A reference that leads nowhere makes the whole document useless to most tools.
#[tokio::test]
async fn every_reference_leads_to_a_schema() {
    fn walk(value: &Value, document: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(to)) = members.get("$ref") {
                    assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                }
                members.values().for_each(|member| walk(member, document));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, document)),
            _ => {}
        }
    }
    let plane = plane_with(RingAuth::Open).await;
    for app in listeners(&plane) {
        let document = document(&plane, &app).await;
        walk(&document, &document);
    }
}

#[tokio::test]
async fn every_change_may_wait_and_nothing_else() {
    let plane = plane_with(RingAuth::Open).await;
    for (changes_wait, app) in [true, false, true].into_iter().zip(listeners(&plane)) {
        for (method, path, operation) in operations(&document(&plane, &app).await) {
            let parameters = operation["parameters"].as_array().unwrap();
            let waits = parameters.iter().any(|parameter| parameter["schema"]["enum"] == json!(["applied"]));
            assert_eq!(waits, changes_wait && method != "GET", "{method} {path}");
            if waits {
                let path = format!("{path}?wait=never");
                let problem = plane.ask(app.clone(), Some(&plane.token), &method, &path, "").await;
                // A token is no key.
                let own = operation["security"] != json!([{ "token": operation["x-keywheel-role"] }]);
                problem.problem(if own { "key-not-accepted" } else { "invalid-request" });
            }
        }
    }
}
