//! Envoy with the shipped configuration, a control plane, an upstream.

use std::net::SocketAddr;

use keywheel_api::{Proxy, Ring};
use keywheel_testkit::admin::Issued;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::{
    Admin, Connection, ControlPlane, Envoy, EnvoyAdmin, EnvoyConfig, Paths, Reply, Upstream, http, until,
};
use serde_json::Value;

/// What most tests start with. It panics where a test could not go on.
pub(crate) struct Scene {
    // Dropped, and its log printed, in this order.
    pub(crate) envoy: Envoy,
    pub(crate) control: ControlPlane,
    pub(crate) upstream: Upstream,
    pub(crate) admin: Admin,
}

impl Scene {
    /// All parts, the client `acme`, and a proxy that holds its ring.
    pub(crate) async fn start() -> Self {
        Self::with(|config| config).await
    }

    /// As [`Scene::start`], with changes to the configuration.
    pub(crate) async fn with(change: impl FnOnce(EnvoyConfig) -> EnvoyConfig) -> Self {
        Self::with_workers(2, change).await
    }

    /// As [`Scene::with`], with so many workers in Envoy.
    pub(crate) async fn with_workers(
        workers: usize,
        change: impl FnOnce(EnvoyConfig) -> EnvoyConfig,
    ) -> Self {
        let paths = paths();
        let control = ControlPlane::start(&paths).await.unwrap();
        let upstream = Upstream::start().await.unwrap();
        let admin = control.admin().unwrap();
        admin.create_client("acme").await.unwrap();
        let config = change(config(&control, &upstream));
        let envoy = Envoy::start(&paths, config, workers).await.unwrap();
        let scene = Self { envoy, control, upstream, admin };
        scene.settle().await;
        scene.until_served().await;
        scene
    }

    /// A key of `acme` that the proxy knows already.
    pub(crate) async fn key(&self) -> Issued {
        let issued = self.admin.create_key("acme", &["market:read"]).await.unwrap();
        self.settle().await;
        issued
    }

    /// A key that is valid and one that is revoked, both by the proxy's word.
    pub(crate) async fn valid_and_revoked(&self) -> (Issued, Issued) {
        valid_and_revoked(&self.admin).await
    }

    /// Waits until every VM of the proxy enforces what the control plane has published, by its own word.
    pub(crate) async fn settle(&self) {
        settle(&self.admin, RING).await;
    }

    /// Waits until the proxy has so many VMs, by its own word.
    pub(crate) async fn until_vms(&self, vms: usize) {
        until(&format!("the proxy says that it has {vms} VMs"), async || {
            // A proxy speaks when there is something new.
            self.key().await;
            let ring = self.admin.ring(RING).await.ok()?;
            let [proxy] = &ring.proxies[..] else { return None };
            (proxy.vms as usize == vms).then_some(())
        })
        .await
        .unwrap();
    }

    /// Waits until every worker holds a ring. An empty ring has revision 0, which enforces itself.
    async fn until_served(&self) {
        until("every worker holds a ring", async || {
            for _ in 0..8 {
                if self.get("/", &[]).await.status == 503 {
                    return None;
                }
            }
            Some(())
        })
        .await
        .unwrap();
    }

    /// A request on a connection of its own.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        http::get(self.envoy.listener(), path, headers).await.unwrap()
    }

    pub(crate) async fn get_with_key(&self, key: &str) -> Reply {
        self.get("/v1/ticker", &[("x-api-key", key)]).await
    }

    /// Waits until a key is answered with this status, eight times in a row so that all workers had
    /// their turn, and gives the last answer.
    pub(crate) async fn until_status(&self, key: &str, status: u16) -> Reply {
        until(&format!("the key is answered with {status}"), async || {
            for _ in 0..7 {
                if self.get_with_key(key).await.status != status {
                    return None;
                }
            }
            let reply = self.get_with_key(key).await;
            (reply.status == status).then_some(reply)
        })
        .await
        .unwrap()
    }

    /// The line of the access log about a request to this path.
    pub(crate) async fn logged(&self, path: &str) -> Value {
        until(&format!("the access log shows {path}"), async || {
            let log = self.envoy.access_log();
            log.lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["path"] == path)
        })
        .await
        .unwrap()
    }
}

/// Waits until every proxy enforces what the control plane has published, by its own word.
pub(crate) async fn settle(admin: &Admin, ring: &str) {
    until("every proxy says that all its VMs enforce the ring", async || {
        let ring = admin.ring(ring).await.ok()?;
        (!ring.proxies.is_empty() && ring.proxies.iter().all(|proxy| enforces(proxy, &ring))).then_some(())
    })
    .await
    .unwrap();
}

/// A key that is valid and one that is revoked, both by the word of every proxy.
pub(crate) async fn valid_and_revoked(admin: &Admin) -> (Issued, Issued) {
    let key = admin.create_key("acme", &["market:read"]).await.unwrap();
    let revoked = admin.create_key("acme", &["market:read"]).await.unwrap();
    admin.revoke(&revoked.key).await.unwrap();
    settle(admin, RING).await;
    (key, revoked)
}

/// As [`settle`], where one process may go by several names: it does not count which of them says so.
pub(crate) async fn settle_under_some_name(admin: &Admin, ring: &str) {
    until("a proxy says that all its VMs enforce the ring", async || {
        let ring = admin.ring(ring).await.ok()?;
        ring.proxies.iter().any(|proxy| enforces(proxy, &ring)).then_some(())
    })
    .await
    .unwrap();
}

fn enforces(proxy: &Proxy, ring: &Ring) -> bool {
    proxy.epoch.as_ref() == Some(&ring.epoch) && proxy.enforced >= ring.revision
}

/// Connections to a listener, some of them with each of Envoy's workers.
pub(crate) async fn on_every_worker(envoy: &Envoy, listener: SocketAddr) -> Vec<Connection> {
    let mut connections = Vec::new();
    until("every worker has a connection", async || {
        for _ in 0..4 {
            let mut connection = Connection::open(listener).await.ok()?;
            // The kernel takes a connection before a worker does.
            connection.get("/", &[]).await.ok()?;
            connections.push(connection);
        }
        let admin = EnvoyAdmin::new(envoy.admin(), listener.port());
        let by_worker = admin.connections_by_worker("downstream_cx_active").await.ok()?;
        (by_worker.len() == envoy.workers() && by_worker.iter().all(|count| *count > 0)).then_some(())
    })
    .await
    .unwrap();
    connections
}

pub(crate) fn paths() -> Paths {
    Paths::from_env().unwrap()
}

/// The shipped configuration between these parts.
pub(crate) fn config(control: &ControlPlane, upstream: &Upstream) -> EnvoyConfig {
    let config =
        EnvoyConfig::shipped().unwrap().with_wasm(&paths().wasm).with_cluster("keywheel", control.ring());
    config.with_cluster("upstream", upstream.address()).with_trust(control.trust())
}
