//! What may happen to a campaign, and what it does next. Pure: no clock and no store.
//!
//! ```text
//!            ┌──────────► paused ──┐
//! running ◄──┼─────────────────────┤  cancel: from each of them ──► cancelled
//!    │       └──────────► halted ──┘                                   │
//!    └──► completed                   roll back: from each of them ────┴──► rolling back ──► rolled back
//! ```

use keywheel_api::{CampaignState, HaltReason, StopConditions};
use keywheel_keyring::Millis;

/// How long a campaign that waits for somebody else is not looked at, in milliseconds.
pub const LOOK_AGAIN: u64 = 30_000;

/// What happens to a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Pause,
    Resume,
    Cancel,
    RollBack,
    /// It hit a stop condition.
    Halt,
    /// Nothing of it is left to do.
    Complete,
    /// Nothing is left to roll back.
    FinishRollBack,
}

/// An event that cannot happen to a campaign in this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is {}", .0.in_words())]
pub struct Refused(pub CampaignState);

/// The state after `event`. What an operator asks for twice happens once.
///
/// # Errors
///
/// [`Refused`].
pub const fn next(state: CampaignState, event: Event) -> Result<CampaignState, Refused> {
    use CampaignState::{Cancelled, Completed, Halted, Paused, RolledBack, RollingBack, Running};
    match (state, event) {
        (Running | Paused, Event::Pause) => Ok(Paused),
        (Running | Paused | Halted, Event::Resume) => Ok(Running),
        (Running | Paused | Halted | Cancelled, Event::Cancel) => Ok(Cancelled),
        (Running | Paused | Halted | Cancelled, Event::RollBack) => Ok(RollingBack),
        (RollingBack | RolledBack, Event::RollBack) => Ok(state),
        (Running, Event::Halt) => Ok(Halted),
        (Running, Event::Complete) => Ok(Completed),
        (RollingBack, Event::FinishRollBack) => Ok(RolledBack),
        _ => Err(Refused(state)),
    }
}

/// What of a campaign that runs its next step depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Situation<'a> {
    pub stop: &'a StopConditions,
    /// Rotations of its waves that were rolled back since it was last resumed.
    pub rolled_back: u64,
    pub phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Phase {
    /// A wave is being started; so many of its keys are left.
    Starting { left: u64 },
    /// No wave is.
    Between {
        /// When the next one may start.
        next_wave_at: Millis,
        /// Keys that are left.
        waiting: u64,
        /// Of these, keys that were revoked or have expired meanwhile,
        ended: u64,
        /// and keys that could be rotated now.
        ready: u64,
        /// Rotations that are open.
        rotating: u64,
        /// Of the requests with its keys since it was last resumed: those that were refused, and all.
        requests: (u64, u64),
        /// Proxies that do not enforce the last wave.
        behind: u64,
        /// Versions of its waves that a canary alone has.
        ahead: u64,
    },
}

/// What a campaign does next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    Halt(HaltReason),
    /// Starts rotations of the wave at hand.
    Rotate,
    /// Ends the wave at hand: each of its rotations is started.
    EndWave,
    /// Leaves keys out that have ended.
    SkipEnded,
    StartWave,
    Complete,
    Wait(Wait),
}

/// Until when, or for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Pause {
        until: Millis,
    },
    Proxies {
        behind: u64,
    },
    /// Versions that wait in a canary.
    Canary {
        versions: u64,
    },
    Deposits,
    Overlaps,
}

impl Situation<'_> {
    /// What to do at `now`. Whoever was late does one wave, and not those that it missed: the next one is counted
    /// from the end of the last.
    #[must_use]
    pub fn step(&self, now: Millis) -> Step {
        match self.phase {
            Phase::Starting { left: 0 } => Step::EndWave,
            Phase::Starting { .. } => self.too_many_rolled_back().map_or(Step::Rotate, Step::Halt),
            Phase::Between { ended, .. } if ended > 0 => Step::SkipEnded,
            Phase::Between { waiting: 0, rotating: 0, .. } => Step::Complete,
            Phase::Between { waiting: 0, .. } => Step::Wait(Wait::Overlaps),
            Phase::Between { next_wave_at, .. } if now < next_wave_at => {
                Step::Wait(Wait::Pause { until: next_wave_at })
            }
            Phase::Between { requests, behind, ahead, ready, .. } => {
                if let Some(reason) = self.too_many_rolled_back().or_else(|| self.too_many_refused(requests))
                {
                    Step::Halt(reason)
                } else if self.stop.wait_for_proxies && ahead > 0 {
                    Step::Wait(Wait::Canary { versions: ahead })
                } else if self.stop.wait_for_proxies && behind > 0 {
                    Step::Wait(Wait::Proxies { behind })
                } else if ready == 0 {
                    Step::Wait(Wait::Deposits)
                } else {
                    Step::StartWave
                }
            }
        }
    }

    fn too_many_rolled_back(&self) -> Option<HaltReason> {
        let (rotations, allowed) = (self.rolled_back, self.stop.max_rolled_back);
        (rotations > allowed).then_some(HaltReason::RolledBack { rotations, allowed })
    }

    fn too_many_refused(&self, (refused, requests): (u64, u64)) -> Option<HaltReason> {
        let allowed = self.stop.max_refused_share?;
        #[expect(clippy::cast_precision_loss, reason = "a share of that many needs no last digit")]
        let too_many = refused > 0 && refused as f64 > allowed * requests as f64;
        too_many.then_some(HaltReason::Refused { refused, requests, allowed })
    }
}

