//! What was proved.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use keywheel_testkit::Sample;

use crate::screen::{Paint, Screen};

/// A revoked key is refused everywhere before this. The first release's bar; `cargo xtask bench` will
/// judge tighter ones, on a machine that does nothing else.
const REVOKE_BAR: Duration = Duration::from_millis(250);
/// The old version's end may be late by this: clocks of two machines, and a probe under way.
const END_BAR: Duration = Duration::from_secs(2);

pub(crate) struct Verdict {
    pub(crate) rotation: Rotation,
    pub(crate) revocation: Revocation,
}

pub(crate) struct Rotation {
    /// All requests of the client, from before the rotation until after it.
    pub(crate) traffic: Vec<Sample>,
    pub(crate) old_in_overlap: Vec<Sample>,
    pub(crate) new_in_overlap: Vec<Sample>,
    /// How long after the end of the overlap a request with the old version was first seen refused.
    pub(crate) refused_after: Duration,
    pub(crate) refusal: String,
}

pub(crate) struct Revocation {
    /// When the call to revoke began.
    pub(crate) start: Instant,
    /// How long the control plane took to answer it.
    pub(crate) answered: Duration,
    /// How many connections each worker served.
    pub(crate) connections: Vec<u64>,
    /// All requests that ended after `start`.
    pub(crate) traffic: Vec<Sample>,
    pub(crate) refusal: String,
}

struct Claim {
    holds: bool,
    what: &'static str,
    found: String,
}

impl Verdict {
    pub(crate) fn print(&self, screen: &mut Screen) {
        screen.line("");
        for Claim { holds, what, found } in self.claims() {
            let mark = if holds { screen.paint(Paint::Good, "✓") } else { screen.paint(Paint::Bad, "✗") };
            screen.line(&format!("{mark} {what:<51} {found}"));
        }
        let answered = self.revocation.answered.as_millis();
        let note = format!("  The control plane answered the revocation after {answered} ms, on disk.");
        screen.line(&screen.paint(Paint::Faint, &note));
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.claims().iter().all(|claim| claim.holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn claims(&self) -> [Claim; 6] {
        let Self { rotation, revocation } = self;
        let failed = failed(&rotation.traffic);
        let (old, new) = (&rotation.old_in_overlap, &rotation.new_in_overlap);
        let (last, after) = revocation.last_served();
        let workers = &revocation.connections;
        [
            Claim {
                what: "failed requests during the rotation",
                holds: failed == 0 && !rotation.traffic.is_empty(),
                found: format!("{failed} of {}", rotation.traffic.len()),
            },
            Claim {
                what: "old and new both accepted inside the overlap",
                holds: self::failed(old) + self::failed(new) == 0 && !old.is_empty() && !new.is_empty(),
                found: format!(
                    "{} of {} and {} of {} probes served",
                    old.len() - self::failed(old),
                    old.len(),
                    new.len() - self::failed(new),
                    new.len()
                ),
            },
            Claim {
                what: "old refused after the overlap",
                holds: rotation.refused_after <= END_BAR && is_end(&rotation.refusal),
                found: format!(
                    "{}, {} ms after its end",
                    rotation.refusal,
                    rotation.refused_after.as_millis()
                ),
            },
            Claim {
                what: "every worker had traffic when the key was revoked",
                holds: !workers.is_empty() && workers.iter().all(|connections| *connections > 0),
                found: format!("{workers:?} connections"),
            },
            Claim {
                what: "from the call to revoke to the last served request",
                holds: last.is_none_or(|last| last < REVOKE_BAR),
                found: format!(
                    "{} ms (bar: {} ms; a request every {:.1} ms)",
                    last.map_or(0, |last| last.as_millis()),
                    REVOKE_BAR.as_millis(),
                    revocation.resolution().as_secs_f64() * 1000.0
                ),
            },
            Claim {
                what: "refused ever after",
                holds: after > 0 && revocation.refusal == "401 key_revoked",
                found: format!("{}, {after} requests", revocation.refusal),
            },
        ]
    }
}

impl Revocation {
    /// How finely the traffic samples what the proxy does.
    fn resolution(&self) -> Duration {
        let last = self.traffic.iter().map(|sample| sample.done).max().unwrap_or(self.start);
        (last - self.start) / u32::try_from(self.traffic.len().max(1)).unwrap_or(u32::MAX)
    }

    /// When the last request was served, after the call to revoke began; and how many were refused
    /// after that.
    fn last_served(&self) -> (Option<Duration>, usize) {
        let served = self.traffic.iter().filter(|sample| sample.served());
        let last = served.map(|sample| sample.done).max();
        let from = last.unwrap_or(self.start);
        let refused = |sample: &&Sample| sample.status == Some(401) && sample.done > from;
        (last.map(|last| last - self.start), self.traffic.iter().filter(refused).count())
    }
}

fn failed(samples: &[Sample]) -> usize {
    samples.iter().filter(|sample| !sample.served()).count()
}

/// Until the control plane's word arrives, the proxy's own clock ends a version.
fn is_end(refusal: &str) -> bool {
    matches!(refusal, "401 key_expired" | "401 key_retired")
}
