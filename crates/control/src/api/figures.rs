//! `/metrics`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use keywheel_api::RingUsage;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::warn;

use super::error::ApiError;
use crate::metrics::RingFigures;
use crate::ring::Publisher;
use crate::store::{AGES, Figures};
use crate::{Control, clock};

const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What the database said serves every scrape for this long.
const KEPT: Duration = Duration::from_secs(15);
/// And for so many times as long as it took to say it: of a million versions it takes a second.
const SHARE: u32 = 20;
/// After which a scrape does without the database's figures.
const DEADLINE: Duration = Duration::from_secs(5);

/// What the database said last.
#[derive(Debug, Default)]
pub(crate) struct Scrapes(Mutex<Option<Said>>);

#[derive(Debug)]
struct Said {
    /// Absent if it failed.
    figures: Option<Arc<Figures>>,
    until: Instant,
}

/// A database that does not answer is one of the things that this shows, so it is no error here.
pub(crate) async fn metrics(State(control): State<Arc<Control>>) -> Result<Response, ApiError> {
    let figures = control.runtime.scrapes.figures(&control).await;
    let rings: Vec<_> =
        control.rings().iter().map(|ring| ring_figures(&control, ring, figures.as_deref())).collect();
    let rotations = figures.as_deref().map(|figures| figures.rotations.as_slice());
    let audit = *control.store.audited.borrow();
    let text = control.runtime.metrics.text(&rings, rotations, audit);
    let text = text.map_err(|error| ApiError::Internal(error.to_string()))?;
    let media_type = HeaderValue::from_static(MEDIA_TYPE);
    Ok(([(header::CONTENT_TYPE, media_type)], text).into_response())
}

impl Scrapes {
    async fn figures(&self, control: &Control) -> Option<Arc<Figures>> {
        // Held over the query, so that many scrapes at once ask once.
        let mut last = self.0.lock().await;
        if let Some(said) = &*last
            && Instant::now() < said.until
        {
            return said.figures.clone();
        }
        let start = Instant::now();
        let figures = ask(control).await.map(Arc::new);
        let kept = start.elapsed().saturating_mul(SHARE).max(KEPT);
        *last = Some(Said { figures: figures.clone(), until: Instant::now() + kept });
        figures
    }
}

async fn ask(control: &Control) -> Option<Figures> {
    match timeout(DEADLINE, control.store.figures(clock::now())).await {
        Ok(Ok(figures)) => return Some(figures),
        Ok(Err(error)) => warn!(%error, "The database has no figures for a scrape"),
        Err(_) => warn!("The database has no figures for a scrape within {} seconds", DEADLINE.as_secs()),
    }
    control.runtime.metrics.database_error("metrics");
    None
}

fn ring_figures(control: &Control, ring: &Publisher, figures: Option<&Figures>) -> RingFigures {
    let (id, main) = (ring.record.id, ring.record.main());
    let RingUsage { reports, unknown_counts, refused_batches } = control.store.usage_tally(id);
    let of_ring = |figures: &Figures| {
        let entries = figures.entries.iter().filter(|(ring, ..)| *ring == main);
        entries.map(|(_, state, count)| (state.clone(), *count)).collect()
    };
    let waiting = |figures: &Figures| {
        let of_ring = figures.waiting.iter().find(|(ring, _)| *ring == id);
        of_ring.map(|(_, count)| *count)
    };
    let ages = figures.and_then(|figures| figures.ages.iter().find(|ages| ages.ring == main));
    RingFigures {
        ring: ring.record.name.clone(),
        revision: ring.head(),
        waiters: ring.waiters(),
        proxies: ring.proxies.count() as u64,
        usage: [
            ("reports", reports),
            ("refused_batches", refused_batches),
            ("unknown_counts", unknown_counts),
        ],
        entries: figures.map(of_ring),
        waiting: figures.and_then(waiting),
        ages: ages.map(|ages| AGES.into_iter().zip(ages.at_least).collect()),
        oldest_seconds: ages.map(|ages| clock::now().saturating_since(ages.oldest_created_at) / 1000),
    }
}
