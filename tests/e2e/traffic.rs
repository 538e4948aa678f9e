//! Load with good and bad keys, and the one claim about it: no request without a valid key is ever
//! answered with 200, and none with a valid key is ever refused.

use std::net::SocketAddr;
use std::time::Duration;

use keywheel_testkit::admin::Issued;
use keywheel_testkit::load::{Ask, Credential, Load, Plan, Sample};

/// Load under way: one key that is valid, and what must be refused all the while.
pub(crate) struct Traffic {
    target: SocketAddr,
    valid: Load,
    refused: Vec<Load>,
}

impl Traffic {
    /// Requests with a valid key, without any, and with one that nobody issued, over more connections
    /// than there are workers.
    pub(crate) fn start(target: SocketAddr, valid: &Issued) -> Self {
        let traffic = Self { target, valid: load(target, 8, "valid", &valid.secret), refused: Vec::new() };
        traffic.refusing("none", "").refusing("unknown", "made-elsewhere")
    }

    /// And with this key, which was revoked already.
    pub(crate) fn refusing(mut self, label: &'static str, key: &str) -> Self {
        self.refused.push(load(self.target, 4, label, key));
        self
    }

    /// Ends it. Nothing was answered wrongly, and everything was answered.
    pub(crate) async fn assert_served(self) {
        self.assert_served_or(&[]).await;
    }

    /// Ends it. Every answer was the right one or a status among `tolerated`.
    pub(crate) async fn assert_served_or(self, tolerated: &[u16]) {
        assert_all(&self.valid.stop().await, 200, tolerated);
        for load in self.refused {
            assert_all(&load.stop().await, 401, tolerated);
        }
    }
}

fn load(target: SocketAddr, connections: usize, label: &'static str, key: &str) -> Load {
    let plan = Plan {
        target,
        asks: vec![Ask::get("/v1/ticker")],
        connections,
        rate: Some(connections as f64 * 10.0),
        bound: Duration::from_secs(300),
    };
    Load::start(&plan, Credential { label, key: key.into() })
}

fn assert_all(samples: &[Sample], wanted: u16, tolerated: &[u16]) {
    let label = samples.first().map_or("?", |sample| sample.label);
    let right = samples.iter().filter(|sample| sample.status == Some(wanted)).count();
    let wrong: Vec<_> = samples
        .iter()
        .map(|sample| sample.status)
        .filter(|status| *status != Some(wanted) && !status.is_some_and(|status| tolerated.contains(&status)))
        .collect();
    assert!(wrong.is_empty(), "with the {label} key, {} answers were wrong: {wrong:?}", wrong.len());
    assert!(right > 0, "with the {label} key, no request was answered with {wanted}");
}
