//! keywheel's control plane: it stores keys, carries out rotations and publishes signed rings.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`control`] | the whole as one value: opened from a data directory, served on two listeners |
//! | [`serve`] | from a socket to the application: TLS, deadlines, bounds |
//! | [`app`] | the routes of both listeners |
//! | `api/` | one file per resource, which owns its handlers |
//! | [`campaign`] | what a campaign does next: pure |
//! | [`lifecycle`] | what may happen to a key version: pure |
//! | [`schedule`] | when a rotation is due, and what is announced before: pure |
//! | [`unused`] | whether an old version may end before its deadline: pure |
//! | [`usage`] | what reports of proxies add up to: pure |
//! | [`store`] | all SQL |
//! | [`rekey`] | puts another master key in the place of the present one |
//! | [`restore`] | makes a restored copy fit to be served |
//! | [`ring`] | documents: cut once, signed once, kept for all who ask |
//! | `rings` | which rings are served |
//! | [`notary`] | signed checkpoints of the audit trail |
//! | [`metrics`] | what is counted |
//! | [`failed_logins`] | who sent bad tokens lately |
//! | [`reread`] | what is made of files, and made anew when they change |
//! | [`jobs`] | deadlines, checkpoints and the removal of what ended long ago |
//! | `ids` | names that sort by time |
//! | [`seal`], [`secret`] | the signing keys' encryption, tokens |
//! | [`signers`] | the signing keys, opened |
//!
//! # Invariants
//!
//! - No state change commits without its audit record and its ring revision.
//! - No plaintext key or token is in the database or in a log.
//! - No document shows a rotation's old version ending before it shows the new one.
//! - No request is answered before what it did is on disk.
//!
//! # Example
//!
//! ```
//! use keywheel_control::{Control, Options};
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let data = tempfile::tempdir()?;
//! let options = Options::new(data.path(), "kw_live_".parse()?);
//! let (control, admin_token) = Control::open(&options).await?;
//! assert!(admin_token.is_some(), "the first start hands it over once");
//! assert_eq!(control.ring("production").map(|ring| ring.head()), Some(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod api;
pub mod app;
pub mod campaign;
pub mod canary;
pub mod clock;
pub mod control;
pub mod failed_logins;
mod ids;
pub mod jobs;
pub mod lifecycle;
pub mod metrics;
pub mod notary;
pub mod rekey;
pub mod reread;
pub mod restore;
pub mod ring;
mod rings;
mod runtime;
pub mod schedule;
pub mod seal;
pub mod secret;
pub mod serve;
pub mod signers;
pub mod store;
pub mod unused;
pub mod usage;

pub use control::{Control, Options, RingAuth, StartError};
pub use serve::Endpoint;
