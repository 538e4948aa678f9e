//! What proxies enforce, and what they say about it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::RingUsage;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ring {
    pub name: String,
    /// The identity of the revision counter.
    pub epoch: String,
    pub revision: u64,
    /// What new keys of this ring begin with.
    pub key_prefix: String,
    /// Key versions that proxies hold, denied ones included.
    pub entries: u64,
    /// Base64 Ed25519 public keys for the filter's `control.trust`.
    pub trust: Vec<String>,
    pub created_at: Timestamp,
    /// A restored copy that is published to nobody, until what was revoked since is merged back.
    #[serde(default)]
    pub held: bool,
    /// Proxies heard from since the control plane started, by node and instance.
    pub proxies: Vec<Proxy>,
    /// What became of their usage reports.
    #[serde(default)]
    pub usage: RingUsage,
}

/// What one proxy last said about itself. Shown, and trusted for nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    pub node: String,
    pub instance: String,
    /// The filter's version.
    pub filter: String,
    pub vms: u32,
    /// The epoch of the ring that it holds, if it holds one.
    pub epoch: Option<String>,
    /// The revision in its memory.
    pub stored: u64,
    /// The least revision that all its VMs have adopted: the only acknowledgement.
    pub enforced: u64,
    /// Seconds since the newest document that it accepted was issued.
    pub age_seconds: u64,
    pub last_seen: Timestamp,
    /// The ids of the signing keys that its configuration trusts; `null` where its filter does not say.
    #[serde(default)]
    pub trust: Option<Vec<String>>,
}

/// A key that signs a ring's documents and the audit trail's checkpoints. The private half stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingSigningKey {
    /// As in the header `keywheel-signer`.
    pub id: String,
    /// Base64, as in the filter's `control.trust`.
    pub public_key: String,
    pub state: SigningKeyState,
    pub created_at: Timestamp,
    /// Since when it has been in its state.
    pub changed_at: Timestamp,
}

/// What a signing key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SigningKeyState {
    /// Nobody was told of it.
    Created,
    /// It signs nothing, and proxies shall trust it.
    Published,
    /// It signs. Each ring has one.
    Active,
    /// It signs nothing any more, and proxies need not trust it. What it signed can still be verified.
    Retired,
}

/// `POST /v1/rings/{ring}/signing-keys/{key}/activate`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivateSigningKey {
    /// Even if proxies would refuse what it signs.
    #[serde(default)]
    pub force: bool,
}
