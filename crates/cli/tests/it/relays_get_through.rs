//! What may fail around a relay, one after the other: an upstream of two, its disk, the room for reports, and its
//! certificates; and a signing key's turn.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use keywheel_control::Endpoint;
use keywheel_relay::{Access, Bounds, Caller, Options, UpstreamToken};
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::{ControlPlane, Paths, Relay, until};
use reqwest::{Certificate, Client, Identity};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::a_relay_says_how_it_stands::metric;
use crate::a_relay_serves_from_its_own_disk::{Scene, paths};
use crate::pki::{Authority, Pair};
use crate::support::keywheel;

/// A relay in this process, with bounds that a test can wait for.
struct Own {
    url: String,
    _dir: TempDir,
    _stop: oneshot::Sender<()>,
}

impl Own {
    async fn start(control: &ControlPlane, upstreams: &[SocketAddr], limits: Bounds) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let options = Options {
            data: dir.path().to_owned(),
            rings: vec![RING.to_owned()],
            trust: control.trust().iter().map(|key| key.parse().unwrap()).collect(),
            upstreams: upstreams.iter().map(|upstream| format!("http://{upstream}")).collect(),
            token: UpstreamToken::None,
            caller: Caller::open(Vec::new(), || Client::builder().no_proxy().build()).unwrap(),
            node: "own".to_owned(),
            access: Access::Open,
            limits,
        };
        let relay = Arc::new(keywheel_relay::Relay::open(options).unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = relay.serve(Endpoint { listener, tls: None }, async { drop(stopped.await) });
        tokio::spawn(serve);
        Self { url, _dir: dir, _stop: stop }
    }

    async fn until_revision(&self, revision: u64) {
        until("it has the change", async || (self.revision().await? >= revision).then_some(()))
            .await
            .unwrap();
    }

