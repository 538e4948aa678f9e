//! A running `keywheel serve`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tempfile::TempDir;

use crate::envoy_admin::RING;
use crate::process::Process;
use crate::{Admin, Paths, port, until};

/// A control plane of its own, on an empty database: SQLite, if nothing else is said. It ends when this is dropped.
#[derive(Debug)]
pub struct ControlPlane {
    process: Option<Process>,
    binary: PathBuf,
    admin: SocketAddr,
    ring: SocketAddr,
    token: String,
    trust: Vec<String>,
    ring_name: &'static str,
    ring_auth: &'static str,
    /// Further arguments.
    args: Vec<OsString>,
    // After the process, which is dropped first.
    dir: TempDir,
}

/// What `keywheel serve --output json` says once it serves.
#[derive(Debug, Deserialize)]
struct Ready {
    event: String,
    admin_token: Option<String>,
    trust: Vec<String>,
}

impl ControlPlane {
    /// Starts one and waits until it serves.
    ///
    /// # Errors
    ///
    /// It cannot be started, or ends instead; the error then holds the end of its log.
    pub async fn start(paths: &Paths) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keywheel-control-").tempdir()?;
        Self::start_in(paths, dir).await
    }

    /// As [`ControlPlane::start`], with what a directory holds already.
    ///
    /// # Errors
    ///
    /// As [`ControlPlane::start`], or the database in it has an admin token, which is known to nobody.
    pub async fn start_in(paths: &Paths, dir: TempDir) -> anyhow::Result<Self> {
        Self::start_with(paths, dir, RING, Vec::new()).await
    }

    /// As [`ControlPlane::start`], with a ring listener that lets in only whom these options say.
    ///
    /// # Errors
    ///
    /// As [`ControlPlane::start`].
    pub async fn start_guarded(paths: &Paths, args: Vec<OsString>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keywheel-control-").tempdir()?;
        let mut control = Self::new(paths, dir, RING, args);
        control.ring_auth = "token";
        control.first_start().await
    }

    /// As [`ControlPlane::start`], on a PostgreSQL.
    ///
    /// # Errors
    ///
    /// As [`ControlPlane::start`].
    pub async fn start_on(paths: &Paths, database: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keywheel-control-").tempdir()?;
        Self::start_with(paths, dir, RING, vec!["--database".into(), database.into()]).await
    }

    /// Another one on the same PostgreSQL, with a directory of its own.
    ///
    /// # Errors
    ///
    /// As [`ControlPlane::start`].
    pub async fn replica(&self, paths: &Paths) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keywheel-control-").tempdir()?;
        let mut args = self.args.clone();
        args.extend(["--master-key-file".into(), self.data().join("master.key").into()]);
        let mut replica = Self::new(paths, dir, self.ring_name, args);
        replica.trust = replica.serve().await?.trust;
        replica.token.clone_from(&self.token);
        Ok(replica)
    }

    /// As [`ControlPlane::start`], with a ring of another name.
    ///
    /// # Errors
    ///
    /// As [`ControlPlane::start`].
    pub async fn start_ring(paths: &Paths, ring: &'static str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keywheel-control-").tempdir()?;
        Self::start_with(paths, dir, ring, Vec::new()).await
    }

    fn new(paths: &Paths, dir: TempDir, ring_name: &'static str, args: Vec<OsString>) -> Self {
        let (admin, ring) = (port::free(), port::free());
        Self {
            process: None,
            binary: paths.keywheel.clone(),
            admin,
            ring,
            token: String::new(),
            trust: Vec::new(),
            ring_name,
            // The shipped envoy.yaml sends no token, and on loopback none is needed.
            ring_auth: "open",
            args,
            dir,
        }
    }

    async fn start_with(
        paths: &Paths,
        dir: TempDir,
        ring_name: &'static str,
        args: Vec<OsString>,
    ) -> anyhow::Result<Self> {
        Self::new(paths, dir, ring_name, args).first_start().await
    }

    async fn first_start(mut self) -> anyhow::Result<Self> {
        let ready = self.serve().await?;
        self.token = ready.admin_token.context("the first start prints an admin token")?;
        self.trust = ready.trust;
        Ok(self)
    }

    /// Of the process.
    ///
    /// # Errors
    ///
    /// It was killed.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.process.as_ref().context("the control plane was killed")?.pid())
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again after [`ControlPlane::kill`], on the same ports and data.
    ///
    /// # Errors
    ///
    /// As [`ControlPlane::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.serve().await.map(|_| ())
    }

    /// Its admin API, as its admin.
    ///
    /// # Errors
    ///
    /// No HTTP client can be made.
    pub fn admin(&self) -> anyhow::Result<Admin> {
        Admin::new(&format!("http://{}", self.admin), &self.token)
    }

    /// Where proxies fetch rings.
    #[must_use]
    pub const fn ring(&self) -> SocketAddr {
        self.ring
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// A file with the admin token, for the command line; readable by its owner alone.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn token_file(&self) -> anyhow::Result<PathBuf> {
        let path = self.dir.path().join("admin-token");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(self.token.as_bytes())?;
        Ok(path)
    }

    /// The public keys that proxies should trust.
    #[must_use]
    pub fn trust(&self) -> &[String] {
        &self.trust
    }

    /// Its database and keys.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// All that it logged, over restarts too.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        read("keywheel.err")
    }

    async fn serve(&mut self) -> anyhow::Result<Ready> {
        let before = ready_lines(self.dir.path()).len();
        let mut command = serve(&self.binary, &self.data(), self.admin, self.ring);
        command.args(["--ring-name", self.ring_name, "--ring-auth", self.ring_auth]).args(&self.args);
        let mut process = Process::spawn("keywheel", self.dir.path(), &mut command)?;
        let dir = self.dir.path();
        let ready = until("the control plane serves", async || {
            if let Some(status) = process.ended() {
                return Some(Err(status));
            }
            ready_lines(dir).into_iter().nth(before).map(Ok)
        })
        .await;
        match ready {
            Ok(Ok(ready)) => {
                self.process = Some(process);
                Ok(ready)
            }
            Ok(Err(status)) => bail!("the control plane ended ({status})\n{}", process.tail()),
            Err(error) => Err(error).with_context(|| process.tail()),
        }
    }
}

/// The command that serves from `data`, as a user would write it.
#[must_use]
pub fn serve(binary: &Path, data: &Path, admin: SocketAddr, ring: SocketAddr) -> Command {
    let mut command = Command::new(binary);
    command.arg("serve").arg("--data").arg(data);
    command.args(["--admin-listen", &admin.to_string(), "--ring-listen", &ring.to_string()]);
    command.args(["--output", "json"]);
    command
}

fn ready_lines(dir: &Path) -> Vec<Ready> {
    let stdout = std::fs::read_to_string(dir.join("keywheel.out")).unwrap_or_default();
    // A line that is still being written has no end yet.
    let whole = stdout.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().filter_map(|line| serde_json::from_str::<Ready>(line).ok());
    lines.filter(|line| line.event == "ready").collect()
}
