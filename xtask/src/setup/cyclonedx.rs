//! cargo-cyclonedx, which lists what a program is built of.

use std::path::PathBuf;

use super::installed::{self, Program};
use crate::versions::CARGO_CYCLONEDX;

pub(crate) fn find_or_get() -> anyhow::Result<PathBuf> {
    installed::find_or_get(&Program {
        package: "cargo-cyclonedx",
        version: CARGO_CYCLONEDX,
        name: "cargo-cyclonedx",
        dir: "cargo-cyclonedx",
        options: &["--locked"],
    })
}
