//! RFC 9457 problems.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

const PAGES: &str = "https://github.com/keywheel/keywheel/blob/main/docs/errors/";

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// The page that explains this kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// What happened this time, and what to do.
    pub detail: String,
    /// Each field that broke a rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The rotation that is in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<String>,
    /// Finds the request in the server's log and audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// Its path, such as `version.digest`; `.` is the body itself.
    pub field: String,
    pub rule: String,
}

/// Every kind of problem, one page of `docs/errors` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    InvalidRequest,
    BodyTooLarge,
    RequestTimeout,
    Unauthorized,
    KeyNotAccepted,
    TooManyFailures,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    UnsupportedMediaType,
    ClientExists,
    VersionConflict,
    VersionEnded,
    NotEnded,
    VersionRemoved,
    Compromised,
    RotationOpen,
    TooManyRotations,
    VersionSuperseded,
    RotationEnded,
    RotationBegun,
    KeyPending,
    KeyRevoked,
    KeyExpired,
    IdempotencyKeyReused,
    PreconditionFailed,
    LastAdmin,
    TokenEnded,
    RingExists,
    TooManyRings,
    CanaryRing,
    PolicyExists,
    PolicyInUse,
    NotByPolicy,
    RotationNotBegun,
    CampaignExists,
    CampaignState,
    RevisionGone,
    SigningKeyState,
    ProxiesStranded,
    NoBackup,
    RingHeld,
    RelayBehind,
    Unavailable,
    Internal,
}

impl ProblemKind {
    pub const ALL: [Self; 45] = [
        Self::InvalidRequest,
        Self::BodyTooLarge,
        Self::RequestTimeout,
        Self::Unauthorized,
        Self::KeyNotAccepted,
        Self::TooManyFailures,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::UnsupportedMediaType,
        Self::ClientExists,
        Self::VersionConflict,
        Self::VersionEnded,
        Self::NotEnded,
        Self::VersionRemoved,
        Self::Compromised,
        Self::RotationOpen,
        Self::TooManyRotations,
        Self::VersionSuperseded,
        Self::RotationEnded,
        Self::RotationBegun,
        Self::KeyPending,
        Self::KeyRevoked,
        Self::KeyExpired,
        Self::IdempotencyKeyReused,
        Self::PreconditionFailed,
        Self::LastAdmin,
        Self::TokenEnded,
        Self::RingExists,
        Self::TooManyRings,
        Self::CanaryRing,
        Self::PolicyExists,
        Self::PolicyInUse,
        Self::NotByPolicy,
        Self::RotationNotBegun,
        Self::CampaignExists,
        Self::CampaignState,
        Self::RevisionGone,
        Self::SigningKeyState,
        Self::ProxiesStranded,
        Self::NoBackup,
        Self::RingHeld,
        Self::RelayBehind,
        Self::Unavailable,
        Self::Internal,
    ];

    /// Its page, which is the `type` of such a problem.
    #[must_use]
    pub fn page(self) -> String {
        format!("{PAGES}{}.md", self.slug())
    }

