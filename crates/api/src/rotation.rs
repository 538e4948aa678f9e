//! The move from one version of a key to the next.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use keywheel_keyring::State;

use crate::{NewVersion, Promote, Proof, Retire};

/// The longest overlap, in seconds: 90 days.
pub const MAX_OVERLAP_SECONDS: u64 = 90 * 24 * 60 * 60;

/// `POST /v1/keys/{key}/rotations`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StartRotation {
    /// How long both versions are accepted, 0 to [`MAX_OVERLAP_SECONDS`]; what the key's policy says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 7_776_000, example = 1800))]
    pub overlap_seconds: Option<u64>,
    /// From when on the new version is accepted, and the overlap runs; at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Take the place of a rotation that is open, instead of being refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub supersede: bool,
    /// The active version that gives way, where several are accepted beside each other. When absent, the newest one,
    /// and all others with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    #[serde(default, deserialize_with = "crate::object::optional", skip_serializing_if = "Option::is_none")]
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
    /// The deadline, or earlier while it is draining.
    pub overlap_ends_at: Timestamp,
    /// When the overlap ends at the latest.
    #[serde(default)]
    pub deadline: Timestamp,
    pub created_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// What its policy said when it began.
    #[serde(default)]
    pub retire: Retire,
    #[serde(default)]
    pub quiet_period_seconds: Option<u64>,
    /// Whether its schedule started it, with a version that was deposited.
    #[serde(default)]
    pub automatic: bool,
    /// Why the old version does not count as unused, as of the last look. While it is distributing: what the new version
    /// waits for.
    #[serde(default)]
    pub waits_for: Vec<WaitsFor>,
    /// Why it counts as unused.
    #[serde(default)]
    pub evidence: Option<Evidence>,
}

/// `GET /v1/rotations/{rotation}/progress`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RotationProgress {
    pub rotation: Rotation,
    /// The old one first.
    pub versions: Vec<VersionProgress>,
    /// Who enforces the newest step of the rotation.
    pub proxies: Proof,
    /// Absent when it is over.
    pub next: Option<NextStep>,
}

/// How much a version is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VersionProgress {
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::VersionId))]
    pub version: String,
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::State))]
    pub state: State,
    pub last_used_at: Option<Timestamp>,
    pub requests: Requests,
    /// Of the requests with both versions in the last hour, 0.0 to 1.0; absent when there were none.
    #[cfg_attr(feature = "openapi", schema(minimum = 0.0, maximum = 1.0))]
    pub share: Option<f64>,
}

/// How many requests came with a version, whatever came of them, as far as proxies have reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Requests {
    /// In the last whole minute, and in the one under way.
    pub minute: u64,
    pub hour: u64,
    /// In whole hours.
    pub day: u64,
}

/// What happens next, unless somebody does something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NextStep {
    pub step: Step,
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The new version is accepted, and the overlap begins.
    Begin,
    /// The old version ends.
    Retire,
}

/// What stands between an old version and its early end, or between a new one and the proxies of its ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum WaitsFor {
    /// The new version has not been accepted for the quiet period.
    TooEarly { until: Timestamp },
    /// No proxy reports what it counts.
    NoReports,
    /// The old version was used, or tried, in this minute.
    Used { last: Timestamp },
    /// Nothing was heard of these for longer than reports take. `vms` is how many.
    Silent { vms: u64, first: ReportingVm },
    /// Reports of these are missing within the quiet period. `vms` is how many.
    Gap { vms: u64, first: ReportingVm },
    /// The proxies of this ring have the new version first; the others get it then at the latest.
    Canary {
        ring: String,
        until: Timestamp,
        /// Whether they get it before, when every proxy of this ring enforces it.
        #[serde(default)]
        promote: Promote,
    },
}

/// One VM of a proxy, and the time that says what is wrong with it: the end of its latest report when it is silent,
/// the end of the gap where one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReportingVm {
    pub node: String,
    pub instance: String,
    pub vm: String,
    pub at: Timestamp,
}

/// VMs that are named as evidence.
pub const MAX_NAMED_VMS: usize = 500;

/// Why an old version counts as unused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Evidence {
    /// Nobody used it from here on,
    pub quiet_from: Timestamp,
    /// up to here, where every VM has reported.
    pub quiet_to: Timestamp,
    /// The newest minute in which anybody used or tried it.
    pub last_used_at: Option<Timestamp>,
    /// VMs whose reports cover all of it.
    pub vms: u64,
    /// Which they are, and up to when each has reported; at most 500 of them.
    #[serde(default)]
    pub reported: Vec<ReportingVm>,
    /// VMs that were not heard of for so long that they count as gone.
    pub gone: u64,
}

/// A share of the requests with an old version is refused, so that its callers notice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Brownout {
    /// Of the requests, 0.0 to 1.0.
    pub share: f64,
    pub until: Timestamp,
}

/// `POST /v1/rotations/{rotation}/brownout`. A second one takes the place of the first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StartBrownout {
    /// Of the requests, 0.0 to 1.0; 0 ends one that is under way.
    #[cfg_attr(feature = "openapi", schema(minimum = 0.0, maximum = 1.0))]
    pub share: f64,
    /// For how long from now, and at most until the deadline.
    #[cfg_attr(feature = "openapi", schema(maximum = 7_776_000))]
    pub seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RotationState {
    /// Proxies have the new version, and do not accept it yet.
    Distributing,
    /// Both versions are accepted.
    Overlapping,
    /// Nobody uses the old version, and it is about to end.
    Draining,
    /// The new version alone is accepted.
    Completed,
    /// The new version was taken back.
    RolledBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RotationEnd {
    /// The overlap ended as planned.
    Deadline,
    /// Nobody used the old version any more.
    Unused,
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
        matches!(self, Self::Distributing | Self::Overlapping | Self::Draining)
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
