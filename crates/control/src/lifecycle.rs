//! What may happen to a key version and to a rotation, and what becomes of it. Pure: no clock and no store.
//!
//! ```text
//! pending ──► active ──► retiring ──► retired ──┐
//!    │        ▲ │  ◄──────  │                   │     compromised: from each of them,
//!    │        │ │           │                   │     and nothing leads back from it
//!    └────────┼─┴───────────┴───────► revoked   │
//!             └──────────── reinstated ─┴───────┘     (or pending, if its time has not come)
//!
//! distributing ──► overlapping ◄─► draining ──► completed
//!      │                │             │
//!      └────────────────┴─────────────┴───────► rolled back
//! ```

use keywheel_api::RotationState;
use keywheel_keyring::{Millis, State};

/// What happens to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its `not_before` came.
    Begin,
    /// A rotation gave it a deadline: the holder is to move to another version.
    Supersede,
    /// Its overlap ended.
    Retire,
    /// Its rotation was rolled back.
    Restore,
    /// An operator ended it.
    Revoke,
    /// Its secret is known to somebody else.
    Compromise,
    /// An operator brought it back after it had ended.
    Reinstate,
}

/// Why an event cannot happen to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it began already")]
    Begun,
    #[error("it has not begun")]
    NotBegun,
    #[error("no overlap of it is under way")]
    NotRetiring,
    #[error("it is retiring already")]
    Retiring,
    #[error("it has ended")]
    Ended,
    #[error("it has not ended")]
    NotEnded,
    /// For ever.
    #[error("it is compromised")]
    Compromised,
    /// The server never writes such a state.
    #[error("its state cannot be explained")]
    Unexplained,
}

/// The state after `event`.
///
/// # Errors
///
/// [`Refused`], which says what stands in the way.
pub const fn next(state: State, event: Event) -> Result<State, Refused> {
    match (state, event) {
        (State::Compromised, _) => Err(Refused::Compromised),
        (State::Unreadable, _) => Err(Refused::Unexplained),

        (State::Pending, Event::Begin) => Ok(State::Active),
        (State::Active | State::Retiring, Event::Begin) => Err(Refused::Begun),

        (State::Active, Event::Supersede) => Ok(State::Retiring),
        (State::Retiring, Event::Supersede) => Err(Refused::Retiring),

        (State::Retiring, Event::Retire) => Ok(State::Retired),
        (State::Retiring, Event::Restore) => Ok(State::Active),
        (State::Active, Event::Retire | Event::Restore) => Err(Refused::NotRetiring),
        (State::Pending, Event::Supersede | Event::Retire | Event::Restore) => Err(Refused::NotBegun),

        (State::Pending | State::Active | State::Retiring, Event::Revoke) => Ok(State::Revoked),
        (
            State::Pending | State::Active | State::Retiring | State::Retired | State::Revoked,
            Event::Compromise,
        ) => Ok(State::Compromised),

        (State::Retired | State::Revoked, Event::Reinstate) => Ok(State::Active),
        (State::Pending | State::Active | State::Retiring, Event::Reinstate) => Err(Refused::NotEnded),
        (
            State::Retired | State::Revoked,
            Event::Begin | Event::Supersede | Event::Retire | Event::Restore | Event::Revoke,
        ) => Err(Refused::Ended),
    }
}

/// What happens to a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The new version is accepted, and the old one has its deadline.
    Begin,
    /// Nobody uses the old version, and it is about to end.
    Drain,
    /// Somebody used it after all.
    Resume,
    /// The old version ended.
    Complete,
    /// The old version stays, the new one goes.
    RollBack,
    /// It is taken back before anybody could use the new version.
    Cancel,
}

/// Why something cannot happen to a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTurn {
    #[error("its new version is not accepted yet")]
    NotBegun,
    #[error("its new version is accepted already")]
    Begun,
    #[error("its old version is about to end already")]
    Draining,
    #[error("its old version is not about to end")]
    NotDraining,
    #[error("it has ended")]
    Ended,
}

/// The state of a rotation after `turn`.
///
/// # Errors
///
/// [`NoTurn`], which says what stands in the way.
pub const fn turn(state: RotationState, turn: Turn) -> Result<RotationState, NoTurn> {
    use RotationState::{Completed, Distributing, Draining, Overlapping, RolledBack};
    match (state, turn) {
        (Completed | RolledBack, _) => Err(NoTurn::Ended),

        (Distributing, Turn::Begin) => Ok(Overlapping),
        (Overlapping | Draining, Turn::Begin) => Err(NoTurn::Begun),

        (Overlapping, Turn::Drain) => Ok(Draining),
        (Distributing, Turn::Drain) => Err(NoTurn::NotBegun),
        (Draining, Turn::Drain) => Err(NoTurn::Draining),

        (Draining, Turn::Resume) => Ok(Overlapping),
        (Distributing | Overlapping, Turn::Resume) => Err(NoTurn::NotDraining),

        // Also from `distributing`: the old version may be revoked before the new one begins.
        (Distributing | Overlapping | Draining, Turn::Complete) => Ok(Completed),
        (Distributing | Overlapping | Draining, Turn::RollBack) => Ok(RolledBack),

        (Distributing, Turn::Cancel) => Ok(RolledBack),
        (Overlapping | Draining, Turn::Cancel) => Err(NoTurn::Begun),
    }
}

/// Until when proxies accept a version: the earlier of its own expiry and the end of its overlap.
#[must_use]
pub fn accepted_until(own: Option<Millis>, retire_at: Option<Millis>) -> Option<Millis> {
    match (own, retire_at) {
        (Some(own), Some(retire_at)) => Some(own.min(retire_at)),
        (own, retire_at) => own.or(retire_at),
    }
}

