//! Whether the control plane can do its work, for load balancers and schedulers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::warn;

use crate::Control;
use crate::store::StoreError;

/// How long the database may take for each of its checks.
const DEADLINE: Duration = Duration::from_secs(2);
/// Everyone may ask, so the answer is kept for this long.
const KEPT: Duration = Duration::from_millis(500);

/// The last look.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<Option<(Instant, Readiness)>>);

/// The body of `/readyz`.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
pub(crate) struct Readiness {
    ready: bool,
    checks: Checks,
}

#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
struct Checks {
    /// It answers a query.
    database: Check,
    /// It takes a write.
    database_writable: Check,
    /// A signature made now verifies.
    signing: Check,
    /// No ring is a restored copy that is held back.
    rings: Check,
    /// The control plane is not about to end.
    running: Check,
}

/// What came of a check. The cause of a failure is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Check {
    Ok,
    /// The control plane itself is writing, so that this cannot be told. No failure.
    Busy,
    Failed,
    /// No answer in time.
    TimedOut,
    /// The control plane ends.
    Stopping,
    /// A restored copy is published to nobody, until `keywheel restore` has merged what was revoked since.
    Held,
}

/// The process answers.
pub(crate) async fn live() -> &'static str {
    "ok\n"
}

/// The control plane can do its work.
pub(crate) async fn ready(State(control): State<Arc<Control>>) -> Response {
    let readiness = control.runtime.looks.look(&control).await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = (status, axum::Json(readiness)).into_response();
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

impl Looks {
    async fn look(&self, control: &Control) -> Readiness {
        // Held over the look, so that many who ask at once look once.
        let mut last = self.0.lock().await;
        let readiness = match *last {
            Some((at, readiness)) if at.elapsed() < KEPT => readiness,
            _ => {
                let readiness = look(control).await;
                // Only a new look counts from now on: who asks often must not keep an old one alive.
                *last = Some((Instant::now(), readiness));
                readiness
            }
        };
        if readiness.checks.running == Check::Ok && control.is_stopping() {
            return readiness.with_stopping();
        }
        readiness
    }
}

async fn look(control: &Control) -> Readiness {
    let (database, database_writable, signing) = tokio::join!(
        database(control, "answer", async { control.store.ping().await.map(|()| true) }),
        database_writable(control),
        // Which key signs is for the database to say.
        timeout(DEADLINE, control.can_sign()),
    );
    let signing = match signing {
        Ok(true) => Check::Ok,
        Ok(false) => Check::Failed,
        Err(_) => Check::TimedOut,
    };
    let rings = if control.publishes() { Check::Ok } else { Check::Held };
    let running = if control.is_stopping() { Check::Stopping } else { Check::Ok };
    Readiness::of(Checks { database, database_writable, signing, rings, running })
}

async fn database_writable(control: &Control) -> Check {
    database(control, "take a write", control.store.can_write()).await
}

async fn database(
    control: &Control,
    what: &str,
    asked: impl Future<Output = Result<bool, StoreError>>,
) -> Check {
    match timeout(DEADLINE, asked).await {
        Ok(Ok(true)) => Check::Ok,
        Ok(Ok(false)) => Check::Busy,
        Ok(Err(error)) => {
            warn!(%error, "Not ready: the database does not {what}");
            control.runtime.metrics.database_error("readiness");
            Check::Failed
        }
        Err(_) => {
            warn!("Not ready: the database does not {what} within {} seconds", DEADLINE.as_secs());
            control.runtime.metrics.database_error("readiness");
            Check::TimedOut
        }
    }
}

// === impl Readiness ===

impl Readiness {
    fn of(checks: Checks) -> Self {
        let Checks { database, database_writable, signing, rings, running } = checks;
        let good = |check| matches!(check, Check::Ok | Check::Busy);
        Self { ready: [database, database_writable, signing, rings, running].into_iter().all(good), checks }
    }

    fn with_stopping(self) -> Self {
        Self::of(Checks { running: Check::Stopping, ..self.checks })
    }
}
