use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use keywheel_api::ProxyState;
use keywheel_keyring::document::Document;
use keywheel_keyring::{Kind, PublicKey, signature};
use keywheel_testkit::admin::Issued;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::{Admin, ControlPlane, Paths, Relay, until};
use serde_json::{Value, json};

pub(crate) fn paths() -> Paths {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keywheel = PathBuf::from(env!("CARGO_BIN_EXE_keywheel"));
    Paths { keywheel, envoy: PathBuf::new(), wasm: PathBuf::new() }
}

/// A control plane, a relay that has its ring, and what a proxy does.
pub(crate) struct Scene {
    pub(crate) relay: Relay,
    pub(crate) control: ControlPlane,
    pub(crate) admin: Admin,
}

/// What a proxy was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) document: Option<Document>,
}

impl Scene {
    pub(crate) async fn start() -> Self {
        let control = ControlPlane::start(&paths()).await.unwrap();
        let admin = control.admin().unwrap();
        admin.create_client("acme").await.unwrap();
        let relay = Relay::start(&paths(), &[control.ring()], control.trust()).await.unwrap();
        let scene = Self { relay, control, admin };
        scene.until_held(&scene.relay).await;
        scene
    }

    pub(crate) async fn key(&self) -> Issued {
        self.admin.create_key("acme", &[]).await.unwrap()
    }

    pub(crate) fn trust(&self) -> Vec<PublicKey> {
        self.control.trust().iter().map(|key| key.parse().unwrap()).collect()
    }

    /// Asks a relay as proxy `instance`, which enforces `enforced`.
    pub(crate) async fn ask(&self, relay: &Relay, what: &str, instance: &str, enforced: u64) -> Answer {
        let epoch = self.epoch();
        let said = format!(
            "node=edge&instance={instance}&filter=0.1.0&vms=2&epoch={epoch}&stored={enforced}&enforced={enforced}&age=0"
        );
        self.ask_as(relay, what, Some(&said)).await
    }

    pub(crate) async fn ask_as(&self, relay: &Relay, what: &str, said: Option<&str>) -> Answer {
        let mut request = reqwest::Client::new().get(format!("{}/v1/rings/{RING}/{what}", relay.url()));
        if let Some(said) = said {
            request = request.header("keywheel-proxy", said);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await.unwrap().to_vec();
        let document = (status == 200).then(|| {
            let header = |name| headers.get(name).map(reqwest::header::HeaderValue::as_bytes);
            let (signer, sig) = (header("keywheel-signer"), header("keywheel-signature"));
            signature::verify(&self.trust(), &body, signer, sig).unwrap();
            Document::parse(&body).unwrap().document
        });
        Answer { status, body, document }
    }

    /// The epoch never changes here, and the control plane may be away.
    pub(crate) fn epoch(&self) -> String {
        let dirs = fs::read_dir(self.relay.data().join("rings").join(RING)).unwrap();
        let names = dirs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.len() == 36).max().unwrap()
    }

    pub(crate) async fn until_held(&self, relay: &Relay) {
        until("the relay has the ring", async || {
            (self.ask_as(relay, "snapshot", None).await.status == 200).then_some(())
        })
        .await
        .unwrap();
    }

    pub(crate) async fn until_revision(&self, relay: &Relay, revision: u64) {
        until("the relay has the change", async || {
            let what = format!("changes?epoch={}&since={}", self.epoch(), revision - 1);
            let document = self.ask_as(relay, &what, None).await.document?;
            (document.revision >= revision).then_some(())
        })
        .await
        .unwrap();
    }

    /// Enforced revisions by node.
    async fn known(&self) -> Vec<(String, u64, ProxyState)> {
        let Ok(ring) = self.admin.ring(RING).await else { return Vec::new() };
        ring.proxies.into_iter().map(|proxy| (proxy.node, proxy.enforced, proxy.state)).collect()
    }
}

fn is_relay(node: &str) -> bool {
    node.starts_with("relay@")
}

