//! The move from one version of a key to the next.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::NewVersion;

/// The longest overlap, in seconds: 90 days.
pub const MAX_OVERLAP_SECONDS: u64 = 90 * 24 * 60 * 60;

/// `POST /v1/keys/{key}/rotations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRotation {
    /// How long both versions are accepted, 0 to [`MAX_OVERLAP_SECONDS`].
    pub overlap_seconds: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<NewVersion>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    pub id: String,
    pub key: String,
    pub old_version: String,
    pub new_version: String,
    pub state: RotationState,
    /// Why it is no longer open.
    pub ended_by: Option<RotationEnd>,
    pub overlap_ends_at: Timestamp,
    pub created_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationState {
    /// Both versions are accepted.
    Overlapping,
    /// The new version alone is accepted.
    Completed,
    /// The new version was taken back.
    RolledBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationEnd {
    /// The overlap ended as planned.
    Deadline,
    OldVersionRevoked,
    NewVersionRevoked,
    KeyRevoked,
}

/// The answer that started a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationWithSecret {
    #[serde(flatten)]
    pub rotation: Rotation,
    /// The new version's text, once, if the server made it.
    pub secret: Option<String>,
}
