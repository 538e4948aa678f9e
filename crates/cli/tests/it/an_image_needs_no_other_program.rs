//! What compose needs besides `serve`: images have neither a shell nor curl.

use std::fs;

use crate::support::{Server, keywheel};

#[test]
fn a_health_check_succeeds_only_on_the_answer_that_it_expects() {
    let mut server = Server::start();
    let ready = format!("{}/readyz", server.ready["admin_url"].as_str().unwrap());
    let closed = format!("{}/v1/clients", server.ready["admin_url"].as_str().unwrap());
    let check = |args: &[&str], code: i32, says: &str| {
        let output = keywheel().arg("healthcheck").args(args).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(says), "{error}");
    };
    check(&[&ready], 0, "");
    check(&[&closed, "--status", "401"], 0, "");
    check(&[&closed], 1, "it answers 401, not 200");
    check(&["127.0.0.1:7070"], 2, "write it like");
    server.kill();
    check(&[&ready], 1, "is not well");
}

#[test]
fn a_configuration_is_filled_with_the_keys_that_sign() {
    let server = Server::start();
    let envoy = concat!(env!("CARGO_MANIFEST_DIR"), "/../../envoy/envoy.yaml");
    let out = server.dir.path().join("envoy.yaml");
    let name = out.to_str().unwrap();
    let key = server.ready["trust"][0].as_str().unwrap();

    let printed = server.human(&["ring", "trust", "--fill", envoy]);
    server.human(&["ring", "trust", "--fill", envoy, "--out", name]);
    let written = fs::read_to_string(&out).unwrap();
    assert_eq!(printed.trim_end(), written.trim_end());
    assert!(written.contains(&format!("trust: [{key}]")), "{written}");
    let template = fs::read_to_string(envoy).unwrap();
    assert_eq!(written, template.replace("[REPLACE_WITH_TRUST_KEY]", &format!("[{key}]")));

    server.human(&["ring", "trust", "--out", name]);
    assert_eq!(fs::read_to_string(&out).unwrap(), format!("[\"{key}\"]\n"));

    let again = server.run(&["ring", "trust", "--fill", name]);
    let error = String::from_utf8(again.stderr).unwrap();
    assert_eq!((again.status.code(), again.stdout.len()), (Some(1), 0), "{error}");
    assert!(error.contains("REPLACE_WITH_TRUST_KEY"), "{error}");
}

#[test]
fn a_relay_starts_with_no_list_of_signers_that_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("trust");
    let check = |text: Option<&str>, says: &str| {
        text.into_iter().for_each(|text| fs::write(&list, text).unwrap());
        let mut relay = keywheel();
        relay.args(["relay", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--data"]);
        let output = relay.arg(dir.path().join("data")).arg("--trust-file").arg(&list).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(says) && error.contains("keywheel ring trust --out"), "{error}");
    };
    check(None, "No such file");
    check(Some("[]"), "it names no key");
    check(Some("[\"what\"]"), "`what` is no public key");
    check(Some("AAAA"), "expected value");
}
