//! Many keys, rotated in waves.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// The most keys of one campaign.
pub const MAX_KEYS: u64 = 100_000;
/// The most keys of one wave.
pub const MAX_WAVE: u64 = 10_000;
/// The longest pause between waves, in seconds: 90 days.
pub const MAX_PAUSE_SECONDS: u64 = 90 * 24 * 60 * 60;
/// The pause of who names none, in seconds.
pub const DEFAULT_PAUSE_SECONDS: u64 = 60 * 60;
/// The most clients that a selection names.
pub const MAX_CLIENTS: usize = 100;
/// Waves that a campaign's progress shows, the latest ones.
pub const SHOWN_WAVES: u64 = 100;

/// `POST /v1/campaigns`, and `POST /v1/campaigns/preview`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateCampaign {
    /// 1 to 64 letters, digits, `.`, `_` and `-`, and not `preview`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::CampaignName))]
    pub name: String,
    /// The default ring when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::RingName>))]
    pub ring: Option<String>,
    /// Which of the ring's keys; all of them when absent.
    #[serde(default)]
    pub select: Selection,
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::WaveSize))]
    pub wave: WaveSize,
    /// From when the last rotation of a wave was started until the next wave.
    #[serde(default = "default_pause")]
    #[cfg_attr(feature = "openapi", schema(maximum = 7_776_000))]
    pub pause_seconds: u64,
    /// No wave before; at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// How long both versions are accepted; what each key's policy says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 7_776_000, example = 86_400))]
    pub overlap_seconds: Option<u64>,
    #[serde(default)]
    pub stop: StopConditions,
}

/// Keys of a ring that have an active version, and for which all of this holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Keys of any of these; of all clients when absent.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "some")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::ClientName>, min_items = 1, max_items = 100))]
    pub clients: Vec<String>,
    /// Keys that have all of these labels: with that value, or with any for `null`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<crate::openapi::Label, crate::openapi::LabelChange>))]
    pub labels: BTreeMap<String, Option<String>>,
    /// The version that would give way has been active for longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 315_360_000))]
    pub older_than_seconds: Option<u64>,
    /// Keys that have this scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Scope>))]
    pub scope: Option<String>,
}

/// How many keys rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaveSize {
    /// So many, 1 to [`MAX_WAVE`].
    Keys(u64),
    /// Of what is selected, 1 to 100, rounded up, and at most [`MAX_WAVE`].
    Percent(u64),
}

/// What keeps the next wave from starting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct StopConditions {
    /// More rotations of its waves than this were rolled back.
    #[cfg_attr(feature = "openapi", schema(maximum = 100_000))]
    pub max_rolled_back: u64,
    /// More of the requests with the campaign's keys than this share were refused since the versions moved, 0.0 to
    /// 1.0; not looked at when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0.0, maximum = 1.0))]
    pub max_refused_share: Option<f64>,
    /// Some proxy does not enforce the last wave. That only holds the next one up.
    pub wait_for_proxies: bool,
}

/// What is asked for, and how it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Campaign {
    pub name: String,
    pub ring: String,
    pub select: Selection,
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::WaveSize))]
    pub wave: WaveSize,
    pub pause_seconds: u64,
    pub not_before: Option<Timestamp>,
    pub overlap_seconds: Option<u64>,
    pub stop: StopConditions,
    pub state: CampaignState,
    /// The stop condition that it hit, while it is halted.
    pub halted_by: Option<HaltReason>,
    /// Keys. They are chosen once, when it is made.
    pub selected: u64,
    /// What `wave` comes to.
    pub keys_per_wave: u64,
    /// Waves so far.
    pub waves: u64,
    pub created_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CampaignState {
    /// Waves start when their time comes.
    Running,
    /// An operator holds it.
    Paused,
    /// It hit a stop condition, and an operator has to resume it.
    Halted,
    /// Its rotations are being rolled back.
    RollingBack,
    /// Each of its keys was rotated or skipped.
    Completed,
    /// No wave starts any more; rotations that are open go on.
    Cancelled,
    /// What overlapped was rolled back.
    RolledBack,
}

/// Why a campaign is halted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum HaltReason {
    /// So many rotations of its waves were rolled back since it was last resumed.
    RolledBack { rotations: u64, allowed: u64 },
    /// Of the requests with its keys so many were refused since it was last resumed.
    Refused { refused: u64, requests: u64, allowed: f64 },
}

/// `GET /v1/campaigns/{campaign}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CampaignProgress {
    pub campaign: Campaign,
    pub keys: CampaignKeys,
    /// How many were skipped for which reason.
    pub skipped: Vec<Skipped>,
    /// The latest, at most [`SHOWN_WAVES`], oldest first.
    pub latest_waves: Vec<Wave>,
    /// What it waits for; absent while a wave is being started, and when it does not run.
    pub waits_for: Option<CampaignWait>,
}

/// Keys of a campaign by how they stand. Together they are what was selected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CampaignKeys {
    pub waiting_for_deposit: u64,
    pub waiting: u64,
    pub rotating: u64,
    pub done: u64,
    pub rolled_back: u64,
    pub skipped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Skipped {
    pub why: SkipReason,
    pub keys: u64,
}

/// Why a campaign does not rotate a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// It follows no policy, and the campaign names no overlap.
    NoOverlap,
    /// It was revoked.
    KeyRevoked,
    KeyExpired,
    /// The version that was to give way is not active any more.
    VersionEnded,
    /// It has as many versions beside each other as its policy allows.
    TooManyVersions,
}

