//! What proxies enforce, and what they say about it.

use std::fmt;

use jiff::Timestamp;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::RingUsage;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ring {
    #[cfg_attr(feature = "openapi", schema(example = "production"))]
    pub name: String,
    /// The identity of the revision counter.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Epoch))]
    pub epoch: String,
    pub revision: u64,
    /// What new keys of this ring begin with.
    pub key_prefix: String,
    /// Key versions that proxies hold, denied ones included.
    pub entries: u64,
    /// Base64 Ed25519 public keys for the filter's `control.trust`.
    pub trust: Vec<String>,
    pub created_at: Timestamp,
    /// What its keys follow that have no policy of their own or of their client.
    #[serde(default)]
    pub policy: Option<String>,
    /// A restored copy that is published to nobody, until what was revoked since is merged back.
    #[serde(default)]
    pub held: bool,
    /// Proxies that asked for it and were not forgotten, by node and instance.
    pub proxies: Vec<Proxy>,
    /// What became of their usage reports.
    #[serde(default)]
    pub usage: RingUsage,
    /// Of a canary: which ring it goes ahead of, and how far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// The ring that goes ahead of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_canary: Option<String>,
    /// Of a ring with a canary: when it gets what is new, and what it is still to get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<FollowsCanary>,
}

/// When a ring gets what its canary has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FollowsCanary {
    pub promote: Promote,
    pub pause_seconds: u64,
    /// Versions that the canary's proxies have and those of this ring have not.
    pub waiting: u64,
    /// When the first of them comes to this ring at the latest; absent when none waits.
    #[serde(default)]
    pub next_at: Option<Timestamp>,
}

/// A ring that gets what is new before its main ring does. It has no keys but those of the main ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Canary {
    /// The main ring.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::RingName))]
    pub of: String,
    pub promote: Promote,
    pub pause_seconds: u64,
    /// Versions that its proxies have and those of the main ring have not.
    pub waiting: u64,
}

/// When what is new in a canary goes to the main ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Promote {
    /// As soon as every proxy of the canary enforces it, and after the pause at the latest.
    #[default]
    WhenEnforced,
    /// After the pause, and not before.
    AfterPause,
}

/// The pause of a canary of which nothing else was said, in seconds.
pub const CANARY_PAUSE_SECONDS: u64 = 15 * 60;
/// The longest pause of a canary, in seconds: 30 days.
pub const MAX_CANARY_PAUSE_SECONDS: u64 = 30 * 24 * 60 * 60;

/// `PATCH /v1/rings/{ring}` of a canary. What is absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateRing {
    /// 0 to [`MAX_CANARY_PAUSE_SECONDS`]; with 0 what is new goes to both rings at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 2_592_000))]
    pub pause_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promote: Option<Promote>,
}

/// What `POST /v1/rings/{ring}/promote` brought to the main ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Promoted {
    pub ring: String,
    pub canary: String,
    /// How many versions.
    pub versions: u64,
}

/// `POST /v1/rings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateRing {
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::RingName))]
    pub name: String,
    /// What its keys begin with; as those of the first ring when absent. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::KeyPrefix>))]
    pub key_prefix: Option<String>,
    /// The main ring, which this one is to go ahead of. It has that one's keys and prefix, and none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::RingName>))]
    pub canary_of: Option<String>,
    /// How long what is new waits in a canary at the most, 0 to [`MAX_CANARY_PAUSE_SECONDS`];
    /// [`CANARY_PAUSE_SECONDS`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 2_592_000))]
    pub pause_seconds: Option<u64>,
    /// Of a canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promote: Option<Promote>,
}

/// A ring in a list of them, and how many of its proxies enforce it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RingSummary {
    #[cfg_attr(feature = "openapi", schema(example = "production"))]
    pub name: String,
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Epoch))]
    pub epoch: String,
    pub revision: u64,
    pub key_prefix: String,
    pub created_at: Timestamp,
    #[serde(default)]
    pub held: bool,
    /// Proxies whose VMs all enforce the newest revision.
    pub enforced: u64,
    /// Proxies that have to.
    pub of: u64,
    /// The main ring, of a canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_of: Option<String>,
}

/// What one proxy last said about itself, and what that is worth now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Proxy {
    pub node: String,
    pub instance: String,
    /// The filter's version.
    pub filter: String,
    pub vms: u32,
    /// The epoch of the ring that it holds, if it holds one.
    pub epoch: Option<String>,
    /// The revision in its memory.
    pub stored: u64,
    /// The least revision that all its VMs have adopted: the only acknowledgement.
    pub enforced: u64,
    /// Seconds since the newest document that it accepted was issued.
    pub age_seconds: u64,
    /// From what age of its ring on it refuses every request; absent where it serves however old that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuses_after_seconds: Option<u64>,
    pub state: ProxyState,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// The ids of the signing keys that its configuration trusts; `null` where its filter does not say.
    #[serde(default)]
    pub trust: Option<Vec<String>>,
    /// The relay that it asks, by its node; absent where it asks the control plane itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
}

