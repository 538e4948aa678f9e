//! What is kept of a release, so that later versions are tested against it.

use crate::run::{cargo, check, root};
use crate::{build, setup};

/// Builds the filter and the control plane, has the one say what it says, and puts both into `tests/compat/VERSION`.
pub(crate) fn record() -> anyhow::Result<()> {
    // The e2e tests are told where an Envoy is, though this one starts none.
    let envoy = setup::for_demo()?;
    let built = build::programs(build::Profile::Dev, &["keywheel"])?;
    let to = root().join("tests/compat").join(env!("CARGO_PKG_VERSION"));
    let mut command = cargo();
    command.args(["test", "--package", "keywheel-filter", "--test", "e2e", "--"]);
    command.args(["--ignored", "--exact", "compat::record_a_release"]);
    command.env("KEYWHEEL_RECORD_TO", &to);
    built.tell(&mut command, &envoy);
    check(&mut command)?;
    println!("{}", to.display());
    Ok(())
}
