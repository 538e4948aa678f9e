//! A large ring: how it comes in, and what is asked of it then.

use std::time::Instant;

use anyhow::ensure;
use keywheel_api::{Import, ImportItem};
use keywheel_keyring::Digest;
use keywheel_testkit::ControlPlane;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::http::Connection;

pub(super) const BATCH: usize = 5_000;
pub(super) const CLIENTS: u32 = 1_000;
const PAGES: u32 = 300;
const KEYS: usize = 300;

pub(super) struct Pages {
    pub(super) cut: Vec<f64>,
    pub(super) kept: Vec<f64>,
}

/// How many seconds it takes.
pub(super) async fn import(control: &ControlPlane, keys: u32) -> anyhow::Result<f64> {
    let admin = control.admin()?;
    for client in 0..CLIENTS {
        admin.create_client(&format!("client-{client}")).await?;
    }
    let numbers: Vec<u32> = (0..keys).collect();
    let mut took = 0.0;
    for numbers in numbers.chunks(BATCH) {
        let items = numbers.iter().map(|number| ImportItem {
            digest: Digest::of(&number.to_be_bytes()),
            client: format!("client-{}", number % CLIENTS),
            scopes: vec!["market:read".into()],
            expires_at: None,
        });
        let import = Import { items: items.collect(), ..Import::default() };
        let start = Instant::now();
        let done = admin.import(RING, &import).await?;
        took += start.elapsed().as_secs_f64();
        ensure!(done.imported == numbers.len() as u64, "{} items were refused", done.refused.len());
    }
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
