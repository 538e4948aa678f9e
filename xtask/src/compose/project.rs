//! A compose project: its commands, its containers, its end.

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::stand_ins::Bases;
use super::{TAG, curl};
use crate::run::{read, read_with, target};
use crate::setup::Docker;

/// Until all is healthy: what it takes on a slow machine, several times.
const HEALTHY: Duration = Duration::from_secs(120);
/// Until every worker of Envoy has seen a change that nobody waited for.
const SEEN: Duration = Duration::from_secs(10);

/// Ends with all its containers, volumes and networks.
pub(super) struct Project<'a> {
    docker: &'a Docker,
    name: &'static str,
    files: Vec<String>,
    /// What compose files take.
    variables: Vec<(&'static str, String)>,
    /// Where Envoys answer.
    pub(super) edges: [u16; 2],
}

impl<'a> Project<'a> {
    /// Nothing is started yet; what an earlier run left is removed.
    pub(super) fn new(
        docker: &'a Docker,
        name: &'static str,
        files: &[&str],
        bases: &Bases,
    ) -> anyhow::Result<Self> {
        // All are held until all are found, so that they differ.
        let free = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0"));
        let mut ports = Vec::new();
        for listener in &free {
            let listener = listener.as_ref().map_err(|error| anyhow::anyhow!("no port is free: {error}"))?;
            ports.push(listener.local_addr()?.port());
        }
        let [edge, edge_2, admin, admin_2] = ports[..] else { bail!("four ports were asked for") };
        let mut variables = bases.0.clone();
        variables.push(("KEYWHEEL_TAG", TAG.to_owned()));
        for (name, port) in [
            ("KEYWHEEL_EDGE_PORT", edge),
            ("KEYWHEEL_EDGE_PORT_2", edge_2),
            ("KEYWHEEL_ADMIN_PORT", admin),
            ("KEYWHEEL_ADMIN_PORT_2", admin_2),
        ] {
            variables.push((name, port.to_string()));
        }
        let files = files.iter().map(|file| (*file).to_owned()).collect();
        let project = Self { docker, name, files, variables, edges: [edge, edge_2] };
        project.down()?;
        Ok(project)
    }

    fn command(&self) -> Command {
        let mut compose = self.docker.compose();
        compose.envs(self.variables.iter().map(|(name, value)| (*name, value)));
        for file in &self.files {
            compose.args(["--file", file]);
        }
        compose.args(["--project-name", self.name]);
        compose
    }

    pub(super) fn compose(&self, args: &[&str]) -> anyhow::Result<String> {
        read(self.command().args(args))
    }

    pub(super) fn up(&self) -> anyhow::Result<()> {
        self.compose(&["up", "--build", "--detach"]).map(|_| ())
    }

    pub(super) fn down(&self) -> anyhow::Result<()> {
        self.compose(&["down", "--volumes", "--remove-orphans", "--timeout", "10"]).map(|_| ())
    }

    /// The command line in a service's container, as README.md has it.
    pub(super) fn keywheel(&self, service: &str, args: &[&str]) -> anyhow::Result<String> {
        self.compose(&[&["exec", "-T", service, "keywheel"], args].concat())
    }

    /// Brings a list of keys in. It is more than one transaction, in a container that may write to its volumes alone.
    pub(super) fn imports(&self, service: &str, keys: u32) -> anyhow::Result<()> {
        let list = target().join("compose-import.csv");
        let lines = (0..keys).map(|number| format!("imported,brought-in-{number}\n"));
        fs::write(&list, String::from("client,key\n") + &lines.collect::<String>())?;
        let import = ["key", "import", "--from", "-", "--format", "csv", "--create-clients"];
        let mut command = self.command();
        command.args(["exec", "-T", service, "keywheel"]).args(import);
        let said = read_with(&mut command, File::open(&list)?.into())?;
        ensure!(said.contains(&format!("Imported {keys} keys")), "an import said: {said}");
        Ok(())
    }

    pub(super) fn json(&self, service: &str, args: &[&str]) -> anyhow::Result<Value> {
        let said = self.keywheel(service, &[args, &["--output", "json"]].concat())?;
        serde_json::from_str(&said).context("the command line printed no JSON")
    }

    /// The id of a service's container, also of one that has ended.
    pub(super) fn container(&self, service: &str) -> anyhow::Result<String> {
        let ids = read(
            self.docker
                .command()
                .args(["ps", "--all", "--quiet", "--filter"])
                .arg(format!("label=com.docker.compose.project={}", self.name))
                .arg("--filter")
                .arg(format!("label=com.docker.compose.service={service}")),
        )?;
        ids.lines().next().map(str::to_owned).with_context(|| format!("{service} has no container"))
    }

    fn inspect(&self, service: &str, format: &str) -> anyhow::Result<String> {
        let id = self.container(service)?;
        let said = read(self.docker.command().args(["inspect", "--format", format, &id]))?;
        Ok(said.trim().to_owned())
    }

    pub(super) fn healthy(&self, services: &[&str]) -> anyhow::Result<()> {
        let start = Instant::now();
        for service in services {
            loop {
                let state = self.inspect(service, "{{.State.Health.Status}}")?;
                if state == "healthy" {
                    break;
                }
                if start.elapsed() > HEALTHY {
                    bail!("{service} is {state}\n{}", self.compose(&["logs", "--tail=30", service])?);
                }
                sleep(Duration::from_millis(200));
            }
        }
        println!("{}: healthy after {:.1} s", services.join(", "), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Docker writes times so that they sort as text.
    pub(super) fn started_in_order(&self, services: &[&str]) -> anyhow::Result<()> {
        let started = services.iter().map(|service| self.inspect(service, "{{.State.StartedAt}}"));
        let started = started.collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(started.is_sorted(), "{} did not start in this order: {started:?}", services.join(", "));
        Ok(())
    }

    pub(super) fn sizes(&self, services: &[&str]) -> anyhow::Result<()> {
        for service in services {
            let image = self.inspect(service, "{{.Config.Image}}")?;
            let size =
                read(self.docker.command().args(["image", "inspect", "--format", "{{.Size}}", &image]))?;
            let size: u64 = size.trim().parse().context("docker printed no size")?;
            println!("{image}: {} MB", size / 1_000_000);
        }
        Ok(())
    }

    /// Envoy gives this answer to a key, now or soon, and goes on with it: each request may be another worker's.
    pub(super) fn answers(&self, key: &str, status: u16) -> anyhow::Result<()> {
        self.answers_at(self.edges[0], key, status)
    }

    /// The Envoy behind a port does.
    pub(super) fn answers_at(&self, edge: u16, key: &str, status: u16) -> anyhow::Result<()> {
        let url = format!("http://127.0.0.1:{edge}/v1/ticker/BTC-USD");
        let start = Instant::now();
        loop {
            let said = curl(&url, key)?;
            if said == status {
                break;
            }
            if start.elapsed() > SEEN {
                bail!("Envoy answers {said}, not {status}");
            }
            sleep(Duration::from_millis(50));
        }
        for _ in 0..20 {
            let said = curl(&url, key)?;
            ensure!(said == status, "Envoy answers {said} after it had answered {status}");
        }
        Ok(())
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        // After a failure; otherwise all is gone already.
        let _ = self.down();
    }
}
