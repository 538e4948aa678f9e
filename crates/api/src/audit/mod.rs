//! The audit trail: a chain of records, and signed checkpoints of how far it went.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | this one | records and checkpoints as they travel |
//! | [`bytes`] | the canonical bytes that are hashed and signed |
//! | [`chain`] | whether records continue one another |
//! | [`verify`] | whether a trail is whole, up to its checkpoints |
//!
//! `docs/audit.md` says what a whole chain proves.
//!
//! # Example
//!
//! ```
//! use keywheel_api::audit::{AuditEvent, Head, verify};
//!
//! let event = AuditEvent { actor: "token_1".into(), action: "key.revoke".into(), ..AuditEvent::default() };
//! let first = Head::START.append(event.clone());
//! let mut records = vec![first.clone(), first.head().append(event)];
//! assert_eq!(verify(&records, &[], &[])?.head.seq, 2);
//!
//! records[1].event.actor = "token_2".into();
//! assert_eq!(verify(&records, &[], &[]).unwrap_err().to_string(), "record 2 was altered: its hash is not the one of what it says");
//! # Ok::<(), keywheel_api::audit::Fault>(())
//! ```

mod bytes;
pub mod chain;
pub mod verify;

pub use chain::{Chain, Head};
pub use verify::{Fault, Verified, Verifier, verify};

use jiff::Timestamp;
use keywheel_keyring::{Digest, SigningKey};
use serde::{Deserialize, Serialize};

use crate::List;

/// What the control plane does by itself has this actor.
pub const SYSTEM: &str = "system";

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEvent {
    /// In milliseconds; what is finer is not kept.
    pub at: Timestamp,
    /// The id of the token that asked for it, or [`SYSTEM`].
    pub actor: String,
    /// Such as `key.revoke`.
    #[cfg_attr(feature = "openapi", schema(example = "key.revoke"))]
    pub action: String,
    /// The id or name of what it was done to.
    pub resource: String,
    /// The resource as it was: canonical JSON as text, since these exact bytes are hashed. Absent where
    /// there was nothing.
    pub before: Option<String>,
    /// The resource as it is, likewise.
    pub after: Option<String>,
    pub request_id: Option<String>,
    /// The IP address from which the request came.
    pub client_address: Option<String>,
}

/// An event in its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditRecord {
    /// From 1, without gaps.
    pub seq: u64,
    #[serde(flatten)]
    pub event: AuditEvent,
    /// The hash of the record before; zeros in the first.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Digest))]
    pub previous: Digest,
    /// SHA-256 of the canonical bytes of all of the above.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Digest))]
    pub hash: Digest,
}

/// A signature over how far the trail went at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Checkpoint {
    /// The last record.
    pub seq: u64,
    /// The last record's hash, and with it all records before.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Digest))]
    pub hash: Digest,
    pub at: Timestamp,
    /// The id of the ring signing key that signed.
    pub signer: String,
    /// Base64 of the Ed25519 signature over the canonical bytes.
    pub signature: String,
}

/// `GET /v1/audit/checkpoints`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Checkpoints {
    #[serde(flatten)]
    pub page: List<Checkpoint>,
    /// Base64 Ed25519 public keys that may have signed them, the same as in the filter's `control.trust`.
    pub trust: Vec<String>,
}

impl Checkpoint {
    #[must_use]
    pub fn sign(head: Head, at: Timestamp, key: &SigningKey) -> Self {
        let signature = key.sign(&bytes::checkpoint(head, at));
        let signer = key.public().id().to_string();
        Self { seq: head.seq, hash: head.hash, at, signer, signature }
    }

    #[must_use]
    pub const fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }
}