/// A key that signs a ring's documents and the audit trail's checkpoints. The private half stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RingSigningKey {
    /// As in the header `keywheel-signer`.
    pub id: String,
    /// Base64, as in the filter's `control.trust`.
    pub public_key: String,
    pub state: SigningKeyState,
    pub created_at: Timestamp,
    /// Since when it has been in its state.
    pub changed_at: Timestamp,
}

/// What a signing key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SigningKeyState {
    /// Nobody was told of it.
    Created,
    /// It signs nothing, and proxies shall trust it.
    Published,
    /// It signs. Each ring has one.
    Active,
    /// It signs nothing any more, and proxies need not trust it. What it signed can still be verified.
    Retired,
}

/// `POST /v1/rings/{ring}/signing-keys/{key}/activate`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ActivateSigningKey {
    /// Even if proxies would refuse what it signs.
    #[serde(default)]
    pub force: bool,
}

/// What is known of a proxy, against the newest revision of its ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ProxyState {
    /// All its VMs enforce it.
    Current,
    /// It is there, and has not said that all its VMs do.
    Lagging,
    /// It was not heard of for longer than it may be silent. What it said before still holds, since a ring never goes
    /// back.
    Unproven,
    /// It was not heard of for so long that its ring is too old for it: it refuses every request by itself.
    Expired,
}

/// Who enforces a ring up to a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Proof {
    pub ring: String,
    /// The revision that is to be enforced.
    pub revision: u64,
    /// Proxies that said that all their VMs enforce it.
    pub enforced: u64,
    /// Proxies that have to: all but those that refuse every request by themselves.
    pub of: u64,
    /// Those that are there and do not yet, at most 100 of them.
    pub laggards: Vec<ProxyName>,
    /// Those that are silent and did not say so before, at most 100 of them.
    pub unproven: Vec<ProxyName>,
}

/// Which Envoy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProxyName {
    pub node: String,
    pub instance: String,
}

/// What `?wait=applied` adds to the answer to a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Applied {
    /// Whether every proxy of every ring that changed enforces it, and no ring is still to change.
    pub complete: bool,
    /// From the commit until this was known.
    pub milliseconds: u64,
    /// Of each ring that changed.
    pub rings: Vec<Proof>,
    /// Rings that get what is new after their canary does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follows: Vec<Follows>,
}

/// A ring that is still to get what its canary has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Follows {
    pub ring: String,
    pub canary: String,
    /// It gets it then at the latest.
    pub until: Timestamp,
}

/// Proxies of a ring, and who enforces it up to its newest revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RingProxies {
    #[serde(flatten)]
    pub proof: Proof,
    pub items: Vec<Proxy>,
}

/// Proxies that are gone for good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ForgetProxies {
    /// These, whether they are silent or not.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(max_items = 500))]
    pub instances: Vec<String>,
    /// All that were not heard of for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 60, maximum = 315_360_000))]
    pub silent_for_seconds: Option<u64>,
}

/// Which were forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ForgottenProxies {
    pub ring: String,
    pub forgotten: Vec<ProxyName>,
}

/// `POST /v1/rings/{ring}/proxies` on the ring listener: what a relay heard of the proxies behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProxyReports {
    #[cfg_attr(feature = "openapi", schema(max_items = 1000))]
    pub proxies: Vec<ProxyReport>,
}

/// What a proxy said of itself, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProxyReport {
    /// Its `keywheel-proxy` header, as it came.
    #[cfg_attr(
        feature = "openapi",
        schema(pattern = r"^[^\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]*$")
    )]
    pub proxy: String,
    /// How many milliseconds ago that was, up to ten years.
    #[serde(deserialize_with = "whole")]
    #[cfg_attr(feature = "openapi", schema(maximum = 315_360_000_000_u64))]
    pub ago_ms: u64,
}

/// A whole number however it is written: to a schema `3.0` is one.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Whole;

    impl Visitor<'_> for Whole {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number, 0 or more")
        }

        fn visit_u64<E>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
            // Every whole number up to here has a float of its own.
            const EXACT: f64 = 9_007_199_254_740_992.0;
            let whole = (0.0..=EXACT).contains(&number) && number.fract() == 0.0;
            // No digit is lost, and none is below 0.
            if whole { Ok(number as u64) } else { Err(E::invalid_value(Unexpected::Float(number), &self)) }
        }
    }

    deserializer.deserialize_u64(Whole)
}

/// The most proxies that one request reports.
pub const MAX_PROXY_REPORTS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::ProxyReport;

    #[test]
    fn a_whole_number_may_be_written_with_a_point() {
        let ago = |text: &str| {
            let report: Result<ProxyReport, _> =
                serde_json::from_str(&format!(r#"{{"proxy":"","ago_ms":{text}}}"#));
            report.map(|report| report.ago_ms).ok()
        };
        assert_eq!([ago("120"), ago("120.0"), ago("1e3")], [Some(120), Some(120), Some(1000)]);
        assert_eq!([ago("-1"), ago("0.5"), ago("1e300"), ago("\"1\"")], [None; 4]);
    }
}
