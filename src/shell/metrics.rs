//! What Envoy's statistics show. Labels are written into the names, and taken out again by the
//! `stats_tags` that `envoy/` ships: `keywheel_requests.ring.<ring>.outcome.<outcome>`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::hostcalls::Metric;
use crate::decide::Outcome;
use crate::vm::{Gauges, Metrics};

/// The metrics of one ring, each defined when it is first needed.
pub(super) struct Published {
    ring: String,
    counters: BTreeMap<(&'static str, Cow<'static, str>), Option<Metric>>,
    gauges: Option<[Option<Metric>; 3]>,
    last: Option<Gauges>,
}

impl Published {
    /// Dots separate labels, so that a ring's own are written as underscores.
    pub(super) fn new(ring: &str) -> Self {
        Self { ring: ring.replace('.', "_"), counters: BTreeMap::new(), gauges: None, last: None }
    }

    pub(super) fn add(&mut self, metrics: &Metrics) {
        for (outcome, count) in Outcome::all().zip(metrics.requests) {
            if count > 0 {
                self.count("keywheel_requests.ring.{}.outcome.", outcome.label(), count);
            }
        }
        for (reason, count) in &metrics.rejected {
            self.count("keywheel_ring_rejected.ring.{}.reason.", Cow::Borrowed(reason), *count);
        }
        for (name, count) in [
            ("keywheel_refresh_failures.ring.{}", metrics.refresh_failures),
            ("keywheel_usage_dropped.ring.{}", metrics.usage_dropped),
        ] {
            if count > 0 {
                self.count(name, Cow::Borrowed(""), count);
            }
        }
    }

    fn count(&mut self, name: &'static str, label: Cow<'static, str>, count: u64) {
        let metric = match self.counters.entry((name, label)) {
            Entry::Occupied(held) => *held.get(),
            Entry::Vacant(place) => {
                let full = format!("{}{}", name.replace("{}", &self.ring), place.key().1);
                *place.insert(Metric::counter(&full))
            }
        };
        if let Some(metric) = metric {
            metric.add(count);
        }
    }

    pub(super) fn set(&mut self, gauges: Gauges) {
        if self.last == Some(gauges) {
            return;
        }
        self.last = Some(gauges);
        let ring = &self.ring;
        let metrics = self.gauges.get_or_insert_with(|| {
            ["keywheel_ring_revision", "keywheel_ring_age_seconds", "keywheel_ring_entries"]
                .map(|name| Metric::gauge(&format!("{name}.ring.{ring}")))
        });
        for (metric, value) in metrics.iter().zip([gauges.revision, gauges.age_seconds, gauges.entries]) {
            if let Some(metric) = metric {
                metric.set(value);
            }
        }
    }
}
