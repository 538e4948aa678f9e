//! Takes a ring's documents from the control plane to proxies that cannot reach it.
//!
//! Each target is on its own: one that is down holds up no other. Nothing is kept here. Where a target
//! is, it says itself, so a push that was cut off goes on where it stopped.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keywheel_api::push::{DocumentRefused, Position};
use keywheel_control::secret::random;
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};
use reqwest::{Client, Response, StatusCode, header};
use serde::Serialize;
use tokio::task::JoinSet;

use super::key::segment;
use super::serve::shutdown;
use crate::args;
use crate::args::Connection;
use crate::failure::Failure;
use crate::http::{innermost, plain};
use crate::output::{Output, print, table};
use crate::source::{Ask, Signed, Source, SourceError};

/// How long the control plane may hold an answer back that has nothing to say.
const WAIT: Duration = Duration::from_secs(25);
const CALL: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(3);
/// Waits between tries are random, up to a limit that doubles from the first to the second.
const BACKOFF: (u64, u64) = (100, 5_000);
/// How often a target is asked what it enforces: at first, and after a second.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Answers of 200 that change nothing, before it is taken for a fault.
const MAX_STUCK: u32 = 3;

/// Brings one target to the head, and keeps it there.
struct Pusher {
    source: Arc<Source>,
    http: Client,
    target: String,
    ring: String,
    timeout: Duration,
    output: Output,
}

/// Where a push has come to.
#[derive(Default)]
struct Course {
    /// What the target said last.
    position: Option<Position>,
    /// Something happened since: ask it again.
    outdated: bool,
    /// The next document is a snapshot's first page, wherever the target is.
    from_start: bool,
    /// That was tried already.
    started_over: bool,
    /// The control plane had nothing more to say.
    at_head: bool,
    stuck: u32,
    /// What is not known to be enforced yet.
    pending: Option<Pending>,
}

/// A revision that a target holds and may not yet enforce.
#[derive(Debug, Clone)]
struct Pending {
    epoch: String,
    revision: u64,
    since: Instant,
}

/// What came of one document.
enum Step {
    /// The target moved.
    Moved,
    /// It is at the head, and was told so.
    Head,
}

/// Why a document was not taken.
enum Trouble {
    /// Trying again may help, after this time if the target named one.
    Later { why: Why, after: Option<Duration> },
    /// It will not.
    Refused(Why),
}

/// A reason for scripts, and what to do for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Why {
    reason: String,
    detail: String,
}

/// How one target fared.
#[derive(Debug, Clone, Serialize)]
struct Report {
    target: String,
    epoch: Option<String>,
    revision: u64,
    vms: u32,
    enforced: u64,
    milliseconds: u64,
    error: Option<Why>,
}

#[derive(Serialize)]
struct Reports {
    ring: String,
    targets: Vec<Report>,
}

#[derive(Serialize)]
struct Event<'a> {
    event: &'static str,
    #[serde(flatten)]
    report: &'a Report,
}

pub(crate) async fn run(args: args::Push, connection: &Connection, output: Output) -> Result<(), Failure> {
    let source = Arc::new(Source::new(&args.from, &args.ring, connection)?);
    // What a target is sent needs no token, and none goes there.
    let http = plain(Client::builder()).connect_timeout(CONNECT).timeout(CALL).build();
    let http = http.map_err(|error| Failure::Io(std::io::Error::other(error)))?;
    let mut pushers = Vec::new();
    for url in &args.to {
        let target = url.trim_end_matches('/').to_owned();
        if !target.starts_with("http://") {
            return Err(Failure::TargetUrl(target));
        }
        let (source, http, ring) = (source.clone(), http.clone(), args.ring.clone());
        pushers.push(Pusher { source, http, target, ring, timeout: args.timeout, output });
    }
    // A wrong token, ring or address is no target's fault.
    match source.take(&Ask::FirstPage).await {
        Err(SourceError::Later(_)) if args.follow => {}
        found => drop(found.map_err(SourceError::into_failure)?),
    }
    if args.follow { follow(pushers).await } else { once(args.ring, pushers, output).await }
}

async fn once(ring: String, pushers: Vec<Pusher>, output: Output) -> Result<(), Failure> {
    let tasks: Vec<_> =
        pushers.into_iter().map(|pusher| tokio::spawn(async move { pusher.once().await })).collect();
    let mut targets = Vec::with_capacity(tasks.len());
    for task in tasks {
        targets.push(task.await.map_err(std::io::Error::other)?);
    }
    let failed: Vec<_> = targets
        .iter()
        .filter_map(|report| Some(format!("{}: {}", report.target, report.error.as_ref()?)))
        .collect();
    let (failures, of) = (failed.len(), targets.len());
    output.result(&Reports { ring, targets }, |reports| human(&reports.targets))?;
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::Push { failed: failures, of, why: failed.join("; ") })
}

