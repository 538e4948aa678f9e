//! A running Envoy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::envoy_config::EnvoyConfig;
use crate::process::Process;
use crate::{EnvoyAdmin, Paths, http, port, until};

/// An Envoy of its own: free ports, own directory. It ends when this is dropped.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    binary: PathBuf,
    config: PathBuf,
    workers: usize,
    listener: SocketAddr,
    admin: SocketAddr,
    // After the process, which is dropped first.
    _dir: TempDir,
}

impl Envoy {
    /// Starts Envoy with a configuration, on free ports, and waits until it takes connections.
    ///
    /// # Errors
    ///
    /// It cannot be started, or ends instead; the error then holds the end of its log.
    pub async fn start(paths: &Paths, config: EnvoyConfig, workers: usize) -> anyhow::Result<Self> {
        let (listener, admin) = (port::free(), port::free());
        let config = config.with_listener(listener).with_admin(admin);
        Self::start_at(paths, &config, workers, listener, admin).await
    }

    /// As [`Envoy::start`], with a configuration that is complete and says where it listens.
    ///
    /// # Errors
    ///
    /// As [`Envoy::start`].
    pub async fn start_at(
        paths: &Paths,
        config: &EnvoyConfig,
        workers: usize,
        listener: SocketAddr,
        admin: SocketAddr,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keywheel-envoy-").tempdir()?;
        let file = dir.path().join("envoy.json");
        std::fs::write(&file, config.to_json())?;
        let process = spawn(&paths.envoy, &file, workers)?;
        let binary = paths.envoy.clone();
        let mut envoy = Self { process, binary, config: file, workers, listener, admin, _dir: dir };
        envoy.wait_until_live().await?;
        Ok(envoy)
    }

    /// Where clients connect.
    #[must_use]
    pub const fn listener(&self) -> SocketAddr {
        self.listener
    }

    #[must_use]
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    #[must_use]
    pub const fn workers(&self) -> usize {
        self.workers
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether a line of the log was written by the main thread.
    #[must_use]
    pub fn is_by_main_thread(&self, line: &str) -> bool {
        line.contains(&format!("][{}][", self.pid()))
    }

    /// Kills it and starts it again, on the same ports.
    ///
    /// # Errors
    ///
    /// As [`Envoy::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill();
        self.process = spawn(&self.binary, &self.config, self.workers)?;
        self.wait_until_live().await
    }

    /// Envoy's own log, and the filter's lines in it.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// The access log, one JSON object to a line.
    #[must_use]
    pub fn access_log(&self) -> String {
        self.process.stdout()
    }

    /// Its admin interface.
    #[must_use]
    pub const fn metrics(&self) -> EnvoyAdmin {
        EnvoyAdmin::new(self.admin, self.listener.port())
    }

    /// [`EnvoyAdmin::stats`].
    ///
    /// # Errors
    ///
    /// Envoy is gone; so with those that follow.
    pub async fn stats(&self, part: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        self.metrics().stats(part).await
    }

    /// [`EnvoyAdmin::metric`].
    ///
    /// # Errors
    ///
    /// As [`Envoy::stats`].
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        self.metrics().metric(name).await
    }

    /// [`EnvoyAdmin::wait_for_revision`].
    ///
    /// # Errors
    ///
    /// It does not come to that.
    pub async fn wait_for_revision(&self, revision: u64) -> anyhow::Result<()> {
        self.metrics().wait_for_revision(revision).await
    }

    async fn wait_until_live(&mut self) -> anyhow::Result<()> {
        let (admin, listener) = (self.admin, self.listener);
        let process = &mut self.process;
        let live = until("Envoy takes connections", async || {
            if let Some(status) = process.ended() {
                return Some(Err(status));
            }
            let ready = http::get(admin, "/ready", &[]).await.is_ok_and(|reply| reply.status == 200);
            let open = ready && tokio::net::TcpStream::connect(listener).await.is_ok();
            open.then_some(Ok(()))
        });
        match live.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("Envoy ended ({status})\n{}", self.process.tail()),
            Err(error) => Err(error).with_context(|| self.process.tail()),
        }
    }
}

/// Whether Envoy would take a configuration, and what it said.
///
/// # Errors
///
/// Envoy cannot be run.
pub fn validate(paths: &Paths, text: &str, extension: &str) -> anyhow::Result<(bool, String)> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join(format!("envoy.{extension}"));
    std::fs::write(&file, text)?;
    let output = Command::new(&paths.envoy).args(["--mode", "validate", "-c"]).arg(&file).output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn spawn(binary: &Path, config: &Path, workers: usize) -> anyhow::Result<Process> {
    let dir = config.parent().context("the configuration has no directory")?;
    let mut command = Command::new(binary);
    command.arg("-c").arg(config).args(["--concurrency", &workers.to_string()]);
    // Hot restart takes a number that all Envoys of a machine share.
    command.args(["--disable-hot-restart", "--service-node", "envoy-1", "--service-cluster", "edge"]);
    // A hundred lines about what Envoy was built with would bury the ten that explain a failure.
    command.args(["--component-log-level", "main:warning"]);
    // A listener that was replaced would otherwise linger for ten minutes, and its connections with it.
    command.args(["--drain-strategy", "immediate", "--drain-time-s", "3"]);
    // Tests read the access log, and would wait 10 s for a line.
    command.args(["--file-flush-interval-msec", "20", "--log-format", "[%Y-%m-%d %T.%e][%t][%l][%n] %v"]);
    Process::spawn("envoy", dir, &mut command)
}
