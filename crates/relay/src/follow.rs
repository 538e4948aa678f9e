//! Follows the upstream: polls for changes, and beside that fetches pages when they are wanted.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use keywheel_control::clock;
use keywheel_control::ring::Signed;
use keywheel_control::secret::random;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::archive::{Accepted, Ask, Misfit};
use crate::relay::stopped;
use crate::ring::{Fault, Ring, Standing};
use crate::upstream::UpstreamError;

/// How often it is looked whether anything is due.
const LOOK: Duration = Duration::from_millis(100);
/// The first and the longest pause after a failure, in milliseconds, before jitter.
const BACKOFF: (u64, u64) = (100, 5_000);
/// After an answer that brought nothing new.
const NOTHING: Duration = Duration::from_millis(200);
/// How often the log says again that something fails.
pub(crate) const SAY_AGAIN: Duration = Duration::from_secs(60);
/// And how many different causes it names in that time.
const MOST_SAID: usize = 8;

type Asked = Pin<Box<dyn Future<Output = Result<Signed, UpstreamError>> + Send>>;

/// One kind of call, of which one at a time is under way.
struct Line {
    what: &'static str,
    call: Option<Asked>,
    not_before: Instant,
    failures: u32,
    /// The causes of failures that the log has, and since when.
    said: Vec<(String, Instant)>,
}

/// Runs until the relay stops.
pub(crate) async fn run(ring: Arc<Ring>, return_after: Duration, mut stopping: watch::Receiver<bool>) {
    let (mut poll, mut page) = (Line::new("changes"), Line::new("pages"));
    let mut returned = Instant::now();
    let mut was_absent = ring.position().is_none();
    loop {
        let (next_poll, next_page) = {
            let archive = ring.archive();
            (archive.poll(), archive.page(clock::now()))
        };
        poll.start(&ring, next_poll);
        page.start(&ring, next_page);
        tokio::select! {
            answer = poll.answer() => polled(&ring, &mut poll, answer).await,
            answer = page.answer() => paged(&ring, &mut page, answer).await,
            () = sleep(LOOK) => {
                ring.save().await;
                if returned.elapsed() >= return_after {
                    returned = Instant::now();
                    ring.upstream.prefer_the_first();
                }
            }
            () = stopped(&mut stopping) => return,
        }
        if was_absent && let Some((epoch, head, _)) = ring.position() {
            was_absent = false;
            let name = &ring.name;
            info!(ring = name, %epoch, head, "Ring {name} is complete, at revision {head}");
        }
    }
}

async fn polled(ring: &Arc<Ring>, line: &mut Line, answer: Result<Signed, UpstreamError>) {
    let taken = match answer {
        Ok(signed) => {
            ring.set_away(false);
            ring.take(signed).await
        }
        Err(UpstreamError::Gone) => {
            ring.set_away(false);
            let dropped = ring.archive().gone();
            ring.tell(Accepted { news: false, dropped }).await;
            return line.done();
        }
        Err(error) => {
            ring.set_away(true);
            return line.failed(ring, &error.to_string(), error.is_a_mistake());
        }
    };
    match taken {
        Ok(()) => line.done(),
        Err(Fault::Misfit(Misfit::Known)) => {
            let accepted = ring.archive().nothing_more(clock::now());
            ring.tell(accepted).await;
            line.done();
            line.not_before = Instant::now() + NOTHING;
        }
        Err(fault) => line.failed(ring, &fault.to_string(), fault.is_a_mistake()),
    }
}

async fn paged(ring: &Arc<Ring>, line: &mut Line, answer: Result<Signed, UpstreamError>) {
    // While nothing can be polled for, pages tell whether the upstream answers.
    if ring.archive().poll().is_none() {
        ring.set_away(answer.as_ref().is_err_and(|error| !matches!(error, UpstreamError::Gone)));
    }
    let (failure, mistake, gone) = match answer {
        Ok(signed) => match ring.take(signed).await {
            Ok(()) => return line.done(),
            // The page is asked for again.
            Err(fault @ Fault::Disk(_)) => return line.failed(ring, &fault.to_string(), false),
            Err(fault) => (fault.to_string(), fault.is_a_mistake(), false),
        },
        Err(error @ UpstreamError::Gone) => (error.to_string(), false, true),
        Err(error) => return line.failed(ring, &error.to_string(), error.is_a_mistake()),
    };
    let dropped = if gone { ring.archive().gone() } else { ring.archive().abandon() };
    ring.tell(Accepted { news: false, dropped }).await;
    line.failed(ring, &failure, mistake);
}

// === impl Line ===

impl Line {
    fn new(what: &'static str) -> Self {
        Self { what, call: None, not_before: Instant::now(), failures: 0, said: Vec::new() }
    }

    fn start(&mut self, ring: &Arc<Ring>, ask: Option<Ask>) {
        let Some(ask) = ask.filter(|_| self.call.is_none() && Instant::now() >= self.not_before) else {
            return;
        };
        let ask = match ask {
            // Whether it answers shall not take as long to know as it may hold a call.
            Ask::Changes { epoch, since, .. } if ring.standing() != Standing::Answers => {
                Ask::Changes { epoch, since, wait: 0 }
            }
            ask => ask,
        };
        let ring = ring.clone();
        self.call =
            Some(Box::pin(async move { ring.upstream.ask(&ring.name, &ask, Some(&ring.about())).await }));
    }

    async fn answer(&mut self) -> Result<Signed, UpstreamError> {
        match &mut self.call {
            Some(call) => {
                let answer = call.await;
                self.call = None;
                answer
            }
            None => pending().await,
        }
    }

    fn done(&mut self) {
        if !self.said.is_empty() {
            self.said.clear();
            info!(what = self.what, "The upstream's {} can be had again", self.what);
        }
        self.failures = 0;
    }

    /// `mistake`: time alone will not mend it.
    fn failed(&mut self, ring: &Ring, cause: &str, mistake: bool) {
        let about = match ring.is_installable() {
            true => "What is held is served meanwhile",
            false if ring.position().is_some() => {
                "What is held has expired: proxies without a ring are answered 503"
            }
            false => "Nothing is held: proxies are answered 503 until it can",
        };
        let (ring, what) = (&ring.name, self.what);
        // Each once, though several upstreams fail in turn.
        self.said.retain(|(_, said)| said.elapsed() < SAY_AGAIN);
        if self.said.len() < MOST_SAID && !self.said.iter().any(|(said, _)| said == cause) {
            self.said.push((cause.to_owned(), Instant::now()));
            if mistake {
                error!(ring, what, cause, "Ring {ring} cannot be followed: {cause}. {about}");
            } else {
                warn!(ring, what, cause, "Ring {ring} cannot be followed: {cause}. {about}");
            }
        }
        let most = BACKOFF.0.saturating_mul(1 << self.failures.min(16)).min(BACKOFF.1);
        self.failures = self.failures.saturating_add(1);
        // Full jitter, so that many relays that failed at once do not come back at once.
        let random = random::<8>().map(u64::from_le_bytes).unwrap_or(most);
        self.not_before = Instant::now() + Duration::from_millis(random % most.saturating_add(1));
    }
}
