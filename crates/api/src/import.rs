//! Bringing keys in from elsewhere, and taking them out again.

use jiff::Timestamp;
use keywheel_keyring::{Digest, State};
use serde::{Deserialize, Serialize};

/// The most items of one request.
pub const MAX_IMPORT: usize = 5_000;

/// `POST /v1/rings/{ring}/import`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Import {
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 5_000))]
    #[serde(deserialize_with = "crate::object::many")]
    pub items: Vec<ImportItem>,
    /// Say what would become of each, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Register clients that are not there.
    #[serde(default)]
    pub create_clients: bool,
}

/// A key from elsewhere. It becomes a key of its own with one active version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportItem {
    /// SHA-256 of the key's whole text.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Digest))]
    pub digest: Digest,
    /// 1 to 128 visible ASCII characters without quotes, commas and backslashes, or else the item is left out.
    pub client: String,
    /// At most 32, each 1 to 64 such characters, or else the item is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// A time in the future, at most 100 years away, or else the item is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What became of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Imported {
    pub ring: String,
    pub dry_run: bool,
    pub imported: u64,
    /// Items that were there already, exactly so: the import was repeated.
    pub present: u64,
    /// Items that were left out, and why.
    pub refused: Vec<RefusedItem>,
    /// The ring's revision of the last item that was imported, if one was.
    pub revision: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RefusedItem {
    /// Its place among the items, from 0.
    pub item: u64,
    pub reason: ImportRefusal,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImportRefusal {
    /// A field breaks a rule.
    Invalid,
    /// There is no such client.
    UnknownClient,
    /// An earlier item has the digest.
    Repeated,
    /// Another key of the ring has the digest.
    DigestTaken,
    /// The key is there, and has ended.
    Ended,
    /// The digest is compromised, which is for ever.
    Compromised,
}

/// A key version as it is taken out: what [`ImportItem`] takes, and what it is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExportedVersion {
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Digest))]
    pub digest: Digest,
    pub client: String,
    pub scopes: Vec<String>,
    /// The earlier of its own expiry and the end of its overlap.
    pub expires_at: Option<Timestamp>,
    pub not_before: Option<Timestamp>,
    pub key: String,
    pub version: String,
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::State))]
    pub state: State,
}
