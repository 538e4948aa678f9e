//! The compose files, run as README.md says: containers, health, the curl lines, and what no container may do.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`stand_ins`] | images to build on, where none can be pulled |
//! | [`project`] | a compose project: its commands, its containers, its end |
//! | [`confined`] | what a container may do |

mod confined;
mod project;
mod stand_ins;

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

use crate::reproducible::sha256;
use crate::run::{command, read, target};
use crate::setup::{self, Docker, NoDocker};
use project::Project;
use stand_ins::Bases;

/// Of the images that this builds, so that it replaces none that somebody uses.
const TAG: &str = "compose-test";

/// Runs everything, or says why it cannot: a machine without Docker is no failure.
pub(crate) fn test() -> anyhow::Result<()> {
    let start = Instant::now();
    let docker = match setup::for_docker() {
        Ok(docker) => docker,
        Err(NoDocker(why)) => {
            println!("compose-test: SKIPPED, nothing was run: {why}");
            return Ok(());
        }
    };
    let bases = bases(&docker)?;
    filter_image(&docker, &bases)?;
    if let Err(error) = container_runs(&docker, &bases) {
        // Whoever runs a daemon wants to know. One of our own, in a sandbox, may build and yet start nothing.
        if !docker.is_ours() {
            return Err(error);
        }
        println!("compose-test: SKIPPED after images were built: no container starts here: {error:#}");
        return Ok(());
    }
    one_control_plane(&docker, &bases)?;
    two_on_postgres(&docker, &bases)?;
    two_behind_a_relay(&docker, &bases)?;
    println!("compose-test: ok, in {} s", start.elapsed().as_secs());
    Ok(())
}

/// What images are built on: what the Dockerfile names, or else what stands in for it.
fn bases(docker: &Docker) -> anyhow::Result<Bases> {
    match stand_ins::pull(docker) {
        Ok(bases) => {
            println!("images: on those that docker/Dockerfile names; compiling in Docker takes some minutes");
            Ok(bases)
        }
        Err(error) => {
            let cause = format!("{error:#}");
            println!("images: none can be pulled ({})", cause.lines().last().unwrap_or_default().trim());
            let bases = stand_ins::make(docker)?;
            let names: Vec<_> = bases.0.iter().map(|(variable, _)| *variable).collect();
            println!(
                "images: STAND-INS for {}, made of this machine's files; programs of the dev profile. The stages of \
                 docker/Dockerfile behind them are the real ones",
                names.join(", ")
            );
            Ok(bases)
        }
    }
}

/// Istio and Envoy Gateway take the last layer's `plugin.wasm`.
fn filter_image(docker: &Docker, bases: &Bases) -> anyhow::Result<()> {
    let image = build(docker, bases, "filter")?;
    let layers =
        read(docker.command().args(["image", "inspect", "--format", "{{len .RootFS.Layers}}", &image]))?;
    ensure!(layers.trim() == "1", "{image} has {} layers, and loaders want one", layers.trim());
    let container = read(docker.command().args(["create", &image, "none"]))?;
    let dir = target().join(format!("filter-image-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let copied = (|| {
        for file in ["plugin.wasm", "filter.cdx.json", "LICENSE"] {
            read(docker.command().arg("cp").arg(format!("{}:/{file}", container.trim())).arg(&dir))?;
        }
        sha256(&dir.join("plugin.wasm"))
    })();
    read(docker.command().args(["rm", container.trim()]))?;
    fs::remove_dir_all(&dir)?;
    println!("{image}: one layer, plugin.wasm {}", copied?);
    Ok(())
}

/// The least that can be run.
fn container_runs(docker: &Docker, bases: &Bases) -> anyhow::Result<()> {
    let image = build(docker, bases, "keywheel")?;
    read(docker.command().args(["run", "--rm", "--network", "none", "--read-only", &image, "--version"]))?;
    Ok(())
}

