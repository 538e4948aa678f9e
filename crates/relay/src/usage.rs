//! Usage reports on their way upstream.
//!
//! Batches go on unchanged, and (`instance`, `vm`, `batch`) makes each count once however often it arrives. So a
//! report is handed over at once while the upstream answers, and waits on disk while it does not. The order of a VM's
//! batches matters: one that comes after its successor counts nothing. Therefore nothing is handed over past what waits.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use tokio::sync::{Notify, watch};
use tracing::{debug, error, info, warn};

use crate::disk;
use crate::relay::stopped;
use crate::ring::{Ring, on_disk};

/// How often the upstream is tried while reports wait.
const RETRY: Duration = Duration::from_secs(2);

/// Reports that wait, oldest first.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    /// What may wait, in bytes.
    most: u64,
    waiting: Mutex<Waiting>,
    news: Notify,
    /// Held while a report is written, so that they keep their order.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Number and length of each.
    reports: VecDeque<(u64, u64)>,
    bytes: u64,
    next: u64,
    dropped: u64,
}

/// What became of a report.
#[derive(Debug)]
pub enum Taken {
    /// The upstream's answer.
    Passed(StatusCode, Bytes),
    /// It is on this disk.
    Kept,
}

impl Spool {
    /// # Errors
    ///
    /// The directory cannot be made or read.
    pub fn open(ring: &Path, most: u64) -> io::Result<Self> {
        let dir = ring.join("usage");
        disk::make(&dir)?;
        let mut waiting = Waiting::default();
        let mut numbers: Vec<u64> = disk::names(&dir)?.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        for number in numbers {
            let length = fs::metadata(path(&dir, number))?.len();
            waiting.push(number, length);
        }
        Ok(Self {
            dir,
            most,
            waiting: Mutex::new(waiting),
            news: Notify::new(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Reports that wait, and how many were dropped since the start because too many did.
    #[must_use]
    pub fn count(&self) -> (usize, u64) {
        let waiting = self.waiting();
        (waiting.reports.len(), waiting.dropped)
    }

    /// Hands a report over, or keeps it. When this returns it is on a disk.
    ///
    /// # Errors
    ///
    /// The upstream does not answer, and it cannot be written either. The proxy keeps it then.
    pub async fn take(&self, ring: &Arc<Ring>, body: Bytes) -> io::Result<Taken> {
        if self.count().0 == 0 && !ring.is_away() {
            match ring.upstream.post_usage(&ring.name, body.clone()).await {
                Ok((status, body)) if is_final(status) => return Ok(Taken::Passed(status, body)),
                Ok((status, _)) => {
                    warn!(ring = ring.name, %status, "The upstream takes no usage; it is kept")
                }
                Err(error) => debug!(ring = ring.name, %error, "Usage is kept until the upstream answers"),
            }
        }
        self.keep(ring, body).await?;
        Ok(Taken::Kept)
    }

    async fn keep(&self, ring: &Arc<Ring>, body: Bytes) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let (number, length) = (self.waiting().next, body.len() as u64);
        let (path, writer) = (path(&self.dir, number), ring.clone());
        on_disk(move || writer.disk.put(&path, &[body.as_ref()])).await?;
        let excess = {
            let mut waiting = self.waiting();
            waiting.push(number, length);
            waiting.excess(self.most)
        };
        self.news.notify_one();
        if !excess.is_empty() {
            let about = "a gap shows for the versions that they speak of";
            error!(
                ring = ring.name,
                count = excess.len(),
                "Too many usage reports wait; the oldest are dropped: {about}"
            );
            let dir = self.dir.clone();
            on_disk(move || {
                excess.into_iter().for_each(|number| drop(fs::remove_file(self::path(&dir, number))));
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Hands over what waits, in its order, until the relay stops.
    pub(crate) async fn run(ring: Arc<Ring>, mut stopping: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = ring.usage.news.notified() => {}
                () = tokio::time::sleep(RETRY) => {}
                () = stopped(&mut stopping) => return,
            }
            let before = ring.usage.count().0;
            while !ring.is_away() && !ring.is_stopping() && ring.usage.hand_over(&ring).await {}
            if before > 0 && ring.usage.count().0 == 0 {
                info!(ring = ring.name, before, "All usage reports that waited are with the upstream");
            }
            if ring.usage.count().0 > 0 {
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    () = stopped(&mut stopping) => return,
                }
            }
        }
    }

    /// Whether the oldest is done with, and another may wait.
    async fn hand_over(&self, ring: &Arc<Ring>) -> bool {
        let Some((number, _)) = self.waiting().reports.front().copied() else { return false };
        let path = path(&self.dir, number);
        let read = path.clone();
        let body = match on_disk(move || fs::read(read)).await {
            Ok(body) => Bytes::from(body),
            // It gave way meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.waiting().remove(number);
                return true;
            }
            Err(error) => {
                error!(ring = ring.name, %error, path = %path.display(), "A usage report cannot be read");
                return false;
            }
        };
        match ring.upstream.post_usage(&ring.name, body).await {
            Ok((status, _)) if is_final(status) => {
                if !status.is_success() {
                    error!(ring = ring.name, %status, "The upstream refuses a usage report, which is dropped");
                }
            }
            Ok((status, _)) => {
                warn!(ring = ring.name, %status, "The upstream takes no usage; it is kept");
                return false;
            }
            Err(error) => {
                debug!(ring = ring.name, %error, "Usage is kept until the upstream answers");
                return false;
            }
        }
        if let Err(error) = on_disk(move || fs::remove_file(path)).await {
            // Sent again after a restart, it counts nothing.
            warn!(ring = ring.name, %error, "A usage report that was handed over cannot be deleted");
        }
        self.waiting().remove(number);
        true
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether sending it again would be of no use: it is counted, or no report.
fn is_final(status: StatusCode) -> bool {
    let refused =
        [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNSUPPORTED_MEDIA_TYPE];
    status.is_success() || refused.contains(&status)
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}"))
}

// === impl Waiting ===

impl Waiting {
    fn push(&mut self, number: u64, length: u64) {
        self.reports.push_back((number, length));
        self.bytes = self.bytes.saturating_add(length);
        self.next = number.saturating_add(1);
    }

    fn remove(&mut self, number: u64) {
        if let Some((_, length)) = self.reports.pop_front_if(|(first, _)| *first == number) {
            self.bytes = self.bytes.saturating_sub(length);
        }
    }

    /// The oldest, until the others are within the bound.
    fn excess(&mut self, most: u64) -> Vec<u64> {
        let mut excess = Vec::new();
        while self.bytes > most
            && let Some((number, length)) = self.reports.pop_front()
        {
            self.bytes = self.bytes.saturating_sub(length);
            self.dropped = self.dropped.saturating_add(1);
            excess.push(number);
        }
        excess
    }
}
