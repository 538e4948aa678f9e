//! A scene whose listener can be replaced while Envoy runs.

use std::net::SocketAddr;
use std::path::PathBuf;

use keywheel_testkit::admin::Issued;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::{Admin, ControlPlane, Envoy, EnvoyConfig, Reply, Upstream, http, port, until};
use tempfile::TempDir;

use crate::scene::{config, paths, settle};

/// As [`crate::scene::Scene`], with the listener in a file that Envoy watches.
pub(crate) struct Replaceable {
    pub(crate) envoy: Envoy,
    pub(crate) admin: Admin,
    pub(crate) upstream: Upstream,
    config: EnvoyConfig,
    file: PathBuf,
    _control: ControlPlane,
    _dir: TempDir,
}

impl Replaceable {
    pub(crate) async fn start() -> Self {
        Self::with(|config| config).await
    }

    /// As [`Replaceable::start`], with changes to the configuration.
    pub(crate) async fn with(change: impl FnOnce(EnvoyConfig) -> EnvoyConfig) -> Self {
        let control = ControlPlane::start(&paths()).await.unwrap();
        let upstream = Upstream::start().await.unwrap();
        let admin = control.admin().unwrap();
        admin.create_client("acme").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("listener.json");
        let (listener, envoy_admin) = (port::free(), port::free());
        let config = change(config(&control, &upstream)).with_listener(listener).with_admin(envoy_admin);
        let (bootstrap, in_file) = config.clone().with_listener_in(&file);
        in_file.write(&file).unwrap();
        let envoy = Envoy::start_at(&paths(), &bootstrap, 2, listener, envoy_admin).await.unwrap();
        let scene = Self { envoy, admin, upstream, config, file, _control: control, _dir: dir };
        let key = scene.admin.create_key("acme", &[]).await.unwrap();
        until("every worker holds the ring", async || {
            for _ in 0..8 {
                if scene.get(&key.secret).await.status != 200 {
                    return None;
                }
            }
            Some(())
        })
        .await
        .unwrap();
        scene.settle().await;
        scene
    }

    /// Puts another listener in the place of the one that runs: the first one, with changes.
    pub(crate) fn replace(&self, change: impl FnOnce(EnvoyConfig) -> EnvoyConfig) {
        let (_, listener) = change(self.config.clone()).with_listener_in(&self.file);
        listener.write(&self.file).unwrap();
    }

    /// A key of `acme` that the proxy knows already.
    pub(crate) async fn key(&self) -> Issued {
        let issued = self.admin.create_key("acme", &[]).await.unwrap();
        self.settle().await;
        issued
    }

    pub(crate) async fn settle(&self) {
        settle(&self.admin, RING).await;
    }

    pub(crate) const fn listener(&self) -> SocketAddr {
        self.envoy.listener()
    }

    /// A request on a connection of its own.
    pub(crate) async fn get(&self, key: &str) -> Reply {
        http::get(self.listener(), "/", &[("x-api-key", key)]).await.unwrap()
    }

    /// Waits until the proxy has so many VMs, by its own word.
    pub(crate) async fn until_vms(&self, vms: u32) {
        until(&format!("the proxy has {vms} VMs"), async || {
            // A proxy speaks when there is something new.
            self.key().await;
            let ring = self.admin.ring(RING).await.ok()?;
            let [proxy] = &ring.proxies[..] else { return None };
            (proxy.vms == vms).then_some(())
        })
        .await
        .unwrap();
    }
}
