//! What each thing that ships is built of, as lists in the format of CycloneDX.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::run::{cargo_program, command, copy_sources, read, root, target};
use crate::setup;

/// A thing that ships.
struct Thing {
    /// Of its list.
    name: &'static str,
    /// Its package's directory.
    dir: &'static str,
    /// `None` for the machine that it is built on.
    target: Option<&'static str>,
}

const THINGS: [Thing; 3] = [
    Thing { name: "keywheel", dir: "crates/cli", target: None },
    Thing { name: "keywheel-demo", dir: "crates/demo", target: None },
    Thing { name: "filter", dir: "", target: Some("wasm32-wasip1") },
];

/// Writes `NAME.cdx.json` for each.
pub(crate) fn write(out: &Path) -> anyhow::Result<()> {
    let program = setup::for_sbom()?;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    // It writes beside each manifest that it reads, so it reads a copy.
    let copy = target().join(format!("sbom-{}", std::process::id()));
    let written = write_from(&program, &copy, out);
    let _ = fs::remove_dir_all(&copy);
    written
}

fn write_from(program: &Path, copy: &Path, out: &Path) -> anyhow::Result<()> {
    copy_sources(root(), copy)?;
    let host = host()?;
    for thing in &THINGS {
        read(
            command(program)
                .current_dir(copy)
                .env("CARGO", cargo_program())
                // The same sources, the same list: no time, and no number at random.
                .env("SOURCE_DATE_EPOCH", "0")
                .args(["cyclonedx", "--format", "json", "--spec-version", "1.5", "--all"])
                .args(["--no-build-deps", "--target", thing.target.unwrap_or(&host)])
                .args(["--override-filename", "sbom", "--manifest-path"])
                .arg(copy.join(thing.dir).join("Cargo.toml")),
        )?;
        let list = out.join(format!("{}.cdx.json", thing.name));
        let made = copy.join(thing.dir).join("sbom.json");
        let text = fs::read_to_string(&made).with_context(|| format!("cannot read {}", made.display()))?;
        // Our own packages are named by where they are.
        let text = text.replace(&copy.display().to_string(), "/keywheel");
        fs::write(&list, text).with_context(|| format!("cannot write {}", list.display()))?;
    }
    Ok(())
}

fn host() -> anyhow::Result<String> {
    let about = read(command("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` names no host")
}
