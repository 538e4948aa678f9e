//! What proxies counted.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The longest span of [`KeyUsage`], in days. Counts are kept for as long.
pub const MAX_DAYS: u64 = 90;

/// `GET /v1/keys/{key}/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyUsage {
    pub key: String,
    pub ring: String,
    pub from: Timestamp,
    pub to: Timestamp,
    /// In the order of hours, versions and outcomes. Nothing stands here for an hour without use.
    pub hours: Vec<UsageHour>,
    /// How many VMs of the ring's proxies have reported in the last 30 days.
    pub vms: u64,
    /// Of these at most 1,000: those first whose batches are missing, then those not heard of for longest.
    pub reporting: Vec<Reporting>,
}

/// How often requests with one version had one outcome in one hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageHour {
    /// When it began.
    pub hour: Timestamp,
    pub version: String,
    /// `valid`, the code of the refusal, or `other`.
    pub outcome: String,
    pub count: u64,
    /// The last minute in which that happened.
    pub last_minute: Timestamp,
}

/// What one VM of a proxy has reported. Where it is silent nothing is known, and that is not no use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reporting {
    pub node: String,
    pub instance: String,
    pub vm: String,
    /// From here to `covered_to` no batch is missing.
    pub covered_from: Timestamp,
    pub covered_to: Timestamp,
    /// Batches that never came.
    pub missing: u64,
    /// When that showed first.
    pub missing_since: Option<Timestamp>,
    pub first_seen: Timestamp,
    /// When its latest batch arrived.
    pub received_at: Timestamp,
}

/// What became of a ring's reports since the control plane started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RingUsage {
    /// Stored.
    pub reports: u64,
    /// Counts left out because they name no version of the ring.
    pub unknown_counts: u64,
    /// Batches left out because they break a rule; the log says which.
    pub refused_batches: u64,
}
