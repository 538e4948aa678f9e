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
    /// What its keys follow that have no policy of their own or of their client.
    #[serde(default)]
    pub policy: Option<String>,
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
}
