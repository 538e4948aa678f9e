//! `?wait=applied` on a change: its answer is held back until every proxy enforces what it changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;
use keywheel_api::{Applied, Problem};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::auth::Caller;
use super::error::ApiError;
use crate::ring::Publisher;
use crate::store::Committed;
use crate::{Control, clock};

pub(super) const DEFAULT_SECONDS: u64 = 10;
pub(super) const MAX_SECONDS: u64 = 60;
/// Proxies answer a change within milliseconds of each other: the proof is judged once for all who came meanwhile.
const TOGETHER: Duration = Duration::from_millis(2);
/// A proxy may fall silent without a word.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// No answer to a change is longer.
pub(super) const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Holds back the answer to a change that asks for it. The change itself happens as without it: who hangs up, or
/// gives up at the time limit, does not undo it.
pub(crate) async fn wait(
    State(control): State<Arc<Control>>,
    caller: Caller,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(limit) = limit(&request)? else { return Ok(next.run(request).await) };
    let committed = Committed::default();
    request.extensions_mut().insert(committed.clone());
    let start = Instant::now();
    let response = next.run(request).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    // Who asked another replica for the ring before this change is on disk by now, and must not be overlooked.
    for ring in control.rings() {
        ring.proxies.catch_up().await?;
    }
    let mut applied = proof(&control, &caller, &committed, start, limit).await;
    if caller.is_holder() {
        // Who holds a key may know when it is accepted everywhere, and not what the proxies are called.
        applied.rings.clear();
    }
    with(response, &applied).await
}

fn limit(request: &Request) -> Result<Option<Duration>, ApiError> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(None);
    }
    let (mut wait, mut seconds) = (None, DEFAULT_SECONDS);
    for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        match &*name {
            "wait" if value == "applied" => wait = Some(()),
            "wait" => return Err(Problem::field("wait", "`applied`, or left out").into()),
            "timeout" => {
                let rule = || Problem::field("timeout", "1 to 60 seconds");
                seconds = value.parse().map_err(|_| rule())?;
                if !(1..=MAX_SECONDS).contains(&seconds) {
                    return Err(rule().into());
                }
            }
            _ => {}
        }
    }
    Ok(wait.map(|()| Duration::from_secs(seconds)))
}

/// Waits until nobody is left who could still say that they enforce it.
async fn proof(
    control: &Control,
    caller: &Caller,
    committed: &Committed,
    start: Instant,
    limit: Duration,
) -> Applied {
    let heads = committed.heads();
    let rings = control.rings().into_iter();
    let targets: Vec<(Arc<Publisher>, u64)> = if heads.is_empty() {
        // A repeated request changes nothing: what it asks for was committed before.
        rings
            .filter(|ring| caller.reaches(&ring.record.name))
            .map(|ring| (ring.clone(), ring.head()))
            .collect()
    } else {
        let of = |ring: &Publisher| heads.get(&ring.record.id).map(|(head, _)| *head);
        rings.filter_map(|ring| Some((ring.clone(), of(&ring)?))).collect()
    };
    let since = last(&heads).unwrap_or(start);
    let judge = || {
        let now = clock::now();
        let rings: Vec<_> = targets.iter().map(|(ring, head)| ring.proxies.proof(*head, now)).collect();
        let complete = rings.iter().all(|proof| proof.enforced == proof.of);
        let milliseconds = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        Applied { complete, milliseconds, rings }
    };
    let mut changes: Vec<_> = targets.iter().map(|(ring, _)| ring.proxies.watch()).collect();
    let mut stopping = control.stopping();
    let waited = timeout(limit, async {
        loop {
            for changes in &mut changes {
                changes.borrow_and_update();
            }
            let applied = judge();
            // All must get there, so it does not matter whose laggards are waited for first.
            let behind = applied.rings.iter().position(|proof| !proof.laggards.is_empty());
            let Some(changes) = behind.and_then(|ring| changes.get_mut(ring)) else { return applied };
            let stopped = tokio::select! {
                _ = changes.changed() => false,
                () = sleep(LOOK_AGAIN) => false,
                _ = stopping.wait_for(|stopping| *stopping) => true,
            };
            if stopped {
                return judge();
            }
            sleep(TOGETHER).await;
        }
    });
    waited.await.unwrap_or_else(|_| judge())
}

/// When the last of them was committed.
fn last(heads: &BTreeMap<i64, (u64, Instant)>) -> Option<Instant> {
    heads.values().map(|(_, at)| *at).max()
}

/// The answer with `applied` in it.
async fn with(response: Response, applied: &Applied) -> Result<Response, ApiError> {
    let (mut head, body) = response.into_parts();
    let internal = |error: &dyn std::fmt::Display| ApiError::Internal(error.to_string());
    let body = to_bytes(body, MAX_ANSWER).await.map_err(|error| internal(&error))?;
    let mut answer: Value = serde_json::from_slice(&body).map_err(|error| internal(&error))?;
    if let Value::Object(answer) = &mut answer {
        answer.insert("applied".into(), json!(applied));
    }
    head.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(head, Body::from(answer.to_string())))
}
