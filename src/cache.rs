//! Decoded entries, so that a known key costs no shared-data read.

use keywheel_keyring::{Digest, Entry};

/// A direct-mapped cache: two keys that fall on one slot take turns, and nothing ever grows.
pub struct Cache {
    slots: Box<[Option<Slot>]>,
}

struct Slot {
    /// The adoption under which the entry was read. One from an earlier adoption is read anew.
    adoption: u64,
    entry: Entry,
}

impl Cache {
    /// `slots` is rounded up to a power of two.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let slots = slots.max(1).next_power_of_two();
        Self { slots: (0..slots).map(|_| None).collect() }
    }

    #[must_use]
    pub fn get(&self, digest: &Digest, adoption: u64) -> Option<&Entry> {
        let slot = self.slots.get(self.slot(digest))?.as_ref()?;
        (slot.adoption == adoption && slot.entry.digest == *digest).then_some(&slot.entry)
    }

    pub fn put(&mut self, adoption: u64, entry: Entry) {
        let at = self.slot(&entry.digest);
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some(Slot { adoption, entry });
        }
    }

    /// Bytes of the digest that do not choose the bucket choose the slot.
    fn slot(&self, digest: &Digest) -> usize {
        let bytes = digest.as_bytes();
        let number = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        number as usize & (self.slots.len() - 1)
    }
}
