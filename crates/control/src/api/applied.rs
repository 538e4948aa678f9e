//! `?wait=applied` on a change: its answer is held back until every proxy enforces what it changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;
use keywheel_api::time::timestamp;
use keywheel_api::{Applied, Follows, Problem};
use keywheel_keyring::Millis;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::auth::Caller;
use super::error::ApiError;
use crate::canary::{Verdict, judge};
use crate::ring::Publisher;
use crate::store::{CanaryRule, Committed, Waiting};
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
    let (head, body) = response.into_parts();
    let internal = |error: &dyn std::fmt::Display| ApiError::Internal(error.to_string());
    let body = to_bytes(body, MAX_ANSWER).await.map_err(|error| internal(&error))?;
    let mut answer: Value = serde_json::from_slice(&body).map_err(|error| internal(&error))?;
    let mut applied = proof(&control, &caller, &committed, &answer, start, limit).await?;
    if caller.is_holder() {
        // Who holds a key may know when it is accepted everywhere, and not what the proxies are called.
        applied.rings.clear();
        applied.follows.clear();
    }
    if let Value::Object(answer) = &mut answer {
        answer.insert("applied".into(), json!(applied));
    }
    let mut response = Response::from_parts(head, Body::from(answer.to_string()));
    response.headers_mut().remove(header::CONTENT_LENGTH);
    Ok(response)
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

/// Waits until nobody is left who could still say that they enforce it. What goes to a canary first follows in its main
/// ring, and is waited for there, too, unless that takes longer than whoever asks waits.
async fn proof(
    control: &Control,
    caller: &Caller,
    committed: &Committed,
    answer: &Value,
    start: Instant,
    limit: Duration,
) -> Result<Applied, ApiError> {
    let heads = committed.heads();
    let rings = control.rings().into_iter();
    let mut targets: Vec<Target> = if heads.is_empty() {
        // A repeated request changes nothing: what it asks for was committed before.
        let reached = rings.filter(|ring| caller.reaches(&ring.record.name));
        reached.map(|ring| Target::new(ring.clone(), ring.head())).collect()
    } else {
        let of = |ring: &Publisher| heads.get(&ring.record.id).map(|(head, _)| *head);
        rings.filter_map(|ring| Some(Target::new(ring.clone(), of(&ring)?))).collect()
    };
    // A repeated request names in its answer what it is about.
    let waits = if heads.is_empty() { versions_of(answer) } else { committed.waits() };
    let mut followers = Followers::of(control, &waits).await?;
    let since = last(&heads).unwrap_or(start);
    let until = Instant::now() + limit;
    let mut stopping = control.stopping();
    loop {
        for target in &mut targets {
            target.changes.borrow_and_update();
        }
        followers.look(control, &mut targets).await?;
        let now = clock::now();
        let rings: Vec<_> =
            targets.iter().map(|target| target.ring.proxies.proof(target.head, now)).collect();
        // All must get there, so it does not matter whose laggards are waited for first.
        let behind = rings.iter().position(|proof| !proof.laggards.is_empty());
        let follows = followers.shown();
        let applied = Applied {
            complete: follows.is_empty() && rings.iter().all(|proof| proof.enforced == proof.of),
            milliseconds: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            rings,
            follows,
        };
        let left = until.saturating_duration_since(Instant::now());
        let may_follow = followers.may_follow(now, left);
        if left.is_zero() || *stopping.borrow() || (behind.is_none() && !may_follow) {
            return Ok(applied);
        }
        let changed = async {
            match behind.and_then(|ring| targets.get_mut(ring)) {
                Some(target) => drop(target.changes.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = followers.changed(), if may_follow => {}
            () = sleep(LOOK_AGAIN.min(left)) => {}
            _ = stopping.wait_for(|stopping| *stopping) => continue,
        }
        sleep(TOGETHER).await;
    }
}

/// A ring, and what its proxies are to enforce of it.
struct Target {
    ring: Arc<Publisher>,
    head: u64,
    changes: watch::Receiver<u64>,
}

impl Target {
    fn new(ring: Arc<Publisher>, head: u64) -> Self {
        Self { changes: ring.proxies.watch(), ring, head }
    }
}

/// What waits in canaries, and is to come to their main rings.
struct Followers(Vec<Follower>);

struct Follower {
    main: Arc<Publisher>,
    canary: Arc<Publisher>,
    rule: CanaryRule,
    waiting: Waiting,
    head: watch::Receiver<u64>,
}

impl Followers {
    async fn of(control: &Control, versions: &[String]) -> Result<Self, ApiError> {
        let mut followers = Vec::new();
        for version in versions {
            let Some(waiting) = control.store.still_waiting(version).await? else { continue };
            let main = control.rings().into_iter().find(|ring| ring.record.id == waiting.ring);
            let Some(main) = main else { continue };
            let Some(canary) = control.canary_of(&main) else { continue };
            let Some(rule) = control.store.canary_rule(&canary.record).await? else { continue };
            followers.push(Follower { head: main.watch(), main, canary, rule, waiting });
        }
        Ok(Self(followers))
    }

    /// Those whose main ring has them by now are for the proxies of that one to enforce.
    async fn look(&mut self, control: &Control, targets: &mut Vec<Target>) -> Result<(), ApiError> {
        let mut still = Vec::with_capacity(self.0.len());
        for mut follower in self.0.drain(..) {
            follower.head.mark_unchanged();
            if let Some(waiting) = control.store.still_waiting(&follower.waiting.version).await? {
                still.push(Follower { waiting, ..follower });
                continue;
            }
            // Another replica may have brought it there.
            let head = control.store.look_at_head(follower.main.record.id).await?;
            follower.main.proxies.catch_up().await?;
            let of_it = |target: &&mut Target| target.ring.record.id == follower.main.record.id;
            match targets.iter_mut().find(of_it) {
                Some(target) => target.head = target.head.max(head),
                None => targets.push(Target::new(follower.main, head)),
            }
        }
        self.0 = still;
        Ok(())
    }

    fn shown(&self) -> Vec<Follows> {
        let shown = |follower: &Follower| Follows {
            ring: follower.main.record.name.clone(),
            canary: follower.canary.record.name.clone(),
            until: timestamp(follower.waiting.promote_at),
        };
        self.0.iter().map(shown).collect()
    }

    /// Whether one of them may come within that time.
    fn may_follow(&self, now: Millis, left: Duration) -> bool {
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        self.0.iter().any(|Follower { canary, rule, waiting, .. }| {
            let group = canary.proxies.group(waiting.canary_revision, now);
            match judge(rule.promote, waiting.promote_at, group, now) {
                Verdict::Promote(_) => true,
                Verdict::Wait(until) => until.saturating_since(now) <= left,
            }
        })
    }

    async fn changed(&mut self) {
        match self.0.first_mut() {
            Some(first) => drop(first.head.changed().await),
            None => std::future::pending().await,
        }
    }
}

/// The versions that a key or a rotation names.
fn versions_of(answer: &Value) -> Vec<String> {
    let all = answer["versions"].as_array().into_iter().flatten().map(|version| &version["id"]);
    all.chain([&answer["new_version"]]).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// When the last of them was committed.
fn last(heads: &BTreeMap<i64, (u64, Instant)>) -> Option<Instant> {
    heads.values().map(|(_, at)| *at).max()
}
