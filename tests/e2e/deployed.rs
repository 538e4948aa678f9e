//! The control plane as a Deployment of `envoy/kubernetes/` starts it, and a relay as the StatefulSet does, with directories
//! and addresses of the test.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keywheel_manifests::{Object, read};
use keywheel_testkit::process::Process;
use keywheel_testkit::{port, until};
use serde_json::Value;
use tempfile::TempDir;

use crate::pki::Authority;
use crate::scene::paths;

/// What a pod has of a control plane, without the pod.
pub(crate) struct Deployed {
    pub(crate) ring: SocketAddr,
    admin: SocketAddr,
    token: String,
    authority: Authority,
    // Dropped before the directory.
    _process: Process,
    dir: TempDir,
}

/// What a pod has of a relay.
pub(crate) struct DeployedRelay {
    pub(crate) ring: SocketAddr,
    /// The pod's name.
    pub(crate) name: &'static str,
    process: Process,
    // After the process, which is dropped first.
    _dir: TempDir,
}

impl Deployed {
    /// With the arguments and the environment of the container, its secrets, and a ConfigMap.
    pub(crate) async fn start(deployment: &str, config_map: &str) -> Self {
        let deployment = read(deployment).unwrap().remove(0);
        let config_map = read(config_map).unwrap().remove(0);
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        secret(&dir.path().join("etc/tls"), &authority.server(), &authority.pem);
        secret(&dir.path().join("proxy"), &authority.client(), &authority.pem);
        fs::create_dir_all(dir.path().join("etc/master-key")).unwrap();
        fs::write(dir.path().join("etc/master-key/master.key"), "5a".repeat(32) + "\n").unwrap();
        let (admin, ring) = (port::free(), port::free());
        let here = |text: &str| {
            text.replace("/data", &dir.path().join("data").display().to_string())
                .replace("/etc/keywheel", &dir.path().join("etc").display().to_string())
                .replace("0.0.0.0:7070", &admin.to_string())
                .replace("0.0.0.0:7071", &ring.to_string())
        };
        let container = deployment.at("/spec/template/spec/containers/0");
        let mut command = Command::new(&paths().keywheel);
        command.args(container["args"].as_array().unwrap().iter().map(|arg| here(arg.as_str().unwrap())));
        command.args(["--output", "json"]);
        for variable in container["env"].as_array().unwrap() {
            // The database's URL is in a secret.
            if let Some(value) = variable["value"].as_str() {
                command.env(variable["name"].as_str().unwrap(), here(value));
            }
        }
        for (name, value) in config_map.at("/data").as_object().unwrap() {
            command.env(name, here(value.as_str().unwrap()));
        }
        let mut process = Process::spawn("keywheel", dir.path(), &mut command).unwrap();
        let token = until("the control plane serves", async || {
            assert!(process.ended().is_none(), "{}", process.tail());
            let said: Value = serde_json::from_str(process.stdout().lines().next()?).ok()?;
            Some(said["admin_token"].as_str().unwrap().to_owned())
        });
        let token = token.await.unwrap();
        Self { ring, admin, token, authority, _process: process, dir }
    }

    /// A certificate of the ring's authority for a proxy, as a secret is mounted: `tls.crt`, `tls.key`, `ca.crt`.
    pub(crate) fn proxy(&self) -> PathBuf {
        self.dir.path().join("proxy")
    }

    /// The command line, as README.md has it, and what it printed.
    pub(crate) async fn keywheel(&self, args: &[&str]) -> Value {
        let output = self.run(args).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "keywheel {}: {said}", args.join(" "));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// All that a command printed that fails.
    pub(crate) async fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(!output.status.success(), "keywheel {}", args.join(" "));
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }

    async fn run(&self, args: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(&paths().keywheel);
        command.args(args).args(["--output", "json"]).env("KEYWHEEL_TOKEN", &self.token);
        command.env("KEYWHEEL_URL", format!("https://localhost:{}", self.admin.port()));
        command.env("KEYWHEEL_CA", self.proxy().join("ca.crt"));
        command.output().await.unwrap()
    }

    pub(crate) async fn trust(&self) -> Vec<String> {
        let ring = self.keywheel(&["ring", "show"]).await;
        serde_json::from_value(ring["trust"].clone()).unwrap()
    }
}

impl DeployedRelay {
    /// With what its StatefulSet and its ConfigMap say, behind `control`, whose authority signs for both as in README.md.
    pub(crate) async fn start(control: &Deployed) -> Self {
        let stateful_set = object("kubernetes/relay/stateful-set.yaml", "StatefulSet");
        let config_map = object("kubernetes/relay/upstream.yaml", "ConfigMap");
        let dir = tempfile::tempdir().unwrap();
        let authority = &control.authority;
        secret(&dir.path().join("etc/tls"), &authority.server(), &authority.pem);
        secret(&dir.path().join("etc/upstream"), &authority.client(), &authority.pem);
        let (name, ring) = ("keywheel-relay-0", port::free());
        let here = |text: &str| {
            text.replace("/data", &dir.path().join("data").display().to_string())
                .replace("/etc/keywheel", &dir.path().join("etc").display().to_string())
                .replace("0.0.0.0:7071", &ring.to_string())
        };
        let container = stateful_set.at("/spec/template/spec/containers/0");
        let mut variables = Vec::new();
        for variable in container["env"].as_array().unwrap() {
            let value = match variable.pointer("/valueFrom/fieldRef/fieldPath") {
                Some(path) => {
                    assert_eq!(path, "metadata.name");
                    name.to_owned()
                }
                None => here(variable["value"].as_str().unwrap()),
            };
            variables.push((variable["name"].as_str().unwrap(), value));
        }
        let mut command = Command::new(&paths().keywheel);
        for arg in container["args"].as_array().unwrap() {
            // As Kubernetes puts variables into arguments.
            let put = |arg: String, (name, value): &(&str, String)| arg.replace(&format!("$({name})"), value);
            command.arg(variables.iter().fold(here(arg.as_str().unwrap()), put));
        }
        command.args(["--output", "json"]).envs(variables);
        for (name, value) in config_map.at("/data").as_object().unwrap() {
            let upstream = format!("https://localhost:{}", control.ring.port());
            let value = value.as_str().unwrap();
            let value = value.replace("https://keywheel.keywheel.svc.cluster.local:7071", &upstream);
            command.env(name, value.replace("REPLACE_WITH_TRUST_KEY", &control.trust().await[0]));
        }
        let mut process = Process::spawn("relay", dir.path(), &mut command).unwrap();
        let ready = until("the relay listens", async || {
            assert!(process.ended().is_none(), "{}", process.tail());
            serde_json::from_str::<Value>(process.stdout().lines().next()?).ok()
        });
        assert_eq!(ready.await.unwrap()["ring_url"], format!("https://{ring}"));
        Self { ring, name, process, _dir: dir }
    }

    pub(crate) fn log(&self) -> String {
        self.process.stderr()
    }
}

/// As Kubernetes mounts a secret with a certificate.
fn secret(dir: &Path, pair: &crate::pki::Pair, authority: &str) {
    fs::create_dir_all(dir).unwrap();
    for (name, text) in [("tls.crt", &*pair.cert), ("tls.key", &pair.key), ("ca.crt", authority)] {
        fs::write(dir.join(name), text).unwrap();
    }
}

/// The object of this kind in a file.
pub(crate) fn object(file: &str, kind: &str) -> Object {
    let found = read(file).unwrap().into_iter().find(|object| object.kind() == kind);
    found.unwrap_or_else(|| panic!("envoy/{file} has no {kind}"))
}
