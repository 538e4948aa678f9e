//! What the leading VM asks the control plane for, and what the answers do. No I/O: calls go out
//! through the caller, answers come in as arguments.
//!
//! A ring comes as pages of a snapshot, then as the changes since its first page, and is enforced once these were
//! followed to their end; from then on changes come by long-poll. Beside the next page or poll there may be under
//! way: the page behind it, while no ring is held; a report that all VMs enforce what the last one brought; a poll
//! for changes while a ring that is enforced is fetched anew, since a revocation cannot wait for that; and, while
//! another cluster serves, a question whether the first answers again.

mod ahead;

use std::ops::Deref;

use keywheel_keyring::generation::{Position, Sync};
use keywheel_keyring::merge::{Ending, Plan, Rejection};
use keywheel_keyring::signature::{self, SignatureError};
use keywheel_keyring::{Digest, Document, Generation, Millis, PublicKey};

use crate::Now;
use crate::roster::Enforced;
use ahead::Ahead;

/// How long the control plane may hold a poll, in seconds.
const WAIT: u64 = 25;
const POLL_TIMEOUT: u64 = 30_000;
const CALL_TIMEOUT: u64 = 10_000;
/// After its timeout a call without an answer counts as lost after so many milliseconds more.
const LOST: u64 = 5_000;
/// The first and the longest pause after a failure, in milliseconds, before jitter.
const FIRST_PAUSE: u64 = 100;
const LONGEST_PAUSE: u64 = 5_000;
/// After so many milliseconds with another cluster the first is tried again.
const RETURN: u64 = 30_000;
/// A ring that is enforced is fetched anew no faster than a page in so many milliseconds: there is no hurry,
/// and requests want the machine, too.
const PACE: u64 = 15;
/// Polls beside a snapshot that bring nothing follow each other no faster, in milliseconds.
const FOLLOW: u64 = 1_000;

/// A request to make to the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Names the call in [`Refresh::answer`].
    pub id: u32,
    /// Which of the configured clusters to ask.
    pub cluster: usize,
    pub path: String,
    /// What the proxy says of itself, for the `keywheel-proxy` header.
    pub proxy: String,
    /// JSON to `POST`; with none it is a `GET`.
    pub body: Option<Vec<u8>>,
    pub timeout_ms: u64,
}

/// An answer of the control plane, or of Envoy in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// 0 when the stream was reset.
    pub status: u16,
    pub signer: Option<&'a [u8]>,
    pub signature: Option<&'a [u8]>,
    /// Where the page behind this one should end, in hexadecimal.
    pub ahead: Option<&'a [u8]>,
    pub body: &'a [u8],
}

/// What an answer means for the ring.
#[derive(Debug, Clone, PartialEq)]
pub enum Reaction {
    /// Carry this out. `bad` names entries that could not be read and now deny.
    Apply { plan: Plan, bad: Vec<(String, String)> },
    /// The document changes nothing, for this reason.
    Rejected { reason: Rejection, detail: String },
    /// The call failed; another follows after a pause.
    Failed(String),
    /// Nothing to do: old news, or a call that nobody waits for any more.
    Nothing,
}

/// What a proxy says of itself with every call.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The part that never changes.
    pub who: &'a str,
    /// What is in shared data now.
    pub stored: &'a Generation,
    pub enforced: Enforced,
}

/// A [`Standing`] that is looked up when a call needs it: that costs a look at every VM, and mostly nothing is due.
pub type Lazily<'a> = dyn Deref<Target = Standing<'a>> + 'a;

/// What the calls that are due depend on.
#[derive(Clone, Copy)]
struct At<'a, 's> {
    ring: &'a str,
    generation: &'a Generation,
    standing: &'a Lazily<'s>,
    now: Now,
}

/// The calls of one leader.
#[derive(Debug)]
pub struct Refresh {
    clusters: usize,
    cluster: usize,
    /// When to turn back to the first cluster, while it is another.
    return_at: u64,
    main: Option<Flight>,
    ahead: Ahead,
    report: Option<Flight>,
    /// Asks for changes since a snapshot under way began.
    follow: Option<Flight>,
    follow_at: u64,
    /// The control plane has no changes any more from before the snapshot's first page.
    follow_first: bool,
    /// When the next page may be asked for.
    page_at: u64,
    /// Asks whether the first cluster answers again, while another is in use.
    probe: Option<Flight>,
    last_id: u32,
    /// The control plane has no changes from where we are: begin a snapshot.
    snapshot: bool,
    /// When the changes behind a snapshot's last page were first asked for.
    ending_at: Option<Millis>,
    /// The acknowledgement that was sent last.
    reported: Option<Position>,
    failures: u32,
    not_before: u64,
    jitter: u64,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    id: u32,
    lost_at: u64,
    /// Where the ring was when the call went out.
    from: Option<Position>,
    is_page: bool,
    /// What a page must not be cut before.
    floor: Option<u64>,
}

