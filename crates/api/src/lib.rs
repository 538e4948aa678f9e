//! What travels over keywheel's admin API: requests, answers and problems, shared by the server,
//! the command line and the tests. No I/O.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`audit`] | the audit trail, and whether it is whole: pure |
//! | [`client`] | who keys belong to |
//! | [`key`] | keys and their versions |
//! | [`rotation`] | the move from one version to the next |
//! | [`ring`] | what proxies enforce, and what they report |
//! | [`push`] | what a proxy answers that takes pushed documents |
//! | [`usage`] | what proxies counted |
//! | [`token`] | credentials for the control plane itself |
//! | [`problem`] | RFC 9457 problems, one page of `docs/errors` each |
//! | [`time`] | between the API's RFC 3339 and the ring's milliseconds |
//!
//! # Example
//!
//! ```
//! use keywheel_api::{CreateKey, Problem, ProblemKind};
//!
//! let request: CreateKey = serde_json::from_str(r#"{"client":"acme","scopes":["trade"]}"#)?;
//! assert_eq!(request.version, None, "the server makes the key text");
//! assert!(serde_json::from_str::<CreateKey>(r#"{"client":"acme","scope":"trade"}"#).is_err());
//!
//! let problem = Problem::new(ProblemKind::RotationOpen, "rot_1 is open").with_rotation("rot_1");
//! assert_eq!(problem.status, 409);
//! # Ok::<(), serde_json::Error>(())
//! ```

pub mod audit;
pub mod client;
pub mod key;
pub mod problem;
pub mod push;
pub mod ring;
pub mod rotation;
pub mod time;
pub mod token;
pub mod usage;

pub use audit::{AuditRecord, Checkpoint, Checkpoints};
pub use client::{Client, CreateClient};
pub use jiff::Timestamp;
pub use key::{
    Compromised, CompromisedVersion, CreateKey, Key, KeyWithSecret, NewVersion, ReportCompromised, Revoke,
    RevokedClient, Version,
};
pub use keywheel_keyring::State;
pub use problem::{FieldError, Problem, ProblemKind};
pub use ring::{ActivateSigningKey, Proxy, Ring, RingSigningKey, SigningKeyState};
pub use rotation::{RollBack, Rotation, RotationEnd, RotationState, RotationWithSecret, StartRotation};
pub use token::{CreateToken, Role, Token};
pub use usage::{KeyUsage, Reporting, RingUsage, UsageHour};

use serde::{Deserialize, Serialize};

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct List<T> {
    pub items: Vec<T>,
    /// What to give as `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> List<T> {
    /// A page that was asked for with a limit; a full one may have a successor.
    #[must_use]
    pub fn new(items: Vec<T>, limit: u32, name: impl Fn(&T) -> String) -> Self {
        let full = u32::try_from(items.len()).is_ok_and(|count| count >= limit);
        let next = items.last().filter(|_| full).map(name);
        Self { items, next }
    }
}