/// One wave, and how its keys stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Wave {
    /// From 1 on.
    pub number: u64,
    pub started_at: Timestamp,
    pub keys: CampaignKeys,
}

/// What a campaign that runs waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum CampaignWait {
    /// The time of its next wave.
    Pause { until: Timestamp },
    /// So many proxies do not enforce the last wave.
    Proxies { behind: u64 },
    /// So many new versions of its rotations wait in the ring's canary.
    Canary { versions: u64 },
    /// None of the keys that are left has a deposit, or another rotation of them is open.
    Deposits,
    /// Its rotations' overlaps are not over.
    Overlaps,
}

/// One row of `GET /v1/campaigns/{campaign}/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CampaignKey {
    pub key: String,
    pub client: String,
    pub state: CampaignKeyState,
    /// Why it was skipped.
    pub why: Option<SkipReason>,
    /// The wave that it belongs to; absent when somebody else rotated it.
    pub wave: Option<u64>,
    pub rotation: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CampaignKeyState {
    /// Nobody deposited its next version.
    WaitingForDeposit,
    /// For its wave, or for another rotation to end.
    Waiting,
    /// Both versions are accepted.
    Rotating,
    Done,
    /// A rotation of one of the campaign's waves was. The campaign does not try again.
    RolledBack,
    Skipped,
}

/// What a campaign would come to, as of now. Nothing is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CampaignPreview {
    pub ring: String,
    /// Keys; at most [`MAX_KEYS`] make a campaign.
    pub selected: u64,
    /// How they would stand.
    pub keys: CampaignKeys,
    pub skipped: Vec<Skipped>,
    pub keys_per_wave: u64,
    /// If every deposit came in time.
    pub waves: u64,
}

impl WaveSize {
    /// How many keys that is of so many.
    #[must_use]
    pub const fn of(self, selected: u64) -> u64 {
        let keys = match self {
            Self::Keys(keys) => keys,
            Self::Percent(percent) => selected.saturating_mul(percent).div_ceil(100),
        };
        if keys < 1 {
            1
        } else if keys > MAX_WAVE {
            MAX_WAVE
        } else {
            keys
        }
    }
}

impl CampaignState {
    /// As in "it is rolling back".
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::RollingBack => "rolling back",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::RolledBack => "rolled back",
        }
    }

    /// Whether it starts no wave any more, whatever anybody does.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::RollingBack | Self::Completed | Self::Cancelled | Self::RolledBack)
    }
}

impl CampaignKeys {
    /// The number of a state.
    pub const fn of(&mut self, state: CampaignKeyState) -> &mut u64 {
        match state {
            CampaignKeyState::WaitingForDeposit => &mut self.waiting_for_deposit,
            CampaignKeyState::Waiting => &mut self.waiting,
            CampaignKeyState::Rotating => &mut self.rotating,
            CampaignKeyState::Done => &mut self.done,
            CampaignKeyState::RolledBack => &mut self.rolled_back,
            CampaignKeyState::Skipped => &mut self.skipped,
        }
    }
}

impl Default for StopConditions {
    fn default() -> Self {
        Self { max_rolled_back: 0, max_refused_share: None, wait_for_proxies: true }
    }
}

/// One at least. A script whose list came out empty means none, and absent means all.
fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let given = Vec::deserialize(deserializer)?;
    if given.is_empty() {
        return Err(D::Error::custom("at least one client; leave it out for all of them"));
    }
    Ok(given)
}

const fn default_pause() -> u64 {
    DEFAULT_PAUSE_SECONDS
}

/// Whether a campaign may have this name.
#[must_use]
pub fn is_campaign_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&text.len())
        && text.bytes().all(plain)
        && text != "preview"
        && !keywheel_keyring::entry::is_dots(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_keys_is_rounded_up_and_bounded() {
        for (size, selected, keys) in [
            (WaveSize::Keys(50), 10, 50),
            (WaveSize::Percent(10), 95, 10),
            (WaveSize::Percent(1), 3, 1),
            (WaveSize::Percent(100), 7, 7),
            (WaveSize::Percent(50), 0, 1),
            (WaveSize::Percent(100), MAX_KEYS, MAX_WAVE),
        ] {
            assert_eq!(size.of(selected), keys, "{size:?} of {selected}");
        }
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let new: CreateCampaign = serde_json::from_str(r#"{"name":"q4","wave":{"percent":10}}"#).unwrap();
        assert_eq!(new.pause_seconds, DEFAULT_PAUSE_SECONDS);
        assert_eq!((new.stop.max_rolled_back, new.stop.wait_for_proxies), (0, true));
        assert_eq!(new.select, Selection::default());
        serde_json::from_str::<CreateCampaign>(r#"{"name":"q4","wave":{"share":10}}"#).unwrap_err();
        serde_json::from_str::<Selection>(r#"{"clients":[]}"#).unwrap_err();
    }

    #[test]
    fn names_are_such_that_a_path_can_hold_them() {
        for (name, good) in [
            ("q4-2026.a_b", true),
            ("", false),
            ("preview", false),
            ("a b", false),
            ("a/b", false),
            ("..", false),
        ] {
            assert_eq!(is_campaign_name(name), good, "{name}");
        }
        assert!(!is_campaign_name(&"x".repeat(65)));
    }
}
