//! A PostgreSQL server of the test's own: its files in a directory of its own, reached through a socket there.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::paths;

const PATIENCE: Duration = Duration::from_secs(30);

/// Ends the server with the signal that it reads, or in order when the pipe on its standard input closes because
/// this process has ended, however that was; then it leaves nothing behind.
const KEEPER: &str = r#"dir=$1; shift; "$@" >>"$dir/log" 2>&1 & server=$!
if read -r end; then kill "-$end" $server; wait $server
else kill -INT $server; wait $server; cd /; rm -rf "$dir"; fi"#;

/// A running server. It ends when this is dropped, or when the process ends.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    dir: PathBuf,
    /// The user that it runs as, where this process is root: PostgreSQL refuses to be.
    user: Option<u32>,
    running: Option<Running>,
    databases: AtomicU32,
}

#[derive(Debug)]
struct Running {
    keeper: Child,
    pipe: Option<ChildStdin>,
}

impl Postgres {
    /// # Errors
    ///
    /// Nobody says where its programs are, or it does not start.
    pub fn start() -> anyhow::Result<Self> {
        let programs = paths::postgres()?;
        let dir = tempfile::Builder::new().prefix("keywheel-postgres-").tempdir()?.keep();
        let user = unprivileged()?;
        if let Some(user) = user {
            std::os::unix::fs::chown(&dir, Some(user), None)?;
        }
        let mut this = Self { programs, dir, user, running: None, databases: AtomicU32::new(0) };
        let data = this.data();
        let mut init = this.command("initdb");
        init.arg("-D").arg(&data).args([
            "-U",
            "keywheel",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--no-locale",
        ]);
        run(&mut init)?;
        this.resume()?;
        Ok(this)
    }

    /// A new, empty database, as `postgres://…`.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub fn database(&self) -> anyhow::Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        run(self.command("createdb").args(["-U", "keywheel", "-h"]).arg(&self.dir).arg(&name))?;
        Ok(format!("postgres://keywheel@localhost/{name}?host={}", self.dir.display()))
    }

    /// Starts it again.
    ///
    /// # Errors
    ///
    /// It does not start within half a minute.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let server = self.programs.join("postgres");
        let mut command = self.as_user("sh");
        command.args(["-c", KEEPER, "sh"]).arg(&self.dir).arg(server).arg("-D").arg(self.data());
        command.arg("-k").arg(&self.dir).args(["-c", "listen_addresses=", "-c", "max_connections=200"]);
        let mut keeper =
            command.stdin(Stdio::piped()).spawn().context("cannot run sh, which keeps PostgreSQL")?;
        let pipe = keeper.stdin.take();
        self.running = Some(Running { keeper, pipe });
        let end = Instant::now() + PATIENCE;
        while run(self.command("pg_isready").arg("-q").arg("-h").arg(&self.dir)).is_err() {
            if Instant::now() > end {
                let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                bail!("PostgreSQL did not start in {PATIENCE:?}:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends it in order, with whatever is under way broken off.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.end("QUIT");
    }

    fn end(&mut self, signal: &str) {
        use std::io::Write as _;
        let Some(mut running) = self.running.take() else { return };
        if let Some(mut pipe) = running.pipe.take() {
            // A keeper that is gone has taken its server along.
            let _ = writeln!(pipe, "{signal}");
        }
        let _ = running.keeper.wait();
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn command(&self, program: &str) -> Command {
        self.as_user(self.programs.join(program))
    }

    fn as_user(&self, program: impl AsRef<Path>) -> Command {
        let mut command = match self.user {
            None => Command::new(program.as_ref()),
            Some(user) => {
                let mut command = Command::new("setpriv");
                let user = user.to_string();
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
                command.arg(program.as_ref());
                command
            }
        };
        // Not the directory of the caller, which that user may not enter.
        command.current_dir(&self.dir);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn unprivileged() -> anyhow::Result<Option<u32>> {
    use std::os::unix::fs::MetadataExt as _;
    let own = std::fs::metadata("/proc/self").map(|meta| meta.uid());
    if own.is_ok_and(|uid| uid != 0) {
        return Ok(None);
    }
    let output = Command::new("id").args(["-u", "nobody"]).output().context("cannot run id")?;
    let id = String::from_utf8_lossy(&output.stdout).trim().parse();
    Ok(Some(id.context("there is no user `nobody` to run PostgreSQL as")?))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim())
}
