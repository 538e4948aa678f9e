//! Two builds of the filter, and whether they are one file.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::build::{self, Place};
use crate::run::{command, copy_sources, read, root, target};

/// Builds the filter here, and once more from a copy of the sources under another path, with cargo's own directory
/// elsewhere too, and compares their digests.
pub(crate) fn check() -> anyhow::Result<()> {
    let here = build::filter()?;
    let dir = target().join("reproducible");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    let elsewhere = Place {
        // Of another length, should something be padded.
        root: dir.join("a-copy-of-the-sources-elsewhere"),
        target: dir.join("built"),
        cargo_home: dir.join("cargo"),
    };
    copy_sources(root(), &elsewhere.root)?;
    another_cargo_home(&build::cargo_home()?, &elsewhere.cargo_home)?;
    let there = elsewhere.filter()?;
    let (first, second) = (sha256(&here)?, sha256(&there)?);
    println!("{first}  {}", here.display());
    println!("{second}  {}", there.display());
    if first != second {
        bail!("the two builds differ: something of where they were made is in the module (both are kept)");
    }
    println!("reproducible: one digest, {}", rustc()?);
    Ok(fs::remove_dir_all(&dir)?)
}

/// What the digest of a build depends on besides the sources.
pub(crate) fn rustc() -> anyhow::Result<String> {
    Ok(read(command("rustc").arg("--version"))?.trim().to_owned())
}

/// In hexadecimal.
pub(crate) fn sha256(path: &Path) -> anyhow::Result<String> {
    let said = read(command("sha256sum").arg("--binary").arg(path))?;
    said.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}

/// Another directory of cargo's, which unpacks the sources of packages anew; what is downloaded it shares.
#[cfg(unix)]
fn another_cargo_home(from: &Path, to: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::symlink;
    fs::create_dir_all(to.join("registry"))?;
    for shared in ["registry/index", "registry/cache", "config.toml", "config"] {
        if from.join(shared).exists() {
            symlink(from.join(shared), to.join(shared))?;
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn another_cargo_home(_from: &Path, to: &Path) -> anyhow::Result<()> {
    Ok(fs::create_dir_all(to)?)
}
