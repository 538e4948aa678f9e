//! How long changes take to be enforced.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Commits remembered; a proxy that is further behind is not measured by the older ones.
const KEPT: usize = 256;

/// When the latest revisions were committed, as runs that committed together: each by its last.
#[derive(Debug, Default)]
pub(super) struct Propagation(Mutex<Commits>);

#[derive(Debug, Default)]
struct Commits {
    latest: VecDeque<(u64, Instant)>,
}

impl Propagation {
    /// `head` is committed. What is known already keeps its time.
    pub(super) fn committed(&self, head: u64, at: Instant) {
        let mut commits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if commits.latest.back().is_some_and(|(last, _)| head <= *last) {
            return;
        }
        if commits.latest.len() >= KEPT {
            commits.latest.pop_front();
        }
        commits.latest.push_back((head, at));
    }

    /// How long each commit took that somebody enforces `now`, who had enforced `before`.
    pub(super) fn enforced(&self, before: u64, now: u64, at: Instant) -> Vec<Duration> {
        if now <= before {
            return Vec::new();
        }
        let commits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = commits.latest.iter().filter(|(head, _)| before < *head && *head <= now);
        reached.map(|(_, committed)| at.saturating_duration_since(*committed)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_commit_counts_once_for_whoever_comes_to_enforce_it() {
        let (propagation, start) = (Propagation::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        propagation.committed(4, at(0));
        propagation.committed(7, at(100));
        propagation.committed(7, at(150));
        assert_eq!(propagation.enforced(0, 3, at(200)), []);
        assert_eq!(propagation.enforced(3, 6, at(200)), [ms(200)]);
        assert_eq!(propagation.enforced(3, 7, at(200)), [ms(200), ms(100)]);
        assert_eq!(propagation.enforced(7, 7, at(300)), []);
        assert_eq!(propagation.enforced(7, 4, at(300)), []);
    }

    #[test]
    fn the_memory_of_commits_is_bounded() {
        let (propagation, now) = (Propagation::default(), Instant::now());
        for head in 0..1000 {
            propagation.committed(head, now);
        }
        assert_eq!(propagation.enforced(0, 1000, now).len(), KEPT);
    }
}
