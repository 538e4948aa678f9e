//! Rules by which keys rotate.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::rotation::MAX_OVERLAP_SECONDS;

/// The longest time that a policy may name, in seconds: 10 years.
pub const MAX_SECONDS: u64 = 10 * 365 * 24 * 60 * 60;
/// The most notices before one step.
pub const MAX_NOTICES: usize = 16;
/// The most versions of one key at one time.
pub const MAX_VERSIONS: u32 = 16;
/// The longest name, in bytes.
pub const MAX_NAME: usize = 64;

/// What a policy asks for. In JSON what is absent has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// How old a version may become until the next rotation is due; absent: no rotation becomes due by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 315_360_000))]
    pub rotate_every_seconds: Option<u64>,
    /// A rotation becomes due up to so much earlier. How much is a matter of the key's id, so that keys which were
    /// made together do not move together.
    #[serde(skip_serializing_if = "is_zero")]
    pub jitter_seconds: u64,
    /// When rotations become due and are started by themselves; at any time when absent.
    #[serde(deserialize_with = "crate::object::optional", skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// How long both versions are accepted, unless who starts the rotation says otherwise.
    #[cfg_attr(feature = "openapi", schema(maximum = 7_776_000))]
    pub overlap_seconds: u64,
    /// When the old version ends.
    pub retire: Retire,
    /// How long nobody may have used the old version until it counts as unused. Belongs to `when_unused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 60))]
    pub quiet_period_seconds: Option<u64>,
    /// An active version that is older makes its key overdue. It is not cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 315_360_000))]
    pub longest_age_seconds: Option<u64>,
    /// Whether the holder of a key may rotate it with the key itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub self_rotation: bool,
    /// How long before a rotation is due, and before an old version ends, a notice is given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::Span>, max_items = 16))]
    pub notices_seconds: Vec<u64>,
    /// How many versions of a key may be accepted at one time. Absent: as many as its rotations need, and none is
    /// added beside them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 2, maximum = 16))]
    pub max_versions: Option<u32>,
    /// Refuses a share of the old version's requests for some time before its deadline.
    #[serde(deserialize_with = "crate::object::optional", skip_serializing_if = "Option::is_none")]
    pub brownout: Option<BrownoutPlan>,
}

/// When the old version of a rotation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Retire {
    /// When the overlap ends.
    #[default]
    Deadline,
    /// Then, or as soon as the proxies' reports show that nobody uses it.
    WhenUnused,
}