/// Builds a target of docker/Dockerfile, as users do.
fn build(docker: &Docker, bases: &Bases, image: &str) -> anyhow::Result<String> {
    let tag = format!("keywheel-{image}:{TAG}");
    let mut build = docker.command();
    build.args(["build", "--quiet", "--file", "docker/Dockerfile", "--target", image, "--tag", &tag]);
    for (variable, value) in &bases.0 {
        build.arg("--build-arg").arg(format!("{variable}={value}"));
    }
    read(build.arg("."))?;
    Ok(tag)
}

/// The lines that README.md has for Docker, and what they do not say.
fn one_control_plane(docker: &Docker, bases: &Bases) -> anyhow::Result<()> {
    let project = Project::new(docker, "keywheel-compose-test", &["docker-compose.yml"], bases)?;
    project.up()?;
    project.healthy(&["keywheel", "upstream", "envoy"])?;
    project.started_in_order(&["keywheel", "configure", "envoy"])?;
    for service in ["keywheel", "configure", "upstream", "envoy"] {
        confined::check(docker, &project, service)?;
    }
    project.sizes(&["keywheel", "envoy", "upstream"])?;

    project.keywheel("keywheel", &["client", "create", "acme"])?;
    let made = project.json("keywheel", &["key", "create", "--client", "acme", "--scope", "market:read"])?;
    let (key, old) = (text(&made, "id")?, text(&made, "secret")?);
    project.answers(&old, 200).context("a key that was just issued")?;
    let rotated = project.json("keywheel", &["key", "rotate", &key, "--overlap", "30m"])?;
    let new = text(&rotated, "secret")?;
    project.answers(&old, 200).context("the old key, in the overlap")?;
    project.answers(&new, 200).context("the new key, in the overlap")?;

    project.imports("keywheel", 3_000)?;
    project.answers("brought-in-2999", 200).context("a key that was brought in")?;

    // State is in volumes, and Envoy needs nobody meanwhile.
    project.compose(&["stop", "keywheel"])?;
    project.answers(&new, 200).context("without a control plane")?;
    project.compose(&["start", "keywheel"])?;
    project.healthy(&["keywheel"])?;
    let shown = project.json("keywheel", &["key", "show", &key])?;
    ensure!(text(&shown, "id")? == key, "the key is gone after a restart");

    project.keywheel("keywheel", &["key", "revoke", &key, PROVEN])?;
    project.answers(&old, 401).context("the old key, revoked")?;
    project.answers(&new, 401).context("the new key, revoked")?;
    println!("docker-compose.yml: issued, rotated, stopped and started, revoked");

    let demo = ["run", "--rm", "-T", "demo"];
    project.compose(&demo).context("the demo")?;
    println!("docker-compose.yml: the demo passed");
    // A container that is removed and made again finds its state.
    project.compose(&["rm", "--force", "--stop", "keywheel"])?;
    project.up()?;
    project.healthy(&["keywheel"])?;
    project.json("keywheel", &["key", "show", &key]).context("after the container was made anew")?;
    project.down()
}

/// A proxy whose control plane was stopped a moment ago asks again within 15 seconds, and the name still has the address
/// of the one that is gone.
const PROVEN: &str = "--wait=60s";

