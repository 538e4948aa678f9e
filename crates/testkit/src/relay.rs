//! A running `keywheel relay`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::envoy_admin::RING;
use crate::process::Process;
use crate::{Paths, port, until};

/// A relay of its own, with an empty disk. It ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    process: Option<Process>,
    binary: PathBuf,
    ring: SocketAddr,
    args: Vec<OsString>,
    /// Starts that are over.
    starts: usize,
    // After the process, which is dropped first.
    dir: TempDir,
}

impl Relay {
    /// Starts one and waits until it listens. Its ring may still be on its way.
    ///
    /// # Errors
    ///
    /// It cannot be started, or ends instead; the error then holds the end of its log.
    pub async fn start(paths: &Paths, upstreams: &[SocketAddr], trust: &[String]) -> anyhow::Result<Self> {
        let mut args = Vec::new();
        for upstream in upstreams {
            args.extend(["--upstream".into(), format!("http://{upstream}").into()]);
        }
        for key in trust {
            args.extend(["--trust".into(), key.into()]);
        }
        Self::start_with(paths, args).await
    }

    /// As [`Relay::start`], with these arguments besides those that say where it listens and keeps its disk.
    ///
    /// # Errors
    ///
    /// As [`Relay::start`].
    pub async fn start_with(paths: &Paths, args: Vec<OsString>) -> anyhow::Result<Self> {
        Self::start_at(paths, port::free(), args).await
    }

    /// As [`Relay::start_with`], where it shall listen.
    ///
    /// # Errors
    ///
    /// As [`Relay::start`].
    pub async fn start_at(paths: &Paths, ring: SocketAddr, args: Vec<OsString>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keywheel-relay-").tempdir()?;
        let binary = paths.keywheel.clone();
        let mut relay = Self { process: None, binary, ring, args, starts: 0, dir };
        relay.restart().await?;
        Ok(relay)
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it, again after [`Relay::kill`], on the same port and disk.
    ///
    /// # Errors
    ///
    /// As [`Relay::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        let mut command = Command::new(&self.binary);
        command.args(["relay", "--output", "json", "--ring", RING, "--listen", &self.ring.to_string()]);
        command.arg("--data").arg(self.data()).args(&self.args);
        let mut process = Process::spawn("relay", self.dir.path(), &mut command)?;
        self.starts += 1;
        let ready = until("the relay listens", async || {
            if let Some(status) = process.ended() {
                return Some(Err(status));
            }
            (process.stdout().lines().count() >= self.starts).then_some(Ok(()))
        })
        .await;
        match ready {
            Ok(Ok(())) => {
                self.process = Some(process);
                Ok(())
            }
            Ok(Err(status)) => bail!("the relay ended ({status})\n{}", process.tail()),
            Err(error) => Err(error).with_context(|| process.tail()),
        }
    }

    /// Where proxies fetch the ring.
    #[must_use]
    pub const fn ring(&self) -> SocketAddr {
        self.ring
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.ring)
    }

    /// Of the process.
    ///
    /// # Errors
    ///
    /// It was killed.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.process.as_ref().context("the relay was killed")?.pid())
    }

    /// Its disk.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Everything of the ring on its disk, each file by its path.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        walk(&self.data().join("rings").join(RING), &mut files);
        files
    }

    /// All that it logged, over restarts too.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("relay.err")).unwrap_or_default()
    }
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}