#[tokio::test]
async fn what_a_relay_has_it_serves_without_its_upstream_and_over_restarts() {
    let mut scene = Scene::start().await;
    let key = scene.key().await;
    scene.until_revision(&scene.relay, 1).await;
    let at_control =
        reqwest::get(format!("http://{}/v1/rings/{RING}/snapshot", scene.control.ring())).await.unwrap();
    assert_eq!(at_control.status(), 200);
    scene.control.kill();
    for restarted in [false, true] {
        if restarted {
            scene.relay.restart().await.unwrap();
        }
        let page = scene.ask_as(&scene.relay, "snapshot", None).await.document.unwrap();
        assert_eq!(page.kind, Kind::Snapshot { after: None, through: None });
        let what = format!("changes?epoch={}&since={}", scene.epoch(), page.revision);
        let next = scene.ask_as(&scene.relay, &what, None).await.document.unwrap();
        assert_eq!(next.revision, 1, "restarted: {restarted}");
        let what = format!("changes?epoch={}&since=1&wait=1", scene.epoch());
        let beat = scene.ask_as(&scene.relay, &what, None).await.document.unwrap();
        assert_eq!((beat.kind, beat.revision), (Kind::Changes { since: 1 }, 1));
        let ready = reqwest::get(format!("{}/readyz", scene.relay.url())).await.unwrap();
        assert_eq!(ready.status(), 200, "it is there for that");
        // What the relay does not have is no reason to give a ring up.
        for ahead in ["since=9", "since=9&wait=1"] {
            let what = format!("changes?epoch={}&{ahead}", scene.epoch());
            let answer = scene.ask_as(&scene.relay, &what, None).await;
            assert_eq!(answer.status, 503, "{}", String::from_utf8_lossy(&answer.body));
        }
        let older = "changes?epoch=00000000-0000-7000-8000-000000000001&since=0";
        assert_eq!(scene.ask_as(&scene.relay, older, None).await.status, 410);
    }
    scene.control.restart().await.unwrap();
    scene.admin.revoke(&key.key).await.unwrap();
    scene.until_revision(&scene.relay, 2).await;
}

#[tokio::test]
async fn a_relay_is_proof_of_nothing_that_a_proxy_behind_it_does_not_enforce() {
    let scene = Scene::start().await;
    let key = scene.key().await;
    scene.until_revision(&scene.relay, 1).await;
    let waits = |since: u64| format!("changes?epoch={}&since={since}", scene.epoch());
    scene.ask(&scene.relay, &waits(1), "a1", 1).await;
    until("both have said so", async || {
        let known = scene.known().await;
        (known.len() == 2 && known.iter().all(|(_, enforced, _)| *enforced == 1)).then_some(())
    })
    .await
    .unwrap();
    let applied = scene.admin.revoke_and_wait(&key.key, Duration::from_secs(2)).await.unwrap();
    assert!(!applied.complete);
    let proof = &applied.rings[0];
    assert_eq!((proof.enforced, proof.of), (1, 2), "the relay has it: {proof:?}");
    assert_eq!(proof.laggards[0].node, "edge", "and the proxy behind it has not");
    scene.ask(&scene.relay, &waits(2), "a1", 2).await;
    let applied = scene.admin.revoke_and_wait(&key.key, Duration::from_secs(30)).await.unwrap();
    assert!(applied.complete, "{applied:?}");
}

#[tokio::test]
async fn a_proxy_that_turns_to_the_control_plane_itself_is_behind_no_relay() {
    let scene = Scene::start().await;
    scene.key().await;
    scene.until_revision(&scene.relay, 1).await;
    let via = async || {
        let proxies = scene.admin.ring(RING).await.ok()?.proxies;
        Some(proxies.into_iter().find(|proxy| proxy.node == "edge")?.via)
    };
    let what = format!("changes?epoch={}&since=1", scene.epoch());
    scene.ask(&scene.relay, &what, "a1", 1).await;
    let relay = format!("relay@{}", scene.relay.ring());
    until("it is behind the relay", async || (via().await?.as_ref() == Some(&relay)).then_some(()))
        .await
        .unwrap();
    // Whatever it says: nobody speaks for it here.
    let url = format!("http://{}/v1/rings/{RING}/{what}", scene.control.ring());
    let said = format!(
        "node=edge&instance=a1&filter=0.1.0&vms=2&epoch={}&stored=1&enforced=1&age=0&via=somebody",
        scene.epoch()
    );
    let answer = reqwest::Client::new().get(url).header("keywheel-proxy", said).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(via().await, Some(None));
}

