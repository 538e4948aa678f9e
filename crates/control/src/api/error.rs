//! The cause of a failure goes to the log, a stable message to the caller.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use keywheel_api::{Problem, ProblemKind};
use tracing::error;

use crate::ring::RingError;
use crate::secret::NoRandomness;
use crate::store::{Refusal, StoreError};

/// Why a request gets no good answer.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// The caller can do something about it.
    Problem(Box<Problem>),
    /// The database may answer later.
    Unavailable(String),
    /// The database failed in a way that asking again does not mend. The cause is for the log alone.
    Database(String),
    /// The database will not answer before somebody does something about it.
    Vanished(String),
    /// The cause, for the log alone.
    Internal(String),
    /// Too many bad tokens or keys came from where this one came from.
    TooManyFailures { retry_after: Duration },
    /// The key was rotated too often.
    TooManyRotations { retry_after: Duration, detail: String },
}

/// Rides in the response of a request that the database failed: how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DatabaseFailed(pub(crate) &'static str);

pub(crate) async fn no_such_path() -> ApiError {
    Problem::new(ProblemKind::NotFound, "there is no such path").into()
}

pub(crate) async fn no_such_method() -> ApiError {
    Problem::new(ProblemKind::MethodNotAllowed, "this path does not take that method").into()
}

impl IntoResponse for ApiError {
    /// The problem rides in the response's extensions: the layer that knows the request's id writes
    /// the body.
    fn into_response(self) -> Response {
        let database_failed = match &self {
            Self::Unavailable(_) => Some(DatabaseFailed("unavailable")),
            Self::Database(_) => Some(DatabaseFailed("failed")),
            _ => None,
        };
        let mut retry_after = Duration::from_secs(1);
        let problem = match self {
            Self::Problem(problem) => *problem,
            Self::Unavailable(cause) => {
                error!(cause, "The database is not available");
                let detail =
                    "the database does not answer, or is locked, read-only or out of space; try again later";
                Problem::new(ProblemKind::Unavailable, detail)
            }
            Self::TooManyFailures { retry_after: after } => {
                retry_after = after;
                let detail = "too many requests without a good token or key came from this address; one with a good \
                              one is let in all the same";
                Problem::new(ProblemKind::TooManyFailures, detail)
            }
            Self::TooManyRotations { retry_after: after, detail } => {
                retry_after = after;
                Problem::new(ProblemKind::TooManyRotations, detail)
            }
            Self::Vanished(cause) => {
                error!(cause, "The database is gone");
                let detail =
                    "the database file was removed or moved away; the control plane's log says what to do";
                Problem::new(ProblemKind::Unavailable, detail)
            }
            Self::Database(cause) | Self::Internal(cause) => {
                error!(cause, "A request failed");
                let detail = "the control plane failed; its log has the cause under this request id";
                Problem::new(ProblemKind::Internal, detail)
            }
        };
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        match problem.known_kind() {
            Some(ProblemKind::Unauthorized | ProblemKind::KeyNotAccepted) => {
                let bearer = HeaderValue::from_static("Bearer realm=\"keywheel\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
            }
            Some(ProblemKind::Unavailable | ProblemKind::TooManyFailures | ProblemKind::TooManyRotations) => {
                let seconds = retry_after.as_secs().max(1);
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Some(ProblemKind::RingHeld) => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
            }
            _ => {}
        }
        response.extensions_mut().insert(problem);
        if let Some(failed) = database_failed {
            response.extensions_mut().insert(failed);
        }
        response
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(Refusal::TooManyRotations { wait }) => {
                Self::TooManyRotations { retry_after: Duration::from_secs(wait), detail: error.to_string() }
            }
            StoreError::Refused(refusal) => refused(refusal).into(),
            StoreError::Busy => {
                let detail = format!("{error}; send this one again later");
                Problem::new(ProblemKind::Unavailable, detail).into()
            }
            StoreError::Unavailable(_) => Self::Unavailable(error.to_string()),
            StoreError::Vanished(_) => Self::Vanished(error.to_string()),
            StoreError::Shared(error) if matches!(*error, StoreError::Unavailable(_)) => {
                Self::Unavailable(error.to_string())
            }
            StoreError::Shared(error) if matches!(*error, StoreError::Vanished(_)) => {
                Self::Vanished(error.to_string())
            }
            StoreError::Failed(_) | StoreError::Corrupt(_) | StoreError::Shared(_) => {
                Self::Database(error.to_string())
            }
            StoreError::Random(_) | StoreError::Repeated => Self::Internal(error.to_string()),
        }
    }
}