/// Until a signal. What a target lacks is pushed when it answers again.
async fn follow(pushers: Vec<Pusher>) -> Result<(), Failure> {
    let shutdown = shutdown()?;
    let mut tasks = JoinSet::new();
    for pusher in pushers {
        tasks.spawn(async move { pusher.follow().await });
    }
    tokio::select! {
        // Only what cannot be printed ends one.
        ended = tasks.join_next() => match ended {
            Some(Ok(done)) => done,
            Some(Err(panicked)) => Err(std::io::Error::other(panicked).into()),
            None => Ok(()),
        },
        () = shutdown => Ok(()),
    }
}

impl Pusher {
    /// Until all VMs of the target enforce the head, or it makes no progress for as long as it may.
    async fn once(&self) -> Report {
        let start = Instant::now();
        let (mut course, mut progress, mut tries) = (Course::default(), Instant::now(), 0);
        loop {
            match self.step(&mut course).await {
                Ok(Step::Moved) => (progress, tries) = (Instant::now(), 0),
                Ok(Step::Head) => break,
                Err(Trouble::Refused(why)) => return self.report(&course, start, Some(why)),
                Err(Trouble::Later { why, after }) => {
                    if progress.elapsed() >= self.timeout {
                        return self.report(&course, start, Some(why));
                    }
                    let left = self.timeout.saturating_sub(progress.elapsed());
                    tokio::time::sleep(after.unwrap_or_else(|| backoff(tries)).min(left)).await;
                    tries = tries.saturating_add(1);
                }
            }
        }
        let Some(pending) = course.pending.take() else { return self.report(&course, start, None) };
        let enforced = tokio::time::timeout(self.timeout, self.enforced(&pending, course.position.clone()));
        if let Ok(position) = enforced.await {
            course.position = Some(position);
            return self.report(&course, start, None);
        }
        if let Ok(position) = self.position().await {
            course.position = Some(position);
        }
        let (vms, enforced) = course.position.as_ref().map_or((0, 0), |at| (at.vms, at.enforced));
        let detail = format!(
            "the proxy holds revision {}, but after {} seconds its {vms} VMs enforce only {enforced}; look at its \
             log for a VM that does not tick",
            pending.revision,
            self.timeout.as_secs(),
        );
        self.report(&course, start, Some(Why { reason: "not_enforced".into(), detail }))
    }

    /// For ever. A line for each change that is enforced, and for each new kind of trouble.
    async fn follow(&self) -> Result<(), Failure> {
        let (mut course, mut tries, mut said) = (Course::default(), 0, None);
        loop {
            let (start, waited) = (Instant::now(), course.at_head);
            match self.step(&mut course).await {
                Ok(Step::Moved) => tries = 0,
                Ok(Step::Head) => {
                    (tries, said) = (0, None);
                    // A control plane that stops answers at once, until it is gone.
                    if waited && start.elapsed() < Duration::from_secs(1) {
                        tokio::time::sleep(backoff(1)).await;
                    }
                }
                Err(trouble) => {
                    let (why, after) = match trouble {
                        Trouble::Later { why, after } => (why, after),
                        Trouble::Refused(why) => (why, None),
                    };
                    if said.as_ref() != Some(&why) {
                        self.say("failed", &self.report(&course, start, Some(why.clone())))?;
                        said = Some(why);
                    }
                    tokio::time::sleep(after.unwrap_or_else(|| backoff(tries))).await;
                    course.started_over = false;
                    tries = tries.saturating_add(1);
                }
            }
        }
    }

    /// Takes the next document that the target needs, and hands it over.
    async fn step(&self, course: &mut Course) -> Result<Step, Trouble> {
        let stepped = self.try_step(course).await;
        match stepped {
            // A snapshot mends what a run of changes cannot; if it does not, nothing does.
            Err(Trouble::Refused(why)) if mended_by_snapshot(&why.reason) && !course.started_over => {
                (course.from_start, course.started_over, course.outdated) = (true, true, true);
                Ok(Step::Moved)
            }
            Err(trouble) => {
                // Whatever happened meanwhile, the target knows where it is.
                course.outdated = true;
                Err(trouble)
            }
            Ok(step) => Ok(step),
        }
    }

