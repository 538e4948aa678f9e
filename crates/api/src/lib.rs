//! What travels over keywheel's admin API: requests, answers and problems, shared by the server,
//! the command line and the tests. No I/O.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`audit`] | the audit trail, and whether it is whole: pure |
//! | [`campaign`] | many keys, rotated in waves |
//! | [`client`] | who keys belong to |
//! | [`key`] | keys and their versions |
//! | [`labels`] | what operators call their clients and keys |
//! | [`policy`] | rules by which keys rotate |
//! | [`notice`] | what is announced before it happens |
//! | [`rotation`] | the move from one version to the next |
//! | [`self_service`] | what a key sees and does of itself |
//! | [`ring`] | what proxies enforce, and what they report |
//! | [`push`] | what a proxy answers that takes pushed documents |
//! | [`usage`] | what proxies counted |
//! | [`token`] | credentials for the control plane itself |
//! | `openapi` | with the feature of that name: schemas that no type here has |
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
pub mod campaign;
pub mod client;
pub mod import;
pub mod key;
pub mod labels;
pub mod notice;
pub mod object;
#[cfg(feature = "openapi")]
pub mod openapi;
pub mod policy;
pub mod problem;
pub mod push;
pub mod ring;
pub mod rotation;
pub mod self_service;
pub mod time;
pub mod token;
pub mod usage;

pub use audit::{AuditRecord, Checkpoint, Checkpoints};
pub use campaign::{
    Campaign, CampaignKey, CampaignKeyState, CampaignKeys, CampaignPreview, CampaignProgress, CampaignState,
    CampaignWait, CreateCampaign, HaltReason, Selection, SkipReason, Skipped, StopConditions, Wave, WaveSize,
};
pub use client::{Client, CreateClient, UpdateClient};
pub use import::{ExportedVersion, Import, ImportItem, ImportRefusal, Imported, RefusedItem};
pub use jiff::Timestamp;
pub use key::{
    AddVersion, Compromised, CompromisedDeposit, CompromisedVersion, CreateKey, Deposit, Key, KeyWithSecret,
    NewVersion, ReportCompromised, Revoke, RevokedClient, Schedule, ScheduleState, UpdateKey, Version,
};
pub use keywheel_keyring::State;
pub use labels::{LabelChanges, Labels};
pub use notice::{Notice, NoticeKind};
pub use policy::{BrownoutPlan, CreatePolicy, Policy, Retire, SetPolicy, Terms};
pub use problem::{FieldError, Problem, ProblemKind};
pub use ring::{
    ActivateSigningKey, Applied, Canary, CreateRing, Follows, FollowsCanary, ForgetProxies, ForgottenProxies,
    Promote, Promoted, Proof, Proxy, ProxyName, ProxyReport, ProxyReports, ProxyState, Ring, RingProxies,
    RingSigningKey, RingSummary, SigningKeyState, UpdateRing,
};
pub use rotation::{
    Brownout, Evidence, NextStep, Requests, RollBack, Rotation, RotationEnd, RotationProgress, RotationState,
    RotationWithSecret, StartBrownout, StartRotation, Step, VersionProgress, WaitsFor,
};
pub use self_service::{
    SelfKey, SelfPolicy, SelfRotation, SelfRotationWithSecret, SelfVersion, StartSelfRotation,
};
pub use token::{CreateToken, Role, RotateToken, Token, TokenWithSecret};
pub use usage::{KeyUsage, Reporting, RingUsage, UsageHour};

use serde::{Deserialize, Deserializer, Serialize};

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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

/// Tells `null` apart from a field that is absent, for requests that change what they name.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
