use axum::http::StatusCode;
use keywheel_api::{Client, Key, List};
use serde_json::{Value, json};

use crate::support::{Plane, plane};

async fn patch(plane: &Plane, path: &str, body: Value) -> crate::support::Answer {
    plane.admin("PATCH", path, body.to_string()).await
}

async fn found(plane: &Plane, list: &str, filter: &str) -> Vec<String> {
    let page: List<Value> = plane.get(&format!("/v1/{list}?labels={filter}")).await.json(StatusCode::OK);
    let name = |item: &Value| item.get("name").or(item.get("id")).unwrap().as_str().unwrap().to_owned();
    page.items.iter().map(name).collect()
}

#[tokio::test]
async fn labels_of_keys_and_clients_are_set_changed_and_filtered_by() {
    let plane = plane().await;
    let labels = json!({ "name": "acme", "labels": { "team": "payments", "example.com/tier": "1" } });
    let acme: Client = plane.post("/v1/clients", labels.clone()).await.json(StatusCode::CREATED);
    assert_eq!(acme.labels["example.com/tier"], "1");
    assert_eq!(plane.post("/v1/clients", labels).await.status, StatusCode::OK, "twice is once");
    plane.client("other").await;
    let new = json!({ "client": "acme", "labels": { "env": "prod", "a_b": "x" } });
    let key: Key = plane.post("/v1/keys", new).await.json(StatusCode::CREATED);
    let plain: Key = plane.post("/v1/keys", json!({ "client": "acme" })).await.json(StatusCode::CREATED);

    assert_eq!(found(&plane, "clients", "team=payments,example.com/tier=1").await, ["acme"]);
    assert_eq!(found(&plane, "clients", "team=other").await, [""; 0]);
    assert_eq!(found(&plane, "keys", "env").await, [key.id.as_str()]);
    assert_eq!(found(&plane, "keys", "env=prod,a_b=x").await, [key.id.as_str()]);
    assert_eq!(found(&plane, "keys", "axb=x").await, [""; 0]);

    let path = format!("/v1/keys/{}", key.id);
    let head = plane.head();
    let change = json!({ "labels": { "env": null, "tier": "gold" } });
    let changed: Key = patch(&plane, &path, change).await.json(StatusCode::OK);
    assert_eq!(json!(changed.labels), json!({ "a_b": "x", "tier": "gold" }));
    assert_eq!(plane.head(), head, "no proxy has to know");
    assert_eq!(found(&plane, "keys", "env").await, [""; 0]);
    let change = json!({ "owner": null, "contact": "ops@example.com", "labels": { "team": null } });
    let client: Client = patch(&plane, "/v1/clients/acme", change).await.json(StatusCode::OK);
    assert_eq!((client.contact.as_deref(), client.labels.len()), (Some("ops@example.com"), 1));
    let kept: Client = patch(&plane, "/v1/clients/acme", json!({})).await.json(StatusCode::OK);
    assert_eq!(kept, client, "what is absent stays");
    assert_eq!(plane.show(&plain).await.labels.len(), 0);
}

#[tokio::test]
async fn labels_keep_their_rules() {
    let plane = plane().await;
    let key = plane.key().await;
    let path = format!("/v1/keys/{}", key.id);
    let many: serde_json::Map<String, Value> = (0..33).map(|n| (format!("n{n}"), json!("x"))).collect();
    for bad in [json!({ "a b": "x" }), json!({ "a": "" }), json!({ "a": "x".repeat(64) }), json!(many)] {
        let problem = patch(&plane, &path, json!({ "labels": bad })).await.problem("invalid-request");
        assert_eq!(problem.errors[0].field, "labels");
        let new = json!({ "client": "acme", "labels": bad });
        assert_eq!(plane.post("/v1/keys", new).await.problem("invalid-request").errors[0].field, "labels");
    }
    let problem = plane.get("/v1/keys?labels=a%20b").await.problem("invalid-request");
    assert_eq!(problem.errors[0].field, "labels");
    patch(&plane, "/v1/clients/none", json!({})).await.problem("not-found");
}
