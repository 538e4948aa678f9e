//! Finding or getting what the other commands need.
//!
//! Each step says in one line what it found or did, changes nothing when all is there, and leaves no
//! half-done thing behind when it is interrupted: everything is made under a temporary name and
//! renamed last. What a step cannot get it names, with the command that would.

mod cyclonedx;
mod deny;
mod docker;
mod envoy;
mod installed;
mod postgres;
mod runner;
mod schemathesis;
mod wheel;

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::run::{check, command, read, root};
use crate::versions::{NODE_MINIMUM, Version, WASM_TARGETS};

pub(crate) use cyclonedx::find_or_get as for_sbom;
pub(crate) use deny::find_or_get as for_deny;
pub(crate) use docker::{Docker, NoDocker, find as for_docker};
pub(crate) use envoy::{Envoy, pinned as pinned_envoy};
pub(crate) use schemathesis::Schemathesis;

/// Everything that any command needs. Of Envoy the one that the demo runs on: what only the tests run
/// on is got by them.
pub(crate) fn everything() -> anyhow::Result<()> {
    for_demo()?;
    for_wasm_tests()?;
    Ok(())
}

/// What the demo needs: everything but the tools of the wasm tests.
pub(crate) fn for_demo() -> anyhow::Result<PathBuf> {
    programs()?;
    Ok(envoy::find_or_get()?.binary)
}

/// What programs and the filter are built with.
pub(crate) fn programs() -> anyhow::Result<()> {
    c_compiler()?;
    wasm_targets()
}

/// What the wasm tests need: `wasm-bindgen-test-runner`, and Node for it.
pub(crate) fn for_wasm_tests() -> anyhow::Result<PathBuf> {
    node()?;
    runner::find_or_get()
}

/// What the tests on PostgreSQL need: the directory of a server's programs.
pub(crate) fn for_postgres_tests() -> anyhow::Result<PathBuf> {
    postgres::find()
}

/// What asks the API what its documents say.
pub(crate) fn for_api_tests() -> anyhow::Result<Schemathesis> {
    schemathesis::find_or_get()
}

/// The Envoys of these versions, or the one that `ENVOY_BIN` names.
pub(crate) fn for_e2e(versions: &[Version]) -> anyhow::Result<Vec<Envoy>> {
    envoy::find_or_get_tested(versions)
}

/// The targets that the filter is built for.
pub(crate) fn wasm_targets() -> anyhow::Result<()> {
    let absent: Vec<&str> = WASM_TARGETS.into_iter().filter(|target| !has_target(target)).collect();
    if absent.is_empty() {
        say("wasm targets", "found");
        return Ok(());
    }
    let install = format!("rustup target add {}", absent.join(" "));
    check(command("rustup").args(["target", "add"]).args(&absent))
        .with_context(|| format!("the wasm targets are missing; `{install}` would add them"))?;
    say("wasm targets", &format!("added by `{install}`"));
    Ok(())
}

/// Asks rustc and not rustup, since a distribution's toolchain has no rustup.
fn has_target(target: &str) -> bool {
    let libraries = read(command("rustc").args(["--print", "target-libdir", "--target", target]));
    libraries.is_ok_and(|dir| std::path::Path::new(dir.trim()).is_dir())
}

/// SQLite is compiled from C.
fn c_compiler() -> anyhow::Result<()> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let version = read(command(&compiler).arg("--version")).with_context(
        || "no C compiler, which SQLite is built with; on Debian `apt-get install gcc libc6-dev` gets one",
    )?;
    say("C compiler", &format!("found {}", version.lines().next().unwrap_or(&compiler)));
    Ok(())
}

/// The wasm tests run under Node.
fn node() -> anyhow::Result<()> {
    let get = "on Debian `apt-get install nodejs` gets it";
    let said = read(command("node").arg("--version"))
        .with_context(|| format!("no Node, which the wasm tests run under; {get}"))?;
    match Version::find(&said) {
        Some(version) if version >= NODE_MINIMUM => {
            say("node", &format!("found {version}"));
            Ok(())
        }
        _ => bail!("node says it is {}, but {NODE_MINIMUM} is needed; {get}", said.trim()),
    }
}

/// Every program of a name that the path leads to, in its order.
fn on_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).filter(|path| path.is_file()).collect()
}

/// Where what setup gets is kept; git ignores it.
fn tools() -> PathBuf {
    root().join(".tools")
}

/// A new, empty directory beside the place that a step will rename it to.
fn scratch(name: &str) -> anyhow::Result<Scratch> {
    let dir = tools().join(format!(".{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(Scratch(dir))
}

/// Removed when a step is done with it, or fails.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What remains is only disk space, under a name that nothing looks for.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn say(what: &str, state: &str) {
    eprintln!("{what}: {state}");
}
