//! Many connections, steadily.
//!
//! A closed loop: each connection sends its next request when its last one was answered, and no sooner
//! than its share of the rate says. Every request is recorded.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Method;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::Connection;

/// What load to make.
#[derive(Debug, Clone)]
pub struct Plan {
    pub target: SocketAddr,
    /// Sent in turn by each connection.
    pub asks: Vec<Ask>,
    pub connections: usize,
    /// Requests per second over all connections; as fast as they go when absent.
    pub rate: Option<f64>,
    /// It ends after this, whatever happens.
    pub bound: Duration,
}

/// One kind of request.
#[derive(Debug, Clone)]
pub struct Ask {
    pub method: Method,
    pub path: String,
    /// JSON; empty for none.
    pub body: &'static str,
}

/// What requests carry, and the label under which they are recorded.
#[derive(Clone)]
pub struct Credential {
    pub label: &'static str,
    /// In the header `x-api-key`; empty for a request without that header.
    pub key: Arc<str>,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub sent: Instant,
    pub done: Instant,
    /// None: there was no answer.
    pub status: Option<u16>,
    pub label: &'static str,
    pub connection: usize,
}

/// Load under way. It ends when this is dropped.
#[derive(Debug)]
pub struct Load {
    credential: watch::Sender<Credential>,
    records: Vec<Arc<Mutex<Vec<Sample>>>>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Starts the connections.
    #[must_use]
    pub fn start(plan: &Plan, credential: Credential) -> Self {
        let (credential, current) = watch::channel(credential);
        let mut load = Self { credential, records: Vec::new(), tasks: JoinSet::new() };
        let end = Instant::now() + plan.bound;
        for number in 0..plan.connections {
            let record = Arc::default();
            load.records.push(Arc::clone(&record));
            let caller = Caller { number, current: current.clone(), record };
            load.tasks.spawn(caller.run(plan.clone(), end));
        }
        load
    }

    /// From now on requests carry another key.
    pub fn switch(&self, credential: Credential) {
        self.credential.send_replace(credential);
    }

    /// Takes what was recorded since the last call.
    #[must_use]
    pub fn drain(&self) -> Vec<Sample> {
        self.records.iter().flat_map(|record| std::mem::take(&mut *lock(record))).collect()
    }

    /// Ends it, and gives what was recorded since the last [`Load::drain`].
    pub async fn stop(mut self) -> Vec<Sample> {
        self.tasks.shutdown().await;
        self.drain()
    }

    /// Waits until the plan's bound.
    pub async fn finish(mut self) -> Vec<Sample> {
        while self.tasks.join_next().await.is_some() {}
        self.drain()
    }
}

impl Ask {
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self { method: Method::GET, path: path.into(), body: "" }
    }

    #[must_use]
    pub fn post(path: &str, body: &'static str) -> Self {
        Self { method: Method::POST, path: path.into(), body }
    }
}

impl Sample {
    /// Whether the request was served.
    #[must_use]
    pub fn served(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

struct Caller {
    number: usize,
    current: watch::Receiver<Credential>,
    record: Arc<Mutex<Vec<Sample>>>,
}

impl Caller {
    async fn run(self, plan: Plan, end: Instant) {
        let mut pace = plan.rate.map(|rate| {
            let share = Duration::from_secs_f64(plan.connections as f64 / rate.max(0.001));
            // One after the other, not all at once: what happens between two bursts would not be seen.
            let turn = share.mul_f64(self.number as f64 / plan.connections as f64);
            let mut pace = interval_at(tokio::time::Instant::now() + turn, share);
            // A pause is not made up for by a burst, which no client would send.
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        let mut asks = plan.asks.iter().cycle();
        let mut connection = None;
        while Instant::now() < end {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            let Credential { label, key } = self.current.borrow().clone();
            let Some(ask) = asks.next() else { return };
            let sent = Instant::now();
            let status = request(&mut connection, plan.target, ask, &key).await;
            let done = Instant::now();
            lock(&self.record).push(Sample { sent, done, status, label, connection: self.number });
            if status.is_none() {
                connection = None;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Opens the connection if there is none. A failure is the caller's to record, and not retried: a
/// client that retries hides what it should show.
async fn request(
    connection: &mut Option<Connection>,
    target: SocketAddr,
    ask: &Ask,
    key: &str,
) -> Option<u16> {
    if connection.is_none() {
        *connection = Some(Connection::open(target).await.ok()?);
    }
    let mut headers = Vec::with_capacity(2);
    if !key.is_empty() {
        headers.push(("x-api-key", key));
    }
    // A request without a body has no type of it.
    if !ask.body.is_empty() {
        headers.push(("content-type", "application/json"));
    }
    let reply = connection.as_mut()?.send(ask.method.clone(), &ask.path, &headers, ask.body).await.ok()?;
    if reply.header("connection") == "close" {
        // Envoy ends a connection whose request it answered before it had read the body.
        *connection = None;
    }
    Some(reply.status)
}

fn lock(record: &Mutex<Vec<Sample>>) -> std::sync::MutexGuard<'_, Vec<Sample>> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("label", &self.label).finish_non_exhaustive()
    }
}
