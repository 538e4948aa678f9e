//! What ships, in one directory: the images are made of nothing else.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::build::{self, Profile};
use crate::reproducible::{rustc, sha256};
use crate::run::{command, read, root};
use crate::{sbom, setup};

/// Makes the directory anew:
///
/// | | |
/// |---|---|
/// | `bin/` | `keywheel` and `keywheel-demo` |
/// | `filter/` | `plugin.wasm`, as loaders of OCI images want it to be called, and what it is built of |
/// | `sbom/` | what the programs and the filter are built of |
/// | `volumes/` | empty directories with the rights that volumes take over |
/// | `SHA256SUMS` | the digest of the filter, and the compiler that it depends on |
pub(crate) fn make(out: &Path, profile: Profile) -> anyhow::Result<()> {
    setup::programs()?;
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    for dir in ["bin", "filter", "sbom", "volumes"] {
        let dir = out.join(dir);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let programs = ["keywheel", "keywheel-demo"];
    let built = build::programs(profile, &programs)?;
    for program in programs {
        let program = built.program(program);
        let to = out.join("bin").join(program.file_name().context("a program has a name")?);
        copy(&program, &to)?;
        // Symbols are most of it, and a report of a crash has addresses.
        read(command("strip").arg(&to)).context("on Debian `apt-get install binutils` gets strip")?;
    }
    let plugin = out.join("filter/plugin.wasm");
    copy(&built.filter, &plugin)?;
    sbom::write(&out.join("sbom"))?;
    copy(&out.join("sbom/filter.cdx.json"), &out.join("filter/filter.cdx.json"))?;
    let license = root().join("LICENSE");
    copy(&license, &out.join("filter/LICENSE"))?;
    copy(&license, &out.join("LICENSE"))?;
    for (volume, mode) in [("data", "700"), ("admin", "700"), ("config", "755")] {
        read(command("install").args(["-d", "-m", mode]).arg(out.join("volumes").join(volume)))?;
    }
    let sums = format!("# {}\n{}  filter/plugin.wasm\n", rustc()?, sha256(&plugin)?);
    fs::write(out.join("SHA256SUMS"), sums)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
