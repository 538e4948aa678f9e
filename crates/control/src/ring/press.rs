//! Makes documents and signs them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use keywheel_keyring::{Digest, Document, Epoch, Kind, Millis, SigningKey};

use tracing::error;

use crate::clock;
use crate::store::{Cut, RingRecord};

/// How long after its issue a document may be installed.
pub const VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);

/// How far the clock may be set back, in milliseconds, before it is said: some of that is keeping time.
const CLOCK_MARGIN: u64 = 60_000;

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
    /// When it was said last that the clock was set back.
    warned: AtomicU64,
}

impl Press {
    #[must_use]
    pub fn new(ring: &RingRecord) -> Self {
        Self {
            ring: ring.name.clone(),
            epoch: ring.epoch,
            key_prefix: ring.key_prefix.clone(),
            last_issued: AtomicU64::new(0),
            warned: AtomicU64::new(0),
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
        self.watch_clock(now, last);
        Millis(now.max(last.saturating_add(1)))
    }

    /// Says so if the clock was ahead and is set back: proxies never take now as earlier than a document that they
    /// took, so keys end for them before their time.
    fn watch_clock(&self, now: u64, last: u64) {
        let warned = self.warned.load(Ordering::Relaxed);
        if last > now.saturating_add(CLOCK_MARGIN) && now.abs_diff(warned) > CLOCK_MARGIN {
            self.warned.store(now, Ordering::Relaxed);
            error!(
                ring = self.ring,
                ahead_seconds = last.saturating_sub(now) / 1000,
                "Documents of ring {} were signed with a time that is {} seconds ahead of the clock now: proxies that took \
                 them end keys too early. Set the clock right; a new epoch (`keywheel restore`) and a restart of these \
                 proxies make them forget it",
                self.ring,
                last.saturating_sub(now) / 1000,
            );
        }
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
