//! Control plane, Envoy and upstream: started here, or found running.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use keywheel_testkit::{Admin, ControlPlane, Envoy, EnvoyAdmin, EnvoyConfig, Paths, port};
use tokio::net::{TcpListener, lookup_host};
use tokio::task::JoinHandle;

use crate::screen::{Paint, Screen};
use crate::trading;

/// What the scenario is played on.
pub(crate) struct Parts {
    pub(crate) admin: Admin,
    pub(crate) proxy: SocketAddr,
    pub(crate) envoy: EnvoyAdmin,
}

/// Parts that run already.
pub(crate) struct Found {
    pub(crate) control: String,
    pub(crate) token_file: PathBuf,
    pub(crate) proxy: String,
    pub(crate) envoy_admin: String,
}

/// Parts of our own. They end when this is dropped.
pub(crate) struct Started {
    envoy: Envoy,
    control: ControlPlane,
    upstream: SocketAddr,
    task: JoinHandle<()>,
}

// === impl Found ===

impl Found {
    pub(crate) async fn parts(self) -> anyhow::Result<Parts> {
        let token = std::fs::read_to_string(&self.token_file)
            .with_context(|| format!("cannot read the token in {}", self.token_file.display()))?;
        let proxy = resolve(&self.proxy).await?;
        let envoy = EnvoyAdmin::new(resolve(&self.envoy_admin).await?, proxy.port());
        Ok(Parts { admin: Admin::new(&self.control, token.trim())?, proxy, envoy })
    }
}

async fn resolve(name: &str) -> anyhow::Result<SocketAddr> {
    let mut found = lookup_host(name).await.with_context(|| format!("cannot find {name}"))?;
    found.next().with_context(|| format!("{name} has no address"))
}

// === impl Started ===

impl Started {
    /// A control plane on an empty database, Envoy with the shipped configuration, the trading API.
    pub(crate) async fn new(workers: usize) -> anyhow::Result<Self> {
        let paths = Paths::from_env()?;
        let listener = TcpListener::bind(port::free()).await?;
        let upstream = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // Should it fail, the failed requests say so.
            let _ = trading::serve(listener).await;
        });
        let control = ControlPlane::start(&paths).await?;
        let config = EnvoyConfig::shipped()?.with_wasm(&paths.wasm).with_cluster("keywheel", control.ring());
        let config = config.with_cluster("upstream", upstream).with_trust(control.trust());
        let envoy = Envoy::start(&paths, config, workers).await?;
        Ok(Self { envoy, control, upstream, task })
    }

    pub(crate) fn parts(&self) -> anyhow::Result<Parts> {
        let (admin, envoy) = (self.control.admin()?, self.envoy.metrics());
        Ok(Parts { admin, proxy: self.envoy.listener(), envoy })
    }

    pub(crate) fn description(&self) -> String {
        let workers = self.envoy.workers();
        format!(
            "control plane {}, SQLite, empty\nproxy         http://{}, Envoy with envoy/envoy.yaml, {workers} workers\n\
             upstream      http://{}, a small trading API\n",
            self.control.url(),
            self.envoy.listener(),
            self.upstream,
        )
    }

    /// Says how to use what runs, with a key that is valid.
    pub(crate) async fn keep(&self, screen: &mut Screen) -> anyhow::Result<()> {
        let key = self.control.admin()?.create_key("acme", &["market:read", "trade"]).await?;
        let token = self.control.token_file()?;
        let (proxy, secret) = (self.envoy.listener(), key.secret);
        screen.line(&format!(
            "\n{}\n\n\
             A request with a valid key, one with a wrong one, and an order:\n\n  \
             curl -i -H 'x-api-key: {secret}' http://{proxy}/v1/ticker/BTC-USD\n  \
             curl -i -H 'x-api-key: wrong' http://{proxy}/v1/ticker/BTC-USD\n  \
             curl -i -H 'x-api-key: {secret}' -H 'content-type: application/json' -d '{{\"side\":\"buy\",\"symbol\":\"BTC-USD\"}}' http://{proxy}/v1/orders\n\n\
             Rotate that key, or end it, and ask again:\n\n  \
             export KEYWHEEL_URL={} KEYWHEEL_TOKEN_FILE={}\n  \
             {keywheel} key rotate {} --overlap 1m\n  \
             {keywheel} key revoke {}\n\n\
             Envoy's metrics:  curl -s http://{}/stats/prometheus | grep ^keywheel\n",
            screen.paint(Paint::Event, "All of it keeps running. Ctrl-C ends it."),
            self.control.url(),
            token.display(),
            key.key,
            key.key,
            self.envoy.admin(),
            keywheel = Paths::from_env()?.keywheel.display(),
        ));
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.task.abort();
    }
}
