//! `keywheel` processes.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use keywheel_api::ImportItem;
use keywheel_control::store::Context;
use keywheel_control::{Control, Options, clock};
use keywheel_keyring::Digest;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) fn keywheel() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keywheel"));
    for name in [
        "KEYWHEEL_URL",
        "KEYWHEEL_RING_URL",
        "KEYWHEEL_RING_TOKEN",
        "KEYWHEEL_RING_TOKEN_FILE",
        "KEYWHEEL_CONSUMER_URL",
        "KEYWHEEL_API_KEY",
        "KEYWHEEL_TOKEN",
        "KEYWHEEL_TOKEN_FILE",
        "KEYWHEEL_LOG",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command
}

/// A running control plane. Dropped, it is killed.
pub(crate) struct Server {
    pub(crate) dir: TempDir,
    pub(crate) ready: Value,
    pub(crate) token: String,
    process: Child,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &[])
    }

    /// With more options.
    pub(crate) fn start_in(dir: TempDir, options: &[&str]) -> Self {
        // For the tests that are HTTP clients themselves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (process, ready) = spawn(dir.path(), options);
        let token = ready["admin_token"].as_str().unwrap().to_owned();
        Self { dir, ready, token, process }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks it to read its certificates again.
    pub(crate) fn hang_up(&self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    }

    /// Ends it in order, as a service manager does.
    pub(crate) fn stop(&mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.process.wait().unwrap().success());
    }

    /// Starts again on the same data, at other ports.
    pub(crate) fn start_again(&mut self) {
        let (process, ready) = spawn(self.dir.path(), &[]);
        assert_eq!(ready["admin_token"], Value::Null, "only the first start hands it over");
        (self.process, self.ready) = (process, ready);
    }

    /// Stops the control plane, brings keys of client `acme` in, and starts it again. There is no command for
    /// that yet.
    pub(crate) async fn import(&mut self, count: u32) {
        self.kill();
        let options = Options::new(self.dir.path().join("data"), "kw_live_".parse().unwrap());
        let (control, _) = Control::open(&options).await.unwrap();
        let item = |n: u32| {
            let digest = Digest::of(&n.to_be_bytes());
            ImportItem { digest, client: "acme".into(), scopes: Vec::new(), expires_at: None }
        };
        let context = Context::system(clock::now());
        let items: Vec<_> = (0..count).map(item).collect();
        let items: Vec<_> = items.iter().enumerate().collect();
        control.store.import(&context, "production", &items, true, false).await.unwrap();
        control.store.close().await;
        drop(control);
        self.start_again();
    }

    /// A command that a test runs beside others.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = keywheel();
        command.env("KEYWHEEL_URL", self.ready["admin_url"].as_str().unwrap());
        command.env("KEYWHEEL_RING_URL", self.ready["ring_url"].as_str().unwrap());
        command.env("KEYWHEEL_TOKEN", &self.token).env("KEYWHEEL_RING_TOKEN", &self.token).args(args);
        command
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a successful command printed.
    #[track_caller]
    pub(crate) fn human(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let args = [args, &["--output", "json"]].concat();
        serde_json::from_str(&self.human(&args)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.log()).unwrap_or_default());
        }
    }
}

const ANY_PORT: [&str; 4] = ["--admin-listen", "127.0.0.1:0", "--ring-listen", "127.0.0.1:0"];

fn spawn(dir: &Path, options: &[&str]) -> (Child, Value) {
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut process = keywheel()
        .args(["serve", "--output", "json"])
        .args(if options.contains(&"--ring-listen") { &[][..] } else { &ANY_PORT })
        .args(options)
        .arg("--data")
        .arg(dir.join("data"))
        .env("KEYWHEEL_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line)
        .unwrap_or_else(|_| panic!("{line:?}: {}", fs::read_to_string(dir.join("log")).unwrap_or_default()));
    assert_eq!(ready["event"], "ready");
    (process, ready)
}
