//! Images to build on, made of this machine's files where none can be pulled.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::build::Profile;
use crate::dist;
use crate::run::{command, read, target};
use crate::setup::{self, Docker};
use crate::versions::{ENVOY, image};

/// Images to build on, as variables that the compose files take; those that are not there are what the files name.
pub(super) struct Bases(pub(super) Vec<(&'static str, String)>);

/// What distroless/cc has of the C library and the compiler's; a program that needs more fails with it.
const IN_BASE: [&str; 8] = [
    "ld-linux",
    "libc.so",
    "libdl.so",
    "libgcc_s.so",
    "libm.so",
    "libpthread.so",
    "librt.so",
    "libstdc++.so",
];

/// What docker-entrypoint.sh of the official image does at the first start, as far as docker/postgres.yml asks for it.
const POSTGRES_ENTRYPOINT: &str = r#"#!/bin/sh
set -eu
if ! [ -s "$PGDATA/PG_VERSION" ]; then
    umask 077
    printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 \
        --encoding=UTF8 --locale=C >/dev/null
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single postgres >/dev/null
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
"#;

/// Pulls what docker/Dockerfile and docker/postgres.yml name. An error says which could not be.
pub(super) fn pull(docker: &Docker) -> anyhow::Result<Bases> {
    for variable in
        ["KEYWHEEL_BUILD_IMAGE", "KEYWHEEL_BASE_IMAGE", "KEYWHEEL_ENVOY_IMAGE", "KEYWHEEL_POSTGRES_IMAGE"]
    {
        let image =
            image(variable).with_context(|| format!("no file in docker/ has an image for {variable}"))?;
        read(docker.command().args(["pull", "--quiet", image]))?;
    }
    Ok(Bases(Vec::new()))
}

/// Makes them all. The programs in them are those of the `dev` profile, which tests have built already.
pub(super) fn make(docker: &Docker) -> anyhow::Result<Bases> {
    let dir = target().join("compose");
    let dist = dir.join("dist");
    dist::make(&dist, Profile::Dev)?;
    let envoy = setup::pinned_envoy(ENVOY)?.binary;
    let postgres = setup::for_postgres_tests()?;

    let base = Root::new(dir.join("base"))?;
    for program in [&dist.join("bin/keywheel"), &dist.join("bin/keywheel-demo"), &envoy] {
        for library in libraries(program)? {
            let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !IN_BASE.iter().any(|known| name.starts_with(known)) {
                bail!(
                    "{} needs {name}, which the image that docker/Dockerfile builds on does not have",
                    program.display()
                );
            }
            base.add(&library)?;
        }
    }
    base.write("etc/passwd", "root:x:0:0:root:/:/none\nnonroot:x:65532:65532:nonroot:/:/none\n")?;
    base.dir("tmp", "1777")?;
    // Not that anything here speaks TLS; but what looks for them at its start fails without.
    base.add(Path::new("/etc/ssl/certs/ca-certificates.crt"))
        .context("on Debian `apt-get install ca-certificates` gets it")?;

    let release = Root::new(dir.join("envoy"))?;
    release.copy(&envoy, "usr/local/bin/envoy")?;

    let database = Root::new(dir.join("postgres"))?;
    for program in ["postgres", "initdb", "pg_isready"] {
        database.add_program(&postgres.join(program))?;
    }
    for program in ["/bin/sh", "/bin/cat"] {
        database.add_program(Path::new(program))?;
    }
    // Where the programs were built to find them: modules and templates. The compiler at run time would bring LLVM.
    let place = |option| read(command(postgres.join("pg_config")).arg(option));
    for entry in fs::read_dir(place("--pkglibdir")?.trim())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".so") && !name.starts_with("llvmjit") {
            database.add_program(&path)?;
        }
    }
    for tree in [place("--sharedir")?.trim(), "/usr/share/zoneinfo"] {
        database.add_tree(Path::new(tree))?;
    }
    database.write("etc/passwd", "root:x:0:0:root:/:/none\npostgres:x:70:70:postgres:/:/none\n")?;
    database.write("entrypoint", POSTGRES_ENTRYPOINT)?;
    database.dir("tmp", "1777")?;
    database.dir("var/run/postgresql", "1777")?;
    database.dir("volumes/var/lib/postgresql/data", "700")?;
    let entrypoint = format!(
        "ENV PATH={}:/usr/bin:/bin PGDATA=/var/lib/postgresql/data\n\
         COPY --chown=70:70 volumes/ /\n\
         ENTRYPOINT [\"/bin/sh\", \"/entrypoint\"]\n",
        postgres.display()
    );

    let mut bases = Vec::new();
    let mut made = |variable, tree: &Path, rest: &str| -> anyhow::Result<()> {
        let name = format!("keywheel-stand-in-{}", tree.file_name().unwrap_or_default().to_string_lossy());
        let dockerfile = format!("FROM scratch\nCOPY . /\n{rest}");
        let recipe = tree.with_extension("Dockerfile");
        fs::write(&recipe, dockerfile)?;
        read(docker.command().args(["build", "--quiet", "--tag", &name, "--file"]).arg(&recipe).arg(tree))?;
        bases.push((variable, name));
        Ok(())
    };
    made("KEYWHEEL_DIST_IMAGE", &dist, "")?;
    made("KEYWHEEL_BASE_IMAGE", &base.0, "ENV PATH=/usr/local/bin:/usr/bin:/bin\nUSER 65532\n")?;
    made("KEYWHEEL_ENVOY_IMAGE", &release.0, "")?;
    made("KEYWHEEL_POSTGRES_IMAGE", &database.0, &entrypoint)?;
    Ok(Bases(bases))
}

/// The root of an image's file system, empty at first.
struct Root(PathBuf);

impl Root {
    fn new(dir: PathBuf) -> anyhow::Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// A file, where it is on this machine.
    fn add(&self, file: &Path) -> anyhow::Result<()> {
        self.copy(file, &file.strip_prefix("/").unwrap_or(file).to_string_lossy())
    }

    /// A program, with what it is linked to.
    fn add_program(&self, program: &Path) -> anyhow::Result<()> {
        for library in libraries(program)? {
            self.add(&library)?;
        }
        self.add(program)
    }

    fn add_tree(&self, tree: &Path) -> anyhow::Result<()> {
        let to = self.0.join(tree.strip_prefix("/").unwrap_or(tree));
        fs::create_dir_all(&to)?;
        // What links lead out of the tree is taken too.
        read(
            command("cp").args(["--recursive", "--dereference", "--no-target-directory"]).arg(tree).arg(&to),
        )?;
        Ok(())
    }

    fn copy(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        let to = self.0.join(to);
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    }

    fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        let path = self.0.join(path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn dir(&self, path: &str, mode: &str) -> anyhow::Result<()> {
        read(command("install").args(["-d", "-m", mode]).arg(self.0.join(path))).map(|_| ())
    }
}

/// What a program is linked to, and the loader.
fn libraries(program: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let said = read(command("ldd").arg(program))?;
    let paths = said.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).filter(|path| path.is_file()).collect())
}
