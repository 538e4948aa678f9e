//! Both listeners against what their OpenAPI documents say: schemathesis asks a control plane that runs for it alone.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::run::{command, read, root, target};
use crate::setup::Schemathesis;

/// What is asked, what is allowed, and why.
const CONFIG: &str = "tests/schemathesis.toml";
const HOOKS: &str = "tests/schemathesis_hooks.py";
/// For each listener: several times as long as it takes, so that what hangs ends.
const LIMIT: Duration = Duration::from_secs(300);
const START: Duration = Duration::from_secs(20);

/// A listener.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Listener {
    Admin,
    Ring,
}

/// A control plane with data of its own, which ends with this.
pub(crate) struct ControlPlane {
    process: Child,
    keywheel: PathBuf,
    dir: PathBuf,
    token: String,
    admin: SocketAddr,
    ring: SocketAddr,
}

impl ControlPlane {
    pub(crate) fn start(keywheel: &Path) -> anyhow::Result<Self> {
        let dir = target().join(format!("api-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let (admin, ring) = (free_address()?, free_address()?);
        let log = File::create(dir.join("log"))?;
        let token = dir.join("token");
        let process = command(keywheel)
            .args(["serve", "--ring-auth", "token"])
            .args(["--admin-listen", &admin.to_string(), "--ring-listen", &ring.to_string()])
            .arg("--data")
            .arg(dir.join("data"))
            .arg("--admin-token-file")
            .arg(&token)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", keywheel.display()))?;
        let mut this = Self { process, keywheel: keywheel.into(), dir, token: String::new(), admin, ring };
        let start = Instant::now();
        let listens = |address| TcpStream::connect(address).is_ok();
        while this.token.is_empty() || !listens(admin) || !listens(ring) {
            if start.elapsed() > START || this.process.try_wait()?.is_some() {
                bail!("the control plane did not start:\n{}", this.log());
            }
            sleep(Duration::from_millis(50));
            // It is written once the database is made.
            fs::read_to_string(&token).unwrap_or_default().trim().clone_into(&mut this.token);
        }
        Ok(this)
    }

    /// Asks a listener everything, and says whether it kept to its document.
    pub(crate) fn ask(&mut self, schemathesis: &Schemathesis, listener: Listener) -> anyhow::Result<bool> {
        let address = match listener {
            Listener::Admin => self.admin,
            Listener::Ring => self.ring,
        };
        let mut asking = schemathesis.command();
        // In the directory that goes: it leaves files where it runs, and would begin with them the next time.
        asking.current_dir(&self.dir).env("SCHEMATHESIS_HOOKS", root().join(HOOKS));
        asking.arg("--config-file").arg(root().join(CONFIG));
        asking.arg("run").arg(format!("http://{address}/openapi.json"));
        let mut asking = self.with_token(&mut asking).spawn().context("cannot run schemathesis")?;
        let start = Instant::now();
        let kept = loop {
            if let Some(status) = asking.try_wait()? {
                break status.success();
            }
            if start.elapsed() > LIMIT {
                println!("schemathesis is not done after {} seconds", LIMIT.as_secs());
                asking.kill()?;
                asking.wait()?;
                break false;
            }
            sleep(Duration::from_millis(100));
        };
        // With a token that ended on the way the rest would have been refused, and nothing been tried.
        let mut list = command(&self.keywheel);
        list.args(["token", "list", "--url"]).arg(format!("http://{}", self.admin));
        read(self.with_token(&mut list)).context("the token of this run is no longer good")?;
        if !kept {
            println!("the end of the control plane's log:\n{}", self.log());
        }
        Ok(kept)
    }

    /// In the environment: others can read a command line.
    fn with_token<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("KEYWHEEL_TOKEN", &self.token).stdin(Stdio::null())
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Listener {
    pub(crate) const ALL: [Self; 2] = [Self::Ring, Self::Admin];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Ring => "ring",
        }
    }
}

/// Nobody listens there; the listener that found it is gone again.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