impl Wait {
    /// When to look again.
    #[must_use]
    pub const fn look_at(self, now: Millis) -> Millis {
        match self {
            Self::Pause { until } => until,
            // What these wait for tells nobody when it comes.
            Self::Proxies { .. } | Self::Canary { .. } | Self::Deposits | Self::Overlaps => {
                Millis(now.0.saturating_add(LOOK_AGAIN))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use CampaignState::{Cancelled, Completed, Halted, Paused, RolledBack, RollingBack, Running};

    const STATES: [CampaignState; 7] =
        [Running, Paused, Halted, RollingBack, Completed, Cancelled, RolledBack];
    const EVENTS: [Event; 7] = [
        Event::Pause,
        Event::Resume,
        Event::Cancel,
        Event::RollBack,
        Event::Halt,
        Event::Complete,
        Event::FinishRollBack,
    ];

    #[test]
    fn every_event_in_every_state() {
        #[rustfmt::skip]
        let table = [
            // Pause, Resume, Cancel, RollBack, Halt, Complete, FinishRollBack
            (Running, [Some(Paused), Some(Running), Some(Cancelled), Some(RollingBack), Some(Halted), Some(Completed), None]),
            (Paused, [Some(Paused), Some(Running), Some(Cancelled), Some(RollingBack), None, None, None]),
            (Halted, [None, Some(Running), Some(Cancelled), Some(RollingBack), None, None, None]),
            (RollingBack, [None, None, None, Some(RollingBack), None, None, Some(RolledBack)]),
            (Completed, [None; 7]),
            (Cancelled, [None, None, Some(Cancelled), Some(RollingBack), None, None, None]),
            (RolledBack, [None, None, None, Some(RolledBack), None, None, None]),
        ];
        assert_eq!(table.map(|(state, _)| state), STATES);
        for (state, wanted) in table {
            for (event, want) in EVENTS.into_iter().zip(wanted) {
                assert_eq!(next(state, event), want.ok_or(Refused(state)), "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn what_is_over_never_runs_again() {
        for state in STATES.into_iter().filter(|state| state.is_over()) {
            for event in EVENTS {
                assert!(next(state, event).map_or(true, CampaignState::is_over), "{state:?} {event:?}");
            }
        }
    }

    /// A phase in which nothing but `change` keeps the next wave from starting.
    fn between(change: impl FnOnce(&mut Between)) -> Phase {
        let mut between = Between {
            next_wave_at: 100,
            waiting: 10,
            ended: 0,
            ready: 5,
            rotating: 3,
            requests: (0, 0),
            behind: 0,
            ahead: 0,
        };
        change(&mut between);
        let Between { next_wave_at, waiting, ended, ready, rotating, requests, behind, ahead } = between;
        let next_wave_at = Millis(next_wave_at);
        Phase::Between { next_wave_at, waiting, ended, ready, rotating, requests, behind, ahead }
    }

    #[derive(Debug, Clone)]
    struct Between {
        next_wave_at: u64,
        waiting: u64,
        ended: u64,
        ready: u64,
        rotating: u64,
        requests: (u64, u64),
        behind: u64,
        ahead: u64,
    }

    fn step(stop: &StopConditions, rolled_back: u64, phase: Phase, now: u64) -> Step {
        Situation { stop, rolled_back, phase }.step(Millis(now))
    }

    #[test]
    fn a_wave_starts_when_nothing_keeps_it_from_it() {
        let stop = StopConditions::default();
        assert_eq!(step(&stop, 0, between(|_| {}), 100), Step::StartWave);
        assert_eq!(step(&stop, 0, between(|_| {}), u64::MAX), Step::StartWave, "one, however late");
        let pause = Step::Wait(Wait::Pause { until: Millis(100) });
        assert_eq!(step(&stop, 0, between(|_| {}), 99), pause);
        assert_eq!(step(&stop, 9, between(|_| {}), 99), pause, "it is judged when the next one is due");
        assert_eq!(step(&stop, 0, between(|b| b.ready = 0), 100), Step::Wait(Wait::Deposits));
        assert_eq!(step(&stop, 0, between(|b| b.behind = 2), 100), Step::Wait(Wait::Proxies { behind: 2 }));
        let both = between(|b| (b.behind, b.ahead) = (2, 3));
        assert_eq!(step(&stop, 0, both, 100), Step::Wait(Wait::Canary { versions: 3 }));
        let hasty = StopConditions { wait_for_proxies: false, ..stop.clone() };
        assert_eq!(step(&hasty, 0, both, 100), Step::StartWave);
        assert_eq!(step(&stop, 0, between(|b| b.ended = 1), 0), Step::SkipEnded);
    }

    #[test]
    fn rollbacks_halt_it_beyond_what_is_allowed() {
        for (allowed, rolled_back, halts) in [(0, 0, false), (0, 1, true), (3, 3, false), (3, 4, true)] {
            let stop = StopConditions { max_rolled_back: allowed, ..StopConditions::default() };
            let halt = Step::Halt(HaltReason::RolledBack { rotations: rolled_back, allowed });
            let or = |step| if halts { halt } else { step };
            assert_eq!(step(&stop, rolled_back, between(|_| {}), 100), or(Step::StartWave));
            assert_eq!(step(&stop, rolled_back, Phase::Starting { left: 7 }, 0), or(Step::Rotate));
            assert_eq!(step(&stop, rolled_back, Phase::Starting { left: 0 }, 0), Step::EndWave);
        }
    }

    #[test]
    fn refused_requests_halt_it_beyond_their_share() {
        for (allowed, requests, halts) in [
            (None, (10, 10), false),
            (Some(0.0), (0, 0), false),
            (Some(0.0), (0, 50), false),
            (Some(0.0), (1, 50), true),
            (Some(0.1), (5, 50), false),
            (Some(0.1), (6, 50), true),
            (Some(1.0), (50, 50), false),
        ] {
            let stop = StopConditions { max_refused_share: allowed, ..StopConditions::default() };
            let found = step(&stop, 0, between(|b| b.requests = requests), 100);
            assert_eq!(
                matches!(found, Step::Halt(HaltReason::Refused { .. })),
                halts,
                "{allowed:?} {requests:?}"
            );
        }
    }

    #[test]
    fn it_is_complete_when_nothing_is_left_and_nothing_open() {
        let stop = StopConditions::default();
        let last = |b: &mut Between| (b.waiting, b.ready) = (0, 0);
        assert_eq!(step(&stop, 0, between(last), 0), Step::Wait(Wait::Overlaps));
        assert_eq!(step(&stop, 5, between(|b| (b.waiting, b.rotating) = (0, 0)), 0), Step::Complete);
    }

    proptest! {
        #[test]
        fn no_wave_starts_before_its_time_or_against_a_stop_condition(
            now in 0_u64..200, next_wave_at in 0_u64..200, waiting in 0_u64..4, ended in 0_u64..2,
            ready in 0_u64..4, rotating in 0_u64..3, refused in 0_u64..9, behind in 0_u64..3, rolled_back in 0_u64..4,
            ahead in 0_u64..2, max_rolled_back in 0_u64..4, share in proptest::option::of(0.0..1.0), wait_for_proxies: bool,
        ) {
            let stop = StopConditions { max_rolled_back, max_refused_share: share, wait_for_proxies };
            let phase = between(|b| {
                *b = Between { next_wave_at, waiting, ended, ready, rotating, requests: (refused, 10), behind, ahead };
            });
            let done = step(&stop, rolled_back, phase, now);
            if done == Step::StartWave {
                prop_assert!(now >= next_wave_at && ready > 0 && rolled_back <= max_rolled_back);
                prop_assert!(!wait_for_proxies || (behind, ahead) == (0, 0));
                prop_assert!(share.is_none_or(|share| refused as f64 <= share * 10.0));
            }
            prop_assert_eq!(done == Step::Complete, ended == 0 && waiting == 0 && rotating == 0);
            if let Step::Wait(wait) = done {
                prop_assert!(wait.look_at(Millis(now)) > Millis(now), "nothing is looked at without an end");
            }
        }
    }
}
