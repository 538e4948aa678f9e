//! Records what a control plane says, for [`crate::release`].

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use hyper::Method;
use keywheel_api::{Import, ImportItem};
use keywheel_keyring::usage::{Batch, Report};
use keywheel_keyring::{Digest, Millis};

use crate::envoy_admin::RING;
use crate::release::{DOOMED, Exchange, LATER, MORE, RETIRING, REVOKED, Recording, SUCCESSOR, VALID};
use crate::{Connection, ControlPlane};

/// As long as a rotation may last: the recording is replayed for years, but within its own time.
const OVERLAP_SECONDS: u64 = 7_776_000;

/// Has a control plane of its own go through what a ring goes through, and keeps its answers.
///
/// # Errors
///
/// It does not answer as the protocol says.
pub async fn record(control: &ControlPlane, version: &str) -> anyhow::Result<Recording> {
    let admin = control.admin()?;
    admin.create_client("acme").await?;
    admin.bring("acme", "kv_compatvalid00000", VALID).await?;
    let rotated = admin.bring("acme", "kv_compatretiring00", RETIRING).await?;
    let doomed = admin.bring("acme", "kv_compatdoomed0000", DOOMED).await?;
    let revoked = admin.bring("acme", "kv_compatrevoked000", REVOKED).await?;
    admin.rotate_to(&rotated.id, "kv_compatsuccessor0", SUCCESSOR, OVERLAP_SECONDS).await?;
    admin.revoke(&revoked.id).await?;
    let items = (0..MORE).map(|number| ImportItem {
        digest: Digest::of(format!("compat-more-{number}").as_bytes()),
        client: "acme".into(),
        scopes: vec!["market:read".into()],
        expires_at: None,
    });
    admin.import(RING, &Import { items: items.collect(), dry_run: false, create_clients: false }).await?;

    let asking = Asking { ring: control.ring() };
    let pages = asking.pages().await?;
    let first: serde_json::Value = serde_json::from_str(&pages.first().context("a page")?.body)?;
    let epoch = first["epoch"].as_str().context("a page has an epoch")?;
    let before = first["revision"].as_u64().context("a page has a revision")?;
    let recorded_at = first["issued_at"].as_u64().context("a page has a time")?;

    let quiet = asking.get(&format!("changes?epoch={epoch}&since={before}&wait=1")).await?;
    admin.revoke(&doomed.id).await?;
    admin.bring("acme", "kv_compatlater00000", LATER).await?;
    let head = admin.ring(RING).await?.revision;
    let mut changes = Vec::new();
    let mut since = before;
    while since < head {
        let run = asking.get(&format!("changes?epoch={epoch}&since={since}&wait=1")).await?;
        let document: serde_json::Value = serde_json::from_str(&run.body)?;
        since = document["revision"].as_u64().context("a run has a revision")?;
        changes.push(run);
    }
    let after = asking.get(&format!("changes?epoch={epoch}&since={head}&wait=1")).await?;
    let other = "00000000-0000-7000-8000-000000000000";
    let gone = asking.get(&format!("changes?epoch={other}&since={before}&wait=0")).await?;
    let usage = asking.usage(Millis(recorded_at)).await?;
    Ok(Recording {
        version: version.into(),
        ring: RING.into(),
        trust: control.trust().to_vec(),
        recorded_at: Millis(recorded_at),
        pages,
        changes,
        heartbeats: vec![quiet, after],
        gone,
        usage,
    })
}

struct Asking {
    ring: SocketAddr,
}

impl Asking {
    async fn pages(&self) -> anyhow::Result<Vec<Exchange>> {
        let mut pages = Vec::new();
        let mut rest = "snapshot".to_owned();
        loop {
            let page = self.get(&rest).await?;
            let document: serde_json::Value = serde_json::from_str(&page.body)?;
            let through = document["through"].as_str().map(str::to_owned);
            pages.push(page);
            match through {
                Some(through) => rest = format!("snapshot?after={through}"),
                None => return Ok(pages),
            }
        }
    }

    async fn get(&self, rest: &str) -> anyhow::Result<Exchange> {
        self.ask(Method::GET, rest, String::new()).await
    }

    async fn usage(&self, now: Millis) -> anyhow::Result<Exchange> {
        let batch = Batch {
            node: "compat".into(),
            instance: "1".into(),
            vm: "1".into(),
            batch: 1,
            from: now,
            to: now,
            counts: Vec::new(),
        };
        let report = serde_json::to_string(&Report { batches: vec![batch] })?;
        self.ask(Method::POST, "usage", report).await
    }

    async fn ask(&self, method: Method, rest: &str, body: String) -> anyhow::Result<Exchange> {
        let path = format!("/v1/rings/{RING}/{rest}");
        let ask = format!("{method} {path}");
        let mut connection = Connection::open(self.ring).await?;
        let reply = connection.send(method, &path, &[("content-type", "application/json")], body).await?;
        let mut headers = BTreeMap::new();
        for (name, value) in &reply.headers {
            if name.as_str().starts_with("keywheel-") || name == "content-type" {
                headers.insert(name.to_string(), value.to_str()?.to_owned());
            }
        }
        let body = String::from_utf8(reply.body.to_vec())?;
        Ok(Exchange { ask, status: reply.status, headers, body })
    }
}
