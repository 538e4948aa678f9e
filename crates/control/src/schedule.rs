//! When a key's rotation is due, and what is to be announced before. Pure: no clock and no store.
//!
//! Every replica comes to the same times: what is random about them is a hash of the key's id.

use keywheel_api::policy::{Day, Window};
use keywheel_api::{NoticeKind, ScheduleState, Terms};
use keywheel_keyring::{Digest, Millis};

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

/// What of a key its schedule depends on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub key: &'a str,
    pub terms: &'a Terms,
    /// Since when its newest active version is accepted; `None` when it has none, or has ended.
    pub active_since: Option<Millis>,
    /// Since when its oldest active version is accepted.
    pub oldest_since: Option<Millis>,
    /// The overlap of its open rotation: from when to when.
    pub overlap: Option<(Millis, Millis)>,
    /// Whether a rotation is open, also one that has not begun.
    pub rotating: bool,
    /// Whether its next version was deposited.
    pub deposited: bool,
}

/// What is to be so from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// `None` for a key that has ended, or has not begun.
    pub state: Option<ScheduleState>,
    pub due_at: Option<Millis>,
    /// When the deposited version's rotation starts.
    pub start_at: Option<Millis>,
    /// When this plan changes if nothing else does.
    pub look_at: Option<Millis>,
    /// What is announced now, unless it was before.
    pub notices: Vec<Announcement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    pub kind: NoticeKind,
    pub step_at: Millis,
    /// Milliseconds; 0 when it has happened.
    pub lead: u64,
}

impl Plan {
    #[must_use]
    pub fn new(key: &Situation<'_>, now: Millis) -> Self {
        let mut plan = Self::default();
        let Some(active_since) = key.active_since else { return plan };
        plan.state = Some(ScheduleState::Scheduled);
        if key.rotating {
            if let Some((begins_at, ends_at)) = key.overlap {
                plan.announce_before(NoticeKind::Retire, begins_at, ends_at, key.terms, now);
            }
        } else if let Some(due_at) = due_at(key.key, key.terms, active_since) {
            plan.due_at = Some(due_at);
            plan.announce_before(NoticeKind::Due, active_since, due_at, key.terms, now);
            if due_at <= now {
                plan.state = Some(ScheduleState::Due);
                plan.announce(NoticeKind::Due, due_at);
            } else {
                plan.look_again(due_at);
            }
            if key.deposited {
                plan.start_at = Some(start_at(key.key, key.terms, due_at, now));
            }
        }
        if let (Some(oldest), Some(age)) = (key.oldest_since, millis(key.terms.longest_age_seconds)) {
            let overdue_at = after(oldest, age);
            if overdue_at <= now {
                plan.state = Some(ScheduleState::Overdue);
                plan.announce(NoticeKind::Overdue, overdue_at);
            } else {
                plan.look_again(overdue_at);
            }
        }
        plan
    }

    fn announce(&mut self, kind: NoticeKind, step_at: Millis) {
        self.notices.push(Announcement { kind, step_at, lead: 0 });
    }

    /// The last of the notices whose time has come: after a time without anybody to give them there are not
    /// many at once. A notice from before `since` was never wanted.
    fn announce_before(
        &mut self,
        kind: NoticeKind,
        since: Millis,
        step_at: Millis,
        terms: &Terms,
        now: Millis,
    ) {
        if step_at <= now {
            return;
        }
        let leads = terms.notices_seconds.iter().map(|seconds| seconds.saturating_mul(1000));
        let leads = leads.filter(|lead| step_at.0.saturating_sub(*lead) > since.0);
        let (come, ahead): (Vec<u64>, Vec<u64>) =
            leads.partition(|lead| step_at.0.saturating_sub(*lead) <= now.0);
        if let Some(lead) = come.into_iter().min() {
            self.notices.push(Announcement { kind, step_at, lead });
        }
        if let Some(lead) = ahead.into_iter().max() {
            self.look_again(Millis(step_at.0.saturating_sub(lead)));
        }
    }

