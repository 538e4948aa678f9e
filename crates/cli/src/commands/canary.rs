//! What is new waits in a ring's canary: how that is told.

use keywheel_api::{Promote, Ring, Timestamp};

use super::key::{span, when};

/// When a version that waits comes to its ring: what was said of the rule, and the end of its pause.
pub(super) fn comes(promote: Option<Promote>, until: Timestamp) -> String {
    match promote {
        Some(Promote::WhenEnforced) => {
            format!("once every proxy of the canary enforces it, and at {} at the latest", when(until))
        }
        Some(Promote::AfterPause) => format!("at {}, and not before", when(until)),
        // A control plane that is older than this command line.
        None => format!("at {} at the latest", when(until)),
    }
}

/// When what is new comes to a ring.
pub(super) fn rule(promote: Promote, pause_seconds: u64) -> String {
    match promote {
        _ if pause_seconds == 0 => "at once".into(),
        Promote::WhenEnforced => {
            format!("once every proxy enforces it, and after {} at the latest", span(pause_seconds))
        }
        Promote::AfterPause => format!("after {}", span(pause_seconds)),
    }
}

/// Of a version that somebody has just made: where it waits, until when, and what whoever has it must know. Nothing
/// where it does not wait.
pub(super) fn waits(ring: &Ring, until: Option<Timestamp>) -> Option<String> {
    let (until, canary) = (until?, ring.has_canary.as_ref()?);
    let (name, promote) = (&ring.name, ring.follows.as_ref().map(|follows| follows.promote));
    Some(format!(
        "It waits in canary {canary}: the proxies of {name} get it {}.\n\
         Until then they refuse it as unknown_key, so hand it to nobody who reaches them.\n\
         Without waiting: keywheel ring promote {name}",
        comes(promote, until)
    ))
}
