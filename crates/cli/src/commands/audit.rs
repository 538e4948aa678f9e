use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use keywheel_api::audit::{Head, Verified, Verifier};
use keywheel_api::{AuditRecord, Checkpoint, Checkpoints, List, Timestamp};
use keywheel_keyring::{Digest, PublicKey};
use serde::Serialize;

use super::key::segment;
use crate::args;
use crate::failure::Failure;
use crate::http::Api;
use crate::output::{Output, counted, print, table};

/// The most records of one page.
const PAGE: u32 = 500;

/// What `verify` found.
#[derive(Serialize)]
struct Report {
    records: u64,
    /// The hash of the last record.
    head: Digest,
    checkpoints: u64,
    /// The last record that a checkpoint covers.
    covered: u64,
}

pub(crate) async fn run(command: args::Audit, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    match command {
        args::Audit::List { after, limit, which } => {
            let records = take(api, &which, after, limit).await?;
            output.result(&records, |records| list(records))
        }
        args::Audit::Verify { checkpoint, trust } => {
            let verified = verify(api, &checkpoint, trust).await?;
            let Verified { head: Head { seq, hash }, checkpoints, covered } = verified;
            output.result(&Report { records: seq, head: hash, checkpoints, covered }, found)
        }
        args::Audit::Checkpoint => {
            let signed: Checkpoint = api.post("/v1/audit/checkpoints", &()).await?;
            print(&serde_json::to_string(&signed).map_err(std::io::Error::from)?)
        }
        args::Audit::Checkpoints => {
            let signed: Vec<Checkpoint> = api.list("/v1/audit/checkpoints", &[]).await?;
            let row = |checkpoint: &Checkpoint| {
                let Checkpoint { seq, at, signer, hash, .. } = checkpoint;
                [
                    seq.to_string(),
                    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
                    signer.clone(),
                    hash.to_string(),
                ]
            };
            output.result(&signed, |signed| {
                let head = ["UP TO RECORD", "SIGNED AT", "BY", "HASH"];
                table(head, &signed.iter().map(row).collect::<Vec<_>>())
            })
        }
    }
}

async fn take(
    api: &Api<'_>,
    which: &args::AuditFilter,
    after: u64,
    limit: Option<u64>,
) -> Result<Vec<AuditRecord>, Failure> {
    let since = which.since.map(|since| match since {
        args::Since::At(at) => at,
        args::Since::Ago(ago) => {
            let at = SystemTime::now().checked_sub(ago).and_then(|at| Timestamp::try_from(at).ok());
            at.unwrap_or_default()
        }
    });
    let filters = [
        ("since", since.map(|since| since.to_string())),
        ("actor", which.actor.clone()),
        ("action", which.action.clone()),
        ("resource", which.object.clone()),
    ];
    let filters: String =
        filters.into_iter().filter_map(|(name, text)| Some(format!("&{name}={}", segment(&text?)))).collect();
    let (mut records, mut after) = (Vec::new(), after.to_string());
    loop {
        let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(records.len() as u64));
        let page = u64::from(PAGE).min(left);
        if page == 0 {
            return Ok(records);
        }
        let page: List<AuditRecord> =
            api.get(&format!("/v1/audit?after={after}&limit={page}{filters}")).await?;
        records.extend(page.items);
        match page.next {
            Some(next) => after = next,
            None => return Ok(records),
        }
    }
}

/// Here and not on the server: whoever altered its database may have altered the server too.
async fn verify(api: &Api<'_>, files: &[PathBuf], trust: Vec<PublicKey>) -> Result<Verified, Failure> {
    let mut kept = files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    // Before the records: a checkpoint that is signed meanwhile may cover some that were not there yet.
    let shown: Checkpoints = api.get("/v1/audit/checkpoints?limit=1").await?;
    let stored: Vec<Checkpoint> = api.list("/v1/audit/checkpoints", &[]).await?;
    kept.extend(stored);
    let trust = if trust.is_empty() {
        shown.trust.iter().filter_map(|key| key.parse().ok()).collect()
    } else {
        trust
    };
    let mut verifier = Verifier::new(kept, &trust).map_err(Failure::Audit)?;
    let mut after = 0;
    loop {
        let page: List<AuditRecord> = api.get(&format!("/v1/audit?after={after}&limit={PAGE}")).await?;
        for record in &page.items {
            verifier.take(record).map_err(Failure::Audit)?;
            after = record.seq;
        }
        if page.next.is_none() {
            // The first start writes the first records.
            if after == 0 {
                return Err(Failure::EmptyTrail);
            }
            return verifier.finish().map_err(Failure::Audit);
        }
    }
}

fn read(path: &Path) -> Result<Checkpoint, Failure> {
    let failed = |cause: std::io::Error| Failure::CheckpointFile { path: path.to_owned(), cause };
    serde_json::from_slice(&fs::read(path).map_err(failed)?).map_err(|error| failed(error.into()))
}

fn list(records: &[AuditRecord]) -> String {
    if records.is_empty() {
        return "No records there.".into();
    }
    let row = |AuditRecord { seq, event, .. }: &AuditRecord| {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        [
            seq.to_string(),
            event.at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            event.actor.clone(),
            event.action.clone(),
            event.resource.clone(),
            or_dash(&event.client_address),
            or_dash(&event.request_id),
        ]
    };
    let head = ["RECORD", "TIME", "ACTOR", "ACTION", "RESOURCE", "ADDRESS", "REQUEST"];
    table(head, &records.iter().map(row).collect::<Vec<_>>())
}

fn found(report: &Report) -> String {
    let Report { records, head, checkpoints, covered } = report;
    let after = match records.saturating_sub(*covered) {
        0 => String::new(),
        some => format!(
            "\nNo checkpoint covers the newest {} yet: if some after that were dropped, or that was rewritten, it would \
             not show. `keywheel audit checkpoint` covers what there is.",
            counted(some, "record", "records")
        ),
    };
    format!(
        "The audit trail is whole: {}, {}, the last at record {covered}.\n\
         Head  {head}{after}",
        counted(*records, "record", "records"),
        counted(*checkpoints, "checkpoint", "checkpoints"),
    )
}