    fn look_again(&mut self, at: Millis) {
        self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// When the version that is active since then is to be rotated: never later than the policy's time, but for its
/// window.
#[must_use]
pub fn due_at(key: &str, terms: &Terms, active_since: Millis) -> Option<Millis> {
    let every = millis(terms.rotate_every_seconds)?;
    let earlier = spread(key, b"jitter", terms.jitter_seconds.saturating_mul(1000));
    let at = after(active_since, every.saturating_sub(earlier));
    Some(terms.window.as_ref().map_or(at, |window| within(key, window, at)))
}

/// When a rotation that was due then may start by itself: at once, or when the window opens again.
fn start_at(key: &str, terms: &Terms, due_at: Millis, now: Millis) -> Millis {
    match &terms.window {
        Some(window) if due_at <= now && !is_open(window, now) => within(key, window, now),
        // What is due stays in the line at the place of its time.
        _ => due_at,
    }
}

/// Whether a window is open.
#[must_use]
pub fn is_open(window: &Window, now: Millis) -> bool {
    opening(window, now).is_some_and(|(from, _)| from <= now)
}

/// The time itself if the window is open then; otherwise some time of its next opening, so that not everything
/// begins with it.
fn within(key: &str, window: &Window, at: Millis) -> Millis {
    match opening(window, at) {
        Some((from, to)) if from > at => {
            let length = to.saturating_since(from);
            Millis(from.0.saturating_add(spread(key, b"window", length.saturating_sub(MINUTE))))
        }
        _ => at,
    }
}

/// The first opening that is not over at `at`: from when to when.
fn opening(window: &Window, at: Millis) -> Option<(Millis, Millis)> {
    let (from, to) = (u64::from(window.from.minutes()), u64::from(window.to.minutes()));
    let length = if to > from { to - from } else { (24 * 60_u64).saturating_sub(from).saturating_add(to) };
    let today = at.0 / DAY;
    // The one of yesterday may go on after midnight.
    (today.saturating_sub(1)..=today.saturating_add(8))
        .filter(|day| window.days.contains(&weekday(*day)))
        .map(|day| {
            let from = day.saturating_mul(DAY).saturating_add(from.saturating_mul(MINUTE));
            (Millis(from), Millis(from.saturating_add(length.saturating_mul(MINUTE))))
        })
        .find(|(_, to)| at < *to)
}

/// Of the day with this number since 1970-01-01, which was a Thursday.
fn weekday(day: u64) -> Day {
    usize::try_from((day + 3) % 7).ok().and_then(|day| Day::ALL.get(day)).copied().unwrap_or(Day::Mon)
}

/// A number from 0 to `most` that is the key's own for this purpose.
fn spread(key: &str, purpose: &[u8], most: u64) -> u64 {
    let hash = Digest::of(&[purpose, b":", key.as_bytes()].concat());
    let mut number = [0; 8];
    for (to, from) in number.iter_mut().zip(hash.as_bytes()) {
        *to = *from;
    }
    most.checked_add(1).map_or(0, |count| u64::from_be_bytes(number) % count)
}

fn millis(seconds: Option<u64>) -> Option<u64> {
    seconds.map(|seconds| seconds.saturating_mul(1000))
}

const fn after(at: Millis, span: u64) -> Millis {
    Millis(at.0.saturating_add(span))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Monday, 2026-09-21 00:00 UTC.
    const MONDAY: u64 = 1_789_948_800_000;
    const HOUR: u64 = 60 * MINUTE;

    fn terms() -> Terms {
        Terms {
            rotate_every_seconds: Some(30 * 24 * 3600),
            notices_seconds: vec![7 * 24 * 3600, 24 * 3600],
            ..Terms::default()
        }
    }

    fn situation(terms: &Terms) -> Situation<'_> {
        let since = Some(Millis(MONDAY));
        Situation {
            key: "key_1",
            terms,
            active_since: since,
            oldest_since: since,
            overlap: None,
            rotating: false,
            deposited: false,
        }
    }

    fn window(days: &[Day], from: &str, to: &str) -> Window {
        Window { days: days.to_vec(), from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    #[test]
    fn a_key_becomes_due_and_each_notice_has_its_moment() {
        let terms = terms();
        let key = situation(&terms);
        let due = MONDAY + 30 * DAY;
        let at = |now| Plan::new(&key, Millis(now));
        let announced = |now: u64| at(now).notices.iter().map(|n| (n.kind, n.lead / DAY)).collect::<Vec<_>>();
        assert_eq!(
            (at(MONDAY).state, at(MONDAY).due_at),
            (Some(ScheduleState::Scheduled), Some(Millis(due)))
        );
        assert_eq!((announced(MONDAY), at(MONDAY).look_at), (vec![], Some(Millis(due - 7 * DAY))));
        assert_eq!(announced(due - 7 * DAY), [(NoticeKind::Due, 7)]);
        assert_eq!(announced(due - HOUR), [(NoticeKind::Due, 1)], "the older one is not made up for");
        assert_eq!(at(due - HOUR).look_at, Some(Millis(due)));
        assert_eq!(announced(due), [(NoticeKind::Due, 0)]);
        assert_eq!((at(due).state, at(due).look_at), (Some(ScheduleState::Due), None));
    }

    #[test]
    fn an_old_version_makes_its_key_overdue_even_while_it_rotates() {
        let terms = Terms { longest_age_seconds: Some(40 * 24 * 3600), ..terms() };
        for rotating in [false, true] {
            let key = Situation { rotating, ..situation(&terms) };
            assert_eq!(Plan::new(&key, Millis(MONDAY)).state, Some(ScheduleState::Scheduled));
            let plan = Plan::new(&key, Millis(MONDAY + 40 * DAY));
            assert_eq!(plan.state, Some(ScheduleState::Overdue));
            assert_eq!(plan.notices.last().unwrap().kind, NoticeKind::Overdue);
        }
        let ended = Situation { active_since: None, ..situation(&terms) };
        assert_eq!(Plan::new(&ended, Millis(MONDAY + 40 * DAY)), Plan::default());
    }

    #[test]
    fn the_end_of_an_overlap_is_announced() {
        let terms = terms();
        let overlap = Some((Millis(MONDAY), Millis(MONDAY + 2 * DAY)));
        let key = Situation { rotating: true, overlap, ..situation(&terms) };
        let plan = Plan::new(&key, Millis(MONDAY));
        assert_eq!(
            (plan.due_at, plan.look_at),
            (None, Some(Millis(MONDAY + DAY))),
            "a week before it had not begun"
        );
        let plan = Plan::new(&key, Millis(MONDAY + DAY));
        let retire = Announcement { kind: NoticeKind::Retire, step_at: Millis(MONDAY + 2 * DAY), lead: DAY };
        assert_eq!(plan.notices, [retire]);
    }

    #[test]
    fn a_window_holds_for_days_and_hours_and_over_midnight() {
        let office = window(&[Day::Mon, Day::Fri], "09:00", "17:00");
        let night = window(&[Day::Sun], "22:00", "04:00");
        for (window, at, open) in [
            (&office, 8 * HOUR, false),
            (&office, 9 * HOUR, true),
            (&office, 17 * HOUR, false),
            (&office, DAY + 9 * HOUR, false),
            (&office, 4 * DAY + 16 * HOUR, true),
            (&night, 3 * HOUR, true),
            (&night, 4 * HOUR, false),
            (&night, 6 * DAY + 23 * HOUR, true),
            (&window(&[Day::Tue], "00:00", "00:00"), DAY + 5 * HOUR, true),
        ] {
            assert_eq!(is_open(window, Millis(MONDAY + at)), open, "{window:?} {at}");
        }
    }

    #[test]
    fn what_waits_for_its_start_keeps_its_place_until_the_window_opens() {
        let office = window(&[Day::Mon], "09:00", "17:00");
        let terms = Terms {
            window: Some(office.clone()),
            rotate_every_seconds: Some(7 * 24 * 3600),
            ..Terms::default()
        };
        let key = Situation { deposited: true, ..situation(&terms) };
        let due = Plan::new(&key, Millis(MONDAY)).due_at.unwrap();
        assert!(is_open(&office, due) && due.0 >= MONDAY + 7 * DAY);
        assert_eq!(Plan::new(&key, due).start_at, Some(due));
        // Nothing ran while it was open.
        let late = Plan::new(&key, Millis(MONDAY + 8 * DAY)).start_at.unwrap();
        assert!(is_open(&office, late) && late.0 > MONDAY + 14 * DAY);
        assert_eq!(Plan::new(&key, late).start_at, Some(due), "oldest first");
    }

    proptest! {
        #[test]
        fn keys_of_one_moment_become_due_apart_and_never_late(key in "key_[a-z0-9]{8}", since in 0..(4 * MONDAY / 3)) {
            let plain = Terms { jitter_seconds: 5 * 24 * 3600, ..terms() };
            let at = due_at(&key, &plain, Millis(since)).unwrap();
            prop_assert!(at.0 <= since + 30 * DAY && at.0 >= since + 25 * DAY);
            prop_assert_eq!(due_at(&key, &plain, Millis(since)), Some(at));
            let office = window(&[Day::Wed], "22:00", "02:00");
            let bounded = Terms { window: Some(office.clone()), ..plain };
            let moved = due_at(&key, &bounded, Millis(since)).unwrap();
            prop_assert!(is_open(&office, moved) && moved >= at && moved.0 < at.0 + 8 * DAY);
        }
    }

    #[test]
    fn jitter_is_spread_over_its_whole_range() {
        let plain = Terms { jitter_seconds: 10 * 24 * 3600, ..terms() };
        let mut tenths = [0; 10];
        for n in 0..1000 {
            let early = MONDAY + 30 * DAY - due_at(&format!("key_{n}"), &plain, Millis(MONDAY)).unwrap().0;
            tenths[usize::try_from(early / DAY).unwrap().min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| *count > 50), "{tenths:?}");
    }
}