#[tokio::test]
async fn a_proxy_that_came_while_the_upstream_was_away_is_told_of_later_over_a_kill() {
    let mut scene = Scene::start().await;
    scene.key().await;
    scene.until_revision(&scene.relay, 1).await;
    scene.control.kill();
    let answer = scene.ask(&scene.relay, "snapshot", "c3", 0).await;
    assert_eq!(answer.status, 200, "it gets the ring all the same");
    let untold = scene.relay.files().into_iter().find(|path| path.ends_with("untold")).unwrap();
    assert!(fs::read_to_string(&untold).unwrap().contains("instance=c3"));
    scene.relay.restart().await.unwrap();
    scene.control.restart().await.unwrap();
    until("the control plane knows of it", async || {
        let known = scene.known().await;
        known.iter().any(|(node, ..)| node == "edge").then_some(())
    })
    .await
    .unwrap();
    until("the relay speaks for itself again", async || {
        let known = scene.known().await;
        known.iter().any(|(node, enforced, _)| is_relay(node) && *enforced == 1).then_some(())
    })
    .await
    .unwrap();
    until("it need not be remembered any more", async || (!untold.exists()).then_some(())).await.unwrap();
}

#[tokio::test]
async fn usage_is_counted_once_through_kills() {
    let mut scene = Scene::start().await;
    let key = scene.key().await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let batch = |number: u64| {
        let count =
            json!({ "version": key.version, "outcome": "valid", "minute": now - now % 60_000, "count": 10 });
        json!({ "node": "edge", "instance": "a1", "vm": "1", "batch": number, "from": now - 10, "to": now, "counts": [count] })
    };
    let url = format!("{}/v1/rings/{RING}/usage", scene.relay.url());
    let report = async |batches: Value| {
        let body = json!({ "batches": batches });
        reqwest::Client::new().post(&url).json(&body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(report(json!([batch(1)])).await, 204);
    assert_eq!(report(json!([{ "vm": 7 }, 8])).await, 204, "left out there, as at the control plane");
    assert_eq!(report(json!("nonsense")).await, 400, "the upstream's word is passed on");
    scene.control.kill();
    assert_eq!(report(json!([batch(2)])).await, 204);
    assert_eq!(report(json!([batch(1), batch(2), batch(3)])).await, 204, "an answer was lost");
    scene.relay.restart().await.unwrap();
    assert_eq!(report(json!([batch(4)])).await, 204);
    scene.control.restart().await.unwrap();
    assert_eq!(report(json!([batch(5)])).await, 204);
    let counted = async || {
        let url = format!("{}/v1/keys/{}/usage", scene.control.url(), key.key);
        let token = fs::read_to_string(scene.control.token_file().unwrap()).unwrap();
        let answer = reqwest::Client::new().get(url).bearer_auth(token).send().await.ok()?;
        let usage: Value = answer.json().await.ok()?;
        let sum = usage["hours"].as_array()?.iter().filter_map(|hour| hour["count"].as_u64()).sum::<u64>();
        assert!(sum <= 50, "counted twice: {usage}");
        (sum == 50 && usage["reporting"][0]["missing"] == 0).then_some(())
    };
    until("every batch is counted, without a gap", counted).await.unwrap();
}

#[tokio::test]
async fn what_was_changed_on_disk_is_served_to_nobody_and_fetched_anew() {
    let mut scene = Scene::start().await;
    scene.key().await;
    scene.until_revision(&scene.relay, 1).await;
    scene.relay.kill();
    scene.control.kill();
    let pages = || scene.relay.files().into_iter().filter(|path| path.ends_with("000000"));
    for page in pages() {
        let mut bytes = fs::read(&page).unwrap();
        let at = bytes.len() - 20;
        bytes[at] ^= 1;
        fs::write(&page, bytes).unwrap();
    }
    scene.relay.restart().await.unwrap();
    assert_eq!(scene.ask_as(&scene.relay, "snapshot", None).await.status, 503);
    assert!(scene.relay.log().contains("is not what was written there"), "{}", scene.relay.log());
    let ready = reqwest::get(format!("{}/readyz", scene.relay.url())).await.unwrap();
    assert_eq!(ready.status(), 503);
    scene.control.restart().await.unwrap();
    scene.until_held(&scene.relay).await;
}

#[tokio::test]
async fn a_stored_page_that_cannot_be_read_is_logged_once() {
    let mut scene = Scene::start().await;
    scene.key().await;
    scene.until_revision(&scene.relay, 1).await;
    scene.control.kill();
    // So that it is not in memory.
    scene.relay.restart().await.unwrap();
    for page in scene.relay.files().into_iter().filter(|path| path.ends_with("000000")) {
        fs::write(page, "nothing").unwrap();
    }
    for _ in 0..3 {
        assert_eq!(scene.ask_as(&scene.relay, "snapshot", None).await.status, 503);
    }
    assert_eq!(scene.relay.log().matches("it is fetched anew").count(), 1, "{}", scene.relay.log());
    scene.control.restart().await.unwrap();
    scene.until_held(&scene.relay).await;
}

#[tokio::test]
async fn a_relay_may_be_the_upstream_of_a_relay() {
    let mut scene = Scene::start().await;
    let mut leaf = Relay::start(&paths(), &[scene.relay.ring()], scene.control.trust()).await.unwrap();
    let key = scene.key().await;
    scene.until_held(&leaf).await;
    scene.until_revision(&leaf, 1).await;
    let waits = |since: u64| format!("changes?epoch={}&since={since}", scene.epoch());
    scene.ask(&leaf, &waits(1), "d4", 1).await;
    let node = |relay: &Relay| format!("relay@{}", relay.ring());
    let expected = [("edge".to_owned(), Some(node(&leaf))), (node(&leaf), Some(node(&scene.relay)))];
    until("each is behind the relay that it asks", async || {
        let proxies = scene.admin.ring(RING).await.ok()?.proxies;
        let is_there = |expected: &(String, Option<String>)| {
            proxies.iter().any(|proxy| (&proxy.node, &proxy.via) == (&expected.0, &expected.1))
        };
        expected.iter().all(is_there).then_some(())
    })
    .await
    .unwrap();
    until("all three are known, and enforce it", async || {
        let known = scene.known().await;
        let relays = known.iter().filter(|(node, ..)| is_relay(node)).count();
        (relays == 2 && known.len() == 3 && known.iter().all(|(_, enforced, _)| *enforced == 1)).then_some(())
    })
    .await
    .unwrap();
    scene.relay.kill();
    leaf.restart().await.unwrap();
    assert_eq!(scene.ask(&leaf, "snapshot", "e5", 0).await.status, 200);
    scene.relay.restart().await.unwrap();
    scene.admin.revoke(&key.key).await.unwrap();
    scene.until_revision(&leaf, 2).await;
    until("who came meanwhile is known", async || (scene.known().await.len() == 4).then_some(()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_relay_asks_for_the_tokens_of_its_file() {
    let control = ControlPlane::start_guarded(&paths(), Vec::new()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (tokens, upstream) = (dir.path().join("tokens"), dir.path().join("upstream-token"));
    let token = "a-token-of-these-proxies-alone";
    fs::write(&tokens, format!("{token}\n")).unwrap();
    let proxy = control.admin().unwrap().create_token(keywheel_api::Role::Proxy).await.unwrap();
    fs::write(&upstream, format!("{proxy}\n")).unwrap();
    let args = vec![
        "--upstream".into(),
        format!("http://{}", control.ring()).into(),
        "--trust".into(),
        control.trust()[0].clone().into(),
        "--token-file".into(),
        upstream.clone().into(),
        "--proxy-token-file".into(),
        tokens.clone().into(),
    ];
    let relay = Relay::start_with(&paths(), args).await.unwrap();
    let status = async |path: &str, token: Option<&str>| {
        let mut request = reqwest::Client::new().get(format!("{}{path}", relay.url()));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let page = "/v1/rings/production/snapshot";
    until("the relay has the ring", async || (status(page, Some(token)).await == 200).then_some(()))
        .await
        .unwrap();
    for (path, unknown) in [(page, 401), ("/metrics", 401), ("/readyz", 200), ("/healthz", 200)] {
        assert_eq!(status(path, None).await, unknown, "{path}");
        assert_eq!(status(path, Some(&proxy)).await, unknown, "{path}");
    }
    assert_eq!(status("/metrics", Some(token)).await, 200);
    assert_eq!(status("/v1/rings/other/snapshot", Some(token)).await, 404);
    // The proxy's token of the control plane was tried twice.
    for _ in 0..8 {
        assert_eq!(status(page, Some("not-a-token-that-it-was-given")).await, 401);
    }
    assert_eq!(status(page, Some("not-a-token-that-it-was-given")).await, 429, "no more guesses");
    assert_eq!(status(page, Some(token)).await, 200, "a good one is let in");
    assert_eq!(status(page, None).await, 401, "none is no guess");
    let url = format!("{}/metrics", relay.url());
    let metrics = reqwest::Client::new().get(url).bearer_auth(token).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for (reason, count) in [("missing", 3), ("unknown", 10), ("too_many", 1)] {
        let sample = format!("keywheel_relay_refused_logins_total{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&sample), "{sample}{metrics}");
    }
    let log = relay.log();
    assert!(!log.contains(token) && !log.contains(&proxy), "no secret is logged");
}
