//! Who stays when a listener is full.
//!
//! Anybody can open connections, and only some can show a credential. So when there is no room for a newcomer, the oldest
//! connection that has shown none gives way to it: whoever fills a listener pushes out himself, and not an operator.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::Extensions;
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};

/// As many connections as one listener may have.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    // A std mutex: it is held for a lookup, never across an await.
    strangers: Mutex<Strangers>,
}

/// Connections that have shown no credential, the oldest first.
#[derive(Debug, Default)]
struct Strangers {
    last: u64,
    here: BTreeMap<u64, Arc<Notify>>,
}

/// One connection's place. Dropped, it is free.
#[derive(Debug)]
pub(super) struct Place {
    guest: Guest,
    leave: Arc<Notify>,
    _place: OwnedSemaphorePermit,
}

/// A connection, to whoever looks at its requests.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    room: Arc<Room>,
    number: u64,
    known: Arc<AtomicBool>,
}

/// Says that whoever sent this request has shown a good credential, or needs none: its connection keeps its place.
pub fn vouch(request: &Extensions) {
    if let Some(guest) = request.get::<Guest>() {
        guest.vouch();
    }
}

impl Room {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(most)), strangers: Mutex::default() })
    }

    /// Whether a newcomer has to wait, or to take a stranger's place.
    pub(super) fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// Tells the oldest stranger to leave. False: everybody here is known.
    pub(super) fn show_one_out(&self) -> bool {
        let oldest = self.strangers().here.pop_first();
        oldest.is_some_and(|(_, leave)| {
            leave.notify_one();
            true
        })
    }

    /// Waits for a place.
    pub(super) async fn enter(self: &Arc<Self>) -> Result<Place, AcquireError> {
        let place = self.places.clone().acquire_owned().await?;
        let leave = Arc::new(Notify::new());
        let mut strangers = self.strangers();
        strangers.last = strangers.last.wrapping_add(1);
        let number = strangers.last;
        strangers.here.insert(number, leave.clone());
        drop(strangers);
        let guest = Guest { room: self.clone(), number, known: Arc::default() };
        Ok(Place { guest, leave, _place: place })
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn guest(&self) -> Guest {
        self.guest.clone()
    }

    /// Until this connection has to leave.
    pub(super) async fn given_up(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guest.room.strangers().here.remove(&self.guest.number);
    }
}

impl Guest {
    pub(super) fn vouch(&self) {
        if !self.known.swap(true, Ordering::Relaxed) {
            self.room.strangers().here.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_told(place: &Place) -> bool {
        pin!(place.given_up()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_stranger_gives_way_and_nobody_who_is_known() {
        let room = Room::new(3);
        let enter = || match pin!(room.enter()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => place.unwrap(),
            Poll::Pending => panic!("there is no room"),
        };
        let (known, old, new) = (enter(), enter(), enter());
        assert!(room.is_full());
        known.guest().vouch();
        known.guest().vouch();
        assert!(room.show_one_out());
        assert_eq!([&known, &old, &new].map(is_told), [false, true, false]);
        drop(old);
        let next = enter();
        assert!(room.show_one_out());
        assert_eq!([&known, &new, &next].map(is_told), [false, true, false]);
        drop(new);
        next.guest().vouch();
        assert!(!room.show_one_out(), "the others are known");
        assert!(!room.is_full());
    }
}
