//! Whether records continue one another.

use keywheel_keyring::Digest;

use super::{AuditEvent, AuditRecord, Fault, bytes};

/// Where a chain ends: the last record's number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub hash: Digest,
}

/// A chain that is followed record by record.
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    head: Head,
}

impl Head {
    /// The end of a chain without records.
    pub const START: Self = Self { seq: 0, hash: Digest::from_bytes([0; 32]) };

    /// The record that continues the chain with `event`.
    #[must_use]
    pub fn append(self, event: AuditEvent) -> AuditRecord {
        let seq = self.seq.saturating_add(1);
        let hash = Digest::of(&bytes::record(seq, &event, self.hash));
        AuditRecord { seq, event, previous: self.hash, hash }
    }
}

impl Chain {
    /// A chain that was good up to `head`.
    #[must_use]
    pub const fn new(head: Head) -> Self {
        Self { head }
    }

    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// Takes the next record, if it is the next one and unaltered.
    ///
    /// # Errors
    ///
    /// [`Fault`], which names the record. The chain stays where it was.
    pub fn follow(&mut self, record: &AuditRecord) -> Result<(), Fault> {
        let seq = record.seq;
        let expected = self.head.seq.saturating_add(1);
        if seq > expected {
            return Err(Fault::Missing { from: expected, to: seq.saturating_sub(1) });
        }
        if seq < expected {
            return Err(Fault::OutOfPlace { seq, expected });
        }
        if record.hash != Digest::of(&bytes::record(seq, &record.event, record.previous)) {
            return Err(Fault::Altered { seq });
        }
        if record.previous != self.head.hash {
            return Err(Fault::Unlinked { seq });
        }
        self.head = record.head();
        Ok(())
    }
}

impl AuditRecord {
    #[must_use]
    pub const fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }
}
