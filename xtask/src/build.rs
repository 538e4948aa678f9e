//! The filter's wasm and the binaries.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::run::{cargo, check, command, read, root, target};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    Place { root: root().into(), target: target(), cargo_home: cargo_home()? }.filter()
}

/// Where the filter is built. None of it shows in the module.
pub(crate) struct Place {
    /// The repository.
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) cargo_home: PathBuf,
}

impl Place {
    pub(crate) fn filter(&self) -> anyhow::Result<PathBuf> {
        // Where the sources of packages are is known once they are there.
        check(self.cargo().args(["fetch", "--locked", "--quiet", "--target", TARGET]))?;
        let flags = self.renamed()?.join(", ");
        check(
            self.cargo()
                // Beside the flags of .cargo/config.toml, and not in their place as RUSTFLAGS would be.
                .arg(format!("--config=target.{TARGET}.rustflags=[{flags}]"))
                .args(["build", "--locked", "--profile", "wasm", "--target", TARGET])
                .args(["--package", "keywheel-filter", "--lib"]),
        )?;
        Ok(self.target.join(TARGET).join("wasm/keywheel_filter.wasm"))
    }

    fn cargo(&self) -> Command {
        let mut cargo = cargo();
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        cargo.env("CARGO_HOME", &self.cargo_home);
        // What ships depends on nobody's environment.
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS"] {
            cargo.env_remove(name);
        }
        cargo
    }

    /// Has the compiler write the same names for sources wherever they are, as strings of TOML. Messages of
    /// panics hold them, and so the module would differ from machine to machine. Of several that fit the last counts.
    fn renamed(&self) -> anyhow::Result<Vec<String>> {
        let sysroot = read(command("rustc").current_dir(&self.root).args(["--print", "sysroot"]))?;
        let about = read(command("rustc").current_dir(&self.root).arg("-vV"))?;
        let commit = about.lines().find_map(|line| line.strip_prefix("commit-hash: "));
        // As they are called where the standard library's sources are not installed.
        let library = format!("/rustc/{}", commit.context("`rustc -vV` names no commit")?);
        let mut names = vec![
            (Path::new(sysroot.trim()).join("lib/rustlib/src/rust"), library),
            (self.root.clone(), "/keywheel".to_owned()),
            (self.target.clone(), "/keywheel/target".to_owned()),
        ];
        // One for each registry; a mirror's directory has another name than that of crates.io.
        let sources = self.cargo_home.join("registry/src");
        let registries =
            std::fs::read_dir(&sources).with_context(|| format!("cannot read {}", sources.display()))?;
        for registry in registries {
            names.push((registry?.path(), "/registry".to_owned()));
        }
        let flag = |(from, to): (PathBuf, String)| {
            format!("{:?}", format!("--remap-path-prefix={}={to}", from.display()))
        };
        Ok(names.into_iter().map(flag).collect())
    }
}

/// What Envoy loads.
const TARGET: &str = "wasm32-wasip1";

/// Where cargo keeps the sources of packages.
pub(crate) fn cargo_home() -> anyhow::Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(std::env::current_dir()?.join(home));
    }
    let home = std::env::home_dir().context("neither CARGO_HOME nor a home directory is set")?;
    Ok(home.join(".cargo"))
}