    /// The name of its page in `docs/errors`.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        self.row().0
    }

    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().1
    }

    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    const fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::InvalidRequest => ("invalid-request", 400, "The request breaks a rule"),
            Self::BodyTooLarge => ("body-too-large", 413, "The body is too large"),
            Self::RequestTimeout => ("request-timeout", 408, "The body did not come in time"),
            Self::Unauthorized => ("unauthorized", 401, "No valid token"),
            Self::KeyNotAccepted => ("key-not-accepted", 401, "No API key that is accepted"),
            Self::TooManyFailures => ("too-many-failures", 429, "Too many bad tokens or keys"),
            Self::Forbidden => ("forbidden", 403, "The token does not allow this"),
            Self::NotFound => ("not-found", 404, "There is no such thing"),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "This path has no such method"),
            Self::UnsupportedMediaType => ("unsupported-media-type", 415, "The body is not JSON"),
            Self::ClientExists => ("client-exists", 409, "A client of that name exists"),
            Self::VersionConflict => ("version-conflict", 409, "The version id or digest is taken"),
            Self::VersionEnded => ("version-ended", 409, "The version has ended"),
            Self::NotEnded => ("not-ended", 409, "Nothing has ended"),
            Self::VersionRemoved => ("version-removed", 409, "The version is gone from the ring"),
            Self::Compromised => ("compromised", 409, "The secret is compromised"),
            Self::RotationOpen => ("rotation-open", 409, "A rotation is open"),
            Self::TooManyRotations => ("too-many-rotations", 429, "The key was rotated too often"),
            Self::VersionSuperseded => ("version-superseded", 409, "A newer version took its place"),
            Self::RotationEnded => ("rotation-ended", 409, "The rotation has ended"),
            Self::RotationBegun => ("rotation-begun", 409, "The rotation has begun"),
            Self::KeyPending => ("key-pending", 409, "The key is not accepted yet"),
            Self::KeyRevoked => ("key-revoked", 409, "The key is revoked"),
            Self::KeyExpired => ("key-expired", 409, "The key has expired"),
            Self::IdempotencyKeyReused => {
                ("idempotency-key-reused", 422, "The Idempotency-Key was used for another request")
            }
            Self::PreconditionFailed => ("precondition-failed", 412, "It was changed meanwhile"),
            Self::LastAdmin => ("last-admin", 409, "The last admin token"),
            Self::TokenEnded => ("token-ended", 409, "The token has ended"),
            Self::RingExists => ("ring-exists", 409, "A ring of that name exists"),
            Self::TooManyRings => ("too-many-rings", 409, "There are too many rings"),
            Self::CanaryRing => ("canary-ring", 409, "A canary and its main ring do not go that way"),
            Self::PolicyExists => ("policy-exists", 409, "A policy of that name exists"),
            Self::PolicyInUse => ("policy-in-use", 409, "The policy is in use"),
            Self::NotByPolicy => ("not-by-policy", 409, "The policy does not allow this"),
            Self::RotationNotBegun => ("rotation-not-begun", 409, "The rotation has not begun"),
            Self::CampaignExists => ("campaign-exists", 409, "A campaign of that name exists"),
            Self::CampaignState => ("campaign-state", 409, "The campaign is not at that step"),
            Self::RevisionGone => ("revision-gone", 410, "Not in this ring's history"),
            Self::SigningKeyState => ("signing-key-state", 409, "The signing key is not at that step"),
            Self::ProxiesStranded => ("proxies-stranded", 409, "Proxies would refuse the ring"),
            Self::NoBackup => ("no-backup", 409, "The database is not SQLite"),
            Self::RingHeld => ("ring-held", 503, "The ring is held back"),
            Self::RelayBehind => ("relay-behind", 503, "The relay does not have this"),
            Self::Unavailable => ("unavailable", 503, "The database is not available"),
            Self::Internal => ("internal", 500, "The control plane failed"),
        }
    }
}

impl Problem {
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind: kind.page(),
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            errors: Vec::new(),
            rotation: None,
            request_id: None,
        }
    }

    /// A field that breaks a rule.
    #[must_use]
    pub fn field(field: impl Into<String>, rule: impl Into<String>) -> Self {
        let (field, rule) = (field.into(), rule.into());
        let detail = if field == "." { rule.clone() } else { format!("{field}: {rule}") };
        let mut problem = Self::new(ProblemKind::InvalidRequest, detail);
        problem.errors.push(FieldError { field, rule });
        problem
    }

    #[must_use]
    pub fn with_rotation(mut self, rotation: impl Into<String>) -> Self {
        self.rotation = Some(rotation.into());
        self
    }

    /// What kind this is, unless a newer server made it.
    #[must_use]
    pub fn known_kind(&self) -> Option<ProblemKind> {
        let slug = self.kind.rsplit('/').next()?.strip_suffix(".md")?;
        ProblemKind::ALL.into_iter().find(|kind| kind.slug() == slug)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_kind_of_problem_has_its_page() {
        let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        for kind in ProblemKind::ALL {
            let page = pages.join(format!("{}.md", kind.slug()));
            let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
            assert!(text.contains(&kind.status().to_string()), "{} names its status", page.display());
        }
        // The pages of what the filter answers are written with underscores, as its codes are.
        let ours = std::fs::read_dir(pages).unwrap().map(|file| file.unwrap().file_name());
        let ours = ours.filter(|name| !name.to_string_lossy().contains('_'));
        assert_eq!(ours.count(), ProblemKind::ALL.len(), "and no page is left over");
    }

    #[test]
    fn a_problem_is_read_back_as_its_kind() {
        for kind in ProblemKind::ALL {
            let text = serde_json::to_string(&Problem::new(kind, "why")).unwrap();
            assert_eq!(serde_json::from_str::<Problem>(&text).unwrap().known_kind(), Some(kind));
        }
    }
}