impl Flight {
    fn new(call: &Call, generation: &Generation, is_page: bool, now: Now) -> Self {
        let lost_at = now.mono.saturating_add(call.timeout_ms).saturating_add(LOST);
        Self { id: call.id, lost_at, from: generation.complete, is_page, floor: floor(generation) }
    }
}

impl Refresh {
    /// `clusters` is their number; `seed` spreads the pauses of many proxies.
    #[must_use]
    pub const fn new(clusters: usize, seed: u64) -> Self {
        Self {
            clusters,
            cluster: 0,
            return_at: 0,
            main: None,
            ahead: Ahead::NONE,
            report: None,
            follow: None,
            follow_at: 0,
            follow_first: false,
            page_at: 0,
            probe: None,
            last_id: 0,
            snapshot: false,
            ending_at: None,
            reported: None,
            failures: 0,
            not_before: 0,
            jitter: seed | 1,
        }
    }

    /// Forgets what is under way: another VM leads.
    pub const fn stop(&mut self) {
        self.main = None;
        self.ahead = Ahead::NONE;
        self.report = None;
        self.follow = None;
        self.follow_at = 0;
        self.follow_first = false;
        self.page_at = 0;
        self.probe = None;
        self.snapshot = false;
        self.ending_at = None;
        self.reported = None;
        self.failures = 0;
        self.not_before = 0;
    }

    /// Which calls are due, to go on from `generation`: the one that is stored, or is about to be.
    pub fn due(&mut self, ring: &str, generation: &Generation, standing: &Lazily<'_>, now: Now) -> Vec<Call> {
        if let Some(lost) = self.main.take_if(|flight| now.mono >= flight.lost_at) {
            log::warn!("keywheel: ring {ring}: call {} got no answer", lost.id);
            self.fail(now);
        }
        let at = At { ring, generation, standing, now };
        let due =
            [self.go_on(at), self.look_ahead(at), self.follow(at), self.acknowledge(at), self.turn_back(at)];
        due.into_iter().flatten().collect()
    }

    /// The next page, what changed since the pages, or the next poll.
    fn go_on(&mut self, at: At<'_, '_>) -> Option<Call> {
        let At { ring, generation, standing, now } = at;
        // A damaged bucket cannot wait until the poll under way is answered.
        let is_page = self.wants_page(generation);
        self.main.take_if(|flight| is_page && !flight.is_page);
        let is_too_soon = is_page && generation.complete.is_some() && now.mono < self.page_at;
        if self.main.is_some() || now.mono < self.not_before || is_too_soon {
            return None;
        }
        self.page_at = now.mono.saturating_add(PACE);
        self.main = self.ahead.take_turn(self.cursor(generation));
        if self.main.is_some() {
            return None;
        }
        let (path, timeout_ms) = match paged(generation) {
            _ if is_page => (self.page(ring, generation), CALL_TIMEOUT),
            Some(sync) => {
                self.ending_at.get_or_insert(now.wall);
                (changes(ring, Some(sync.position()), 0), CALL_TIMEOUT)
            }
            None => (changes(ring, generation.complete, WAIT), POLL_TIMEOUT),
        };
        let call = self.call(path, standing, timeout_ms, now);
        self.main = Some(Flight::new(&call, generation, is_page, now));
        self.reported = standing.enforced.least;
        Some(call)
    }

    /// The page behind the one under way.
    fn look_ahead(&mut self, at: At<'_, '_>) -> Option<Call> {
        let At { ring, generation, standing, now } = at;
        // Without a ring every request is refused: there is a hurry. With one there is none.
        let is_paging = self.main.is_some_and(|flight| flight.is_page) && generation.complete.is_none();
        let sync = generation.sync.as_ref().filter(|_| is_paging)?;
        let after = self.ahead.due(self.cursor(generation))?;
        let call = self.call(page_behind(ring, sync, Some(after)), standing, CALL_TIMEOUT, now);
        self.ahead.sent(after, Flight::new(&call, generation, true, now));
        Some(call)
    }

