//! From an entry and the time to a decision. No clock, no I/O.

use keywheel_keyring::{Entry, Millis, State};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny(Reason),
}

/// Why a request is refused. [`Reason::code`] is public: in the body, the access log and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    MissingKey,
    AmbiguousKey,
    MalformedKey,
    UnknownKey,
    KeyNotYetValid,
    KeyExpired,
    KeyRetired,
    KeyRevoked,
    RingUnavailable,
}

impl Reason {
    pub const ALL: [Self; 9] = [
        Self::MissingKey,
        Self::AmbiguousKey,
        Self::MalformedKey,
        Self::UnknownKey,
        Self::KeyNotYetValid,
        Self::KeyExpired,
        Self::KeyRetired,
        Self::KeyRevoked,
        Self::RingUnavailable,
    ];

    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::MissingKey => "missing_key",
            Self::AmbiguousKey => "ambiguous_key",
            Self::MalformedKey => "malformed_key",
            Self::UnknownKey => "unknown_key",
            Self::KeyNotYetValid => "key_not_yet_valid",
            Self::KeyExpired => "key_expired",
            Self::KeyRetired => "key_retired",
            Self::KeyRevoked => "key_revoked",
            Self::RingUnavailable => "ring_unavailable",
        }
    }
}

/// Decides on a request that carries the key of `entry`, at `now`.
#[must_use]
pub fn decide(entry: &Entry, now: Millis) -> Decision {
    let too_early = entry.not_before.is_some_and(|from| now < from);
    let too_late = entry.expires_at.is_some_and(|to| now >= to);
    match entry.state {
        State::Retired => Decision::Deny(Reason::KeyRetired),
        State::Revoked | State::Compromised => Decision::Deny(Reason::KeyRevoked),
        // Nothing is known about it but its digest.
        State::Unreadable => Decision::Deny(Reason::UnknownKey),
        State::Active | State::Retiring | State::Pending if too_late => Decision::Deny(Reason::KeyExpired),
        State::Active | State::Retiring | State::Pending if too_early => {
            Decision::Deny(Reason::KeyNotYetValid)
        }
        State::Active | State::Retiring | State::Pending => Decision::Allow,
    }
}
