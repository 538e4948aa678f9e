//! Decoded entries, so that a known key costs no shared-data read, and how often each let a request pass.

use keywheel_keyring::{Digest, Entry};

/// Two slots for the keys of one set, and nothing ever grows: what is asked for less gives way. With one
/// slot, of 1,000 keys in 4,096 slots every fifth would take turns with another.
pub struct Cache {
    slots: Box<[Option<Slot>]>,
    /// The slots with counts.
    counted: Vec<u32>,
}

/// A place in the cache, good until the next [`Cache::put`].
#[derive(Debug, Clone, Copy)]
pub struct At(usize);

struct Slot {
    /// The adoption under which the entry was read. One from an earlier adoption is read anew.
    adoption: u64,
    /// Requests since [`Cache::take_counts`].
    count: u32,
    entry: Entry,
}

impl Cache {
    /// `slots` is rounded up to a power of two, and to two.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let slots = slots.max(2).next_power_of_two();
        Self { slots: (0..slots).map(|_| None).collect(), counted: Vec::new() }
    }

    /// Where the entry of this digest is, if it is here.
    #[must_use]
    pub fn find(&self, digest: &Digest, adoption: u64) -> Option<At> {
        self.set(digest).into_iter().find_map(|at| {
            let slot = self.slots.get(at)?.as_ref()?;
            (slot.adoption == adoption && slot.entry.digest == *digest).then_some(At(at))
        })
    }

    /// Keeps an entry, and says where. What gave way to it is returned, if it was counted.
    pub fn put(&mut self, adoption: u64, entry: Entry) -> (At, Option<(Entry, u32)>) {
        let set = self.set(&entry.digest);
        // Its own slot first, so that no digest is in both; then a free one.
        let rank = |at: &usize| match self.slots.get(*at).and_then(Option::as_ref) {
            Some(slot) if slot.entry.digest == entry.digest => (0, 0),
            None => (1, 0),
            Some(slot) if slot.adoption != adoption => (2, slot.count),
            Some(slot) => (3, slot.count),
        };
        let at = set.into_iter().min_by_key(rank).unwrap_or_default();
        let before = self.slots.get_mut(at).and_then(|slot| slot.replace(Slot { adoption, count: 0, entry }));
        (At(at), before.filter(|slot| slot.count > 0).map(|slot| (slot.entry, slot.count)))
    }

    #[must_use]
    pub fn entry(&self, At(at): At) -> Option<&Entry> {
        Some(&self.slots.get(at)?.as_ref()?.entry)
    }

    /// Counts a request that passed with this entry.
    pub fn count(&mut self, At(at): At) {
        if let Some(Some(slot)) = self.slots.get_mut(at) {
            if slot.count == 0 {
                self.counted.push(at as u32);
            }
            slot.count = slot.count.saturating_add(1);
        }
    }

    #[must_use]
    pub const fn has_counts(&self) -> bool {
        !self.counted.is_empty()
    }

    /// Hands each entry with its count to `take`, and begins anew.
    pub fn take_counts(&mut self, mut take: impl FnMut(&Entry, u32)) {
        for at in self.counted.drain(..) {
            // A slot may be listed twice, where one entry gave way to another.
            if let Some(Some(slot)) = self.slots.get_mut(at as usize)
                && slot.count > 0
            {
                take(&slot.entry, std::mem::take(&mut slot.count));
            }
        }
    }

    /// Bytes of the digest that do not choose the bucket choose the set.
    fn set(&self, digest: &Digest) -> [usize; 2] {
        let bytes = digest.as_bytes();
        let number = [bytes[2], bytes[3], bytes[4], bytes[5]];
        let at = u32::from_le_bytes(number) as usize & self.slots.len().wrapping_sub(1);
        [at, at ^ 1]
    }
}
