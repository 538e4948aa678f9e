//! A relay that cannot do its work says so, and why.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Output, Stdio};

use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::{ControlPlane, Relay, port, until};
use serde_json::Value;

use crate::a_relay_serves_from_its_own_disk::{Scene, paths};
use crate::support::keywheel;

/// Of nobody: nothing has to verify here.
const TRUST: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

fn args(upstreams: &[SocketAddr], more: &[&str]) -> Vec<OsString> {
    let upstreams = upstreams.iter().map(|upstream| format!("http://{upstream}"));
    let upstreams = upstreams.flat_map(|url| ["--upstream".to_owned(), url]);
    let more = ["--trust", TRUST].iter().chain(more).map(|arg| (*arg).to_owned());
    upstreams.chain(more).map(OsString::from).collect()
}

async fn checks(relay: &Relay) -> Value {
    let answer = reqwest::get(format!("{}/readyz", relay.url())).await.unwrap();
    let ready: Value = answer.json().await.unwrap();
    ready["checks"].clone()
}

pub(crate) async fn metric(url: &str, name: &str) -> u64 {
    let text = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    let sample = format!("keywheel_relay_{name}{{ring=\"{RING}\"}} ");
    let found = text.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok());
    found.unwrap_or_else(|| panic!("no {sample} in\n{text}"))
}

async fn until_logged(relay: &Relay, text: &str) {
    let waited = until(&format!("it logs `{text}`"), async || relay.log().contains(text).then_some(())).await;
    assert!(waited.is_ok(), "{}", relay.log());
}

#[tokio::test]
async fn with_an_upstream_that_never_answered_it_has_nothing_and_says_so() {
    let relay = Relay::start_with(&paths(), args(&[port::free()], &[])).await.unwrap();
    until("it has asked in vain", async || (checks(&relay).await["upstream"] == "away").then_some(()))
        .await
        .unwrap();
    assert_eq!(checks(&relay).await["rings"], "absent");
    assert_eq!(metric(&relay.url(), "upstream_away").await, 1);
    assert_eq!(metric(&relay.url(), "ring_held").await, 0);
    until_logged(&relay, "Nothing is held: proxies are answered 503").await;
    assert!(!relay.log().contains("What is held is served"), "{}", relay.log());
}

#[test]
fn without_its_ring_it_listens_and_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = keywheel();
    command.args(["relay", "--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:1", "--trust", TRUST]);
    command.arg("--data").arg(dir.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    let mut line = String::new();
    let read = BufReader::new(process.stdout.take().unwrap()).read_line(&mut line);
    process.kill().unwrap();
    process.wait().unwrap();
    read.unwrap();
    assert_eq!(line.trim(), "keywheel relay listens, and is ready once it has every ring.");
}

#[tokio::test]
async fn with_an_upstream_that_answers_it_says_that() {
    let scene = Scene::start().await;
    assert_eq!(checks(&scene.relay).await["upstream"], "ok");
    assert_eq!(metric(&scene.relay.url(), "upstream_away").await, 0);
    assert_eq!(metric(&scene.relay.url(), "ring_held").await, 1);
}

#[tokio::test]
async fn a_ring_that_the_upstream_does_not_have_is_named() {
    let control = ControlPlane::start(&paths()).await.unwrap();
    let relay = Relay::start_with(&paths(), args(&[control.ring()], &["--ring", "elsewhere"])).await.unwrap();
    until_logged(&relay, &format!("http://{} answered 404", control.ring())).await;
    until_logged(&relay, "it has no ring `elsewhere`").await;
}

#[tokio::test]
async fn one_that_is_its_own_upstream_says_so() {
    let address = port::free();
    let relay = Relay::start_at(&paths(), address, args(&[address], &[])).await.unwrap();
    until_logged(&relay, "this relay is asked by itself").await;
    assert_eq!(checks(&relay).await["upstream"], "away");
}

#[tokio::test]
async fn relays_that_are_each_others_upstream_say_so() {
    let (one, other) = (port::free(), port::free());
    let first = Relay::start_at(&paths(), one, args(&[other], &[])).await.unwrap();
    let second = Relay::start_at(&paths(), other, args(&[one], &[])).await.unwrap();
    until_logged(&first, "goes in a circle").await;
    until_logged(&second, "goes in a circle").await;
}

#[tokio::test]
async fn a_token_file_of_two_lines_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let at = file.to_str().unwrap().to_owned();
    fs::write(&file, "kwt_one\nkwt_two\n").unwrap();
    let data = dir.path().join("data");
    let mut command = keywheel();
    command.args(["relay", "--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:1", "--trust", TRUST]);
    let Output { status, stderr, .. } =
        command.args(["--token-file", &at]).arg("--data").arg(&data).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(4), "as wherever a token is none");
    assert!(said.contains("has more than one line"), "{said}");
    assert!(said.contains(&at) && !said.contains("kwt_"), "{said}");
    assert!(!data.exists(), "nothing was made");

    fs::write(&file, "kwt_one\n").unwrap();
    let relay = Relay::start_with(&paths(), args(&[port::free()], &["--token-file", &at])).await.unwrap();
    fs::write(&file, "kwt_one\nkwt_two\n").unwrap();
    until_logged(&relay, "has more than one line").await;
    assert!(!relay.log().contains("kwt_"));
}
