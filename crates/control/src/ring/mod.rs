//! Signed documents for everyone who asks: cut once, signed once, kept.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`press`] | makes a document from rows and signs it |
//! | [`publisher`] | answers `changes` and `snapshot`, wakes who waits |
//! | [`shelf`] | keeps documents; one is made once for all who wait for it |
//! | [`waiters`] | how many requests are held open |
//! | [`propagation`] | how long changes take to be enforced |
//! | [`proxies`] | what proxies last said about themselves |

pub mod press;
mod propagation;
pub mod proxies;
pub mod publisher;
mod shelf;
mod waiters;

pub use press::{Press, Signed};
pub use proxies::Proxies;
pub use publisher::{Ask, Publisher, RingError};
pub use shelf::Shelf;
pub use waiters::Waiters;
