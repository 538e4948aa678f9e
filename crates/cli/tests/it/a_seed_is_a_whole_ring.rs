use keywheel_keyring::{Document, Kind, PublicKey, signature};
use serde_json::Value;

use crate::support::Server;

#[tokio::test]
async fn a_seed_is_a_whole_ring_in_one_signed_document() {
    let mut server = Server::start();
    server.human(&["client", "create", "acme"]);
    let key = server.json(&["key", "create", "--client", "acme"]);
    let text = server.human(&["ring", "export", "--seed"]);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(
        text.trim_end(),
        server.human(&["ring", "export", "production", "--seed", "--output", "json"]).trim_end()
    );

    let seed: Value = serde_json::from_str(&text).unwrap();
    let field = |name: &str| seed[name].as_str().unwrap();
    let trust: PublicKey = server.ready["trust"][0].as_str().unwrap().parse().unwrap();
    let body = field("document").as_bytes();
    let (signer, signed) = (field("signer").as_bytes(), field("signature").as_bytes());
    signature::verify(&[trust], body, Some(signer), Some(signed)).unwrap();
    let document = Document::parse(body).unwrap().document;
    assert_eq!(document.kind, Kind::Snapshot { after: None, through: None });
    assert_eq!(document.entries[0].key, key["id"].as_str().unwrap());

    server.import(499).await;
    server.human(&["ring", "export", "--seed"]);
    server.human(&["key", "create", "--client", "acme"]);
    let output = server.run(&["ring", "export", "--seed"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(
        error.contains("501 entries") && error.contains("at most 500") && error.contains("ring push"),
        "{error}"
    );
}

#[test]
fn a_seed_that_another_control_plane_signed_is_not_printed() {
    let (server, other) = (Server::start(), Server::start());
    let url = other.ready["ring_url"].as_str().unwrap();
    let check = |args: &[&str], code: i32, says: &str| {
        let output = server.run(&[&["ring", "export", "--seed"], args].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{error}");
        assert!(error.contains(says), "{error}");
    };
    check(&["--ring-url", url], 1, "do --ring-url and --url belong to the same one?");
    check(&["--ring-url", "http://127.0.0.1:1"], 3, "--ring-url or KEYWHEEL_RING_URL");
    check(&["--ring-url", server.ready["admin_url"].as_str().unwrap()], 1, "there is no such path");
    check(&["staging"], 1, "there is no ring `staging`");
    assert_eq!(server.run(&["ring", "export"]).status.code(), Some(2), "what to export is said");
}
