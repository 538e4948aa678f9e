//! How many requests are held open.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts requests that wait for a change.
#[derive(Debug, Default)]
pub struct Waiters(AtomicU64);

/// A request that is held open. Dropped, it is not, whether it was answered or its caller left.
#[derive(Debug)]
pub struct Waiter<'a>(&'a AtomicU64);

impl Waiters {
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn begin(&self) -> Waiter<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waiter(&self.0)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
