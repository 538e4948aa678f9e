//! Looks at a deployment from where the operator is, and says what is wrong with it and what to do.

mod envoy;
mod finding;
mod judge;

use std::time::{SystemTime, UNIX_EPOCH};

use keywheel_api::{Key, Ring, RingSigningKey, Timestamp};
use keywheel_keyring::{Document, PublicKey, signature};

use super::key::segment;
use crate::applied::OnChange;
use crate::args::{self, Connection};
use crate::failure::Failure;
use crate::http::Api;
use crate::output::Output;
use crate::source::{Ask, Source};
use finding::{Finding, Level};
use judge::{Envoy, Facts, RingListener};

pub(crate) async fn run(
    args: args::Doctor,
    connection: &Connection,
    applied: &OnChange,
    output: Output,
) -> Result<(), Failure> {
    let api = Api::new(connection, applied)?;
    let path = format!("/v1/rings/{}", segment(&args.ring));
    // Without it nothing else can be told, and the failure itself says what to do.
    let ring: Ring = api.get(&path).await?;
    let signing_keys: Vec<RingSigningKey> = api.list(&format!("{path}/signing-keys"), &[]).await?;
    let overdue: Vec<Key> = api.list("/v1/keys", &[("schedule", "overdue")]).await?;
    let not_ready = api.not_ready().await?;
    let listener = listener(&args.from, &ring, connection).await?;
    let mut envoys = Vec::with_capacity(args.envoy.len());
    for url in &args.envoy {
        envoys.push(Envoy { url: url.clone(), seen: envoy::look(url, connection).await? });
    }
    let overdue = overdue.into_iter().filter(|key| key.ring == ring.name).map(|key| key.id).collect();
    let canary = match &ring.has_canary {
        Some(canary) => match api.get::<Ring>(&format!("/v1/rings/{}", segment(canary))).await {
            Ok(canary) => Some(canary),
            // A token that is limited to the main ring.
            Err(Failure::Refused(_)) => None,
            Err(failure) => return Err(failure),
        },
        None => None,
    };
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    let facts = Facts { now, ring, canary, signing_keys, overdue, not_ready, listener, envoys };
    let findings = judge::judge(&facts);
    output.result(&findings, |findings| human(findings))?;
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    if problems == 0 { Ok(()) } else { Err(Failure::Unwell(problems)) }
}

/// What the ring listener hands out now.
async fn listener(
    from: &args::Listener,
    ring: &Ring,
    connection: &Connection,
) -> Result<RingListener, Failure> {
    let source = Source::new(from, &ring.name, connection)?;
    let signed = match source.take(&Ask::FirstPage).await {
        Ok(signed) => signed,
        Err(error) => {
            let failure = error.into_failure();
            let keeps_out = failure.exit_code() == 4;
            let said = failure.to_string();
            return Ok(if keeps_out { RingListener::KeepsOut(said) } else { RingListener::Failed(said) });
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let trusted: Vec<PublicKey> = ring.trust.iter().filter_map(|key| key.parse().ok()).collect();
    let (signer, sig) = (Some(signed.signer.as_bytes()), Some(signed.signature.as_bytes()));
    if let Err(error) = signature::verify(&trusted, &signed.body, signer, sig) {
        return Ok(RingListener::Failed(format!("its document does not verify: {error}")));
    }
    let document: Document = match serde_json::from_slice(&signed.body) {
        Ok(document) => document,
        Err(error) => return Ok(RingListener::Failed(format!("its document cannot be read: {error}"))),
    };
    let here = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    Ok(RingListener::Serves { ahead: document.issued_at.0 as i64 - here as i64 })
}

fn human(findings: &[Finding]) -> String {
    let mut text = String::new();
    for level in [Level::Problem, Level::Warning, Level::Good] {
        for finding in findings.iter().filter(|finding| finding.level == level) {
            let mark = match level {
                Level::Problem => "PROBLEM",
                Level::Warning => "warning",
                Level::Good => "ok",
            };
            text += &format!("{mark:8} {}: {}\n", finding.about, finding.what);
            if let Some(todo) = &finding.todo {
                text += &format!("         → {todo}\n");
            }
        }
    }
    text.trim_end().to_owned()
}
