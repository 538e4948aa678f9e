//! What is announced before it happens.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One row of `GET /v1/notices`. Each is given once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Notice {
    /// What to give as `after` to read on from here.
    pub id: u64,
    /// When it was given.
    pub at: Timestamp,
    pub kind: NoticeKind,
    pub key: String,
    pub ring: String,
    pub client: String,
    /// When what it announces happens, or happened.
    pub step_at: Timestamp,
    /// How long before, by its policy; 0: it has happened.
    pub lead_seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// A rotation of the key is due.
    Due,
    /// A version of the key is older than its policy allows.
    Overdue,
    /// The old version of a rotation ends.
    Retire,
    /// The version that was deposited could not be used; another one is needed.
    DepositRefused,
    /// A campaign is to rotate the key, and nobody deposited its next version.
    DepositWanted,
}