    /// Tells that all VMs enforce what came last. A poll under way does not know yet what its own answer brought; a
    /// short call tells. While a snapshot is under way, its pages tell.
    fn acknowledge(&mut self, at: At<'_, '_>) -> Option<Call> {
        let At { ring, generation, standing, now } = at;
        self.report.take_if(|flight| now.mono >= flight.lost_at);
        let is_news = generation.complete.is_some()
            && generation.sync.is_none()
            && generation.complete != self.reported
            && self.report.is_none()
            && self.failures == 0
            && generation.complete == standing.enforced.least;
        if !is_news {
            return None;
        }
        let call = self.call(changes(ring, generation.complete, 0), standing, CALL_TIMEOUT, now);
        self.report = Some(Flight::new(&call, generation, false, now));
        self.reported = generation.complete;
        Some(call)
    }

    /// Asks, while another cluster serves, whether the first answers again. One that hangs must not keep the
    /// changes away that the other has.
    fn turn_back(&mut self, at: At<'_, '_>) -> Option<Call> {
        let At { ring, generation, standing, now } = at;
        if self.probe.take_if(|flight| now.mono >= flight.lost_at).is_some() {
            self.return_at = now.mono.saturating_add(RETURN);
        }
        let is_due = self.cluster != 0 && self.probe.is_none() && now.mono >= self.return_at;
        let complete = generation.complete.filter(|_| is_due)?;
        let call = self.call(changes(ring, Some(complete), 0), standing, CALL_TIMEOUT, now);
        let call = Call { cluster: 0, ..call };
        self.probe = Some(Flight::new(&call, generation, false, now));
        Some(call)
    }

    /// The poll beside a snapshot that takes the place of a ring which is enforced meanwhile.
    fn follow(&mut self, at: At<'_, '_>) -> Option<Call> {
        let At { ring, generation, standing, now } = at;
        let is_paging = generation.sync.as_ref().is_some_and(|sync| !sync.is_paged());
        let follows = is_paging && generation.complete.is_some() && !self.snapshot;
        // What is under way when the last page comes is brought again by the calls that go on from the first one.
        self.follow.take_if(|flight| !follows || now.mono >= flight.lost_at);
        self.follow_first &= follows;
        let is_due = follows && self.follow.is_none() && now.mono >= self.follow_at.max(self.not_before);
        let sync = generation.sync.as_ref().filter(|_| is_due)?;
        let least = if self.follow_first { sync.first.revision } else { 0 };
        let from = Position { epoch: sync.first.epoch, revision: sync.upto.max(least) };
        let call = self.call(changes(ring, Some(from), WAIT), standing, POLL_TIMEOUT, now);
        self.follow = Some(Flight::new(&call, generation, false, now));
        self.follow_at = now.mono.saturating_add(FOLLOW);
        Some(call)
    }

    fn wants_page(&self, generation: &Generation) -> bool {
        let is_whole = match &generation.sync {
            Some(sync) => sync.is_paged(),
            None => generation.complete.is_some(),
        };
        self.snapshot || generation.repair || !is_whole
    }

    /// Where the snapshot under way goes on, if pages of it are still to come.
    fn cursor(&self, generation: &Generation) -> Option<Digest> {
        generation.sync.as_ref().filter(|sync| !self.snapshot && !sync.is_paged())?.cursor
    }

    /// The next page: from where the snapshot under way stopped, or the first. It must not be older
    /// than what is held, nor than the snapshot allows.
    fn page(&self, ring: &str, generation: &Generation) -> String {
        if let Some(sync) = generation.sync.as_ref().filter(|_| !self.snapshot) {
            return page_behind(ring, sync, sync.cursor);
        }
        let query = generation.complete.filter(|_| !self.snapshot).map_or_else(String::new, |complete| {
            format!("epoch={}&at_least={}", complete.epoch, complete.revision)
        });
        format!("/v1/rings/{ring}/snapshot?{query}")
    }