/// What becomes of the old version when its successor is revoked: it is restored, unless its time is
/// over anyway. A deadline that passed while nobody was looking is not undone.
#[must_use]
pub fn when_successor_is_revoked(now: Millis, own: Option<Millis>, retire_at: Option<Millis>) -> Event {
    match accepted_until(own, retire_at) {
        Some(end) if end <= now => Event::Retire,
        _ => Event::Restore,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const STATES: [State; 7] = [
        State::Pending,
        State::Active,
        State::Retiring,
        State::Retired,
        State::Revoked,
        State::Compromised,
        State::Unreadable,
    ];
    const EVENTS: [Event; 7] = [
        Event::Begin,
        Event::Supersede,
        Event::Retire,
        Event::Restore,
        Event::Revoke,
        Event::Compromise,
        Event::Reinstate,
    ];

    #[test]
    fn every_event_on_every_state_has_its_outcome() {
        use Refused::{Begun, Compromised, Ended, NotBegun, NotEnded, NotRetiring, Retiring, Unexplained};
        let (active, retiring, retired) = (Ok(State::Active), Ok(State::Retiring), Ok(State::Retired));
        let (revoked, compromised) = (Ok(State::Revoked), Ok(State::Compromised));
        let (no, never) = (Err(Ended), Err(Compromised));
        // In the order of EVENTS: begin, supersede, retire, restore, revoke, compromise, reinstate.
        let outcomes = [
            (
                State::Pending,
                [active, Err(NotBegun), Err(NotBegun), Err(NotBegun), revoked, compromised, Err(NotEnded)],
            ),
            (
                State::Active,
                [
                    Err(Begun),
                    retiring,
                    Err(NotRetiring),
                    Err(NotRetiring),
                    revoked,
                    compromised,
                    Err(NotEnded),
                ],
            ),
            (
                State::Retiring,
                [Err(Begun), Err(Retiring), retired, active, revoked, compromised, Err(NotEnded)],
            ),
            (State::Retired, [no, no, no, no, no, compromised, active]),
            (State::Revoked, [no, no, no, no, no, compromised, active]),
            (State::Compromised, [never; 7]),
            (State::Unreadable, [Err(Unexplained); 7]),
        ];
        assert_eq!(outcomes.map(|(state, _)| state), STATES);
        for (state, wants) in outcomes {
            for (event, want) in EVENTS.into_iter().zip(wants) {
                assert_eq!(next(state, event), want, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn every_turn_of_every_rotation_has_its_outcome() {
        use RotationState::{Completed, Distributing, Draining, Overlapping, RolledBack};
        let begun = Err(NoTurn::Begun);
        let steady = Err(NoTurn::NotDraining);
        // In the order begin, drain, resume, complete, roll back, cancel.
        let turns = [Turn::Begin, Turn::Drain, Turn::Resume, Turn::Complete, Turn::RollBack, Turn::Cancel];
        let (done, back) = (Ok(Completed), Ok(RolledBack));
        let outcomes = [
            (Distributing, [Ok(Overlapping), Err(NoTurn::NotBegun), steady, done, back, back]),
            (Overlapping, [begun, Ok(Draining), steady, done, back, begun]),
            (Draining, [begun, Err(NoTurn::Draining), Ok(Overlapping), done, back, begun]),
            (Completed, [Err(NoTurn::Ended); 6]),
            (RolledBack, [Err(NoTurn::Ended); 6]),
        ];
        for (state, wants) in outcomes {
            for (event, want) in turns.into_iter().zip(wants) {
                assert_eq!(turn(state, event), want, "{state:?} {event:?}");
            }
            assert_eq!(state.is_open(), turn(state, Turn::RollBack).is_ok(), "{state:?}");
        }
    }

    proptest! {
        #[test]
        fn from_compromised_nothing_leads_back(
            before in vec(select(&EVENTS[..]), 0..20),
            after in vec(select(&EVENTS[..]), 0..20),
        ) {
            let walk = |state, events: Vec<Event>| {
                events.into_iter().fold(state, |state, event| next(state, event).unwrap_or(state))
            };
            let state = walk(State::Pending, before);
            let compromised = next(state, Event::Compromise).unwrap_or(state);
            prop_assert_eq!(compromised, State::Compromised);
            prop_assert_eq!(walk(compromised, after), State::Compromised);
        }

        #[test]
        fn nothing_but_a_reinstatement_leads_back_from_a_denial(
            from in select(&STATES[..]),
            events in vec(select(&EVENTS[..]), 0..20),
        ) {
            let mut state = from;
            for event in events {
                let after = next(state, event).unwrap_or(state);
                prop_assert!(!state.is_denied() || after.is_denied() || event == Event::Reinstate);
                state = after;
            }
        }
    }

    #[test]
    fn the_earlier_end_counts() {
        let (early, late) = (Some(Millis(1)), Some(Millis(2)));
        assert_eq!(accepted_until(early, late), early);
        assert_eq!(accepted_until(late, early), early);
        assert_eq!(accepted_until(None, late), late);
        assert_eq!(accepted_until(early, None), early);
        assert_eq!(accepted_until(None, None), None);
    }

    #[test]
    fn an_old_version_is_restored_only_before_its_end() {
        let at = |now, own, retire_at| when_successor_is_revoked(Millis(now), own, retire_at);
        assert_eq!(at(5, None, Some(Millis(6))), Event::Restore);
        assert_eq!(at(5, Some(Millis(7)), Some(Millis(6))), Event::Restore);
        assert_eq!(at(5, None, Some(Millis(5))), Event::Retire, "the deadline passed unseen");
        assert_eq!(at(5, Some(Millis(4)), Some(Millis(6))), Event::Retire, "it expired by itself");
    }
}
