//! What is counted, in the text format of OpenMetrics, which Prometheus reads.
//!
//! Nothing that a client sends becomes a label: routes are the application's own patterns, rings are those that
//! there are, everything else is one of a few words.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// Seconds.
const LATENCY: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 60.0];
const PROPAGATION: [f64; 14] =
    [0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 3600.0];

/// Which listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Listener {
    Admin,
    Ring,
    Consumer,
}

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// No token.
    Missing,
    /// What was sent is no token.
    Malformed,
    /// Not one of this control plane's.
    Unknown,
    /// Revoked, expired, or replaced by a rotation.
    Ended,
    /// Its role does not allow it.
    Role,
    /// It is limited to other rings.
    Ring,
    /// As `Malformed`, `Unknown` or `Ended`, and not the first.
    TooMany,
}

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Handshake {
    Done,
    Failed,
    TimedOut,
    /// The client spoke plain HTTP.
    Plain,
    /// The client left without a word.
    Closed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    listener: Listener,
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    listener: Listener,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    listener: Listener,
    reason: Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    listener: Listener,
    result: Handshake,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: Listener,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RingLabels {
    ring: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RingStateLabels {
    ring: String,
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgeLabels {
    ring: String,
    days: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// What the control plane counts while it runs.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latency: Family<RouteLabels, Histogram, fn() -> Histogram>,
    refused: Family<RefusedLabels, Counter>,
    connections: Family<ListenerLabels, Gauge>,
    shown_out: Family<ListenerLabels, Counter>,
    handshakes: Family<HandshakeLabels, Counter>,
    database_errors: Family<KindLabels, Counter>,
    propagation: Family<RingLabels, Histogram, fn() -> Histogram>,
    shown: Shown,
    /// One scrape at a time sets what is `shown` and reads it.
    scrape: Mutex<()>,
}

/// What others keep, copied at each scrape.
#[derive(Debug, Default)]
struct Shown {
    revision: Family<RingLabels, Gauge>,
    waiters: Family<RingLabels, Gauge>,
    proxies: Family<RingLabels, Gauge>,
    usage: Family<RingStateLabels, Gauge>,
    entries: Family<RingStateLabels, Gauge>,
    waiting: Family<RingLabels, Gauge>,
    ages: Family<AgeLabels, Gauge>,
    oldest: Family<RingLabels, Gauge>,
    rotations: Family<StateLabels, Gauge>,
    audit: Gauge,
}

/// One ring at the moment of a scrape.
#[derive(Debug, Clone, Default)]
pub(crate) struct RingFigures {
    pub(crate) ring: String,
    pub(crate) revision: u64,
    /// Requests held open until something changes.
    pub(crate) waiters: u64,
    /// Heard from since the start.
    pub(crate) proxies: u64,
    /// What became of usage reports: what, and how many.
    pub(crate) usage: [(&'static str, u64); 3],
    /// By state; absent where the database did not say.
    pub(crate) entries: Option<Vec<(String, u64)>>,
    /// Versions that its canary has and it has not; absent where it has no canary.
    pub(crate) waiting: Option<u64>,
    /// Active versions at least so many days old.
    pub(crate) ages: Option<Vec<(u64, u64)>>,
    pub(crate) oldest_seconds: Option<u64>,
}

/// A connection that is open. Dropped, it is closed.
pub(crate) struct OpenConnection(Gauge);

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keywheel_control");
        let latency: fn() -> Histogram = || Histogram::new(LATENCY);
        let propagation: fn() -> Histogram = || Histogram::new(PROPAGATION);
        let metrics = Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(latency),
            refused: Family::default(),
            connections: Family::default(),
            shown_out: Family::default(),
            handshakes: Family::default(),
            database_errors: Family::default(),
            propagation: Family::new_with_constructor(propagation),
            shown: Shown::default(),
            scrape: Mutex::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("build", "This program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register("http_requests", "Requests answered", metrics.requests.clone());
        let help = "From a request's head to its answer's; a `changes` request waits on purpose";
        r.register_with_unit("http_request", help, Unit::Seconds, metrics.latency.clone());
        r.register("refused_logins", "Requests without a good token", metrics.refused.clone());
        r.register("connections", "Connections open", metrics.connections.clone());
        let help = "Connections without a credential that ended for a new one, since there was no room";
        r.register("connections_shown_out", help, metrics.shown_out.clone());
        r.register("tls_handshakes", "TLS handshakes, by how they ended", metrics.handshakes.clone());
        r.register("database_errors", "Requests that the database failed", metrics.database_errors.clone());
        let help =
            "From a change's commit until a proxy that was there before says that all its VMs enforce it";
        r.register_with_unit("propagation", help, Unit::Seconds, metrics.propagation.clone());
        let shown = &metrics.shown;
        r.register("ring_revision", "The ring's newest revision", shown.revision.clone());
        r.register("ring_waiters", "Requests held open until the ring changes", shown.waiters.clone());
        r.register("ring_proxies", "Proxies heard from since the start", shown.proxies.clone());
        r.register(
            "ring_usage",
            "Usage reports since the start, and what of them was left out",
            shown.usage.clone(),
        );
        r.register("ring_entries", "Key versions that proxies hold", shown.entries.clone());
        let help = "Key versions that the ring's canary has and the ring has not";
        r.register("ring_waiting_versions", help, shown.waiting.clone());
        r.register(
            "ring_active_versions_of_age",
            "Active key versions at least so many days old",
            shown.ages.clone(),
        );
        r.register_with_unit(
            "ring_oldest_active_version",
            "The age of the oldest active key version",
            Unit::Seconds,
            shown.oldest.clone(),
        );
        r.register("rotations", "Rotations, ended ones too", shown.rotations.clone());
        r.register("audit_records", "The newest audit record's number", shown.audit.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    pub(crate) fn request(
        &self,
        listener: Listener,
        method: &'static str,
        route: &str,
        status: u16,
        took: Duration,
    ) {
        let route = route.to_owned();
        let labels = RouteLabels { listener, route: route.clone() };
        self.latency.get_or_create(&labels).observe(took.as_secs_f64());
        self.requests.get_or_create(&RequestLabels { listener, method, route, status }).inc();
    }

    /// Counts one who was not let in.
    pub fn refused(&self, listener: Listener, reason: Refused) {
        self.refused.get_or_create(&RefusedLabels { listener, reason }).inc();
    }

    /// How many were not let in so far, as [`Metrics::connections`].
    #[must_use]
    pub fn refusals(&self, listener: Listener, reason: Refused) -> u64 {
        self.refused.get_or_create(&RefusedLabels { listener, reason }).get()
    }

    pub(crate) fn connection(&self, listener: Listener) -> OpenConnection {
        let open = self.connections.get_or_create(&ListenerLabels { listener }).clone();
        open.inc();
        OpenConnection(open)
    }

    /// How many connections a listener has open, and how many of it ended for a new one: for a program that shows them
    /// under a name of its own.
    #[must_use]
    pub fn connections(&self, listener: Listener) -> (i64, u64) {
        let labels = ListenerLabels { listener };
        (self.connections.get_or_create(&labels).get(), self.shown_out.get_or_create(&labels).get())
    }

    pub(crate) fn shown_out(&self, listener: Listener) {
        self.shown_out.get_or_create(&ListenerLabels { listener }).inc();
    }

    pub(crate) fn handshake(&self, listener: Listener, result: Handshake) {
        self.handshakes.get_or_create(&HandshakeLabels { listener, result }).inc();
    }

    pub(crate) fn database_error(&self, kind: &'static str) {
        self.database_errors.get_or_create(&KindLabels { kind }).inc();
    }

    pub(crate) fn propagated(&self, ring: &str, took: Duration) {
        let labels = RingLabels { ring: ring.to_owned() };
        self.propagation.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// All of it as text. `rotations` is absent where the database did not say.
    pub(crate) fn text(
        &self,
        rings: &[RingFigures],
        rotations: Option<&[(String, u64)]>,
        audit: u64,
    ) -> Result<String, std::fmt::Error> {
        let _scrape = self.scrape.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.shown.set(rings, rotations, audit);
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Shown {
    fn set(&self, rings: &[RingFigures], rotations: Option<&[(String, u64)]>, audit: u64) {
        // What has gone is not shown as it was.
        self.usage.clear();
        self.entries.clear();
        self.waiting.clear();
        self.ages.clear();
        self.oldest.clear();
        self.rotations.clear();
        for figures in rings {
            let ring = || figures.ring.clone();
            let labels = RingLabels { ring: ring() };
            self.revision.get_or_create(&labels).set(int(figures.revision));
            self.waiters.get_or_create(&labels).set(int(figures.waiters));
            self.proxies.get_or_create(&labels).set(int(figures.proxies));
            for (state, count) in figures.usage {
                let labels = RingStateLabels { ring: ring(), state: state.to_owned() };
                self.usage.get_or_create(&labels).set(int(count));
            }
            for (state, count) in figures.entries.iter().flatten() {
                let labels = RingStateLabels { ring: ring(), state: state.clone() };
                self.entries.get_or_create(&labels).set(int(*count));
            }
            for (days, count) in figures.ages.iter().flatten() {
                self.ages.get_or_create(&AgeLabels { ring: ring(), days: *days }).set(int(*count));
            }
            if let Some(waiting) = figures.waiting {
                self.waiting.get_or_create(&labels).set(int(waiting));
            }
            if let Some(oldest) = figures.oldest_seconds {
                self.oldest.get_or_create(&labels).set(int(oldest));
            }
        }
        for (state, count) in rotations.unwrap_or_default() {
            self.rotations.get_or_create(&StateLabels { state: state.clone() }).set(int(*count));
        }
        self.audit.set(int(audit));
    }
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

// === impl Listener, Refused, Handshake ===

impl Listener {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Ring => "ring",
            Self::Consumer => "consumer",
        }
    }
}

impl Refused {
    const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Ended => "ended",
            Self::Role => "role",
            Self::Ring => "ring",
            Self::TooMany => "too_many",
        }
    }
}

impl Handshake {
    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Plain => "plain_http",
            Self::Closed => "closed",
        }
    }
}

macro_rules! label {
    ($($kind:ty),*) => {$(
        impl EncodeLabelValue for $kind {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
                encoder.write_str(self.name())
            }
        }
    )*};
}

label!(Listener, Refused, Handshake);
