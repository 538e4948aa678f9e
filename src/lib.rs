//! The filter: checks each request's API key inside Envoy, against a ring in shared data.
//!
//! # Layout
//!
//! Everything but the shell is pure: time, randomness and I/O come in as arguments, so that the
//! same tests run natively, in wasm and under a fuzzer.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the plugin configuration, and what is wrong with one |
//! | [`credential`] | finding the credential in a request |
//! | [`path`] | paths as every later hop reads them, and patterns that they fit |
//! | [`policy`] | rules, and what each asks of a key |
//! | [`route`] | what a route's metadata asks for instead |
//! | [`decide`] | from an entry and the time to a decision |
//! | [`reply`] | what callers are told |
//! | [`request`] | one request: all of the above, in their order |
//! | [`shared`] | the ring in Envoy's shared data: reading it, and writing it without losing a race |
//! | [`lease`] | which VM of a process fetches the ring |
//! | [`roster`] | which VMs there are, and what each has adopted |
//! | [`refresh`] | what to ask the control plane for, and what its answers do |
//! | [`cache`] | decoded entries, so that a known key costs no shared-data read |
//! | [`usage`] | how often each version was used, on its way to the control plane |
//! | [`receive`] | taking documents that are pushed |
//! | [`vm`] | one VM: all of the above, driven by ticks, replies and requests |
//! | `shell` | the one module that knows Envoy: its callbacks in, its hostcalls out |
//!
//! # Example
//!
//! ```
//! use keywheel_filter::decide::{Decision, Reason, decide};
//! use keywheel_keyring::{Digest, Entry, Millis, State};
//!
//! let mut entry = Entry::new(Digest::of(b"secret"), "kv_1", "key_1", "acme", 1, State::Retiring);
//! entry.expires_at = Some(Millis(1_000));
//! assert_eq!(decide(&entry, Millis(999), 0.5), Decision::Allow);
//! assert_eq!(decide(&entry, Millis(1_000), 0.5), Decision::Deny(Reason::KeyExpired));
//! ```
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

pub mod cache;
pub mod config;
pub mod credential;
pub mod decide;
pub mod lease;
pub mod path;
pub mod policy;
pub mod receive;
pub mod refresh;
pub mod reply;
pub mod request;
pub mod roster;
pub mod route;
pub mod shared;
pub mod usage;
pub mod vm;

#[cfg(target_os = "wasi")]
mod shell;

/// The moment at which something happens, as the shell reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For what is compared with times that others wrote: expiry, age.
    pub wall: keywheel_keyring::Millis,
    /// Milliseconds on a clock that never jumps and that all VMs of a process share, for waiting and
    /// timeouts.
    pub mono: u64,
}
