//! What the holder of a key sees and does of it with the key itself, on the consumer listener.

use jiff::Timestamp;
use keywheel_keyring::State;
use serde::{Deserialize, Serialize};

use crate::{NewVersion, Rotation, RotationEnd, RotationState, Version};

/// The shortest overlap that a holder may ask for, in seconds, unless the policy's own is shorter: an hour. Whoever
/// stole a key cannot lock its owner out faster than somebody may notice.
pub const SHORTEST_OVERLAP_SECONDS: u64 = 60 * 60;

/// How many rotations a key may have had within an hour, whoever started them, for its holder to start another one.
pub const ROTATIONS_AN_HOUR: u32 = 6;

/// `GET /v1/self`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SelfKey {
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub client: String,
    #[cfg_attr(feature = "openapi", schema(example = "key_4fTg8Kq1Xw0ZrBn2"))]
    pub key: String,
    #[cfg_attr(feature = "openapi", schema(example = json!(["market:read", "trade"])))]
    pub scopes: Vec<String>,
    /// When every version of the key ends.
    pub expires_at: Option<Timestamp>,
    /// The version whose secret was sent.
    pub version: SelfVersion,
    /// All others, oldest first.
    pub other_versions: Vec<SelfVersion>,
    /// The rotation under way, if any.
    pub open_rotation: Option<SelfRotation>,
    /// What the key follows, if anything.
    pub policy: Option<SelfPolicy>,
    /// When its next rotation is due by that. Absent while one is open, and when none is asked for.
    pub rotation_due_at: Option<Timestamp>,
    /// What the texts of new versions begin with, for holders who make them.
    #[cfg_attr(feature = "openapi", schema(example = "kw_live_"))]
    pub key_prefix: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SelfVersion {
    #[cfg_attr(feature = "openapi", schema(example = "kv_5HbNq0ZtWc3Rk8Lm"))]
    pub id: String,
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::State))]
    pub state: State,
    pub not_before: Option<Timestamp>,
    /// The earlier of its own expiry and the end of its overlap.
    pub expires_at: Option<Timestamp>,
}

/// What a policy allows the holders of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SelfPolicy {
    #[cfg_attr(feature = "openapi", schema(example = "quarterly"))]
    pub name: String,
    /// Whether the key may rotate itself.
    pub self_rotation: bool,
    /// How long both versions are accepted, unless the request says otherwise. It may not ask for more.
    pub overlap_seconds: u64,
    /// Nor for less than this.
    pub shortest_overlap_seconds: u64,
}

/// `POST /v1/self/rotations`; without a body, its defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StartSelfRotation {
    /// How long both versions are accepted: from `shortest_overlap_seconds` to `overlap_seconds` of the key's policy,
    /// which is what it is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 7_776_000, example = 86400))]
    pub overlap_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<NewVersion>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SelfRotation {
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
    /// Until when the old version is accepted at the longest. It may end earlier, once nobody uses it, where the policy
    /// says so.
    pub overlap_ends_at: Timestamp,
    pub created_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

/// The answer that started a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SelfRotationWithSecret {
    #[serde(flatten)]
    pub rotation: SelfRotation,
    /// The new version's text, once, if the server made it.
    pub secret: Option<String>,
}

impl From<Version> for SelfVersion {
    fn from(version: Version) -> Self {
        let Version { id, state, not_before, expires_at, .. } = version;
        Self { id, state, not_before, expires_at }
    }
}

/// Without what operators know of proxies and of their reports.
impl From<Rotation> for SelfRotation {
    fn from(rotation: Rotation) -> Self {
        Self {
            id: rotation.id,
            key: rotation.key,
            old_version: rotation.old_version,
            new_version: rotation.new_version,
            state: rotation.state,
            ended_by: rotation.ended_by,
            begins_at: rotation.begins_at,
            overlap_ends_at: rotation.overlap_ends_at,
            created_at: rotation.created_at,
            ended_at: rotation.ended_at,
        }
    }
}
