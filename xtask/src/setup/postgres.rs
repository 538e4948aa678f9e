//! PostgreSQL, which the tests start themselves.

use std::path::PathBuf;

use anyhow::Context as _;

use super::say;

/// What the tests run.
const PROGRAMS: [&str; 4] = ["initdb", "postgres", "createdb", "pg_isready"];
/// Where distributions keep the programs that are not in the path, a directory for each version.
const PLACES: [&str; 2] = ["/usr/lib/postgresql", "/usr/local/lib/postgresql"];

/// The directory of a server's programs: `POSTGRES_BIN`, or what is in the path, or the newest of a
/// distribution's.
pub(crate) fn find() -> anyhow::Result<PathBuf> {
    let programs = match std::env::var_os("POSTGRES_BIN") {
        Some(dir) => dir.into(),
        None => search().context(
            "no PostgreSQL server; on Debian `apt-get install postgresql` gets one, or name the directory of its programs with POSTGRES_BIN",
        )?,
    };
    say("PostgreSQL", &format!("found in {}", programs.display()));
    Ok(programs)
}

fn search() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut installed: Vec<PathBuf> = PLACES
        .iter()
        .filter_map(|place| std::fs::read_dir(place).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    installed.sort();
    std::env::split_paths(&path)
        .chain(installed.into_iter().rev())
        .find(|dir| PROGRAMS.iter().all(|program| dir.join(program).is_file()))
}
