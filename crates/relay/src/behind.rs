//! Tells the upstream of the proxies behind this relay, and keeps those on disk that it could not tell of.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keywheel_api::ProxyReports;
use keywheel_control::clock;
use keywheel_control::ring::proxies::{self, VIA};
use keywheel_control::secret::random;
use keywheel_keyring::{Epoch, Millis};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use crate::relay::stopped;
use crate::ring::{Ring, on_disk};
use crate::roster::{Heard, Roster};

/// How long a proxy that asks for the first time waits until the upstream knows of it.
const PATIENCE: Duration = Duration::from_secs(1);
/// News of many proxies that enforce one change go in one call.
const GATHER: Duration = Duration::from_millis(5);
/// How often the upstream hears of proxies that have no news. They ask every 25 seconds, and count as silent after 60.
const ALL: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
const UNTOLD: &str = "untold";
const INSTANCE: &str = "instance";

/// Who is behind this relay.
#[derive(Debug)]
pub struct Proxies {
    dir: PathBuf,
    /// The part of what the relay says of itself that never changes.
    who: String,
    /// In it, what no other has.
    instance: String,
    /// What is added to the word of a proxy that asks this relay.
    via: String,
    // A std mutex: it is held for a lookup, never across an await.
    roster: Mutex<Roster>,
    news: Notify,
    /// Counts answers of the upstream.
    told: watch::Sender<u64>,
    /// Whether the upstream could not be told lately.
    failing: AtomicBool,
    /// Counts proxies that are new.
    new: AtomicU64,
    /// How many of those are on disk.
    written: tokio::sync::Mutex<u64>,
}

