//! Programs that cargo builds and installs into `.tools`.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{say, scratch, tools};
use crate::run::{cargo, check};

/// A program of a package on crates.io.
pub(super) struct Program<'a> {
    pub(super) package: &'a str,
    pub(super) version: &'a str,
    pub(super) name: &'a str,
    /// The directory in `.tools`, before its version.
    pub(super) dir: &'a str,
    pub(super) options: &'a [&'a str],
}

/// Unoptimised: it runs for a second, and its optimised build takes minutes.
pub(super) fn find_or_get(program: &Program<'_>) -> anyhow::Result<PathBuf> {
    let Program { package, version, name, dir, options } = *program;
    let what = format!("{name} {version}");
    let dir = tools().join(format!("{dir}-{version}"));
    let binary = dir.join(name);
    if binary.is_file() {
        say(&what, "found in .tools");
        return Ok(binary);
    }
    say(&what, "building, a minute or two");
    let scratch = scratch(package)?;
    check(
        cargo()
            .args(["install", package, "--quiet", "--version", &format!("={version}"), "--debug"])
            .args(options)
            .args(["--bin", name, "--root"])
            .arg(scratch.0.join("root"))
            .arg("--target-dir")
            .arg(scratch.0.join("target"))
            .current_dir(&scratch.0),
    )
    .with_context(|| format!("{what} is missing"))?;
    std::fs::create_dir_all(&dir)?;
    std::fs::rename(scratch.0.join("root/bin").join(name), &binary)?;
    say(&what, "installed into .tools");
    Ok(binary)
}
