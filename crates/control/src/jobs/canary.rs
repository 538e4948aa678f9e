//! Brings what is new in a canary to its main ring: when every proxy of the canary enforces it, or after the pause.

use std::sync::Arc;
use std::time::Duration;

use keywheel_keyring::Millis;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info};

use crate::canary::{Because, Verdict, judge};
use crate::clock;
use crate::ring::Publisher;
use crate::store::{CanaryRule, Context, Promotion, Store, StoreError, Waiting};

/// The longest sleep: a wall clock that jumps is noticed after this, and a proxy that fell silent.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
/// Proxies answer a change within milliseconds of each other: they are judged once for all who did meanwhile.
const TOGETHER: Duration = Duration::from_millis(20);

/// Runs until `shutdown`. What was missed while nothing ran is caught up first.
pub async fn run(store: Arc<Store>, ring: Arc<Publisher>, mut shutdown: watch::Receiver<bool>) {
    let (mut head, mut proxies) = (ring.watch(), ring.proxies.watch());
    loop {
        head.mark_unchanged();
        proxies.mark_unchanged();
        let now = clock::now();
        let (rest, waits) = match catch_up(&store, &ring, now).await {
            Ok(Some(next)) => (Duration::from_millis(next.saturating_since(now)).min(LOOK_AGAIN), true),
            Ok(None) => (LOOK_AGAIN, false),
            Err(error) => {
                error!(%error, "What waits in a canary could not be looked at; trying again");
                (RETRY, false)
            }
        };
        tokio::select! {
            () = sleep(rest) => {}
            changed = head.changed() => if changed.is_err() { return },
            changed = proxies.changed(), if waits => if changed.is_err() { return },
            _ = shutdown.wait_for(|stopping| *stopping) => return,
        }
        sleep(TOGETHER).await;
    }
}

/// Promotes what is to be promoted now. Returns until when the next one waits at the latest, if one does.
///
/// # Errors
///
/// [`StoreError`]; what was promoted before it stays so.
pub async fn catch_up(store: &Store, ring: &Publisher, now: Millis) -> Result<Option<Millis>, StoreError> {
    let Some(canary) = &ring.record.canary else { return Ok(None) };
    // Nothing is published, so no proxy can say anything of it.
    if ring.published().is_err() {
        return Ok(None);
    }
    let context = Context::system(now);
    loop {
        let waiting = store.waiting(canary.ring).await?;
        let Some(rule) = store.canary_rule(&ring.record).await?.filter(|_| !waiting.is_empty()) else {
            return Ok(None);
        };
        let (mut ready, mut next) = ripe(ring, rule, &waiting, now);
        if ready.iter().any(|(_, because)| *because == Because::Enforced) {
            // Who asked another replica for the ring is on disk, and must not be overlooked.
            ring.proxies.catch_up().await?;
            (ready, next) = ripe(ring, rule, &waiting, now);
        }
        if ready.is_empty() {
            return Ok(next);
        }
        let promoted = store.promote(&context, &ready).await?;
        for promotion in &promoted {
            log(promotion, &canary.name);
        }
        if promoted.is_empty() {
            // Another replica was faster, or what was judged changed meanwhile: the next look sees it.
            return Ok(Some(Millis(now.0.saturating_add(1))));
        }
    }
}

/// Those that go on now, each with why, and until when the first of the others waits.
fn ripe(
    ring: &Publisher,
    rule: CanaryRule,
    waiting: &[Waiting],
    now: Millis,
) -> (Vec<(Waiting, Because)>, Option<Millis>) {
    let (mut ready, mut next) = (Vec::new(), None::<Millis>);
    for waiting in waiting {
        let group = ring.proxies.group(waiting.canary_revision, now);
        match judge(rule.promote, waiting.promote_at, group, now) {
            Verdict::Promote(because) => ready.push((waiting.clone(), because)),
            Verdict::Wait(until) => next = Some(next.map_or(until, |next| next.min(until))),
        }
    }
    (ready, next)
}

fn log(promotion: &Promotion, ring: &str) {
    let Promotion { key, version, because, rotation } = promotion;
    let why = match because {
        Because::Enforced => "every proxy of its canary enforces it",
        Because::Pause => "the pause of its canary is over",
        Because::Asked => "an operator asked for it",
    };
    info!(
        key.id = key,
        version.id = version,
        ring,
        "Version {version} of key {key} is in ring {ring}: {why}"
    );
    if let Some(rotation) = rotation {
        info!(
            rotation.id,
            key.id = key,
            "Rotation {} has begun: version {version} is active, {} is accepted until {}",
            rotation.id,
            rotation.old_version,
            rotation.overlap_ends_at,
        );
    }
}
