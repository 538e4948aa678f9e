//! What changes are asked with: `--wait`, and who enforces them then, and `--if-match`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keywheel_api::{Applied, Follows, Proof, ProxyName};
use serde_json::{Value, json};

use crate::commands::key::when;
use crate::failure::Failure;
use crate::output::Output;

/// The longest that the control plane holds an answer back.
const MOST: Duration = Duration::from_secs(60);

/// Whether changes wait, what they are made on condition of, and what came of it.
#[derive(Debug)]
pub(crate) struct OnChange {
    limit: Option<Duration>,
    if_match: Option<String>,
    applied: Mutex<Option<Applied>>,
}

impl OnChange {
    pub(crate) const fn new(limit: Option<Duration>, if_match: Option<String>) -> Self {
        Self { limit, if_match, applied: Mutex::new(None) }
    }

    /// Whether its answers say who enforces a change.
    pub(crate) const fn waits(&self) -> bool {
        self.limit.is_some()
    }

    /// The ETag that the thing must still have.
    pub(crate) fn if_match(&self) -> Option<&str> {
        self.if_match.as_deref()
    }

    /// What a change's path takes besides.
    pub(crate) fn query(&self) -> Vec<(&'static str, String)> {
        let Some(limit) = self.limit else { return Vec::new() };
        let seconds = limit.clamp(Duration::from_secs(1), MOST).as_secs();
        vec![("wait", "applied".into()), ("timeout", seconds.to_string())]
    }

    /// Takes from an answer what is not the resource's.
    pub(crate) fn take(&self, answer: &mut Value) {
        let applied = answer.as_object_mut().and_then(|answer| answer.remove("applied"));
        if let Some(applied) = applied.and_then(|applied| serde_json::from_value(applied).ok()) {
            *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Some(applied);
        }
    }

    /// Whether every proxy of every ring is known to enforce the change.
    pub(crate) fn is_enforced(&self) -> bool {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.as_ref().is_some_and(|applied| applied.complete)
    }

    /// Says on stderr who enforces the change.
    pub(crate) fn tell(&self, output: Output) -> Result<(), Failure> {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(applied) = &*applied else { return Ok(()) };
        match output {
            Output::Json => eprintln!("{}", json!({ "applied": applied })),
            Output::Human => eprintln!("{}", told(applied)),
        }
        if applied.complete { Ok(()) } else { Err(Failure::NotApplied) }
    }
}

fn told(applied: &Applied) -> String {
    let rings = applied.rings.iter().map(|proof| ring(proof, applied.milliseconds));
    let follows = applied.follows.iter().map(|Follows { ring, canary, until }| {
        format!("Ring {ring} follows its canary {canary}: {} at the latest.", when(*until))
    });
    rings.chain(follows).collect::<Vec<_>>().join("\n")
}

fn ring(proof: &Proof, milliseconds: u64) -> String {
    let Proof { ring, revision, enforced, of, laggards, unproven } = proof;
    let mut text = match of {
        0 => format!("Ring {ring}: no proxy follows it."),
        _ => format!(
            "Ring {ring}: {enforced} of {of} proxies enforce revision {revision}, {milliseconds} ms after it was committed."
        ),
    };
    let names = |names: &[ProxyName]| {
        let names: Vec<_> = names.iter().map(|name| format!("{} ({})", name.node, name.instance)).collect();
        names.join(", ")
    };
    if !laggards.is_empty() {
        text += &format!("\n  not yet:  {}", names(laggards));
    }
    if !unproven.is_empty() {
        text += &format!("\n  silent:   {}", names(unproven));
    }
    text
}
