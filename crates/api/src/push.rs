//! What a proxy answers that takes pushed documents.

use serde::{Deserialize, Serialize};

/// Where a receiving proxy is: `GET /v1/rings/{ring}/position`, and the answer to each document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub ring: String,
    /// Of the complete ring that it holds, if it holds one.
    pub epoch: Option<String>,
    /// 0 without a complete ring.
    pub revision: u64,
    /// A snapshot under way.
    #[serde(default)]
    pub sync: Option<SyncPosition>,
    pub vms: u32,
    /// The least revision that all its VMs enforce; 0 without a complete ring.
    pub enforced: u64,
}

/// How far a snapshot has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPosition {
    /// Of the first page.
    pub epoch: String,
    /// Of the first page.
    pub revision: u64,
    /// The last digest that the pages so far cover; none before the first page.
    pub cursor: Option<String>,
}

/// The problem with which a proxy refuses a document. Its position may follow in the same object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DocumentRefused {
    /// `document_refused` or `ring_busy`.
    #[serde(default)]
    pub code: String,
    /// As `keywheel_ring_rejected` counts it: `gap`, `bad_signature`, `expired`…
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub detail: String,
}
