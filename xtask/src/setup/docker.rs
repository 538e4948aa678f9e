//! Docker: a client that builds with BuildKit, compose, and a daemon, which may be one that is started for us alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::say;
use crate::run::{command, read, target};

/// How long a daemon may take to listen.
const START: Duration = Duration::from_secs(60);

/// What compose files and images are run with.
pub(crate) struct Docker {
    client: PathBuf,
    /// `docker compose`, or the program `docker-compose`.
    compose: Vec<PathBuf>,
    /// `None` to ask whom the environment names.
    daemon: Option<Daemon>,
}

/// Why there is none, and what would get it.
pub(crate) struct NoDocker(pub(crate) String);

/// The daemon that answers, or else one of our own, where we may start it.
pub(crate) fn find() -> Result<Docker, NoDocker> {
    let get = "on Debian `apt-get install docker.io docker-compose` gets it";
    let client = super::on_path("docker")
        .into_iter()
        .find(|client| builds(client))
        .ok_or_else(|| NoDocker(format!("no docker that builds with BuildKit; {get}")))?;
    let with_plugin = read(command(&client).args(["compose", "version", "--short"]));
    let (compose, version) = match with_plugin {
        Ok(version) => (vec![client.clone(), "compose".into()], version),
        Err(_) => {
            let program = super::on_path("docker-compose").into_iter().next();
            let program = program.ok_or_else(|| NoDocker(format!("no docker-compose; {get}")))?;
            let version = read(command(&program).args(["version", "--short"])).unwrap_or_default();
            (vec![program], version)
        }
    };
    let mut docker = Docker { client, compose, daemon: None };
    let server = ["version", "--format", "{{.Server.Version}}"];
    let said = match read(docker.command().args(server)) {
        Ok(said) => said,
        Err(_) => {
            let daemon =
                Daemon::start(&docker.client).map_err(|error| NoDocker(format!("{error:#}; {get}")))?;
            docker.daemon = Some(daemon);
            read(docker.command().args(server)).map_err(|error| NoDocker(format!("{error:#}")))?
        }
    };
    let whose = if docker.daemon.is_some() { "started a daemon of our own" } else { "found a daemon" };
    say("docker", &format!("{whose}, {}; compose {}", said.trim(), version.trim()));
    Ok(docker)
}

/// Those of before 23 have BuildKit's client in them, newer ones need a plugin for it.
fn builds(client: &Path) -> bool {
    let said = read(command(client).arg("--version")).unwrap_or_default();
    let version = crate::versions::Version::find(&said);
    version.is_some_and(|version| version.0 < 23) || read(command(client).args(["buildx", "version"])).is_ok()
}

impl Docker {
    /// Whether it was started here, and ends with us.
    pub(crate) fn is_ours(&self) -> bool {
        self.daemon.is_some()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = command(&self.client);
        self.tell(&mut command);
        command
    }

    /// Compose, with the repository as its directory.
    pub(crate) fn compose(&self) -> Command {
        let mut words = self.compose.iter();
        let mut command = command(words.next().unwrap_or(&self.client));
        command.args(words);
        self.tell(&mut command);
        command
    }

    fn tell(&self, command: &mut Command) {
        command.env("DOCKER_BUILDKIT", "1").env("BUILDKIT_PROGRESS", "plain");
        // The old compose builds with BuildKit by calling `docker`, which must be the one that can.
        command.env("COMPOSE_DOCKER_CLI_BUILD", "1");
        let own = self.client.parent().map(Path::to_path_buf);
        let path = std::env::var_os("PATH").unwrap_or_default();
        if let Ok(path) = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path))) {
            command.env("PATH", path);
        }
        if let Some(daemon) = &self.daemon {
            command.env("DOCKER_HOST", &daemon.host).env_remove("DOCKER_CONTEXT");
        }
        command.stdin(Stdio::null());
    }
}

/// A daemon with a directory of its own, which ends with this and leaves nothing.
struct Daemon {
    process: Child,
    dir: PathBuf,
    host: String,
}

impl Daemon {
    fn start(client: &Path) -> anyhow::Result<Self> {
        let program = super::on_path("dockerd").into_iter().next();
        let program = program.context("no daemon answers, and there is no dockerd to start one with")?;
        if read(command("id").arg("-u"))?.trim() != "0" {
            bail!("no daemon answers, and only root may start one");
        }
        let dir = target().join(format!("docker-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // The path of a socket may be of some hundred bytes at most, so it is not below the repository.
        let socket = std::env::temp_dir().join(format!("keywheel-docker-{}.sock", std::process::id()));
        let log = File::create(dir.join("log"))?;
        let host = format!("unix://{}", socket.display());
        let process = command(program)
            .args(["--host", &host, "--bridge", "none"])
            // Containers need each other, and ports on loopback, which a proxy in user space opens; so no rule of
            // the machine's is touched.
            .args(["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"])
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("exec"))
            .arg("--pidfile")
            .arg(dir.join("pid"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run dockerd")?;
        let daemon_host = host.clone();
        let mut daemon = Self { process, dir, host };
        let start = Instant::now();
        let answers = || {
            let mut ask = command(client);
            read(ask.env("DOCKER_HOST", &daemon_host).env_remove("DOCKER_CONTEXT").arg("version")).is_ok()
        };
        while !answers() {
            if start.elapsed() > START || daemon.process.try_wait()?.is_some() {
                let log = fs::read_to_string(daemon.dir.join("log")).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(3)..].join("\n");
                bail!("no daemon answers, and dockerd cannot start here:\n{last}\n");
            }
            sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It ends its containers, and the containerd that it started.
        let id = self.process.id().to_string();
        let _ = command("kill").args(["-TERM", &id]).status();
        let start = Instant::now();
        while start.elapsed() < START && matches!(self.process.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(100));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_file(self.host.trim_start_matches("unix://"));
    }
}
