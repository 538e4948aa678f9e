//! Keeps documents. One is made once, by the first who asks, while the others wait for it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use super::Signed;

/// Documents by what was asked for; the oldest gives way.
#[derive(Debug)]
pub struct Shelf<K> {
    slots: Mutex<BTreeMap<K, Slot>>,
    capacity: usize,
}

#[derive(Debug, Clone)]
struct Slot {
    /// The ring's head when the document was asked for first.
    head: u64,
    /// Which signing key's turn it was then.
    turn: u64,
    since: Instant,
    cell: Arc<OnceCell<Signed>>,
}

impl<K: Ord + Clone> Shelf<K> {
    /// With room for so many.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self { slots: Mutex::new(BTreeMap::new()), capacity }
    }

    /// The document kept for `key`, if it `serves`, given the head at which it was asked for and its
    /// age, and no signing key's `turn` came since; or else the one that `make` makes, which everyone gets who asks meanwhile.
    ///
    /// # Errors
    ///
    /// What `make` says.
    pub async fn get<E, F>(
        &self,
        key: &K,
        (head, turn): (u64, u64),
        serves: impl Fn(u64, Duration) -> bool,
        make: impl FnOnce() -> F,
    ) -> Result<Signed, E>
    where
        F: Future<Output = Result<Signed, E>>,
    {
        let cell = self.slot(key, head, turn, serves);
        cell.get_or_try_init(make).await.cloned()
    }

    fn slot(
        &self,
        key: &K,
        head: u64,
        turn: u64,
        serves: impl Fn(u64, Duration) -> bool,
    ) -> Arc<OnceCell<Signed>> {
        // A std mutex: it is held for a lookup, never across an await.
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(key)
            && slot.turn >= turn
            && serves(slot.head, slot.since.elapsed())
        {
            return slot.cell.clone();
        }
        if slots.len() >= self.capacity && !slots.contains_key(key) {
            let oldest = slots.iter().min_by_key(|(_, slot)| slot.since).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                slots.remove(&oldest);
            }
        }
        let cell = Arc::new(OnceCell::new());
        slots.insert(key.clone(), Slot { head, turn, since: Instant::now(), cell: cell.clone() });
        cell
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn get(shelf: &Shelf<u64>, made: &AtomicU64, key: u64, head: u64, max_age: Duration) -> u64 {
        get_in(shelf, made, key, (head, 1), max_age).await
    }

    async fn get_in(
        shelf: &Shelf<u64>,
        made: &AtomicU64,
        key: u64,
        (head, turn): (u64, u64),
        max_age: Duration,
    ) -> u64 {
        let serves = |kept, age| kept >= head && age < max_age;
        let make = || async {
            tokio::task::yield_now().await;
            let revision = made.fetch_add(1, Ordering::Relaxed);
            let (signature, signer) = (String::new(), String::new());
            Ok::<_, Infallible>(Signed {
                body: bytes::Bytes::new(),
                signature,
                signer,
                revision,
                ahead: None,
            })
        };
        shelf.get(&key, (head, turn), serves, make).await.unwrap().revision
    }

    #[tokio::test]
    async fn a_document_is_made_once_for_all_who_ask() {
        let (shelf, made) = (Arc::new(Shelf::new(4)), Arc::new(AtomicU64::new(0)));
        let ask = |_| {
            let (shelf, made) = (shelf.clone(), made.clone());
            tokio::spawn(async move { get(&shelf, &made, 1, 1, LONG).await })
        };
        for asked in (0..50).map(ask).collect::<Vec<_>>() {
            assert_eq!(asked.await.unwrap(), 0);
        }
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_another_key_signed_is_made_anew() {
        let (shelf, made) = (Shelf::new(2), AtomicU64::new(0));
        for (turn, document) in [(1, 0), (1, 0), (2, 1), (2, 1), (1, 1)] {
            assert_eq!(get_in(&shelf, &made, 1, (1, turn), LONG).await, document, "in turn {turn}");
        }
    }

    #[tokio::test]
    async fn a_newer_head_or_age_makes_it_anew_and_the_oldest_gives_way() {
        let (shelf, made) = (Shelf::new(2), AtomicU64::new(0));
        assert_eq!(get(&shelf, &made, 1, 1, LONG).await, 0);
        assert_eq!(get(&shelf, &made, 1, 2, LONG).await, 1);
        assert_eq!(get(&shelf, &made, 1, 1, LONG).await, 1, "a later one serves whoever knows less");
        assert_eq!(get(&shelf, &made, 1, 2, Duration::ZERO).await, 2);
        assert_eq!(get(&shelf, &made, 2, 2, LONG).await, 3);
        assert_eq!(get(&shelf, &made, 3, 2, LONG).await, 4);
        assert_eq!(shelf.slots.lock().unwrap().keys().copied().collect::<Vec<_>>(), [2, 3]);
    }
}