impl Proxies {
    /// `node` is what the relay is called, as a header has it.
    ///
    /// # Errors
    ///
    /// What the upstream could not be told of cannot be read.
    pub fn open(dir: &Path, node: &str) -> io::Result<Self> {
        let mut roster = Roster::default();
        match fs::read_to_string(dir.join(UNTOLD)) {
            Ok(text) => {
                for (at, said) in text.lines().filter_map(|line| line.split_once(' ')) {
                    roster.hear(said, Millis(at.parse().unwrap_or_default()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let instance = instance(&dir.join(INSTANCE))?;
        Ok(Self {
            dir: dir.to_owned(),
            who: format!("node={node}&filter=relay-{}&instance={instance}", env!("CARGO_PKG_VERSION")),
            instance,
            via: format!("&{VIA}={node}"),
            roster: Mutex::new(roster),
            news: Notify::new(),
            told: watch::Sender::new(0),
            failing: AtomicBool::new(false),
            new: AtomicU64::new(0),
            written: tokio::sync::Mutex::default(),
        })
    }

    /// Whether it is the relay's own word, which came back to it.
    pub(crate) fn is_own(&self, said: &str) -> bool {
        // Most are told apart by this alone.
        said.contains(&self.instance)
            && match (proxies::parse(said.as_bytes()), proxies::parse(self.about("", 0, 0, 0, "").as_bytes()))
            {
                (Ok(said), Ok(own)) => (said.node, said.instance) == (own.node, own.instance),
                _ => false,
            }
    }

    /// What the relay says of itself.
    pub(crate) fn about(&self, epoch: &str, stored: u64, enforced: u64, age: u64, trust: &str) -> String {
        let who = &self.who;
        format!("{who}&vms=1&epoch={epoch}&stored={stored}&enforced={enforced}&age={age}&trust={trust}")
    }

    /// The word of a proxy that asks this relay: whatever else it says, it is behind this one.
    pub(crate) fn behind_this(&self, said: &str) -> String {
        format!("{said}{}", self.via)
    }

    /// The word of a proxy that another relay speaks for. One of an older version does not say that it is between.
    pub(crate) fn behind_another(&self, said: String) -> String {
        if form_urlencoded::parse(said.as_bytes()).any(|(name, _)| name == VIA) {
            said
        } else {
            self.behind_this(&said)
        }
    }

    /// How many are known, and of how many of them the upstream does not know.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let roster = self.roster();
        (roster.count(), roster.untold().count())
    }

    pub(crate) fn acknowledged(&self, epoch: Epoch, head: u64) -> u64 {
        self.roster().acknowledged(epoch, head)
    }

    /// Takes what proxies said of themselves, and when. When this returns, the upstream knows of those that are new, or
    /// they are on this disk.
    ///
    /// # Errors
    ///
    /// Neither could be done. They are remembered until the relay ends.
    pub async fn hear(&self, ring: &Arc<Ring>, said: &[(String, Millis)]) -> io::Result<()> {
        let (mut new, mut news) = (Vec::new(), false);
        {
            let mut roster = self.roster();
            for (said, at) in said {
                match roster.hear(said, *at) {
                    Heard::New => new.push(said.as_str()),
                    Heard::News => news = true,
                    Heard::Nothing | Heard::Unreadable => {}
                }
            }
        }
        if new.is_empty() {
            if news {
                self.news.notify_one();
            }
            return Ok(());
        }
        let number = self.new.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let mut told = self.told.subscribe();
        self.news.notify_one();
        let are_told = || {
            let roster = self.roster();
            new.iter().all(|said| roster.is_told(said))
        };
        if !self.failing.load(Ordering::Relaxed) && !ring.is_away() {
            let known = told.wait_for(|_| are_told() || self.failing.load(Ordering::Relaxed));
            let _ = timeout(PATIENCE, known).await;
        }
        if are_told() { Ok(()) } else { self.write_down(ring, number).await }
    }

    /// Writes down whom the upstream does not know of. Whoever waits for its turn finds itself written, too.
    async fn write_down(&self, ring: &Arc<Ring>, number: u64) -> io::Result<()> {
        let mut written = self.written.lock().await;
        if *written >= number {
            return Ok(());
        }
        let upto = self.new.load(Ordering::SeqCst);
        let text: String = self.roster().untold().map(|(at, said)| format!("{} {said}\n", at.0)).collect();
        let (path, ring) = (self.dir.join(UNTOLD), ring.clone());
        on_disk(move || ring.disk.put(&path, &[text.as_bytes()])).await?;
        *written = upto;
        Ok(())
    }

    /// Whom the upstream knows of need not be remembered here.
    async fn cross_out(&self) {
        let _written = self.written.lock().await;
        if self.roster().untold().next().is_some() {
            return;
        }
        let path = self.dir.join(UNTOLD);
        let gone = on_disk(move || fs::remove_file(path)).await;
        if let Err(error) = gone.filter_missing() {
            warn!(%error, "What the upstream knows by now cannot be crossed out; it is told again after a restart");
        }
    }

    /// Tells the upstream, until the relay stops.
    pub(crate) async fn run(ring: Arc<Ring>, mut stopping: watch::Receiver<bool>) {
        let me = &ring.proxies;
        let mut ticks = interval(ALL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut all = false;
        loop {
            tokio::select! {
                () = me.news.notified() => sleep(GATHER).await,
                _ = ticks.tick() => {
                    all = true;
                    me.roster().forget(clock::now());
                }
                () = stopped(&mut stopping) => return,
            }
            match me.tell(&ring, all).await {
                Ok(()) => all = false,
                Err(()) => {
                    tokio::select! {
                        () = sleep(RETRY) => me.news.notify_one(),
                        () = stopped(&mut stopping) => return,
                    }
                }
            }
        }
    }

    async fn tell(&self, ring: &Arc<Ring>, all: bool) -> Result<(), ()> {
        let mut crossed_out = false;
        loop {
            let due = self.roster().due(all, clock::now());
            if due.is_empty() {
                break;
            }
            let reports = ProxyReports { proxies: due.iter().map(|tell| tell.report.clone()).collect() };
            if let Err(error) = ring.upstream.post_proxies(&ring.name, &reports, None).await {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let about =
                        "until then this relay acknowledges nothing for those that it does not know of";
                    warn!(ring = ring.name, %error, "The upstream cannot be told of proxies; {about}");
                }
                self.told.send_modify(|count| *count = count.wrapping_add(1));
                return Err(());
            }
            if self.failing.swap(false, Ordering::Relaxed) {
                info!(ring = ring.name, "The upstream is told of proxies again");
            }
            self.roster().told(&due);
            self.told.send_modify(|count| *count = count.wrapping_add(1));
            crossed_out = true;
        }
        if crossed_out && self.dir.join(UNTOLD).exists() {
            self.cross_out().await;
        }
        Ok(())
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

trait FilterMissing {
    fn filter_missing(self) -> io::Result<()>;
}

impl FilterMissing for io::Result<()> {
    fn filter_missing(self) -> Self {
        match self {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// The same over restarts: a relay that is back is the row that it was.
fn instance(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(text)
        }
        Ok(_) => make_instance(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_instance(path),
        Err(error) => Err(error),
    }
}

fn make_instance(path: &Path) -> io::Result<String> {
    let text = hex::encode(random::<8>().map_err(io::Error::other)?);
    fs::write(path, &text)?;
    Ok(text)
}
