//! `wasm-bindgen-test-runner`, at exactly the version of wasm-bindgen that Cargo.lock names.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{say, scratch, tools};
use crate::run::{cargo, check};
use crate::versions::wasm_bindgen;

const NAME: &str = "wasm-bindgen-test-runner";

pub(crate) fn find_or_get() -> anyhow::Result<PathBuf> {
    let version = wasm_bindgen()?;
    let dir = tools().join(format!("wasm-bindgen-{version}"));
    let binary = dir.join(NAME);
    if binary.is_file() {
        say(&format!("{NAME} {version}"), "found in .tools");
        return Ok(binary);
    }
    say(&format!("{NAME} {version}"), "building, a minute or two");
    let scratch = scratch("wasm-bindgen")?;
    // Without --locked: the lock file that the crate ships names versions that do not build. The
    // runner alone, unoptimised: it runs for a second and its optimised build takes minutes.
    check(
        cargo()
            .args(["install", "wasm-bindgen-cli", "--quiet", "--version", &format!("={version}")])
            .args(["--debug", "--no-default-features", "--bin", NAME, "--root"])
            .arg(scratch.0.join("root"))
            .arg("--target-dir")
            .arg(scratch.0.join("target"))
            .current_dir(&scratch.0),
    )
    .with_context(|| format!("{NAME} {version} is missing"))?;
    std::fs::create_dir_all(&dir)?;
    std::fs::rename(scratch.0.join("root/bin").join(NAME), &binary)?;
    say(&format!("{NAME} {version}"), "installed into .tools");
    Ok(binary)
}
