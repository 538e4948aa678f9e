//! What reports of proxies add up to. Pure: no clock and no store.
//!
//! Each VM numbers its batches from 1. A number that is not after the VM's last one was counted
//! already; one that is not the next shows that some never came.

use std::collections::BTreeMap;

use keywheel_keyring::Millis;
use keywheel_keyring::usage::{Batch, Count, MINUTE};

/// Counts are kept by spans of so many milliseconds.
pub const HOUR: u64 = 60 * MINUTE;
/// A minute longer ago than this, or one that has not come yet, counts as the one in which the report
/// arrived: a proxy's clock is wrong, and what is late must not rewrite what was read long ago.
pub const MAX_AGE: u64 = 7 * 24 * HOUR;
/// For so long counts are kept by the minute, too.
pub const LATELY: u64 = 2 * HOUR;
/// No count grows beyond what every reader of JSON can hold.
pub const MAX_COUNT: u64 = (1 << 53) - 1;
/// What an outcome counts as that this version does not know: nobody may fill the database with
/// names of their own.
pub const OTHER: &str = "other";

/// The outcome of a request that was let pass.
pub const VALID: &str = "valid";

const OUTCOMES: [&str; 12] = [
    VALID,
    "key_not_yet_valid",
    "key_expired",
    "key_retired",
    "key_revoked",
    "key_brownout",
    "insufficient_scope",
    "client_not_allowed",
    "no_rule",
    "path_not_canonical",
    "ring_unavailable",
    "ring_stale",
];

/// Names a VM for ever: a VM that starts anew has a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmId {
    pub instance: String,
    pub vm: String,
}

/// What is known of one VM's batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    pub node: String,
    /// When its first batch arrived.
    pub first_seen: Millis,
    pub last_batch: u64,
    /// How many batches never came.
    pub missing: u64,
    /// When that showed first.
    pub missing_since: Option<Millis>,
    /// No batch is missing between these two.
    pub covered_from: Millis,
    pub covered_to: Millis,
    /// When its latest batch arrived.
    pub received_at: Millis,
}

/// What one row of the hourly table is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    pub version: String,
    pub hour: Millis,
    pub outcome: &'static str,
}

/// What is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uses {
    pub count: u64,
    pub last_minute: Millis,
}

/// What some batches of one ring add up to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// Every VM that a batch came from.
    pub vms: BTreeMap<VmId, Vm>,
    pub hours: BTreeMap<Slot, Uses>,
    /// What was counted within [`LATELY`], by version and minute, whatever came of it.
    pub minutes: BTreeMap<(String, Millis), u64>,
    /// The newest minute of each version that was let pass.
    pub used: BTreeMap<String, Millis>,
}

impl Ledger {
    /// Begins with what is known of the VMs that the batches come from.
    #[must_use]
    pub fn new(known: BTreeMap<VmId, Vm>) -> Self {
        Self { vms: known, ..Self::default() }
    }

    /// Adds one report's batches, which kept their rules and arrived at `now`. What was counted before
    /// adds nothing. A report's batches may come in any order.
    pub fn add(&mut self, batches: &[Batch], now: Millis) {
        let mut batches: Vec<&Batch> = batches.iter().collect();
        batches.sort_by_key(|batch| batch.batch);
        for batch in batches {
            if self.number(batch, now) {
                batch.counts.iter().for_each(|count| self.count(count, now));
            }
        }
    }

    /// Takes the batch's number. Returns whether it is new.
    fn number(&mut self, batch: &Batch, now: Millis) -> bool {
        let id = VmId { instance: batch.instance.clone(), vm: batch.vm.clone() };
        // The database counts up to here.
        let number = batch.batch.min(i64::MAX as u64);
        // A proxy whose clock is ahead covers no time that has not come.
        let (from, to) = (batch.from.min(now), batch.to.min(now));
        let vm = self.vms.entry(id).or_insert_with(|| Vm {
            node: String::new(),
            first_seen: now,
            last_batch: 0,
            missing: 0,
            missing_since: None,
            covered_from: from,
            covered_to: from,
            received_at: now,
        });
        vm.node.clone_from(&batch.node);
        vm.received_at = vm.received_at.max(now);
        if number <= vm.last_batch {
            return false;
        }
        let missing = number.saturating_sub(vm.last_batch).saturating_sub(1);
        if missing > 0 {
            vm.missing = vm.missing.saturating_add(missing);
            vm.missing_since.get_or_insert(now);
            vm.covered_from = from;
        }
        vm.last_batch = number;
        vm.covered_to = to;
        true
    }