    async fn try_step(&self, course: &mut Course) -> Result<Step, Trouble> {
        let position = match course.position.clone().filter(|_| !course.outdated) {
            Some(position) => position,
            None => self.position().await?,
        };
        (course.position, course.outdated) = (Some(position.clone()), false);
        let ask = next(&position, course.from_start, course.at_head);
        let document = self.take(&ask, course).await?;
        let answer = self.hand_over(&document).await?;
        course.position = Some(answer.clone());
        let from_start = std::mem::take(&mut course.from_start);

        if document.kind.is_heartbeat() && is_at(&answer, document.kind.revision) {
            if !course.at_head {
                course.pending = pending(&answer);
            }
            (course.at_head, course.started_over, course.stuck) = (true, false, 0);
            return Ok(Step::Head);
        }
        if answer_is_stuck(&position, &answer) && !from_start {
            course.stuck = course.stuck.saturating_add(1);
            let why = stuck(&answer, self.source.listener());
            return Err(if course.stuck < MAX_STUCK {
                Trouble::Later { why, after: None }
            } else {
                Trouble::Refused(why)
            });
        }
        course.stuck = 0;
        if course.at_head {
            course.pending = pending(&answer);
        }
        Ok(Step::Moved)
    }

    /// Takes a document, and meanwhile looks whether the last one is enforced.
    async fn take(&self, ask: &Ask, course: &mut Course) -> Result<Signed, Trouble> {
        let source = async {
            match self.source.take(ask).await {
                Err(SourceError::Gone) => self.source.take(&Ask::FirstPage).await,
                taken => taken,
            }
        };
        tokio::pin!(source);
        let waits = matches!(ask, Ask::Changes { wait, .. } if !wait.is_zero());
        let taken = match course.pending.clone().filter(|_| waits) {
            None => source.await,
            Some(pending) => tokio::select! {
                biased;
                taken = &mut source => taken,
                position = self.enforced(&pending, course.position.clone()) => {
                    course.pending = None;
                    course.position = Some(position);
                    self.say("enforced", &self.report(course, pending.since, None)).map_err(cannot_print)?;
                    source.await
                }
            },
        };
        taken.map_err(|error| match error {
            SourceError::Later(failure) => {
                Trouble::Later { why: Why::new("control_plane", failure.to_string()), after: None }
            }
            error => Trouble::Refused(Why::new("control_plane", error.into_failure().to_string())),
        })
    }

    async fn position(&self) -> Result<Position, Trouble> {
        let answer = self.http.get(self.url("position")).send().await.map_err(|error| self.lost(&error))?;
        self.read(answer).await
    }

