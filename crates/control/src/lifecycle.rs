//! What may happen to a key version, and what becomes of it. Pure: no clock and no store.
//!
//! ```text
//! pending ──► active ──► retiring ──► retired
//!    │          │  ◄──────  │
//!    └──────────┴───────────┴───────► revoked
//! ```

use keywheel_keyring::{Millis, State};

/// What happens to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its `not_before` came.
    Begin,
    /// A rotation published its successor.
    Supersede,
    /// Its overlap ended.
    Retire,
    /// Its rotation was rolled back.
    Restore,
    /// An operator ended it.
    Revoke,
}

/// Nothing of that kind can happen to a version in this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to a version that is {state:?}")]
pub struct Impossible {
    pub state: State,
    pub event: Event,
}

/// The state after `event`.
///
/// # Errors
///
/// [`Impossible`]: ended versions stay ended.
pub const fn next(state: State, event: Event) -> Result<State, Impossible> {
    match (state, event) {
        (State::Pending, Event::Begin) | (State::Retiring, Event::Restore) => Ok(State::Active),
        (State::Active, Event::Supersede) => Ok(State::Retiring),
        (State::Retiring, Event::Retire) => Ok(State::Retired),
        (State::Pending | State::Active | State::Retiring, Event::Revoke) => Ok(State::Revoked),
        (state, event) => Err(Impossible { state, event }),
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
    const EVENTS: [Event; 5] = [Event::Begin, Event::Supersede, Event::Retire, Event::Restore, Event::Revoke];

    #[test]
    fn these_transitions_exist_and_no_others() {
        let exist = [
            (State::Pending, Event::Begin, State::Active),
            (State::Active, Event::Supersede, State::Retiring),
            (State::Retiring, Event::Retire, State::Retired),
            (State::Retiring, Event::Restore, State::Active),
            (State::Pending, Event::Revoke, State::Revoked),
            (State::Active, Event::Revoke, State::Revoked),
            (State::Retiring, Event::Revoke, State::Revoked),
        ];
        for state in STATES {
            for event in EVENTS {
                let want = exist.iter().find(|(from, on, _)| (*from, *on) == (state, event));
                let want = want.map(|(_, _, to)| *to).ok_or(Impossible { state, event });
                assert_eq!(next(state, event), want);
            }
        }
    }

    #[test]
    fn nothing_leads_back_from_a_denial() {
        for state in STATES.into_iter().filter(|state| state.is_denied()) {
            for event in EVENTS {
                assert!(next(state, event).is_err(), "{state:?} {event:?}");
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
