//! What a relay shows of itself, in the text format of OpenMetrics. Nothing that a client sends becomes a label.

use std::sync::Arc;

use keywheel_control::metrics::{Listener, Metrics, Refused};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::ring::{Ring, Standing};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RingLabels {
    ring: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoginLabels {
    reason: Refused,
}

/// All of it as it is now.
pub(crate) fn text<'a>(
    rings: impl Iterator<Item = &'a Arc<Ring>>,
    upstream_failures: u64,
    listener: &Metrics,
) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("keywheel_relay");
    let family = Family::<RingLabels, Gauge>::default;
    let (revision, age, waiters) = (family(), family(), family());
    let (proxies, untold, away, refused) = (family(), family(), family(), family());
    let (usage, dropped, held) = (family(), family(), family());
    let r = &mut registry;
    r.register("build", "This program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    r.register("ring_revision", "Where the ring that is served ends", revision.clone());
    r.register_with_unit("ring_age", "Since the newest document was signed", Unit::Seconds, age.clone());
    r.register("ring_waiters", "Requests held open until the ring changes", waiters.clone());
    r.register("ring_proxies", "Proxies behind this relay", proxies.clone());
    r.register("ring_untold_proxies", "Those that the upstream does not know of", untold.clone());
    r.register(
        "ring_held",
        "1 where a proxy that has no ring gets it here, and is not answered 503",
        held.clone(),
    );
    r.register("upstream_away", "1 until the upstream answers, and while it does not", away.clone());
    r.register(
        "refused_documents",
        "Documents of the upstream that were refused, since the start",
        refused.clone(),
    );
    r.register("usage_waiting", "Usage reports on disk until the upstream answers", usage.clone());
    r.register(
        "usage_dropped",
        "Usage reports dropped since the start because too many waited",
        dropped.clone(),
    );
    r.register(
        "upstream_failures",
        "Calls to the upstream that failed",
        ConstCounter::new(upstream_failures),
    );
    let (connections, shown_out) = listener.connections(Listener::Ring);
    r.register("connections", "Connections open", ConstGauge::new(connections));
    r.register(
        "connections_shown_out",
        "Connections without a credential that ended for a new one, since there was no room",
        ConstCounter::new(shown_out),
    );
    let logins = Family::<LoginLabels, Counter>::default();
    r.register("refused_logins", "Requests with no token or certificate that is good here", logins.clone());
    for reason in [Refused::Missing, Refused::Unknown, Refused::TooMany] {
        let count = listener.refusals(Listener::Ring, reason);
        logins.get_or_create(&LoginLabels { reason }).inc_by(count);
    }
    for ring in rings {
        let labels = RingLabels { ring: ring.name.clone() };
        let set = |family: &Family<RingLabels, Gauge>, value: u64| {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        if let Some((_, head, milliseconds)) = ring.position() {
            set(&revision, head);
            set(&age, milliseconds / 1000);
        }
        let ((known, unknown), (waiting, lost)) = (ring.proxies.count(), ring.usage.count());
        set(&waiters, ring.waiters());
        set(&proxies, known as u64);
        set(&untold, unknown as u64);
        set(&held, u64::from(ring.is_installable()));
        set(&away, u64::from(ring.standing() != Standing::Answers));
        set(&refused, ring.refused());
        set(&usage, waiting as u64);
        set(&dropped, lost);
    }
    let mut written = String::new();
    text::encode(&mut written, &registry)?;
    Ok(written)
}
