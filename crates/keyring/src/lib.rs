//! What keywheel's parts agree on, without any I/O: the text of a key, its digest, the entries of
//! a ring, their binary form inside a proxy, and the signed documents that carry them.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`key_text`] | how a key is written: `kw_live_<id>_<secret><check>` |
//! | [`digest`] | SHA-256 of a key's text, the only form in which a key is stored |
//! | [`entry`] | one key version as proxies enforce it |
//! | [`document`] | a snapshot page or a run of changes, as JSON |
//! | [`signature`] | Ed25519 over a document's exact bytes |
//! | [`bucket`] | entries of one digest prefix, in the compact form that proxies hold |
//! | [`generation`] | which ring the buckets add up to |
//! | [`usage`] | what proxies counted, in sealed batches |
//! | [`merge`] | which documents a ring takes, and what each does to a bucket |
//!
//! # Example
//!
//! A key is made, published in a bucket, and found again by its digest:
//!
//! ```
//! use keywheel_keyring::bucket::{self, Bucket};
//! use keywheel_keyring::{Digest, Entry, Epoch, KeyPrefix, Millis, PlainKey, State, VersionId};
//!
//! let prefix: KeyPrefix = "kw_live_".parse()?;
//! let version = VersionId::from_random([7; 12]);
//! let key = PlainKey::generate(&prefix, &version, [42; 32]);
//!
//! let entry = Entry::new(key.digest(), version.as_str(), "key_1", "acme", 1, State::Active);
//! let epoch: Epoch = "0199a3b4-0000-7000-8000-000000000001".parse()?;
//! let merged = bucket::merge(None, epoch, &[bucket::Op::Upsert(&entry)])?;
//!
//! let found = Bucket::parse(&merged.bytes)?.find(&key.digest())?;
//! assert_eq!(found.map(|entry| entry.client), Some("acme".into()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
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

pub mod bucket;
mod bytes;
pub mod digest;
pub mod document;
pub mod entry;
pub mod generation;
pub mod key_text;
pub mod merge;
pub mod signature;
pub mod usage;

pub use digest::Digest;
pub use document::{Document, Kind};
pub use entry::{Brownout, Entry, Epoch, Millis, State};
pub use generation::Generation;
pub use key_text::{KeyPrefix, PlainKey, Shape, VersionId};
pub use signature::{PublicKey, SignerId, SigningKey};
