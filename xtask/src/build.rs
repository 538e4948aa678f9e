//! The filter's wasm and the binaries.

use std::path::PathBuf;

use crate::run::{cargo, check, target};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// What the demo and the end-to-end tests start.
pub(crate) struct Binaries {
    pub(crate) keywheel: PathBuf,
    pub(crate) demo: PathBuf,
    pub(crate) filter: PathBuf,
}

/// Builds the control plane, the demo and the filter. The filter is always built as it ships.
pub(crate) fn binaries(profile: Profile) -> anyhow::Result<Binaries> {
    let (name, dir) = match profile {
        Profile::Dev => ("dev", "debug"),
        Profile::Release => ("release", "release"),
    };
    let filter = filter()?;
    check(cargo().args(["build", "--profile", name, "--package", "keywheel", "--package", "keywheel-demo"]))?;
    let binary = |name: &str| target().join(dir).join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    Ok(Binaries { keywheel: binary("keywheel"), demo: binary("keywheel-demo"), filter })
}

/// Builds the filter as it ships.
pub(crate) fn filter() -> anyhow::Result<PathBuf> {
    let target_args = ["--profile", "wasm", "--target", "wasm32-wasip1"];
    check(cargo().arg("build").args(target_args).args(["--package", "keywheel-filter", "--lib"]))?;
    Ok(target().join("wasm32-wasip1/wasm/keywheel_filter.wasm"))
}
