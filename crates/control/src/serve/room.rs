//! Who stays when a listener is full.
//!
//! Anybody can open connections, and only some can show a credential. So when there is no room for a newcomer, one that has
//! shown none gives way: the oldest of the address that has most of them, so that whoever fills a listener pushes out
//! himself. One credential vouches for a quarter of the room. What it has beyond that, the oldest first, are strangers
//! again: a token that every proxy has must not keep out who could revoke it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::Extensions;
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};

use crate::failed_logins::network;

/// As many connections as one listener may have.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    /// For how many connections one credential vouches.
    share: usize,
    // A std mutex: it is held for a lookup, never across an await.
    guests: Mutex<Guests>,
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
    seen: Arc<Seen>,
}

/// What a connection has shown.
#[derive(Debug, Default)]
struct Seen {
    is_known: AtomicBool,
    /// Requests with a good credential.
    good: AtomicU64,
}

#[derive(Debug, Default)]
struct Guests {
    last: u64,
    here: HashMap<u64, Entry>,
    strangers: Strangers,
    /// Of each credential, the oldest first.
    known: HashMap<Arc<str>, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Entry {
    from: IpAddr,
    leave: Arc<Notify>,
    seen: Arc<Seen>,
    /// The credential that vouches for it.
    who: Option<Arc<str>>,
}

/// Connections that nothing vouches for.
#[derive(Debug, Default)]
struct Strangers {
    /// Of each address, the oldest first.
    of: BTreeMap<IpAddr, BTreeSet<u64>>,
    /// How many each address has, and the oldest of them. Who has to leave first is last.
    most: BTreeSet<(usize, Reverse<u64>, IpAddr)>,
}

/// Says that whoever sent this request has shown a good credential, or needs none, and which: its connection keeps its place.
pub fn vouch(request: &Extensions, who: impl FnOnce() -> String) {
    if let Some(guest) = request.get::<Guest>() {
        guest.vouch(who);
    }
}

impl Room {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(most));
        Arc::new(Self { places, share: (most / 4).max(1), guests: Mutex::default() })
    }

    /// Whether a newcomer has to wait, or to take a stranger's place.
    pub(super) fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// Tells a stranger to leave. False: everybody here is known.
    pub(super) fn show_one_out(&self) -> bool {
        let mut guests = self.guests();
        let Some(number) = guests.strangers.first() else { return false };
        if let Some(entry) = guests.remove(number) {
            entry.leave.notify_one();
        }
        true
    }

    /// Waits for a place for who comes from this address.
    pub(super) async fn enter(self: &Arc<Self>, from: IpAddr) -> Result<Place, AcquireError> {
        let place = self.places.clone().acquire_owned().await?;
        let (from, leave, seen) = (network(from), Arc::new(Notify::new()), Arc::<Seen>::default());
        let mut guests = self.guests();
        guests.last = guests.last.wrapping_add(1);
        let number = guests.last;
        guests.strangers.add(from, number);
        guests.here.insert(number, Entry { from, leave: leave.clone(), seen: seen.clone(), who: None });
        drop(guests);
        let guest = Guest { room: self.clone(), number, seen };
        Ok(Place { guest, leave, _place: place })
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.guest.room.guests().remove(self.guest.number);
    }
}

impl Guest {
    pub(super) fn vouch(&self, who: impl FnOnce() -> String) {
        self.seen.good.fetch_add(1, Ordering::Relaxed);
        if !self.seen.is_known.load(Ordering::Relaxed) {
            self.room.guests().vouch(self.number, who().into(), self.room.share);
        }
    }

    /// How many requests with a good credential it has had.
    pub(super) fn good(&self) -> u64 {
        self.seen.good.load(Ordering::Relaxed)
    }

    /// It is a stranger again: a credential that was good once may be revoked since.
    pub(super) fn doubt(&self) {
        self.room.guests().doubt(self.number);
    }
}

impl Guests {
    fn vouch(&mut self, number: u64, who: Arc<str>, share: usize) {
        // Whoever was told to leave is not here any more.
        let Some(entry) = self.here.get_mut(&number).filter(|entry| entry.who.is_none()) else { return };
        self.strangers.remove(entry.from, number);
        entry.who = Some(who.clone());
        entry.seen.is_known.store(true, Ordering::Relaxed);
        let its = self.known.entry(who).or_default();
        its.insert(number);
        let beyond = its.first().copied().filter(|_| its.len() > share);
        if let Some(oldest) = beyond {
            self.doubt(oldest);
        }
    }

