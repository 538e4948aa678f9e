//! The filter's wasm and the binaries.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{cargo, check, target};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// Programs, and the filter as it ships.
pub(crate) struct Built {
    dir: PathBuf,
    pub(crate) filter: PathBuf,
}

/// Builds packages that are programs, and the filter.
pub(crate) fn programs(profile: Profile, packages: &[&str]) -> anyhow::Result<Built> {
    let (name, dir) = match profile {
        Profile::Dev => ("dev", "debug"),
        Profile::Release => ("release", "release"),
    };
    let filter = filter()?;
    let mut build = cargo();
    build.args(["build", "--profile", name]);
    for package in packages {
        build.args(["--package", package]);
    }
    check(&mut build)?;
    Ok(Built { dir: target().join(dir), filter })
}

impl Built {
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
    }

    /// Tells a program where the others are, in its environment.
    pub(crate) fn tell(&self, command: &mut Command, envoy: &Path) {
        command.env("ENVOY_BIN", envoy);
        command.env("KEYWHEEL_BIN", self.program("keywheel")).env("KEYWHEEL_WASM", &self.filter);
    }
}

/// Builds the filter as it ships.
pub(crate) fn filter() -> anyhow::Result<PathBuf> {
    let target_args = ["--profile", "wasm", "--target", "wasm32-wasip1"];
    check(cargo().arg("build").args(target_args).args(["--package", "keywheel-filter", "--lib"]))?;
    Ok(target().join("wasm32-wasip1/wasm/keywheel_filter.wasm"))
}
