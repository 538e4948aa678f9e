//! The access log says who called, with which version of which key, and what was decided.

use serde_json::Value;

use crate::scene::Scene;

#[tokio::test]
async fn each_request_is_logged_with_client_key_version_and_outcome() {
    let scene = Scene::start().await;
    let key = scene.key().await;
    scene.get("/valid?api_key=in-the-query", &[("x-api-key", &key.secret)]).await;
    let line = scene.logged("/valid").await;
    assert_eq!(line["client"], "acme");
    assert_eq!(line["key"], key.key.as_str());
    assert_eq!(line["version"], key.version.as_str());
    assert_eq!((&line["outcome"], &line["status"]), (&"valid".into(), &200.into()));
    assert_eq!(line["details"], "via_upstream");

    scene.get("/missing", &[]).await;
    let line = scene.logged("/missing").await;
    assert_eq!((&line["outcome"], &line["status"]), (&"missing_key".into(), &401.into()));
    assert_eq!(line["details"], "keywheel{missing_key}");
    assert_eq!((&line["client"], &line["key"], &line["version"]), (&Value::Null, &Value::Null, &Value::Null));

    // A key that was refused is still named: that somebody uses it is what one wants to know.
    scene.admin.revoke(&key.key).await.unwrap();
    // One worker's refusal says nothing of the other's.
    scene.settle().await;
    scene.get("/revoked", &[("x-api-key", &key.secret)]).await;
    let line = scene.logged("/revoked").await;
    assert_eq!(
        (&line["outcome"], &line["details"]),
        (&"key_revoked".into(), &"keywheel{key_revoked}".into())
    );
    assert_eq!((&line["client"], &line["version"]), (&"acme".into(), &key.version.as_str().into()));
}