/// What is changed through one replica is seen through the other, and either may stop.
fn two_on_postgres(docker: &Docker, bases: &Bases) -> anyhow::Result<()> {
    let files = ["docker-compose.yml", "docker/postgres.yml"];
    let project = Project::new(docker, "keywheel-compose-test-pg", &files, bases)?;
    project.up()?;
    project.healthy(&["postgres", "keywheel", "keywheel-2", "envoy"])?;
    project.started_in_order(&["postgres", "keywheel", "keywheel-2"])?;
    for service in ["postgres", "keywheel", "keywheel-2", "envoy"] {
        confined::check(docker, &project, service)?;
    }
    project.keywheel("keywheel", &["client", "create", "acme"])?;
    let made = project.json("keywheel", &["key", "create", "--client", "acme", PROVEN])?;
    let (key, secret) = (text(&made, "id")?, text(&made, "secret")?);
    let seen = project.json("keywheel-2", &["key", "show", &key])?;
    ensure!(text(&seen, "id")? == key, "the second replica does not see the key");
    project.answers(&secret, 200)?;
    project.compose(&["stop", "keywheel"])?;
    project.keywheel("keywheel-2", &["key", "revoke", &key, PROVEN])?;
    project.answers(&secret, 401).context("revoked through the second replica, the first stopped")?;
    project.compose(&["start", "keywheel"])?;
    project.healthy(&["keywheel"])?;
    let seen = project.json("keywheel", &["key", "show", &key])?.to_string();
    ensure!(seen.contains("\"revoked\""), "the first replica does not see the revocation: {seen}");
    println!("docker/postgres.yml: made through one, revoked through the other with the first stopped");
    project.down()
}

/// Envoys that reach the relay alone, and what it does for them while the control plane is away.
fn two_behind_a_relay(docker: &Docker, bases: &Bases) -> anyhow::Result<()> {
    let files = ["docker-compose.yml", "docker/relay.yml"];
    let project = Project::new(docker, "keywheel-compose-test-relay", &files, bases)?;
    project.up()?;
    project.healthy(&["keywheel", "relay", "envoy", "envoy-2"])?;
    project.started_in_order(&["keywheel", "trust", "relay", "envoy", "envoy-2"])?;
    for service in ["trust", "relay", "envoy-2"] {
        confined::check(docker, &project, service)?;
    }
    project.keywheel("keywheel", &["client", "create", "acme"])?;
    // Without an error it says that every proxy enforces it, so it knows of those behind the relay.
    let made = project.json("keywheel", &["key", "create", "--client", "acme", PROVEN])?;
    let (key, secret) = (text(&made, "id")?, text(&made, "secret")?);
    let proxies = project.json("keywheel", &["ring", "proxies"])?.to_string();
    for node in ["\"envoy-1\"", "\"envoy-2\"", "\"relay-1\""] {
        ensure!(proxies.contains(node), "the control plane does not know {node}: {proxies}");
    }
    let on_both =
        |status: u16| project.edges.iter().try_for_each(|edge| project.answers_at(*edge, &secret, status));
    on_both(200)?;
    project.compose(&["stop", "keywheel"])?;
    // It begins with nothing, and its ring is the relay's.
    project.compose(&["restart", "envoy-2"])?;
    project.healthy(&["envoy-2"])?;
    on_both(200).context("without a control plane, one Envoy started anew")?;
    project.compose(&["start", "keywheel"])?;
    project.healthy(&["keywheel"])?;
    project.keywheel("keywheel", &["key", "revoke", &key])?;
    on_both(401).context("revoked")?;
    println!(
        "docker/relay.yml: two Envoys, one started anew without a control plane, and a revocation through the relay"
    );
    project.down()
}

fn text(json: &serde_json::Value, field: &str) -> anyhow::Result<String> {
    let found = json.get(field).and_then(serde_json::Value::as_str);
    found.map(str::to_owned).with_context(|| format!("the command line printed no `{field}`"))
}

/// What curl says of a request with a key. The key comes by standard input: others can read a command line.
fn curl(url: &str, key: &str) -> anyhow::Result<u16> {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut curl = command("curl");
    curl.args(["--silent", "--max-time", "5", "--output", "/dev/null", "--write-out", "%{http_code}"]);
    let mut curl = curl
        .args(["--config", "-", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("no curl; on Debian `apt-get install curl` gets it")?;
    if let Some(mut input) = curl.stdin.take() {
        writeln!(input, "header = \"x-api-key: {key}\"")?;
    }
    let said = curl.wait_with_output()?;
    let code = String::from_utf8_lossy(&said.stdout).trim().parse();
    match code {
        Ok(code) => Ok(code),
        Err(_) => bail!("curl of {url} says nothing"),
    }
}