fn refused(refusal: Refusal) -> Problem {
    let kind = match &refusal {
        Refusal::Changed { .. } => ProblemKind::PreconditionFailed,
        Refusal::NotFound { .. } => ProblemKind::NotFound,
        Refusal::ClientExists(_) => ProblemKind::ClientExists,
        Refusal::VersionExists(_) | Refusal::DigestTaken => ProblemKind::VersionConflict,
        Refusal::VersionEnded(_) => ProblemKind::VersionEnded,
        Refusal::NotEnded { .. } => ProblemKind::NotEnded,
        Refusal::VersionRemoved(_) => ProblemKind::VersionRemoved,
        Refusal::VersionCompromised(_) | Refusal::DigestCompromised(_) => ProblemKind::Compromised,
        Refusal::RotationOpen(_) => ProblemKind::RotationOpen,
        Refusal::VersionSuperseded(_) => ProblemKind::VersionSuperseded,
        Refusal::TooManyRotations { .. } => ProblemKind::TooManyRotations,
        Refusal::RotationEnded(_) => ProblemKind::RotationEnded,
        Refusal::RotationBegun(_) => ProblemKind::RotationBegun,
        Refusal::KeyPending { .. } => ProblemKind::KeyPending,
        Refusal::KeyRevoked(_) => ProblemKind::KeyRevoked,
        Refusal::KeyExpired(_) => ProblemKind::KeyExpired,
        Refusal::LastAdmin(_) => ProblemKind::LastAdmin,
        Refusal::TokenEnded(_) => ProblemKind::TokenEnded,
        Refusal::RingExists(_) => ProblemKind::RingExists,
        Refusal::TooManyRings => ProblemKind::TooManyRings,
        Refusal::CanaryHasNoKeys { .. }
        | Refusal::HasCanary { .. }
        | Refusal::NoCanary(_)
        | Refusal::NotACanary(_) => ProblemKind::CanaryRing,
        Refusal::PolicyExists(_) => ProblemKind::PolicyExists,
        Refusal::PolicyInUse(_) => ProblemKind::PolicyInUse,
        Refusal::Policy { .. } => ProblemKind::NotByPolicy,
        Refusal::RotationNotBegun(_) => ProblemKind::RotationNotBegun,
        Refusal::CampaignExists(_) => ProblemKind::CampaignExists,
        Refusal::CampaignState { .. } => ProblemKind::CampaignState,
        Refusal::Selected(_) => return Problem::field("select", refusal.to_string()),
        Refusal::EndsBeforeItBegins { .. } => return Problem::field("expires_at", refusal.to_string()),
        Refusal::Labels => return Problem::field("labels", refusal.to_string()),
        Refusal::NoOverlap(_) | Refusal::OwnOverlap { .. } => {
            return Problem::field("overlap_seconds", refusal.to_string());
        }
        Refusal::SigningKeyStep { .. } => ProblemKind::SigningKeyState,
    };
    let problem = Problem::new(kind, refusal.to_string());
    match refusal {
        Refusal::RotationOpen(rotation)
        | Refusal::RotationEnded(rotation)
        | Refusal::RotationBegun(rotation)
        | Refusal::RotationNotBegun(rotation) => problem.with_rotation(rotation),
        _ => problem,
    }
}

impl From<RingError> for ApiError {
    fn from(error: RingError) -> Self {
        match error {
            RingError::OtherEpoch(_) | RingError::NoSuchRevision { .. } => {
                Problem::new(ProblemKind::RevisionGone, error.to_string()).into()
            }
            RingError::Held | RingError::Replaced => {
                Problem::new(ProblemKind::RingHeld, error.to_string()).into()
            }
            RingError::Store(error) => error.into(),
            RingError::Json(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<NoRandomness> for ApiError {
    fn from(error: NoRandomness) -> Self {
        Self::Internal(error.to_string())
    }
}