    fn call(&mut self, path: String, standing: &Standing<'_>, timeout_ms: u64, now: Now) -> Call {
        let (id, cluster) = self.next_call();
        let Standing { who, stored, enforced } = *standing;
        let complete = stored.complete;
        // What is enforced of another epoch counts on another scale.
        let least =
            enforced.least.filter(|least| complete.is_some_and(|complete| complete.epoch == least.epoch));
        let revision = |position: Option<Position>| position.map_or(0, |position| position.revision);
        let epoch = complete.map(|complete| complete.epoch.to_string()).unwrap_or_default();
        let refuse_after = enforced.refuse_after;
        let (vms, enforced) = (enforced.vms, revision(least));
        let age = complete.map_or(0, |_| now.wall.saturating_since(stored.issued_at) / 1000);
        let stored = revision(complete);
        let mut proxy =
            format!("{who}&vms={vms}&epoch={epoch}&stored={stored}&enforced={enforced}&age={age}");
        if let Some(after) = refuse_after {
            proxy.push_str(&format!("&refuse={}", after / 1000));
        }
        Call { id, cluster, path, proxy, body: None, timeout_ms }
    }

    /// A name for a call, and the cluster that answers now.
    pub const fn next_call(&mut self) -> (u32, usize) {
        self.last_id = self.last_id.wrapping_add(1);
        (self.last_id, self.cluster)
    }

    /// Takes the answer to call `id`, judged against the generation that is held now.
    pub fn answer(
        &mut self,
        id: u32,
        answer: Answer<'_>,
        ring: &str,
        trust: &[PublicKey],
        generation: &Generation,
        now: Now,
    ) -> Reaction {
        if self.ahead.gave_up(id) {
            return Reaction::Nothing;
        }
        if self.report.take_if(|flight| flight.id == id).is_some() {
            return self.reported(answer, ring, trust, generation, now);
        }
        if self.probe.take_if(|flight| flight.id == id).is_some() {
            let reaction = match answer.status {
                200 => self.read(answer, ring, trust, generation, now),
                410 => Reaction::Nothing,
                status => Reaction::Failed(failure(status, answer.body)),
            };
            // Only what speaks of this ring is worth the return.
            if let Reaction::Failed(_) | Reaction::Rejected { .. } = reaction {
                self.return_at = now.mono.saturating_add(RETURN);
                return Reaction::Nothing;
            }
            self.cluster = 0;
            return reaction;
        }
        if self.follow.take_if(|flight| flight.id == id).is_some() {
            // Whether the control plane is well is seen by the pages.
            if answer.status != 200 {
                self.follow_first |= answer.status == 410;
                return Reaction::Nothing;
            }
            let reaction = self.read(answer, ring, trust, generation, now);
            if let Reaction::Apply { .. } = reaction {
                self.follow_at = 0;
            }
            return reaction;
        }
        let Some(flight) = self.main.take_if(|flight| flight.id == id) else {
            return Reaction::Nothing;
        };
        match answer.status {
            200 => {}
            410 if !self.snapshot => {
                // The control plane cannot continue from where we are; a snapshot begins at once.
                self.snapshot = true;
                return Reaction::Nothing;
            }
            status => {
                self.fail(now);
                return Reaction::Failed(failure(status, answer.body));
            }
        }
        let reaction = self.read(answer, ring, trust, generation, now);
        match &reaction {
            Reaction::Apply { plan, .. } => {
                if let Plan::Write(write) = plan
                    && write.is_page()
                {
                    self.snapshot = false;
                    self.ending_at = None;
                    self.ahead.hear(self.cursor(write.next()), answer.ahead);
                }
            }
            // Something was removed while the page was under way.
            Reaction::Rejected { reason: Rejection::Older, .. }
                if flight.is_page && flight.floor.is_some() && flight.floor < floor(generation) =>
            {
                return Reaction::Nothing;
            }
            Reaction::Rejected { reason, .. } => {
                // A page that does not join on: the snapshot under way may be of an epoch that is
                // over. If it is not, its first page covers nothing new, and it goes on.
                // And too many signers end only when the ring is fetched anew, from the one who signs now.
                self.snapshot =
                    flight.is_page && *reason == Rejection::Gap || *reason == Rejection::TooManySigners;
                self.fail(now);
            }
            // The answer to a report brought the same first.
            Reaction::Nothing if flight.from < generation.complete => {}
            _ => self.fail(now),
        }
        reaction
    }

    fn read(
        &self,
        answer: Answer<'_>,
        ring: &str,
        trust: &[PublicKey],
        generation: &Generation,
        now: Now,
    ) -> Reaction {
        let ending = Ending::CaughtUp { asked_at: self.ending_at.unwrap_or(now.wall) };
        read(answer, ring, trust, generation, now, ending)
    }

