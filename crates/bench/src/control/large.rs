//! A large ring: how it comes in, and what is asked of it then.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::time::Instant;

use anyhow::ensure;
use keywheel_keyring::Digest;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::http::Connection;
use keywheel_testkit::{ControlPlane, Paths};
use tokio::process::Command;

pub(super) const CLIENTS: u32 = 1_000;
const PAGES: u32 = 300;
const KEYS: usize = 300;

pub(super) struct Pages {
    pub(super) cut: Vec<f64>,
    pub(super) kept: Vec<f64>,
}

/// How many seconds `keywheel key import` takes.
pub(super) async fn import(paths: &Paths, control: &ControlPlane, keys: u32) -> anyhow::Result<f64> {
    let admin = control.admin()?;
    for client in 0..CLIENTS {
        admin.create_client(&format!("client-{client}")).await?;
    }
    let dir = tempfile::tempdir()?;
    let list = dir.path().join("keys.csv");
    let mut csv = BufWriter::new(File::create(&list)?);
    writeln!(csv, "digest,client,scopes")?;
    for number in 0..keys {
        let digest = Digest::of(&number.to_be_bytes());
        writeln!(csv, "{digest},client-{},market:read", number % CLIENTS)?;
    }
    csv.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    let mut import = Command::new(&paths.keywheel);
    import.args(["key", "import", "--ring", RING, "--output", "json", "--url"]).arg(control.url());
    import.arg("--token-file").arg(control.token_file()?).arg("--from").arg(&list);
    let start = Instant::now();
    let done = import.output().await?;
    let took = start.elapsed().as_secs_f64();
    ensure!(done.status.success(), "the import failed: {}", String::from_utf8_lossy(&done.stderr));
    Ok(took)
}

/// The milliseconds that pages take, each from a place of its own, and again when they were made before.
pub(super) async fn pages(control: &ControlPlane) -> anyhow::Result<Pages> {
    let mut connection = Connection::open(control.ring()).await?;
    let (mut cut, mut kept) = (Vec::new(), Vec::new());
    for number in 0..PAGES {
        let path = format!(
            "/v1/rings/{RING}/snapshot?after={}",
            Digest::of(&[&b"place"[..], &number.to_be_bytes()].concat())
        );
        for times in [&mut cut, &mut kept] {
            let start = Instant::now();
            let reply = connection.get(&path, &[]).await?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            ensure!(reply.status == 200, "a page was answered {}", reply.status);
        }
    }
    Ok(Pages { cut, kept })
}

/// The milliseconds that each of some new keys takes.
pub(super) async fn issues(control: &ControlPlane) -> anyhow::Result<Vec<f64>> {
    let admin = control.admin()?;
    let mut times = Vec::with_capacity(KEYS);
    for _ in 0..KEYS {
        let start = Instant::now();
        admin.create_key("client-1", &["market:read"]).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}