    fn doubt(&mut self, number: u64) {
        let Some(entry) = self.here.get_mut(&number) else { return };
        let Some(who) = entry.who.take() else { return };
        entry.seen.is_known.store(false, Ordering::Relaxed);
        self.strangers.add(entry.from, number);
        self.forget(&who, number);
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.here.remove(&number)?;
        match &entry.who {
            Some(who) => self.forget(who, number),
            None => self.strangers.remove(entry.from, number),
        }
        Some(entry)
    }

    fn forget(&mut self, who: &Arc<str>, number: u64) {
        if let Some(its) = self.known.get_mut(who) {
            its.remove(&number);
            if its.is_empty() {
                self.known.remove(who);
            }
        }
    }
}

impl Strangers {
    fn first(&self) -> Option<u64> {
        self.most.last().map(|(_, Reverse(oldest), _)| *oldest)
    }

    fn add(&mut self, from: IpAddr, number: u64) {
        self.change(from, |its| its.insert(number));
    }

    fn remove(&mut self, from: IpAddr, number: u64) {
        self.change(from, |its| its.remove(&number));
    }

    fn change(&mut self, from: IpAddr, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let its = self.of.entry(from).or_default();
        let rank = |its: &BTreeSet<u64>| Some((its.len(), Reverse(*its.first()?), from));
        if let Some(rank) = rank(its) {
            self.most.remove(&rank);
        }
        change(its);
        match rank(its) {
            Some(rank) => drop(self.most.insert(rank)),
            None => drop(self.of.remove(&from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn enter(room: &Arc<Room>, from: IpAddr) -> Place {
        match pin!(room.enter(from)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => place.unwrap(),
            Poll::Pending => panic!("there is no room"),
        }
    }

    fn told<const N: usize>(places: [&Place; N]) -> [bool; N] {
        places.map(|place| pin!(place.given_up()).poll(&mut Context::from_waker(Waker::noop())).is_ready())
    }

    fn vouch(place: &Place, who: &str) {
        place.guest().vouch(|| who.to_owned());
    }

    #[test]
    fn the_oldest_stranger_gives_way_and_nobody_who_is_known() {
        let room = Room::new(3);
        let (known, old, new) = (enter(&room, HERE), enter(&room, HERE), enter(&room, HERE));
        assert!(room.is_full());
        vouch(&known, "token_1");
        vouch(&known, "token_1");
        assert!(room.show_one_out());
        assert_eq!(told([&known, &old, &new]), [false, true, false]);
        // It has been told, and comes too late.
        vouch(&old, "token_2");
        drop(old);
        let next = enter(&room, HERE);
        assert!(room.show_one_out());
        assert_eq!(told([&known, &new, &next]), [false, true, false]);
        drop(new);
        vouch(&next, "token_2");
        assert!(!room.show_one_out(), "the others are known");
        assert!(!room.is_full());
    }

    #[test]
    fn who_opens_most_pushes_out_himself() {
        let room = Room::new(4);
        let slow = enter(&room, HERE);
        let (first, second, third) = (enter(&room, THERE), enter(&room, THERE), enter(&room, THERE));
        assert!(room.show_one_out() && room.show_one_out());
        assert_eq!(told([&slow, &first, &second, &third]), [false, true, true, false]);
        // Of those who have as many the oldest goes.
        assert!(room.show_one_out());
        assert_eq!(told([&slow, &third]), [true, false]);
    }

    #[test]
    fn a_credential_vouches_for_a_quarter_of_the_room() {
        let room = Room::new(8);
        let places: Vec<Place> = (0..3).map(|_| enter(&room, HERE)).collect();
        for place in &places {
            vouch(place, "token_1");
        }
        let other = enter(&room, HERE);
        vouch(&other, "token_2");
        assert!(room.show_one_out());
        assert_eq!(told([&places[0], &places[1], &places[2], &other]), [true, false, false, false]);
        assert!(!room.show_one_out());
        // What is known may be doubted, and vouched for again.
        places[2].guest().doubt();
        places[2].guest().doubt();
        vouch(&places[2], "token_1");
        assert_eq!(places[2].guest().good(), 2);
        assert!(!room.show_one_out());
        places[2].guest().doubt();
        assert!(room.show_one_out());
        drop((places, other));
        let guests = room.guests();
        let counts =
            [guests.here.len(), guests.known.len(), guests.strangers.of.len(), guests.strangers.most.len()];
        assert_eq!(counts, [0; 4], "nothing is left of who was here");
    }
}