    fn count(&mut self, count: &Count, now: Millis) {
        let sane = count.minute <= now && now.saturating_since(count.minute) <= MAX_AGE;
        let minute = if sane { count.minute } else { Millis(floor(now.0, MINUTE)) };
        if now.saturating_since(minute) <= LATELY {
            let lately = self.minutes.entry((count.version.clone(), minute)).or_default();
            *lately = lately.saturating_add(count.count).min(MAX_COUNT);
        }
        let outcome = OUTCOMES.into_iter().find(|known| *known == count.outcome).unwrap_or(OTHER);
        let slot = Slot { version: count.version.clone(), hour: Millis(floor(minute.0, HOUR)), outcome };
        let uses = self.hours.entry(slot).or_default();
        uses.count = uses.count.saturating_add(count.count).min(MAX_COUNT);
        uses.last_minute = uses.last_minute.max(minute);
        if outcome == VALID {
            let used = self.used.entry(count.version.clone()).or_default();
            *used = minute.max(*used);
        }
    }
}

/// The beginning of the span that a time is in.
#[must_use]
pub const fn floor(time: u64, span: u64) -> u64 {
    time.saturating_sub(time % span)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_790_000_030_000);
    const THIS_MINUTE: u64 = 1_790_000_000_000 - 1_790_000_000_000 % MINUTE;

    fn batch(number: u64, counts: &[(&str, &str, u64, u64)]) -> Batch {
        let count = |(version, outcome, minute, count): &(&str, &str, u64, u64)| Count {
            version: (*version).into(),
            outcome: (*outcome).into(),
            minute: Millis(*minute),
            count: *count,
        };
        Batch {
            node: "edge".into(),
            instance: "0a".into(),
            vm: "1".into(),
            batch: number,
            from: Millis(NOW.0 - 1000 + number),
            to: Millis(NOW.0 - 999 + number),
            counts: counts.iter().map(count).collect(),
        }
    }

    fn vm(ledger: &Ledger) -> &Vm {
        ledger.vms.values().next().unwrap()
    }

    #[test]
    fn a_batch_counts_once_and_in_the_order_of_its_number() {
        let mut ledger = Ledger::default();
        let (first, second) = (
            batch(1, &[("kv_1", VALID, THIS_MINUTE, 2), ("kv_1", "key_expired", THIS_MINUTE, 1)]),
            batch(2, &[("kv_1", VALID, THIS_MINUTE - MINUTE, 3)]),
        );
        ledger.add(&[second.clone(), first.clone()], NOW);
        ledger.add(&[first, second], NOW);
        let counts: u64 = ledger.hours.values().map(|uses| uses.count).sum();
        assert_eq!((counts, ledger.used["kv_1"]), (6, Millis(THIS_MINUTE)));
        assert_eq!((vm(&ledger).last_batch, vm(&ledger).missing), (2, 0));
        assert_eq!((vm(&ledger).covered_from, vm(&ledger).covered_to.0), (Millis(NOW.0 - 999), NOW.0 - 997));
    }

    #[test]
    fn a_gap_is_counted_and_begins_the_cover_anew() {
        let mut ledger = Ledger::default();
        ledger.add(&[batch(1, &[])], NOW);
        ledger.add(&[batch(4, &[])], Millis(NOW.0 + 5));
        ledger.add(&[batch(6, &[])], Millis(NOW.0 + 9));
        let vm = vm(&ledger);
        assert_eq!((vm.missing, vm.missing_since), (3, Some(Millis(NOW.0 + 5))));
        assert_eq!((vm.covered_from.0, vm.first_seen), (NOW.0 - 994, NOW));
    }

    #[test]
    fn a_vm_that_is_met_in_its_middle_has_a_gap_and_no_number_overflows() {
        let mut ledger = Ledger::default();
        ledger.add(&[batch(3, &[])], NOW);
        assert_eq!(vm(&ledger).missing, 2);
        let last = Batch { batch: u64::MAX, ..batch(1, &[("kv_1", VALID, THIS_MINUTE, u64::MAX)]) };
        for _ in 0..2 {
            ledger.add(std::slice::from_ref(&last), NOW);
        }
        assert_eq!(ledger.hours.values().map(|uses| uses.count).collect::<Vec<_>>(), [MAX_COUNT]);
    }

    #[test]
    fn no_time_is_ahead_or_long_past_and_no_outcome_is_invented() {
        let mut ledger = Ledger::default();
        let long_ago = floor(NOW.0 - MAX_AGE - MINUTE, MINUTE);
        let ahead = THIS_MINUTE + 60 * MINUTE;
        let counts = [("kv_1", VALID, long_ago, 1), ("kv_1", VALID, ahead, 1), ("kv_2", "made_up", 0, 1)];
        ledger.add(&[Batch { to: Millis(u64::MAX), ..batch(1, &counts) }], NOW);
        assert_eq!(vm(&ledger).covered_to, NOW);
        let slots: Vec<_> =
            ledger.hours.iter().map(|(slot, uses)| (slot.hour.0, slot.outcome, uses.count)).collect();
        let hour = floor(NOW.0, HOUR);
        assert_eq!(slots, [(hour, VALID, 2), (hour, OTHER, 1)]);
        assert_eq!(ledger.used.keys().collect::<Vec<_>>(), ["kv_1"]);
    }
}
