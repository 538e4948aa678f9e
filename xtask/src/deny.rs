//! Licences, sources and known vulnerabilities of what keywheel is built of.

use crate::run::{cargo_program, check, command, read};
use crate::setup;

/// Each has a lock file of its own.
const WORKSPACES: [&str; 2] = ["Cargo.toml", "fuzz/Cargo.toml"];

/// What deny.toml says of licences, bans and sources; and vulnerabilities, where the list of them can be fetched.
pub(crate) fn all() -> anyhow::Result<()> {
    let program = setup::for_deny()?;
    let deny = |workspace: &str| {
        let mut deny = command(&program);
        // It asks cargo for the packages, and finds the one that runs us.
        deny.env("CARGO", cargo_program());
        deny.args(["--config", "deny.toml", "--locked", "--manifest-path", workspace]);
        deny
    };
    for workspace in WORKSPACES {
        eprintln!("{workspace}:");
        check(deny(workspace).args(["check", "licenses", "bans", "sources"]))?;
    }
    if let Err(error) = read(deny("Cargo.toml").args(["fetch", "db"])) {
        // No failure: no change of ours can mend it, and whoever has no network still wants the rest.
        let cause = format!("{error:#}");
        let cause = cause.lines().last().unwrap_or_default();
        println!("advisories: NOT CHECKED, their database cannot be fetched: {cause}");
        return Ok(());
    }
    for workspace in WORKSPACES {
        check(deny(workspace).args(["check", "--disable-fetch", "advisories"]))?;
    }
    Ok(())
}
