//! From an entry and the time to a decision. No clock, no randomness, no I/O.

use std::borrow::Cow;

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
    KeyBrownout,
    InsufficientScope,
    ClientNotAllowed,
    NoRule,
    PathNotCanonical,
    RingUnavailable,
    RingStale,
}

impl Reason {
    pub const ALL: [Self; 15] = [
        Self::MissingKey,
        Self::AmbiguousKey,
        Self::MalformedKey,
        Self::UnknownKey,
        Self::KeyNotYetValid,
        Self::KeyExpired,
        Self::KeyRetired,
        Self::KeyRevoked,
        Self::KeyBrownout,
        Self::InsufficientScope,
        Self::ClientNotAllowed,
        Self::NoRule,
        Self::PathNotCanonical,
        Self::RingUnavailable,
        Self::RingStale,
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
            Self::KeyBrownout => "key_brownout",
            Self::InsufficientScope => "insufficient_scope",
            Self::ClientNotAllowed => "client_not_allowed",
            Self::NoRule => "no_rule",
            Self::PathNotCanonical => "path_not_canonical",
            Self::RingUnavailable => "ring_unavailable",
            Self::RingStale => "ring_stale",
        }
    }
}

/// What became of a request, for whoever counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It passed with a valid key.
    Valid,
    /// It passed without a key, which was optional.
    Anonymous,
    /// It needed nothing.
    Open,
    /// It was a CORS preflight.
    Preflight,
    Denied(Reason),
    /// It passed, and would have been refused in `enforce` mode.
    Observed(Reason),
}

impl Outcome {
    const PASSED: [Self; 4] = [Self::Valid, Self::Anonymous, Self::Open, Self::Preflight];
    pub const COUNT: usize = Self::PASSED.len() + 2 * Reason::ALL.len();

    /// Below [`Self::COUNT`], and another for each.
    #[must_use]
    pub const fn index(self) -> usize {
        const DENIED: usize = Outcome::PASSED.len();
        const OBSERVED: usize = DENIED + Reason::ALL.len();
        match self {
            Self::Valid => 0,
            Self::Anonymous => 1,
            Self::Open => 2,
            Self::Preflight => 3,
            Self::Denied(reason) => DENIED.saturating_add(reason as usize),
            Self::Observed(reason) => OBSERVED.saturating_add(reason as usize),
        }
    }

    /// Every outcome, by its index.
    pub fn all() -> impl Iterator<Item = Self> {
        let denied = Reason::ALL.into_iter().map(Self::Denied);
        Self::PASSED.into_iter().chain(denied).chain(Reason::ALL.into_iter().map(Self::Observed))
    }

    /// The label in metrics and access logs.
    #[must_use]
    pub fn label(self) -> Cow<'static, str> {
        match self {
            Self::Valid => "valid".into(),
            Self::Anonymous => "anonymous".into(),
            Self::Open => "open".into(),
            Self::Preflight => "preflight".into(),
            Self::Denied(reason) => reason.code().into(),
            Self::Observed(reason) => format!("observed_{}", reason.code()).into(),
        }
    }
}

/// Decides on a request that carries the key of `entry`, at `now`. `lot`, from 0 up to 1, is drawn for
/// each request: in a brown-out it says whether this one is refused.
#[must_use]
pub fn decide(entry: &Entry, now: Millis, lot: f64) -> Decision {
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
        State::Active | State::Retiring | State::Pending => match entry.brownout {
            Some(brownout) if now < brownout.until && lot < brownout.share => {
                Decision::Deny(Reason::KeyBrownout)
            }
            _ => Decision::Allow,
        },
    }
}
