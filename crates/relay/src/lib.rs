//! A relay: it serves a control plane's ring endpoints from a disk of its own, to thousands of proxies, at the cost
//! of one poll. While the control plane is away it goes on with what it has, over restarts too.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`archive`] | which documents fit to what is held, and which answers a reader: pure |
//! | [`roster`] | the proxies behind it, and what it may acknowledge for them: pure |
//! | [`document`] | a document, once its signature held |
//! | [`disk`] | documents as files |
//! | [`caller`] | the HTTP client, and its certificates |
//! | [`upstream`] | calls to a control plane, or to another relay |
//! | [`ring`] | one ring: its archive, its files, and everyone who asks for it |
//! | `follow` | polls the upstream, and fetches pages |
//! | [`behind`] | tells the upstream of proxies |
//! | [`usage`] | usage reports on their way upstream |
//! | [`access`] | who may ask |
//! | [`app`] | the routes |
//! | [`relay`] | the whole as one value |
//!
//! # Invariants
//!
//! - It signs nothing, and has no key to sign with.
//! - No document is kept or served whose signature was not verified against `--trust`: not one of the upstream, and not
//!   one of its own disk.
//! - No document is served before it is on disk, unless the disk takes none.
//! - No proxy gets anything before the upstream knows of it, or it is written down here; and while the upstream does not
//!   know of a proxy, the relay acknowledges no more than that proxy does.
//! - No usage report is answered before it is on a disk.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

pub mod access;
pub mod app;
pub mod archive;
pub mod behind;
pub mod caller;
pub mod disk;
pub mod document;
mod follow;
mod metrics;
pub mod relay;
pub mod ring;
pub mod roster;
pub mod upstream;
pub mod usage;

pub use access::{Access, Tokens, TokensError};
pub use caller::Caller;
pub use relay::{Bounds, OpenError, Options, Relay};
pub use upstream::UpstreamToken;
