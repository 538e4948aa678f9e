//! schemathesis, which asks an API what its OpenAPI document says that it takes, and what it says that it does not.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use super::{say, scratch, tools};
use crate::run::{command, read, root};
use crate::versions::schemathesis;

/// Every package that it needs, each at one version.
const PACKAGES: &str = "xtask/schemathesis.txt";

/// Where its packages are.
pub(crate) struct Schemathesis(PathBuf);

impl Schemathesis {
    pub(crate) fn command(&self) -> Command {
        let mut command = command("python3");
        command.env("PYTHONPATH", &self.0);
        command.args(["-c", "from schemathesis.cli import schemathesis; schemathesis()"]);
        command
    }
}

pub(crate) fn find_or_get() -> anyhow::Result<Schemathesis> {
    let version = schemathesis()?;
    let what = format!("schemathesis {version}");
    let dir = tools().join(format!("schemathesis-{version}"));
    if dir.is_dir() {
        say(&what, "found in .tools");
        return Ok(Schemathesis(dir));
    }
    let get = "on Debian `apt-get install python3 python3-pip` gets both";
    read(command("python3").args(["-m", "pip", "--version"]))
        .with_context(|| format!("no Python 3 with pip, which schemathesis needs; {get}"))?;
    say(&what, "downloading, about 30 MB");
    let scratch = scratch("schemathesis")?;
    let packages = scratch.0.join("packages");
    // Into a directory of its own and not an environment, which could not be renamed.
    read(
        command("python3")
            .args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--quiet", "--target"])
            .arg(&packages)
            .arg("--requirement")
            .arg(root().join(PACKAGES)),
    )
    .with_context(|| format!("{what} is missing, and pip cannot get what {PACKAGES} names"))?;
    read(Schemathesis(packages.clone()).command().arg("--version"))?;
    match std::fs::rename(&packages, &dir) {
        // Another setup was quicker.
        Err(_) if dir.is_dir() => {}
        result => result.with_context(|| format!("cannot make {}", dir.display()))?,
    }
    say(&what, "installed into .tools");
    Ok(Schemathesis(dir))
}