    async fn revision(&self) -> Option<u64> {
        let text = reqwest::get(format!("{}/metrics", self.url)).await.unwrap().text().await.unwrap();
        let sample = format!("keywheel_relay_ring_revision{{ring=\"{RING}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_of_two_upstreams_is_asked_again_once_it_is_back() {
    let mut scene = Scene::start().await;
    let limits = Bounds { return_after: Duration::from_millis(300), ..Bounds::default() };
    let upstreams = [scene.relay.ring(), scene.control.ring()];
    let own = Own::start(&scene.control, &upstreams, limits).await;
    scene.key().await;
    own.until_revision(1).await;

    scene.relay.kill();
    scene.key().await;
    own.until_revision(2).await;

    // Whoever asks it is counted anew since its start.
    scene.relay.restart().await.unwrap();
    until("it is asked again", async || {
        (metric(&scene.relay.url(), "ring_proxies").await == 1).then_some(())
    })
    .await
    .unwrap();
    scene.control.kill();
    until("the first answers", async || (metric(&own.url, "upstream_away").await == 0).then_some(()))
        .await
        .unwrap();
    scene.control.restart().await.unwrap();
    scene.key().await;
    own.until_revision(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_too_many_reports_the_oldest_are_dropped_and_the_gap_shows() {
    let mut scene = Scene::start().await;
    let key = scene.key().await;
    let limits = Bounds { usage: 2_000, ..Bounds::default() };
    let own = Own::start(&scene.control, &[scene.control.ring()], limits).await;
    own.until_revision(1).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let report = async |number: u64| {
        let count =
            json!({ "version": key.version, "outcome": "valid", "minute": now - now % 60_000, "count": 10 });
        let batch = json!({ "node": "edge", "instance": "a1", "vm": "1", "batch": number, "from": now - 10, "to": now, "counts": [count] });
        let url = format!("{}/v1/rings/{RING}/usage", own.url);
        let answer = Client::new().post(url).json(&json!({ "batches": [batch] })).send().await.unwrap();
        assert_eq!(answer.status(), 204);
    };
    report(1).await;
    scene.control.kill();
    for number in 2..=20 {
        report(number).await;
    }
    let (waiting, dropped) =
        (metric(&own.url, "usage_waiting").await, metric(&own.url, "usage_dropped").await);
    assert!(dropped > 0 && waiting > 0, "{waiting} {dropped}");
    assert_eq!(waiting + dropped, 19);
    scene.control.restart().await.unwrap();
    until("what waited is counted, and what did not is missed", async || {
        let url = format!("{}/v1/keys/{}/usage", scene.control.url(), key.key);
        let token = fs::read_to_string(scene.control.token_file().unwrap()).unwrap();
        let usage: Value = Client::new().get(url).bearer_auth(token).send().await.ok()?.json().await.ok()?;
        let sum = usage["hours"].as_array()?.iter().filter_map(|hour| hour["count"].as_u64()).sum::<u64>();
        (sum == 10 * (1 + waiting) && usage["reporting"][0]["missing"] == dropped).then_some(())
    })
    .await
    .unwrap();
}

/// Files of a process may not grow, its log included, as on a disk that is full.
fn limit_files(pid: u32, limit: &str) {
    let status =
        Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--fsize={limit}:")]).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_served_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    // A process that exceeds the limit ends, unless it ignores that.
    let script = dir.path().join("keywheel");
    let real = paths().keywheel;
    fs::write(&script, format!("#!/bin/sh\ntrap '' XFSZ\nexec '{}' \"$@\"\n", real.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let scene = Scene::start().await;
    let with_trap = Paths { keywheel: script, ..paths() };
    let relay = Relay::start(&with_trap, &[scene.control.ring()], scene.control.trust()).await.unwrap();
    scene.until_held(&relay).await;
    let disk = async || {
        let answer = reqwest::get(format!("{}/readyz", relay.url())).await.unwrap();
        let (status, ready) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
        (status, ready["checks"]["disk"].as_str().unwrap().to_owned())
    };
    assert_eq!(disk().await, (200, "ok".to_owned()));

    limit_files(relay.pid().unwrap(), "0");
    let key = scene.key().await;
    scene.until_revision(&relay, 1).await;
    scene.admin.revoke(&key.key).await.unwrap();
    scene.until_revision(&relay, 2).await;
    assert_eq!(disk().await, (200, "failed".to_owned()), "it serves all the same");
    let runs = |relay: &Relay| {
        let files = relay.files();
        files.iter().filter(|path| path.parent().unwrap().ends_with("changes")).count()
    };
    assert_eq!(runs(&relay), 0, "it cannot be written");

    limit_files(relay.pid().unwrap(), "unlimited");
    until("it is written once there is room", async || (disk().await.1 == "ok").then_some(())).await.unwrap();
    assert!(runs(&relay) > 0);
}

/// A command of the control plane's operator.
fn operate(control: &ControlPlane, args: &[&str]) -> Result<Value, String> {
    let mut command = keywheel();
    command.args(args).args(["--output", "json"]).env("KEYWHEEL_URL", control.url());
    let output = command.arg("--token-file").arg(control.token_file().unwrap()).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

#[tokio::test]
async fn when_another_key_signs_a_relay_that_trusts_it_goes_on_and_one_that_does_not_says_so() {
    let scene = Scene::start().await;
    let made = operate(&scene.control, &["ring", "signing-key", "create"]).unwrap();
    let (id, public) = (made["id"].as_str().unwrap(), made["public_key"].as_str().unwrap().to_owned());
    operate(&scene.control, &["ring", "signing-key", "publish", id]).unwrap();
    let both = [scene.control.trust(), &[public]].concat();
    let ready = Relay::start(&paths(), &[scene.control.ring()], &both).await.unwrap();
    scene.until_held(&ready).await;
    let left = &scene.relay;
    let signer = async |relay: &Relay| {
        let url = format!("{}/v1/rings/{RING}/snapshot", relay.url());
        let answer = reqwest::get(url).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.headers()["keywheel-signer"].to_str().unwrap().to_owned()
    };
    let before = signer(&ready).await;

    let activate = ["ring", "signing-key", "activate", id];
    let refused = until("the relay that lacks the key is known to lack it", async || {
        operate(&scene.control, &activate).err()
    });
    let refused = refused.await.unwrap();
    assert!(refused.contains("do not trust") || refused.contains("stranded"), "{refused}");
    operate(&scene.control, &[&activate[..], &["--force"]].concat()).unwrap();
    scene.key().await;

    until("one has the change", async || (metric(&ready.url(), "ring_revision").await == 1).then_some(()))
        .await
        .unwrap();
    until("its pages are signed by the next key", async || (signer(&ready).await == id).then_some(()))
        .await
        .unwrap();
    assert_eq!(metric(&ready.url(), "refused_documents").await, 0);
    until("the other refuses it", async || {
        (metric(&left.url(), "refused_documents").await > 0).then_some(())
    })
    .await
    .unwrap();
    until("and says so", async || left.log().contains("trust is what --trust says").then_some(()))
        .await
        .unwrap();
    assert_eq!(signer(left).await, before, "it goes on with what it has");
    assert_eq!(metric(&left.url(), "ring_revision").await, 0);
}

fn client(authority: &Authority, pair: Option<&Pair>) -> Client {
    let client = Client::builder().no_proxy();
    let client = client.tls_certs_only([Certificate::from_pem(authority.pem.as_bytes()).unwrap()]);
    let identity =
        |pair: &Pair| Identity::from_pem(format!("{}\n{}", pair.cert, pair.key).as_bytes()).unwrap();
    match pair {
        Some(pair) => client.identity(identity(pair)),
        None => client,
    }
    .build()
    .unwrap()
}

/// What its listener is started with, and where what it is told to believe is.
fn tls(dir: &Path, authority: &Authority) -> Vec<OsString> {
    let (cert, key) = authority.server().save(dir);
    let ca = dir.join("ca.pem");
    fs::write(&ca, &authority.pem).unwrap();
    let options = [("--ring-tls-cert", cert), ("--ring-tls-key", key), ("--ring-client-ca", ca)];
    options.into_iter().flat_map(|(option, path)| [option.into(), path.into()]).collect()
}

fn follows(control: &ControlPlane) -> Vec<OsString> {
    let upstream = format!("http://{}", control.ring());
    vec!["--upstream".into(), upstream.into(), "--trust".into(), control.trust()[0].clone().into()]
}

#[tokio::test]
async fn a_listener_that_speaks_tls_takes_a_token_or_a_certificate() {
    let (authority, other) = (Authority::new(), Authority::new());
    let control = ControlPlane::start(&paths()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (tokens, token) = (dir.path().join("tokens"), "a-token-of-these-proxies-alone");
    fs::write(&tokens, token).unwrap();
    let mut args = [follows(&control), tls(dir.path(), &authority)].concat();
    args.extend(["--proxy-token-file".into(), tokens.into()]);
    let relay = Relay::start_with(&paths(), args).await.unwrap();
    let url = format!("https://{}/v1/rings/{RING}/snapshot", relay.ring());
    let (certificate, nothing) = (authority.client(), client(&authority, None));
    let status = async |client: &Client, token: Option<&str>| {
        let request = client.get(&url);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        Some(request.send().await.ok()?.status().as_u16())
    };
    until("the relay has the ring", async || {
        (status(&nothing, Some(token)).await == Some(200)).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(status(&client(&authority, Some(&certificate)), None).await, Some(200));
    assert_eq!(status(&nothing, None).await, Some(401));
    assert_eq!(status(&nothing, Some("another-token-of-twenty-characters")).await, Some(401));
    assert_eq!(status(&client(&authority, Some(&other.client())), None).await, None, "of another authority");
    assert_eq!(status(&client(&other, None), Some(token)).await, None, "the relay is not who it should be");
    let plain = reqwest::get(url.replace("https", "http")).await;
    assert!(plain.is_err() || plain.is_ok_and(|answer| answer.status() == 400));
}

#[tokio::test]
async fn a_new_client_certificate_for_the_upstream_counts_without_a_restart() {
    let (authority, other) = (Authority::new(), Authority::new());
    let control = ControlPlane::start(&paths()).await.unwrap();
    let (server, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let upstream = [follows(&control), tls(server.path(), &authority)].concat();
    let upstream = Relay::start_with(&paths(), upstream).await.unwrap();

    let (cert, key) = other.client().save(own.path());
    let ca = server.path().join("ca.pem");
    let mut args: Vec<OsString> = vec!["--upstream".into(), format!("https://{}", upstream.ring()).into()];
    args.extend(["--trust".into(), control.trust()[0].clone().into()]);
    for (option, path) in [("--ca", &ca), ("--client-cert", &cert), ("--client-key", &key)] {
        args.extend([option.into(), path.into()]);
    }
    let relay = Relay::start_with(&paths(), args).await.unwrap();
    let says = async |text: &str| {
        let waited = until(text, async || relay.log().contains(text).then_some(())).await;
        assert!(waited.is_ok(), "{}", relay.log());
    };
    says("cannot be reached").await;
    fs::write(&cert, "no certificate").unwrap();
    says("The certificates for the upstream stay as they were").await;
    authority.client().save(own.path());
    until("it has the ring", async || {
        let answer = reqwest::get(format!("{}/v1/rings/{RING}/snapshot", relay.url())).await.unwrap();
        (answer.status() == 200).then_some(())
    })
    .await
    .unwrap();
    assert!(relay.log().contains("The certificates for the upstream were read again"));
}
