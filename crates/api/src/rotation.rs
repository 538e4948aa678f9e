//! The move from one version of a key to the next.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::NewVersion;

/// The longest overlap, in seconds: 90 days.
pub const MAX_OVERLAP_SECONDS: u64 = 90 * 24 * 60 * 60;

/// `POST /v1/keys/{key}/rotations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StartRotation {
    /// How long both versions are accepted, 0 to [`MAX_OVERLAP_SECONDS`].
    #[cfg_attr(feature = "openapi", schema(maximum = 7_776_000, example = 1800))]
    pub overlap_seconds: u64,
    /// From when on the new version is accepted, and the overlap runs; at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Take the place of a rotation that is open, instead of being refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub supersede: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<NewVersion>,
}

/// `POST /v1/rotations/{rotation}/rollback`; without a body, its defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RollBack {
    /// How long the new version is still accepted, 0 to [`MAX_OVERLAP_SECONDS`]; as long as the rotation's
    /// own overlap when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 7_776_000))]
    pub overlap_seconds: Option<u64>,
    /// End the new version at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoke_new: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rotation {
    #[cfg_attr(feature = "openapi", schema(example = "rot_2Lx9Vd6MhP1sYw7E"))]
    pub id: String,
    pub key: String,
    pub old_version: String,
    pub new_version: String,
    pub state: RotationState,
    /// Why it is no longer open.
    pub ended_by: Option<RotationEnd>,
    /// From when on the new version is accepted.
    pub begins_at: Timestamp,
    pub overlap_ends_at: Timestamp,
    pub created_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RotationState {
    /// Proxies have the new version, and do not accept it yet.
    Distributing,
    /// Both versions are accepted.
    Overlapping,
    /// The old version is about to end.
    Draining,
    /// The new version alone is accepted.
    Completed,
    /// The new version was taken back.
    RolledBack,
    /// It cannot go on by itself.
    Blocked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RotationEnd {
    /// The overlap ended as planned.
    Deadline,
    OldVersionRevoked,
    NewVersionRevoked,
    KeyRevoked,
    /// An operator rolled it back.
    RolledBack,
    /// An operator took it back before it began.
    Cancelled,
    /// Another rotation took its place.
    Superseded,
}

impl RotationState {
    /// Whether it goes on.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Distributing | Self::Overlapping | Self::Draining | Self::Blocked)
    }
}

/// The answer that started a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RotationWithSecret {
    #[serde(flatten)]
    pub rotation: Rotation,
    /// The new version's text, once, if the server made it.
    pub secret: Option<String>,
}
