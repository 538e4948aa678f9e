//! Format and lints.

use crate::run::{cargo, check};
use crate::setup;

/// Formatting, then clippy for each of the three targets that the filter is built for. Warnings are
/// errors.
pub(crate) fn all() -> anyhow::Result<()> {
    setup::wasm_targets()?;
    check(cargo().args(["fmt", "--all", "--check"]))?;
    let clippy = |args: &[&str]| check(cargo().arg("clippy").args(args).args(["--", "-D", "warnings"]));
    clippy(&["--workspace", "--all-targets"])?;
    // Not among all targets, since a plain `cargo test` must not run it: it needs an Envoy.
    clippy(&["--package", "keywheel-filter", "--test", "e2e"])?;
    clippy(&["--package", "keywheel-filter", "--lib", "--target", "wasm32-wasip1"])?;
    clippy(&["--package", "keywheel-filter", "--lib", "--tests", "--target", "wasm32-unknown-unknown"])?;
    Ok(())
}
