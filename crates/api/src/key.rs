//! Keys and their versions.

use jiff::Timestamp;
use keywheel_keyring::{Digest, State};
use serde::{Deserialize, Serialize};

use crate::{Brownout, LabelChanges, Labels};

/// `POST /v1/keys`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::ClientName))]
    pub client: String,
    /// The server's own ring when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::RingName>))]
    pub ring: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::Scope>, max_items = 32))]
    pub scopes: Vec<String>,
    /// From when on its first version is accepted; at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When every version of the key ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "crate::object::optional", skip_serializing_if = "Option::is_none")]
    pub version: Option<NewVersion>,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<crate::openapi::Label, crate::openapi::Label>))]
    pub labels: Labels,
    /// Its own policy, before its client's and its ring's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::PolicyName>))]
    pub policy: Option<String>,
}

/// `PATCH /v1/keys/{key}`: what is absent stays as it is, and `null` takes away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct UpdateKey {
    #[serde(skip_serializing_if = "LabelChanges::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<crate::openapi::Label, crate::openapi::LabelChange>))]
    pub labels: LabelChanges,
    #[serde(deserialize_with = "crate::present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::PolicyName>))]
    pub policy: Option<Option<String>>,
    /// All of them, in the place of those that it had.
    #[serde(deserialize_with = "crate::present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<crate::openapi::Scope>>, max_items = 32))]
    pub scopes: Option<Option<Vec<String>>>,
    /// When every version of the key ends.
    #[serde(deserialize_with = "crate::present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Timestamp>))]
    pub expires_at: Option<Option<Timestamp>>,
}

/// `POST /v1/keys/{key}/next`: the version to which the key's schedule rotates it when that is due. It takes the place
/// of one that was deposited before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Deposit {
    #[serde(deserialize_with = "crate::object::one")]
    pub version: NewVersion,
}

/// `POST /v1/keys/{key}/versions`: a version beside those that are accepted, which stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddVersion {
    /// From when on it is accepted; at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    #[serde(default, deserialize_with = "crate::object::optional", skip_serializing_if = "Option::is_none")]
    pub version: Option<NewVersion>,
}

/// A version whose text the caller made and keeps to itself.
///
/// Repeating a request with the same id and digest returns what the first one made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewVersion {
    /// `kv_` and 16 letters or digits; the same 16 stand in the key's text.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::VersionId))]
    pub id: String,
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Digest))]
    pub digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Key {
    #[cfg_attr(feature = "openapi", schema(example = "key_4fTg8Kq1Xw0ZrBn2"))]
    pub id: String,
    #[cfg_attr(feature = "openapi", schema(example = "production"))]
    pub ring: String,
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub client: String,
    #[cfg_attr(feature = "openapi", schema(example = json!(["market:read", "trade"])))]
    pub scopes: Vec<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// When the key as a whole was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The rotation under way, if any.
    pub open_rotation: Option<String>,
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// Its own; its client's or its ring's may stand behind it.
    #[serde(default)]
    pub policy: Option<String>,
    /// What the policy that it follows makes of it.
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// Oldest first.
    pub versions: Vec<Version>,
}

/// Where a key stands by the policy that it follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Schedule {
    /// Its own, its client's or its ring's.
    pub policy: String,
    pub state: ScheduleState,
    /// When its next rotation is due. Absent while one is open, and when the policy asks for none.
    pub due_at: Option<Timestamp>,
    /// The version that was deposited: the rotation to it starts by itself.
    pub next_version: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ScheduleState {
    Scheduled,
    /// A rotation is to be started: whoever needs the new secret starts it, or deposits it.
    Due,
    /// A version is older than the policy's longest age. It is still accepted.
    Overdue,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Version {
    #[cfg_attr(feature = "openapi", schema(example = "kv_5HbNq0ZtWc3Rk8Lm"))]
    pub id: String,
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::State))]
    pub state: State,
    pub not_before: Option<Timestamp>,
    /// The earlier of its own expiry and the end of its overlap.
    pub expires_at: Option<Timestamp>,
    /// The revision of the ring that carries this state to the proxies; 0 as long as the ring's canary alone has it.
    pub revision: u64,
    /// The same of the ring's canary, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_revision: Option<u64>,
    /// While the canary alone has it: when the ring gets it at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_until: Option<Timestamp>,
    pub created_at: Timestamp,
    /// When it retired or was revoked.
    pub ended_at: Option<Timestamp>,
    /// The newest minute in which a proxy accepted it. Absent: no report says so, which is no proof that
    /// nobody used it.
    #[serde(default)]
    pub last_used_at: Option<Timestamp>,
    /// While it is retiring: a share of its requests is refused.
    #[serde(default)]
    pub brownout: Option<Brownout>,
}

/// How to end a version, a key or all keys of a client; without a body, its default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Revoked for ever: the secret is known to somebody else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compromised: bool,
}

/// The most digests of one [`ReportCompromised`].
pub const MAX_COMPROMISED: usize = 500;

/// `POST /v1/compromised`: secrets that leaked, whichever rings and clients they belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReportCompromised {
    /// 1 to [`MAX_COMPROMISED`].
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::Digest>, min_items = 1, max_items = 500))]
    pub digests: Vec<Digest>,
}

/// What became of [`ReportCompromised`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Compromised {
    /// Key versions that have one of the digests; they are compromised now, if they were not before.
    pub versions: Vec<CompromisedVersion>,
    /// Versions that were deposited and never accepted; none is any more.
    #[serde(default)]
    pub deposits: Vec<CompromisedDeposit>,
    /// Digests that no ring knows. They are remembered, so that none can be brought in later.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::Digest>))]
    pub unknown: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CompromisedVersion {
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Digest))]
    pub digest: Digest,
    pub version: String,
    pub key: String,
    pub client: String,
    pub ring: String,
    /// Its state before.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::State))]
    pub was: State,
}

/// A leaked secret to which a key was to rotate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CompromisedDeposit {
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Digest))]
    pub digest: Digest,
    pub version: String,
    pub key: String,
    pub client: String,
    pub ring: String,
}

/// The keys of a client that were ended together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevokedClient {
    pub client: String,
    /// How many of its keys had a version that ended now.
    pub keys: u64,
}

/// The answer that made a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyWithSecret {
    #[serde(flatten)]
    pub key: Key,
    /// The key's text, once, if the server made it.
    pub secret: Option<String>,
}
