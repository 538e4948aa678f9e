//! The VM that fetches the ring traps, or hangs. It is the one on Envoy's main thread as a rule, which
//! Envoy does not make anew: a worker's takes over, and the ring goes on.

use keywheel_keyring::{Digest, Entry, State};
use keywheel_testkit::fake_control::Canned;
use keywheel_testkit::{Connection, Envoy, EnvoyConfig, FakeControl, Upstream, http, until};

use crate::fragile::{Fragile, HANGS, TRAPS};
use crate::scene::{on_every_worker, paths};

const KEPT: &str = "a-key-that-is-kept";
const DOOMED: &str = "a-key-that-is-revoked";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_goes_on_when_the_main_threads_vm_traps() {
    let scene = Scene::start().await;
    // It serves nobody, so that its end is not noticed.
    scene.strike(TRAPS);
    until("the VM trapped", async || (scene.traps() == 1).then_some(())).await.unwrap();
    scene.assert_refreshes(2, &[]).await;
    // Now a worker's VM fetches. Envoy makes it anew with a later request, and until then it answers 503.
    assert!(!scene.main_thread_leads());
    scene.strike(TRAPS);
    until("the next VM trapped", async || (scene.traps() == 2).then_some(())).await.unwrap();
    scene.assert_refreshes(3, &[503]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_goes_on_when_the_main_thread_hangs() {
    let scene = Scene::start().await;
    scene.strike(HANGS);
    until("the main thread hangs", async || {
        let ask = http::get(scene.envoy.admin(), "/ready", &[]);
        tokio::time::timeout(std::time::Duration::from_millis(500), ask).await.is_err().then_some(())
    })
    .await
    .unwrap();
    scene.assert_refreshes(2, &[]).await;
}

/// An Envoy whose filter can be struck, a control plane that does it, and connections to each worker.
struct Scene {
    envoy: Envoy,
    fake: FakeControl,
    connections: tokio::sync::Mutex<Vec<Connection>>,
    _upstream: Upstream,
    _filter: Fragile,
}

impl Scene {
    async fn start() -> Self {
        let paths = paths();
        let filter = Fragile::of(&paths.wasm);
        let (fake, upstream) = (FakeControl::start().await.unwrap(), Upstream::start().await.unwrap());
        fake.serve_snapshot(fake.snapshot(1, ring(&[entry(DOOMED, 1, State::Active)])));
        let config = EnvoyConfig::shipped().unwrap().with_wasm(&filter.wasm);
        let config = config.with_cluster("keywheel", fake.address()).with_trust(&fake.trust());
        let config = config.with_cluster("upstream", upstream.address());
        let envoy = Envoy::start(&paths, config, 2).await.unwrap();
        let connections = on_every_worker(&envoy, envoy.listener()).await.into();
        let scene = Self { envoy, fake, connections, _upstream: upstream, _filter: filter };
        scene.until_all(DOOMED, 200, &[503]).await;
        // A worker's VM gives the lease to it.
        until("the main thread leads", async || scene.main_thread_leads().then_some(())).await.unwrap();
        // Those that led before it left polls behind, which would be answered first: by old news.
        let before = scene.leaders().len() - 1;
        for _ in 0..before {
            scene.fake.answer_poll(scene.fake.changes(0, 1, Vec::new()));
        }
        until("old polls are answered", async || (scene.fake.answered() == before).then_some(()))
            .await
            .unwrap();
        scene
    }

    /// Answers the leader's poll with something that it does not survive.
    fn strike(&self, length: usize) {
        self.fake.answer_poll(Canned {
            status: 200,
            signer: None,
            signature: None,
            body: vec![b'x'; length],
        });
    }

    /// How many VMs trapped.
    fn traps(&self) -> usize {
        self.envoy.log().matches("proxy_on_http_call_response failed").count()
    }

    fn main_thread_leads(&self) -> bool {
        self.leaders().last().is_some_and(|line| self.envoy.is_by_main_thread(line))
    }

    /// The lines of the log that say so, in order.
    fn leaders(&self) -> Vec<String> {
        let log = self.envoy.log();
        let lines = log.lines().filter(|line| line.contains("this VM fetches the ring from now on"));
        lines.map(str::to_owned).collect()
    }

    /// A change comes through. All the while the other key is accepted, or answered with what is
    /// tolerated, and no bad one is.
    async fn assert_refreshes(&self, revision: u64, tolerated: &[u16]) {
        let state = if revision.is_multiple_of(2) { State::Revoked } else { State::Active };
        let change = vec![entry(DOOMED, revision, state)];
        // For a leader that begins anew, too.
        self.fake.serve_snapshot(self.fake.snapshot(revision, ring(&change)));
        self.fake.answer_poll(self.fake.changes(revision - 1, revision, change));
        let status = if state == State::Revoked { 401 } else { 200 };
        self.until_all(DOOMED, status, tolerated).await;
    }

    /// Waits until every connection, so every worker, answers so.
    async fn until_all(&self, key: &str, status: u16, tolerated: &[u16]) {
        let mut connections = self.connections.lock().await;
        until(&format!("{key} is answered with {status} on every connection"), async || {
            let mut all = true;
            for connection in connections.iter_mut() {
                let mut ask = async |headers| connection.get("/", headers).await.unwrap().status;
                for (headers, wanted) in
                    [(&[][..], 401), (&[("x-api-key", "unknown")], 401), (&[("x-api-key", KEPT)], 200)]
                {
                    let status = ask(headers).await;
                    assert!(status == wanted || tolerated.contains(&status), "{status} for {headers:?}");
                }
                all &= ask(&[("x-api-key", key)]).await == status;
            }
            all.then_some(())
        })
        .await
        .unwrap();
    }
}

fn ring(others: &[Entry]) -> Vec<Entry> {
    let mut entries = vec![entry(KEPT, 1, State::Active)];
    entries.extend_from_slice(others);
    entries.sort_by_key(|entry| entry.digest);
    entries
}

fn entry(key: &str, revision: u64, state: State) -> Entry {
    Entry::new(Digest::of(key.as_bytes()), &format!("kv_{key}"), "key_1", "acme", revision, state)
}