/// The hours of some days, in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The days on which it opens, each once.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeSet<Day>, min_items = 1, max_items = 7))]
    pub days: Vec<Day>,
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Clock))]
    pub from: Clock,
    /// At or before `from` it is on the next day.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Clock))]
    pub to: Clock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A time of the day, to the minute: `09:30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clock {
    /// 0 to 1439.
    minutes: u32,
}

/// A brown-out of every rotation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BrownoutPlan {
    /// Of the requests, above 0.0 and up to 1.0.
    #[cfg_attr(feature = "openapi", schema(exclusive_minimum = 0.0, maximum = 1.0))]
    pub share: f64,
    /// It begins so long before the deadline and goes on until then.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub before_seconds: u64,
}

/// `POST /v1/policies`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreatePolicy {
    /// 1 to [`MAX_NAME`] letters, digits, `.`, `_` and `-`, and not `none`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::PolicyName))]
    pub name: String,
    #[serde(deserialize_with = "crate::object::one")]
    pub terms: Terms,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Policy {
    pub name: String,
    pub terms: Terms,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// `PUT /v1/rings/{ring}/policy`: what keys follow that have no policy of their own or of their client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetPolicy {
    /// `null` takes it away.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::PolicyName>))]
    pub policy: Option<String>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            rotate_every_seconds: None,
            jitter_seconds: 0,
            window: None,
            overlap_seconds: 24 * 60 * 60,
            retire: Retire::Deadline,
            quiet_period_seconds: None,
            longest_age_seconds: None,
            self_rotation: false,
            notices_seconds: Vec::new(),
            max_versions: None,
            brownout: None,
        }
    }
}

impl Terms {
    /// # Errors
    ///
    /// The first field that breaks a rule, and the rule.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        const SPAN: &str = "1 to 315360000 seconds, which are 10 years";
        let span = |seconds: Option<u64>| seconds.is_none_or(|s| (1..=MAX_SECONDS).contains(&s));
        let rule = |holds: bool, field, rule| if holds { Ok(()) } else { Err((field, rule)) };
        rule(span(self.rotate_every_seconds), "rotate_every_seconds", SPAN)?;
        let jitter =
            self.jitter_seconds == 0 || self.rotate_every_seconds.is_some_and(|s| self.jitter_seconds < s);
        rule(jitter, "jitter_seconds", "less than `rotate_every_seconds`")?;
        if let Some(window) = &self.window {
            let mut days = window.days.clone();
            days.sort_unstable();
            days.dedup();
            let once = !days.is_empty() && days.len() == window.days.len();
            rule(once, "window.days", "1 to 7 days, each once")?;
        }
        let overlap = self.overlap_seconds <= MAX_OVERLAP_SECONDS;
        rule(overlap, "overlap_seconds", "0 to 7776000 seconds, which are 90 days")?;
        // A rotation waits until the one before is over, so the key would not rotate as often as that.
        let apart = self.rotate_every_seconds.is_none_or(|every| self.overlap_seconds <= every);
        rule(apart, "overlap_seconds", "at most `rotate_every_seconds`")?;
        match (self.retire, self.quiet_period_seconds) {
            (Retire::Deadline, None) => {}
            (Retire::Deadline, Some(_)) => {
                return Err(("quiet_period_seconds", "only with `retire` as `when_unused`"));
            }
            (Retire::WhenUnused, quiet) => {
                let fits = quiet.is_some_and(|s| (60..=self.overlap_seconds).contains(&s));
                rule(fits, "quiet_period_seconds", "60 seconds up to `overlap_seconds`, with `when_unused`")?;
            }
        }
        rule(span(self.longest_age_seconds), "longest_age_seconds", SPAN)?;
        let later = match (self.rotate_every_seconds, self.longest_age_seconds) {
            (Some(every), Some(age)) => every <= age,
            _ => true,
        };
        rule(later, "longest_age_seconds", "at least `rotate_every_seconds`")?;
        let notices = self.notices_seconds.len() <= MAX_NOTICES
            && self.notices_seconds.iter().all(|s| (1..=MAX_SECONDS).contains(s));
        rule(notices, "notices_seconds", "at most 16 times, each 1 to 315360000 seconds")?;
        let versions = self.max_versions.is_none_or(|n| (2..=MAX_VERSIONS).contains(&n));
        rule(versions, "max_versions", "2 to 16 versions; a rotation needs two")?;
        if let Some(plan) = self.brownout {
            rule(plan.share > 0.0 && plan.share <= 1.0, "brownout.share", "above 0 and up to 1")?;
            let before = (1..=self.overlap_seconds).contains(&plan.before_seconds);
            rule(before, "brownout.before_seconds", "1 second up to `overlap_seconds`")?;
        }
        Ok(())
    }
}

/// Whether `text` can name a policy: it stands in paths and on command lines, where `none` means that there is none.
#[must_use]
pub fn is_policy_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(plain)
        && text != "none"
        && !keywheel_keyring::entry::is_dots(text)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

// === impl Day ===

impl Day {
    pub const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];
}

impl FromStr for Day {
    type Err = BadDay;

    fn from_str(text: &str) -> Result<Self, BadDay> {
        const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let day = NAMES.iter().zip(Self::ALL).find(|(name, _)| **name == text);
        day.map(|(_, day)| day).ok_or(BadDay)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a day is one of mon, tue, wed, thu, fri, sat, sun")]
pub struct BadDay;

// === impl Clock ===

impl Clock {
    /// Since midnight.
    #[must_use]
    pub const fn minutes(self) -> u32 {
        self.minutes
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time of the day is written like 09:30, from 00:00 to 23:59")]
pub struct BadClock;

impl FromStr for Clock {
    type Err = BadClock;

    fn from_str(text: &str) -> Result<Self, BadClock> {
        let two = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u32>().ok()).flatten()
        };
        let (hours, minutes) = text.split_once(':').ok_or(BadClock)?;
        match (two(hours), two(minutes)) {
            (Some(hours @ 0..=23), Some(minutes @ 0..=59)) => Ok(Self { minutes: hours * 60 + minutes }),
            _ => Err(BadClock),
        }
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

impl Serialize for Clock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Clock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_names_its_field() {
        let check = |change: fn(&mut Terms)| {
            let mut terms = Terms::default();
            change(&mut terms);
            terms.check().err().map(|(field, _)| field)
        };
        assert_eq!(check(|_| {}), None);
        assert_eq!(check(|t| t.rotate_every_seconds = Some(0)), Some("rotate_every_seconds"));
        assert_eq!(check(|t| t.jitter_seconds = 1), Some("jitter_seconds"));
        assert_eq!(check(|t| t.overlap_seconds = 7_776_001), Some("overlap_seconds"));
        assert_eq!(check(|t| t.rotate_every_seconds = Some(t.overlap_seconds - 1)), Some("overlap_seconds"));
        assert_eq!(check(|t| t.quiet_period_seconds = Some(60)), Some("quiet_period_seconds"));
        assert_eq!(check(|t| t.retire = Retire::WhenUnused), Some("quiet_period_seconds"));
        assert_eq!(check(|t| t.notices_seconds = vec![0]), Some("notices_seconds"));
        assert_eq!(check(|t| t.max_versions = Some(1)), Some("max_versions"));
        for share in [0.0, 1.1, f64::NAN] {
            let terms =
                Terms { brownout: Some(BrownoutPlan { share, before_seconds: 60 }), ..Terms::default() };
            assert_eq!(terms.check().unwrap_err().0, "brownout.share");
        }
        let late = |t: &mut Terms| t.brownout = Some(BrownoutPlan { share: 1.0, before_seconds: 86_401 });
        assert_eq!(check(late), Some("brownout.before_seconds"));
        let twice = |t: &mut Terms| {
            let (from, to) = ("09:00".parse().unwrap(), "17:00".parse().unwrap());
            t.window = Some(Window { days: vec![Day::Mon, Day::Mon], from, to });
        };
        assert_eq!(check(twice), Some("window.days"));
        let young =
            |t: &mut Terms| (t.rotate_every_seconds, t.longest_age_seconds) = (Some(90_000), Some(86_400));
        assert_eq!(check(young), Some("longest_age_seconds"));
    }

    #[test]
    fn terms_are_read_as_they_are_written() {
        let text = r#"{"rotate_every_seconds":7776000,"jitter_seconds":86400,
            "window":{"days":["mon","tue"],"from":"09:30","to":"17:00"},"retire":"when_unused",
            "quiet_period_seconds":3600,"brownout":{"share":0.1,"before_seconds":600}}"#;
        let terms: Terms = serde_json::from_str(text).unwrap();
        terms.check().unwrap();
        assert_eq!(terms.window.as_ref().unwrap().from.minutes(), 9 * 60 + 30);
        let again: Terms = serde_json::from_str(&serde_json::to_string(&terms).unwrap()).unwrap();
        assert_eq!(again, terms);
        assert!(serde_json::from_str::<Terms>(r#"{"rotate":1}"#).is_err());
        for bad in ["9:30", "24:00", "12:60", "", "+1:00"] {
            assert_eq!(bad.parse::<Clock>(), Err(BadClock), "{bad}");
        }
    }
}
