//! Which VM of a process fetches the ring.
//!
//! The holder counts a beat up; whoever sees no new beat for two seconds on a clock of its own
//! claims the lease by compare-and-swap. A VM that serves requests gives it to one that does not,
//! if such a one shows itself alive: applying a ring then stalls nobody. The VM on Envoy's main
//! thread serves none, but nothing depends on it.

use crate::shared::{CREATE, Namespace, SharedData};

/// A candidate claims after so many milliseconds without a beat.
pub const PATIENCE: u64 = 2_000;
/// A candidate that is unfit waits so many milliseconds, so that any other comes first.
const UNFIT_PATIENCE: u64 = 3 * PATIENCE;
/// How long a VM counts as unfit, in milliseconds.
const UNFIT: u64 = 60_000;
/// The holder counts its beat up this often, in milliseconds.
pub const BEAT: u64 = 250;
/// Who holds it is looked up this often, in milliseconds. Before it writes, a VM looks anyway.
const LOOK: u64 = 50;

/// One VM's view of the lease.
#[derive(Debug)]
pub struct Lease {
    me: u64,
    /// Whether this VM ever served a request.
    serves: bool,
    seen: Option<(Record, u64)>,
    /// Until then this VM leads only where nobody else does: it does not trust who signs.
    unfit_until: u64,
    challenger: Option<Record>,
    next_beat: u64,
    next_look: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    holder: u64,
    beat: u64,
    serves: bool,
}

impl Lease {
    /// `me` is random, so that no two VMs share it.
    #[must_use]
    pub const fn new(me: u64) -> Self {
        Self { me, serves: false, seen: None, unfit_until: 0, challenger: None, next_beat: 0, next_look: 0 }
    }

    #[must_use]
    pub const fn me(&self) -> u64 {
        self.me
    }

    pub const fn served(&mut self) {
        self.serves = true;
    }

    /// Whether this VM holds the lease at this moment.
    #[must_use]
    pub fn leads(&self, names: &Namespace, shared: &impl SharedData) -> bool {
        read(names, shared, HOLDER).0.is_some_and(|record| record.holder == self.me)
    }

    /// Takes the lease at once, whoever holds it, for one who has something to write and goes on to write
    /// it. Whoever fetches takes it back when no beat follows.
    pub fn claim(&self, names: &Namespace, shared: &impl SharedData) {
        let (record, cas) = read(names, shared, HOLDER);
        if record.is_none_or(|record| record.holder != self.me) {
            // A lost race is seen by whoever asks `leads` before writing.
            self.write(names, shared, HOLDER, record.map_or(0, |record| record.beat), cas);
        }
    }

    /// Gives the lease up, and lets others come first for a while: this VM cannot use what is fetched.
    pub fn resign(&mut self, names: &Namespace, shared: &impl SharedData, now: u64) {
        self.unfit_until = now.saturating_add(UNFIT);
        let (record, cas) = read(names, shared, HOLDER);
        if let Some(record) = record.filter(|record| record.holder == self.me) {
            let free = Record { holder: NOBODY, ..record };
            // If somebody took it meanwhile, it is given up all the same.
            let _ = put(names, shared, HOLDER, free, cas);
        }
    }

    /// Beats, yields, challenges or claims, whichever is due at `now` (monotonic milliseconds), and
    /// tells whether this VM leads; `None` if it did not look again. A lost race is no error: the next
    /// look sees who won.
    pub fn tick(&mut self, names: &Namespace, shared: &impl SharedData, now: u64) -> Option<bool> {
        if now < self.next_look {
            return None;
        }
        self.next_look = now.saturating_add(LOOK);
        Some(self.look(names, shared, now))
    }

    fn look(&mut self, names: &Namespace, shared: &impl SharedData, now: u64) -> bool {
        let (record, cas) = read(names, shared, HOLDER);
        let fit = now >= self.unfit_until;
        let record = match record {
            Some(record) if record.holder != NOBODY || !fit => record,
            None if !fit => Record { holder: NOBODY, beat: 0, serves: false },
            free => return self.write(names, shared, HOLDER, free.map_or(0, |free| free.beat), cas),
        };
        if record.holder == self.me {
            return self.hold(names, shared, record, cas, now);
        }
        match self.seen {
            Some((seen, since)) if seen == record => {
                if now.saturating_sub(since) >= if fit { PATIENCE } else { UNFIT_PATIENCE } {
                    return self.write(names, shared, HOLDER, record.beat, cas);
                }
            }
            _ => self.seen = Some((record, now)),
        }
        if record.serves && !self.serves && fit && now >= self.next_beat {
            self.next_beat = now.saturating_add(BEAT);
            let (other, cas) = read(names, shared, CHALLENGER);
            self.write(names, shared, CHALLENGER, other.map_or(0, |other| other.beat), cas);
        }
        false
    }

    fn hold(
        &mut self,
        names: &Namespace,
        shared: &impl SharedData,
        record: Record,
        cas: u32,
        now: u64,
    ) -> bool {
        self.seen = None;
        if now < self.next_beat && record.serves == self.serves {
            return true;
        }
        self.next_beat = now.saturating_add(BEAT);
        if self.serves {
            let challenger = read(names, shared, CHALLENGER).0.filter(|other| !other.serves);
            let before = std::mem::replace(&mut self.challenger, challenger);
            // Only a beat since the last look shows that the challenger lives.
            if let (Some(before), Some(challenger)) = (before, challenger)
                && before.beat != challenger.beat
            {
                self.challenger = None;
                let next =
                    Record { holder: challenger.holder, beat: record.beat.wrapping_add(1), serves: false };
                return put(names, shared, HOLDER, next, cas).is_err();
            }
        }
        self.write(names, shared, HOLDER, record.beat, cas)
    }

    fn write(&self, names: &Namespace, shared: &impl SharedData, key: &str, beat: u64, cas: u32) -> bool {
        let record = Record { holder: self.me, beat: beat.wrapping_add(1), serves: self.serves };
        put(names, shared, key, record, cas).is_ok()
    }
}

/// The holder of a lease that was given up. No VM has this name, but by a chance of 2⁻⁶⁴.
const NOBODY: u64 = 0;
const HOLDER: &str = "l";
const CHALLENGER: &str = "c";

/// Bytes that nobody wrote count as an absent record, so that the lease can be claimed anew.
fn read(names: &Namespace, shared: &impl SharedData, key: &str) -> (Option<Record>, u32) {
    let Some((bytes, cas)) = shared.get(&names.key(key)) else {
        return (None, CREATE);
    };
    let record = match bytes.as_chunks::<8>() {
        ([holder, beat], &[serves @ (0 | 1)]) => Some(Record {
            holder: u64::from_le_bytes(*holder),
            beat: u64::from_le_bytes(*beat),
            serves: serves == 1,
        }),
        _ => None,
    };
    (record, cas)
}

fn put(
    names: &Namespace,
    shared: &impl SharedData,
    key: &str,
    record: Record,
    cas: u32,
) -> Result<(), crate::shared::Conflict> {
    let mut bytes = Vec::with_capacity(17);
    bytes.extend_from_slice(&record.holder.to_le_bytes());
    bytes.extend_from_slice(&record.beat.to_le_bytes());
    bytes.push(u8::from(record.serves));
    shared.set(&names.key(key), &bytes, cas)
}
