//! When what is new in a canary goes to its main ring. Pure: no clock and no store.
//!
//! A group of which nobody is there proves nothing, and neither does one of which somebody is silent: then only the
//! pause counts. It always ends: a canary that is gone must not keep a key from its clients for ever.

use keywheel_api::Promote;
use keywheel_keyring::Millis;

/// The proxies of a canary, as they stand to one version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Group {
    /// Proxies that have to enforce it: all but those that refuse every request by themselves.
    pub of: u64,
    /// Those that said that all their VMs do.
    pub enforced: u64,
    /// Those of them that are still there.
    pub present: u64,
}

/// Why it goes to the main ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// Every proxy of the canary enforces it.
    Enforced,
    /// The pause is over.
    Pause,
    /// An operator waits no longer.
    Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Promote(Because),
    /// Until then at the latest.
    Wait(Millis),
}

impl Group {
    #[must_use]
    pub const fn enforces(self) -> bool {
        self.present > 0 && self.enforced >= self.of
    }
}

/// Judges a version whose pause ends at `promote_at`.
#[must_use]
pub const fn judge(promote: Promote, promote_at: Millis, group: Group, now: Millis) -> Verdict {
    // What was proven goes before what was merely waited for.
    match promote {
        Promote::WhenEnforced if group.enforces() => Verdict::Promote(Because::Enforced),
        _ if promote_at.0 <= now.0 => Verdict::Promote(Because::Pause),
        _ => Verdict::Wait(promote_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Millis = Millis(1_000);

    #[test]
    fn every_group_before_and_after_the_pause() {
        for promote in [Promote::WhenEnforced, Promote::AfterPause] {
            for of in 0..4 {
                for enforced in 0..=of {
                    for present in 0..=enforced {
                        for now in [0, END.0 - 1, END.0, END.0 + 1, u64::MAX] {
                            let group = Group { of, enforced, present };
                            let verdict = judge(promote, END, group, Millis(now));
                            let proven = of > 0 && enforced == of && present > 0;
                            let expected = match (promote, proven, now >= END.0) {
                                (Promote::WhenEnforced, true, _) => Verdict::Promote(Because::Enforced),
                                (_, _, true) => Verdict::Promote(Because::Pause),
                                _ => Verdict::Wait(END),
                            };
                            assert_eq!(verdict, expected, "{promote:?} {group:?} at {now}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_group_without_anybody_proves_nothing() {
        let judge = |group| judge(Promote::WhenEnforced, END, group, Millis(0));
        assert_eq!(judge(Group::default()), Verdict::Wait(END));
        let vanished = Group { of: 2, enforced: 2, present: 0 };
        assert_eq!(judge(vanished), Verdict::Wait(END), "it enforced the key, and nobody is left of it");
        let one_left = Group { present: 1, ..vanished };
        assert_eq!(judge(one_left), Verdict::Promote(Because::Enforced));
    }

    #[test]
    fn who_lags_or_is_silent_holds_it_up_until_the_pause_is_over() {
        let group = Group { of: 3, enforced: 2, present: 2 };
        assert_eq!(judge(Promote::WhenEnforced, END, group, Millis(999)), Verdict::Wait(END));
        assert_eq!(judge(Promote::WhenEnforced, END, group, Millis(1_000)), Verdict::Promote(Because::Pause));
    }

    #[test]
    fn a_soak_is_not_cut_short_by_a_proof() {
        let group = Group { of: 3, enforced: 3, present: 3 };
        assert_eq!(judge(Promote::AfterPause, END, group, Millis(999)), Verdict::Wait(END));
    }
}