    /// The answer to a report is a document like any other; that it may bring nothing new is no failure.
    fn reported(
        &mut self,
        answer: Answer<'_>,
        ring: &str,
        trust: &[PublicKey],
        generation: &Generation,
        now: Now,
    ) -> Reaction {
        if answer.status == 200 {
            return self.read(answer, ring, trust, generation, now);
        }
        self.reported = None;
        self.fail(now);
        Reaction::Failed(failure(answer.status, answer.body))
    }

    /// A call could not be made at all.
    pub fn not_sent(&mut self, id: u32, now: Now) {
        let sent = |flight: &mut Flight| flight.id == id;
        if self.probe.take_if(sent).is_some() {
            self.return_at = now.mono.saturating_add(RETURN);
            return;
        }
        self.follow.take_if(sent);
        self.ahead.gave_up(id);
        if self.main.take_if(sent).is_some() || self.report.take_if(sent).is_some() {
            self.fail(now);
        }
    }

    /// What came was applied.
    pub const fn applied(&mut self) {
        self.failures = 0;
    }

    /// What came could not be applied. The call that went out meanwhile asks from where the ring did
    /// not get to; its answer would be a gap, so nobody waits for it. A run that `comes_again` after the
    /// snapshot is no reason to hold that up.
    pub fn not_applied(&mut self, comes_again: bool, now: Now) {
        self.follow = None;
        if !comes_again {
            self.main = None;
            self.fail(now);
        }
    }

    /// Backs off with full jitter, and turns to the next cluster.
    fn fail(&mut self, now: Now) {
        self.ahead = Ahead::NONE;
        let ceiling = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        let next = self.cluster.saturating_add(1);
        if self.cluster == 0 {
            self.return_at = now.mono.saturating_add(RETURN);
        }
        self.cluster = if next < self.clusters { next } else { 0 };
        // xorshift64: no need to be unpredictable, only to differ between proxies.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let pause = self.jitter.checked_rem(ceiling.saturating_add(1)).unwrap_or_default();
        self.not_before = now.mono.saturating_add(pause);
    }

    /// Failures since the last document that was taken.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

fn floor(generation: &Generation) -> Option<u64> {
    generation.sync.as_ref().map(|sync| sync.floor)
}

/// The snapshot under way whose pages are all in.
fn paged(generation: &Generation) -> Option<&Sync> {
    generation.sync.as_ref().filter(|sync| sync.is_paged())
}

/// The page behind `after` of the snapshot under way.
fn page_behind(ring: &str, sync: &Sync, after: Option<Digest>) -> String {
    let after = after.map(|after| format!("after={after}&")).unwrap_or_default();
    format!("/v1/rings/{ring}/snapshot?{after}epoch={}&at_least={}", sync.first.epoch, sync.floor)
}

fn changes(ring: &str, from: Option<Position>, wait: u64) -> String {
    let (epoch, since) =
        from.map_or((String::new(), 0), |position| (position.epoch.to_string(), position.revision));
    format!("/v1/rings/{ring}/changes?epoch={epoch}&since={since}&wait={wait}")
}

/// Judges a document, wherever it came from.
pub(crate) fn read(
    answer: Answer<'_>,
    ring: &str,
    trust: &[PublicKey],
    generation: &Generation,
    now: Now,
    ending: Ending,
) -> Reaction {
    let rejected = |reason, detail: String| Reaction::Rejected { reason, detail };
    let signer = match signature::verify(trust, answer.body, answer.signer, answer.signature) {
        Ok(signer) => signer,
        Err(error) => {
            let reason = match error {
                SignatureError::Missing => Rejection::Unsigned,
                SignatureError::Untrusted => Rejection::UntrustedSigner,
                SignatureError::Wrong => Rejection::BadSignature,
            };
            return rejected(reason, error.to_string());
        }
    };
    let parsed = match Document::parse(answer.body) {
        Ok(parsed) => parsed,
        Err(error) => return rejected(Rejection::Unreadable, error.to_string()),
    };
    let about = format!("epoch {}, revision {}", parsed.document.epoch, parsed.document.revision);
    match generation.judge(ring, parsed.document, signer, now.wall, ending) {
        Ok(plan) => Reaction::Apply { plan, bad: parsed.bad },
        Err(Rejection::Known) => Reaction::Nothing,
        Err(reason) => rejected(reason, about),
    }
}

fn failure(status: u16, body: &[u8]) -> String {
    if status == 0 {
        return "the connection broke before an answer came".into();
    }
    let body = String::from_utf8_lossy(body.get(..200).unwrap_or(body)).replace(char::is_control, " ");
    format!("the control plane answered {status}: {body}")
}
