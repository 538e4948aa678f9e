//! `wasm-bindgen-test-runner`, at exactly the version of wasm-bindgen that Cargo.lock names.

use std::path::PathBuf;

use super::installed::{self, Program};
use crate::versions::wasm_bindgen;

pub(crate) fn find_or_get() -> anyhow::Result<PathBuf> {
    installed::find_or_get(&Program {
        package: "wasm-bindgen-cli",
        version: &wasm_bindgen()?,
        name: "wasm-bindgen-test-runner",
        dir: "wasm-bindgen",
        // Without --locked: the lock file that the crate ships names versions that do not build.
        options: &["--no-default-features"],
    })
}