    async fn hand_over(&self, document: &Signed) -> Result<Position, Trouble> {
        let request = self
            .http
            .post(self.url("documents"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(SIGNATURE_HEADER, &document.signature)
            .header(SIGNER_HEADER, &document.signer)
            .body(document.body.clone());
        let answer = request.send().await.map_err(|error| self.lost(&error))?;
        self.read(answer).await
    }

    async fn read(&self, answer: Response) -> Result<Position, Trouble> {
        let status = answer.status();
        let after =
            answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = answer.bytes().await.map_err(|error| self.lost(&error))?;
        if status == StatusCode::OK {
            let not_one = |error: serde_json::Error| {
                let detail = format!(
                    "the answer of {} is not that of a proxy that takes pushed documents ({error}); is it a \
                     listener with the filter in `mode: receive`?",
                    self.target
                );
                Trouble::Refused(Why::new("not_a_proxy", detail))
            };
            return serde_json::from_slice(&body).map_err(not_one);
        }
        let said: DocumentRefused = serde_json::from_slice(&body).unwrap_or_default();
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        Err(match status {
            StatusCode::CONFLICT => {
                let detail = or(said.detail, "the proxy did not take the document; its log says why");
                Trouble::Refused(Why::new(&or(said.reason, "document_refused"), detail))
            }
            StatusCode::NOT_FOUND => {
                let detail = format!(
                    "{} receives no ring `{}`; look at `ring` and `mode: receive` in its filter's configuration",
                    self.target, self.ring
                );
                Trouble::Refused(Why::new("not_found", detail))
            }
            status if status.is_server_error() => {
                let detail = or(said.detail, "the proxy could not take it just now");
                let reason = or(said.code, "unavailable");
                let most = Duration::from_millis(BACKOFF.1);
                let after = after.map(|seconds: u64| Duration::from_secs(seconds).min(most));
                Trouble::Later { why: Why::new(&reason, format!("{detail} (HTTP {status})")), after }
            }
            status => {
                let detail = or(said.detail, "is it a listener with the filter in `mode: receive`?");
                let reason = or(said.code, &format!("http_{}", status.as_u16()));
                Trouble::Refused(Why::new(&reason, format!("{detail} (HTTP {status})")))
            }
        })
    }

    /// Waits until all VMs enforce it. A target that does not answer is asked again.
    async fn enforced(&self, pending: &Pending, mut known: Option<Position>) -> Position {
        let start = Instant::now();
        loop {
            if let Some(position) = known.take().filter(|position| pending.is_enforced(position)) {
                return position;
            }
            let pause = if start.elapsed() < LOOK.1 { LOOK.0 } else { LOOK.1 };
            tokio::time::sleep(pause).await;
            known = self.position().await.ok();
        }
    }

    fn url(&self, what: &str) -> String {
        format!("{}/v1/rings/{}/{what}", self.target, segment(&self.ring))
    }

    fn lost(&self, error: &reqwest::Error) -> Trouble {
        let detail = format!("cannot reach {}: {}; does its listener run?", self.target, innermost(error));
        Trouble::Later { why: Why::new("unreachable", detail), after: None }
    }

    fn report(&self, course: &Course, start: Instant, error: Option<Why>) -> Report {
        let at = course.position.as_ref();
        Report {
            target: self.target.clone(),
            epoch: at.and_then(|at| at.epoch.clone()),
            revision: at.map_or(0, |at| at.revision),
            vms: at.map_or(0, |at| at.vms),
            enforced: at.map_or(0, |at| at.enforced),
            milliseconds: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
            error,
        }
    }

    fn say(&self, event: &'static str, report: &Report) -> Result<(), Failure> {
        let text = match self.output {
            Output::Json => serde_json::to_string(&Event { event, report }).map_err(std::io::Error::from)?,
            Output::Human => line(report),
        };
        print(&text)
    }
}

/// What a target needs that is here.
fn next(position: &Position, from_start: bool, at_head: bool) -> Ask {
    if from_start {
        return Ask::FirstPage;
    }
    match (&position.sync, &position.epoch) {
        (Some(sync), _) => {
            Ask::Page { after: sync.cursor.clone(), epoch: sync.epoch.clone(), at_least: sync.revision }
        }
        (None, Some(epoch)) => {
            let wait = if at_head { WAIT } else { Duration::ZERO };
            Ask::Changes { epoch: epoch.clone(), since: position.revision, wait }
        }
        (None, None) => Ask::FirstPage,
    }
}

/// Whether a target could take the ring if it came from the beginning.
fn mended_by_snapshot(reason: &str) -> bool {
    matches!(reason, "gap" | "out_of_turn" | "other_epoch" | "too_many_signers")
}

fn is_at(position: &Position, revision: u64) -> bool {
    position.sync.is_none() && position.revision >= revision
}

fn pending(position: &Position) -> Option<Pending> {
    let epoch = position.epoch.clone()?;
    Some(Pending { epoch, revision: position.revision, since: Instant::now() })
}

fn answer_is_stuck(before: &Position, after: &Position) -> bool {
    (&before.epoch, before.revision, &before.sync) == (&after.epoch, after.revision, &after.sync)
}

fn stuck(position: &Position, listener: &str) -> Why {
    let detail = format!(
        "the proxy takes documents and stays at revision {}, which may be ahead of what {listener} serves. A relay there \
         that is behind its control plane comes to it by itself: push again, or from the control plane. If it is the \
         control plane, its data is an older copy: bring the newest one back",
        position.revision
    );
    Why::new("no_progress", detail)
}

fn cannot_print(failure: Failure) -> Trouble {
    Trouble::Refused(Why::new("output", failure.to_string()))
}

/// Random, so that many who failed at once do not come back at once.
fn backoff(tries: u32) -> Duration {
    let most = BACKOFF.0.saturating_mul(1 << tries.min(16)).min(BACKOFF.1);
    let random = random::<8>().map(u64::from_le_bytes).unwrap_or(most);
    Duration::from_millis(random % most.saturating_add(1))
}

fn human(reports: &[Report]) -> String {
    let row = |report: &Report| {
        let result = report.error.as_ref().map_or("enforced", |why| why.reason.as_str());
        [
            report.target.clone(),
            report.revision.to_string(),
            report.vms.to_string(),
            report.enforced.to_string(),
            format!("{} ms", report.milliseconds),
            result.to_owned(),
        ]
    };
    let head = ["TARGET", "REVISION", "VMS", "ENFORCED", "TIME", "RESULT"];
    table(head, &reports.iter().map(row).collect::<Vec<_>>())
}

fn line(report: &Report) -> String {
    let Report { target, revision, vms, enforced, milliseconds, error, .. } = report;
    match error {
        None => format!(
            "{target}: revision {revision}, all {vms} VMs enforce {enforced}, after {milliseconds} ms"
        ),
        Some(why) => format!("{target}: {why}; trying again"),
    }
}

// === impl Pending ===

impl Pending {
    fn is_enforced(&self, position: &Position) -> bool {
        // Without a VM nobody enforces anything.
        position.epoch.as_ref() == Some(&self.epoch) && position.vms > 0 && position.enforced >= self.revision
    }
}

// === impl Why ===

impl Why {
    fn new(reason: &str, detail: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), detail: detail.into() }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}
