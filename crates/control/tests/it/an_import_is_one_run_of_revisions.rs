use std::collections::BTreeSet;

use axum::http::StatusCode;
use keywheel_api::{Compromised, ExportedVersion, ImportRefusal, Imported, List};
use keywheel_keyring::Digest;
use serde_json::{Value, json};

use crate::support::{Plane, plane};

fn digests(range: std::ops::Range<u32>) -> impl Iterator<Item = Digest> {
    range.map(|n| Digest::of(&n.to_be_bytes()))
}

fn item(n: u32) -> Value {
    json!({ "digest": digests(n..n + 1).next(), "client": "acme", "scopes": ["trade"] })
}

async fn import(plane: &Plane, body: Value) -> Imported {
    plane.post("/v1/rings/production/import", body).await.json(StatusCode::OK)
}

async fn exported(plane: &Plane) -> Vec<ExportedVersion> {
    let (mut items, mut after) = (Vec::new(), String::new());
    loop {
        let answer = plane.get(&format!("/v1/rings/production/export{after}")).await;
        let page: List<ExportedVersion> = answer.json(StatusCode::OK);
        items.extend(page.items);
        match page.next {
            Some(next) => after = format!("?after={next}"),
            None => return items,
        }
    }
}

#[tokio::test]
async fn every_item_takes_a_revision_and_a_repeated_import_none() {
    let plane = plane().await;
    let report = plane.import(digests(0..2203)).await;
    assert_eq!((report.imported, report.revision, plane.head()), (2203, Some(2203), 2203));
    let report = plane.import(digests(2200..2300)).await;
    assert_eq!((report.imported, report.present, plane.head()), (97, 3, 2300));

    // A run of changes ends early and is followed from where it ended.
    let mut since = 0;
    let mut seen = Vec::new();
    while since < plane.head() {
        let document = plane.changes(since).await;
        assert!(document.entries.len() <= 500);
        assert_eq!(document.revision, document.entries.last().unwrap().revision);
        seen.extend(document.entries.iter().map(|entry| entry.revision));
        since = document.revision;
    }
    assert_eq!(seen, (1..=2300).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_refused_is_told_and_holds_nothing_up() {
    let plane = plane().await;
    let leaked = json!({ "digests": [digests(9..10).next()] });
    let _: Compromised = plane.post("/v1/compromised", leaked).await.json(StatusCode::OK);
    let with = |n: u32, field: &str, value: Value| {
        let mut item = item(n);
        item[field] = value;
        item
    };
    let unknown = import(&plane, json!({ "items": [item(1)] })).await;
    assert_eq!(unknown.refused[0].reason, ImportRefusal::UnknownClient);
    assert_eq!(plane.head(), 0);
    let items = json!([
        item(1),
        item(1),
        with(2, "client", json!("a b")),
        with(3, "scopes", json!(["a b"])),
        with(4, "expires_at", json!("2001-01-01T00:00:00Z")),
        with(5, "expires_at", json!("2090-01-01T00:00:00.000000001Z")),
        item(9),
        with(6, "client", json!("other")),
    ]);
    let body = json!({ "items": items, "create_clients": true });
    let mut dry = body.clone();
    dry["dry_run"] = true.into();
    let dry = import(&plane, dry).await;
    assert_eq!((dry.imported, dry.revision, plane.head()), (3, None, 0), "nothing happened");
    let report = import(&plane, body.clone()).await;
    assert_eq!((report.imported, report.revision, plane.head()), (3, Some(3), 3));
    assert_eq!(report.refused, dry.refused, "as it was foretold");
    let refused: Vec<_> = report.refused.iter().map(|refused| (refused.item, refused.reason)).collect();
    use ImportRefusal as Why;
    let want = [(1, Why::Repeated), (2, Why::Invalid), (3, Why::Invalid), (4, Why::Invalid)];
    assert_eq!((&refused[..4], refused[4]), (&want[..], (6, Why::Compromised)));
    assert!(report.refused[2].detail.starts_with("scopes: "), "{:?}", report.refused[2]);

    let again = import(&plane, body).await;
    assert_eq!((again.imported, again.present, plane.head()), (0, 3, 3));
    let other = import(&plane, json!({ "items": [with(1, "client", json!("other"))] })).await;
    assert_eq!(other.refused[0].reason, ImportRefusal::DigestTaken);
    plane
        .post("/v1/clients/acme/revoke", json!({}))
        .await
        .json::<keywheel_api::RevokedClient>(StatusCode::OK);
    let ended = import(&plane, json!({ "items": [item(1)] })).await;
    assert_eq!((ended.present, ended.refused[0].reason), (0, ImportRefusal::Ended), "nobody lets it in");
    let problem = plane.post("/v1/rings/production/import", json!({ "items": [{ "digest": "x" }] })).await;
    assert_eq!(problem.problem("invalid-request").errors[0].field, "items[0].digest");
    plane.post("/v1/rings/none/import", json!({ "items": [item(1)] })).await.problem("not-found");
    plane.post("/v1/rings/production/import", json!({ "items": [] })).await.problem("invalid-request");
}

#[tokio::test]
async fn what_is_exported_can_be_imported_elsewhere() {
    let (here, there) = (plane().await, plane().await);
    here.import(digests(0..1203)).await;
    let out = exported(&here).await;
    assert_eq!(out.len(), 1203);
    let items: Vec<_> = out
        .iter()
        .map(
            |version| json!({ "digest": version.digest, "client": version.client, "scopes": version.scopes }),
        )
        .collect();
    let report = import(&there, json!({ "items": items, "create_clients": true })).await;
    assert_eq!((report.imported, report.refused.len()), (1203, 0));
    let set = |versions: Vec<ExportedVersion>| {
        versions.into_iter().map(|version| (version.digest, version.client)).collect::<BTreeSet<_>>()
    };
    assert_eq!(set(exported(&there).await), set(out));
}
