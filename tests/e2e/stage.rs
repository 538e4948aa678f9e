//! Envoy in front of an upstream, with a ring that is written by hand: a key in every state that a
//! request can meet. What the filter makes of requests needs no real control plane.

use std::net::SocketAddr;

use keywheel_keyring::{Brownout, Digest, Entry, Millis, State};
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::upstream::seen_header;
use keywheel_testkit::{Envoy, EnvoyConfig, FakeControl, Reply, Upstream, http, until};
use serde_json::Value;

use crate::scene::paths;

/// Far enough away that no test sees it.
pub(crate) const FAR: Millis = Millis(4_000_000_000_000);
/// [`FAR`], as HTTP writes it.
pub(crate) const FAR_DATE: &str = "Tue, 02 Oct 2096 07:06:40 GMT";

pub(crate) struct Stage {
    pub(crate) envoy: Envoy,
    fake: FakeControl,
    _upstream: Upstream,
}

impl Stage {
    /// An Envoy that holds the ring, with these fields in the filter's configuration besides what ships.
    pub(crate) async fn with(fields: Value) -> Self {
        Self::of(|config| with_fields(config, &fields)).await
    }

    /// As [`Stage::with`], with any change.
    pub(crate) async fn of(change: impl FnOnce(EnvoyConfig) -> EnvoyConfig) -> Self {
        let fake = FakeControl::start().await.unwrap();
        fake.serve_snapshot(fake.snapshot(20, ring()));
        let upstream = Upstream::start().await.unwrap();
        let envoy = Envoy::start(&paths(), change(config(&fake, &upstream)), 2).await.unwrap();
        let stage = Self { envoy, fake, _upstream: upstream };
        // The main thread and two workers; the word of all, since what a request shows depends on the rules.
        until("every VM enforces the ring", async || stage.fake.is_enforced(20, 3).then_some(()))
            .await
            .unwrap();
        stage
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        http::get(self.envoy.listener(), path, headers).await.unwrap()
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut connection = http::Connection::open(self.envoy.listener()).await.unwrap();
        connection.send(method.parse().unwrap(), path, headers, "").await.unwrap()
    }

    /// The status, and the code of a refusal: `200`, `401 missing_key`.
    pub(crate) async fn outcome(&self, path: &str, headers: &[(&str, &str)]) -> String {
        outcome(&self.get(path, headers).await)
    }
}

/// See [`Stage::outcome`].
pub(crate) fn outcome(reply: &Reply) -> String {
    match reply.json()["code"].as_str() {
        Some(code) => format!("{} {code}", reply.status),
        None => reply.status.to_string(),
    }
}

/// What the upstream saw of a header: its values, joined; `-` for none.
pub(crate) fn seen(reply: &Reply, name: &str) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    let values = seen_header(reply, name);
    if values.is_empty() { "-".into() } else { values.join("|") }
}

/// The shipped configuration between these parts.
pub(crate) fn config(fake: &FakeControl, upstream: &Upstream) -> EnvoyConfig {
    config_of(fake.address(), &fake.trust(), upstream)
}

/// As [`config`], with whoever serves the ring and signs it.
pub(crate) fn config_of(ring: SocketAddr, trust: &[String], upstream: &Upstream) -> EnvoyConfig {
    EnvoyConfig::shipped()
        .unwrap()
        .with_wasm(&paths().wasm)
        .with_cluster("keywheel", ring)
        .with_cluster("upstream", upstream.address())
        .with_trust(trust)
}

/// Sets fields of the filter's configuration.
pub(crate) fn with_fields(config: EnvoyConfig, fields: &Value) -> EnvoyConfig {
    config.with_plugin(|plugin| {
        for (name, value) in fields.as_object().into_iter().flatten() {
            plugin[name] = value.clone();
        }
    })
}

/// Turns off what Envoy itself does about paths, so that the filter sees them as they came.
pub(crate) fn with_raw_paths(config: EnvoyConfig) -> EnvoyConfig {
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    config
        .with(&format!("{manager}/normalize_path"), false.into())
        .with(&format!("{manager}/merge_slashes"), false.into())
        .with(&format!("{manager}/path_with_escaped_slashes_action"), "KEEP_UNCHANGED".into())
}

/// A key in every state: its text is what it is.
fn ring() -> Vec<Entry> {
    let mut revision = 0;
    let mut entry = |secret: &str, client: &str, scopes: &[&str], state: State| {
        revision += 1;
        let version = format!("kv_{secret}");
        Entry {
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            ..Entry::new(Digest::of(secret.as_bytes()), &version, "key_1", client, revision, state)
        }
    };
    let mut ring = vec![
        entry("good", "acme", &[], State::Active),
        entry("reader", "acme", &["market:read"], State::Active),
        entry("trader", "desk", &["market:read", "trade"], State::Active),
        Entry { expires_at: Some(FAR), successor: true, ..entry("retiring", "acme", &[], State::Retiring) },
        Entry { not_before: Some(FAR), ..entry("early", "acme", &[], State::Pending) },
        Entry { expires_at: Some(Millis(1)), ..entry("late", "acme", &[], State::Active) },
        entry("retired", "acme", &[], State::Retired),
        entry("revoked", "acme", &[], State::Revoked),
        entry("leaked", "acme", &[], State::Compromised),
        Entry {
            expires_at: Some(FAR),
            brownout: Some(Brownout { share: 1.0, until: FAR }),
            ..entry("brown", "acme", &[], State::Retiring)
        },
    ];
    ring.sort_by_key(|entry| entry.digest);
    assert_eq!(RING, "production");
    ring
}
