//! Where the programs are, as `cargo xtask` says.

use std::path::PathBuf;

use anyhow::Context as _;

/// What to start.
#[derive(Debug, Clone)]
pub struct Paths {
    pub envoy: PathBuf,
    /// The control plane.
    pub keywheel: PathBuf,
    /// The filter.
    pub wasm: PathBuf,
}

impl Paths {
    /// Reads `ENVOY_BIN`, `KEYWHEEL_BIN` and `KEYWHEEL_WASM`.
    ///
    /// # Errors
    ///
    /// One of them is not set, or names no file.
    pub fn from_env() -> anyhow::Result<Self> {
        Ok(Self {
            envoy: named("ENVOY_BIN")?,
            keywheel: named("KEYWHEEL_BIN")?,
            wasm: named("KEYWHEEL_WASM")?,
        })
    }
}

/// The directory of PostgreSQL's programs, from `POSTGRES_BIN`.
///
/// # Errors
///
/// It is not set, or names no directory with a server in it.
pub fn postgres() -> anyhow::Result<PathBuf> {
    let advice = "run `cargo xtask test --only postgres`, which looks for them and sets it";
    let dir = std::env::var_os("POSTGRES_BIN");
    let dir = PathBuf::from(dir.with_context(|| format!("POSTGRES_BIN is not set: {advice}"))?);
    anyhow::ensure!(dir.join("initdb").is_file(), "there is no initdb in {}: {advice}", dir.display());
    Ok(dir)
}

fn named(variable: &str) -> anyhow::Result<PathBuf> {
    let advice = "run `cargo xtask test` or `cargo xtask demo`, which build what is needed and set it";
    let path = std::env::var_os(variable).with_context(|| format!("{variable} is not set: {advice}"))?;
    let path = PathBuf::from(path);
    anyhow::ensure!(path.is_file(), "{variable} names {}, which is no file: {advice}", path.display());
    Ok(path)
}
