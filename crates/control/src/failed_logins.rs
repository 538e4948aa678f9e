//! Who sent bad tokens, or bad keys, lately. Good ones are let in from everywhere, so that nobody can lock out who shares an
//! address with him.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures that a network has in each [`WINDOW`].
pub const ALLOWED: u32 = 10;
pub const WINDOW: Duration = Duration::from_secs(60);
/// Networks counted in one window. What comes from others is refused as any bad token is.
const CAPACITY: usize = 4096;

/// Failures by network in the window at hand.
#[derive(Debug, Default)]
pub struct FailedLogins(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    failures: HashMap<IpAddr, u32>,
}

impl FailedLogins {
    /// Counts a failure. Returns how long until failures are counted anew, if there were too many.
    pub fn count(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = window.since.map(|since| now.saturating_duration_since(since));
        let age = match age {
            Some(age) if age < WINDOW => age,
            _ => {
                window.since = Some(now);
                window.failures.clear();
                Duration::ZERO
            }
        };
        let network = network(address);
        if window.failures.len() >= CAPACITY && !window.failures.contains_key(&network) {
            return None;
        }
        let failures = window.failures.entry(network).or_default();
        *failures = failures.saturating_add(1);
        (*failures > ALLOWED).then(|| WINDOW.saturating_sub(age))
    }
}

/// An IPv4 address, or the /64 of an IPv6 address: whoever has one address of it has them all.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_eleventh_failure_within_a_minute_is_too_many() {
        let (failed, start) = (FailedLogins::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for n in 0..10 {
            assert_eq!(failed.count(address("192.0.2.1"), at(n)), None);
        }
        assert_eq!(failed.count(address("192.0.2.1"), at(20)), Some(Duration::from_secs(40)));
        assert_eq!(failed.count(address("::ffff:192.0.2.1"), at(20)), Some(Duration::from_secs(40)));
        assert_eq!(failed.count(address("192.0.2.2"), at(20)), None, "of others nothing is known");
        assert_eq!(failed.count(address("192.0.2.1"), at(60)), None, "a minute later it begins anew");
    }

    #[test]
    fn a_64_counts_as_one() {
        let (failed, now) = (FailedLogins::default(), Instant::now());
        for n in 0..10 {
            assert_eq!(failed.count(address(&format!("2001:db8::{n:x}")), now), None);
        }
        assert!(failed.count(address("2001:db8::ffff"), now).is_some());
        assert_eq!(failed.count(address("2001:db8:0:1::1"), now), None);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_whom_it_counts() {
        let (failed, now) = (FailedLogins::default(), Instant::now());
        let of = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..2 * CAPACITY as u32 {
            assert_eq!(failed.count(of(n), now), None);
        }
        assert_eq!(failed.0.lock().unwrap().failures.len(), CAPACITY);
        for _ in 0..10 {
            failed.count(of(0), now);
        }
        assert!(failed.count(of(0), now).is_some());
    }
}
