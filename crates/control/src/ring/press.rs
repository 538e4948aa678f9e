//! Makes documents and signs them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use keywheel_keyring::{Digest, Document, Epoch, Kind, Millis, SigningKey};

use crate::clock;
use crate::store::{Cut, RingRecord};

/// How long after its issue a document may be installed.
pub const VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);

/// A document's exact bytes and its signature. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Signed {
    pub body: Bytes,
    pub signature: String,
    pub signer: String,
    pub revision: u64,
    /// For a page, from whoever knows: where the page behind it should end.
    pub ahead: Option<Digest>,
}

/// One ring's press.
#[derive(Debug)]
pub struct Press {
    ring: String,
    epoch: Epoch,
    key_prefix: String,
    last_issued: AtomicU64,
}

impl Press {
    #[must_use]
    pub fn new(ring: &RingRecord) -> Self {
        Self {
            ring: ring.name.clone(),
            epoch: ring.epoch,
            key_prefix: ring.key_prefix.clone(),
            last_issued: AtomicU64::new(0),
        }
    }

    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Signs rows as a document of the given kind. `key` is the one that the cut names.
    ///
    /// # Errors
    ///
    /// A document that cannot be written as JSON, which none should be.
    pub fn sign(&self, kind: Kind, cut: Cut, key: &SigningKey) -> Result<Signed, serde_json::Error> {
        let issued_at = self.issue();
        let validity = u64::try_from(VALIDITY.as_millis()).unwrap_or(u64::MAX);
        let document = Document {
            ring: self.ring.clone(),
            epoch: self.epoch,
            kind,
            revision: cut.revision,
            issued_at,
            expires_at: Millis(issued_at.0.saturating_add(validity)),
            key_prefix: Some(self.key_prefix.clone()),
            critical: Vec::new(),
            entries: cut.entries,
            removed: cut.removed,
        };
        let body = Bytes::from(serde_json::to_vec(&document)?);
        let signature = key.sign(&body);
        Ok(Signed { body, signature, signer: cut.signer, revision: cut.revision, ahead: None })
    }

    /// Now, but later than any document before: a proxy takes a heartbeat only if it is newer.
    fn issue(&self) -> Millis {
        let now = clock::now().0;
        let later = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self.last_issued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        let last = last.unwrap_or_else(|last| last);
        Millis(now.max(last.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issue_times_strictly_increase() {
        let ring = RingRecord {
            id: 1,
            name: "production".into(),
            epoch: Epoch::from_bytes([1; 16]),
            revision: 0,
            key_prefix: "kw_live_".into(),
            created_at: Millis(0),
            held: false,
            canary: None,
        };
        let press = Press::new(&ring);
        let times: Vec<Millis> = (0..1000).map(|_| press.issue()).collect();
        assert!(times.is_sorted_by(|a, b| a < b));
    }
}
