//! Credentials for the control plane itself.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How long a rotated token's old secret stays valid unless the request says otherwise, in seconds: an hour.
pub const DEFAULT_OVERLAP_SECONDS: u64 = 60 * 60;

/// The longest name of a token, in characters.
pub const MAX_NAME: usize = 128;

/// The most rings that one token names.
pub const MAX_RINGS: usize = 32;

/// `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    pub role: Role,
    /// What it is for: at most 128 characters, none of them a control character.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::TokenName>))]
    pub name: Option<String>,
    /// The rings that it is limited to, 1 to 32; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<crate::openapi::RingName>>, min_items = 1, max_items = 32))]
    pub rings: Option<Vec<String>>,
    /// When it ends, a time in the future; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// `POST /v1/tokens/{token}/rotate`; without a body, its defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RotateToken {
    /// How long the old secret is still valid, 0 to 90 days; an hour when absent, and 0 ends
    /// it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 7_776_000))]
    pub overlap_seconds: Option<u64>,
}

/// What a token may do. `docs/api.md` has the whole table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Clients, keys, rotations and policies, to see and to change; neither tokens, the audit trail nor signing keys.
    Operator,
    /// Reads everything and changes nothing.
    Auditor,
    /// Reads rings from the ring listener and reports usage there.
    Proxy,
}

/// A token without its secret, which nobody can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Token {
    #[cfg_attr(feature = "openapi", schema(example = "token_7Qm2ZkX0aVbN4cRd"))]
    pub id: String,
    #[cfg_attr(feature = "openapi", schema(example = "deploy pipeline"))]
    pub name: String,
    pub role: Role,
    /// The rings that it is limited to; absent where it reaches all.
    #[serde(default)]
    pub rings: Option<Vec<String>>,
    pub created_at: Timestamp,
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
    /// Within a minute of its latest use.
    #[serde(default)]
    pub last_used_at: Option<Timestamp>,
    /// Until when a secret from before the last rotation is valid; absent where none is.
    #[serde(default)]
    pub old_secret_expires_at: Option<Timestamp>,
}

/// The answer that made a token, or a new secret of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenWithSecret {
    #[serde(flatten)]
    pub about: Token,
    /// The token's text, once; `null` to a repeat of the request with the same `Idempotency-Key`.
    #[cfg_attr(feature = "openapi", schema(example = "kwt_…"))]
    pub token: Option<String>,
}

// === impl Role ===

/// The text names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRole;

impl fmt::Display for BadRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a role is `admin`, `operator`, `auditor` or `proxy`")
    }
}

impl std::error::Error for BadRole {}

impl Role {
    pub const ALL: [Self; 4] = [Self::Admin, Self::Operator, Self::Auditor, Self::Proxy];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Proxy => "proxy",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = BadRole;

    fn from_str(text: &str) -> Result<Self, BadRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(BadRole)
    }
}

impl fmt::Debug for TokenWithSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenWithSecret").field("about", &self.about).finish_non_exhaustive()
    }
}
