//! One key version as proxies enforce it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The identity of a ring's revision counter: a UUID, ordered by its bytes. With version 7 UUIDs
/// a later counter has a later epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch([u8; 16]);

/// The state of a key version, from the most to the least permissive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Active,
    /// Accepted until its `expires_at`; a successor exists.
    Retiring,
    /// Published, and accepted from its `not_before` on.
    Pending,
    Retired,
    Revoked,
    /// Revoked for ever.
    Compromised,
    /// An entry that the reader could not explain. Never written by a server.
    #[serde(skip)]
    Unreadable,
}

impl State {
    /// Whether nothing but a reinstatement makes the version acceptable again.
    #[must_use]
    pub const fn is_denied(self) -> bool {
        matches!(self, Self::Retired | Self::Revoked | Self::Compromised | Self::Unreadable)
    }
}

/// In a brown-out a share of the requests with an old version is refused, so that its callers
/// notice before the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Brownout {
    /// 0.0 to 1.0.
    pub share: f64,
    pub until: Millis,
}

/// One key version as proxies enforce it. In JSON what is absent has its default: most keys have no window,
/// and a third of a page would say so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub digest: Digest,
    pub version: String,
    pub key: String,
    pub client: String,
    pub revision: u64,
    pub state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Whether another version of the same key is accepted, to which the holder should move.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub successor: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brownout: Option<Brownout>,
    /// The epoch in which an operator brought a denied version back to life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reinstated_in: Option<Epoch>,
}

/// What makes an entry unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    #[error("{0} must be 1 to {MAX_NAME} visible ASCII characters without quotes, commas and backslashes")]
    Name(&'static str),
    #[error("at most {MAX_SCOPES} scopes of 1 to {MAX_SCOPE} visible ASCII characters each")]
    Scopes,
    #[error("not_before is not before expires_at")]
    Window,
    #[error("a retiring version has expires_at, a pending one not_before")]
    Deadline,
    #[error("a brown-out's share lies between 0 and 1")]
    Brownout,
}

/// The longest version, key and client name, in bytes.
pub const MAX_NAME: usize = 128;
/// The longest scope, in bytes.
pub const MAX_SCOPE: usize = 64;
/// The most scopes of one key.
pub const MAX_SCOPES: usize = 32;

impl Entry {
    /// An entry without window, scopes or successor.
    #[must_use]
    pub fn new(digest: Digest, version: &str, key: &str, client: &str, revision: u64, state: State) -> Self {
        Self {
            digest,
            version: version.to_owned(),
            key: key.to_owned(),
            client: client.to_owned(),
            revision,
            state,
            not_before: None,
            expires_at: None,
            scopes: Vec::new(),
            successor: false,
            brownout: None,
            reinstated_in: None,
        }
    }

    /// An entry that denies, in place of one that could not be read.
    #[must_use]
    pub fn unreadable(digest: Digest, version: &str, revision: u64) -> Self {
        let version = if is_name(version) { version } else { "unreadable" };
        Self::new(digest, version, "unreadable", "unreadable", revision, State::Unreadable)
    }

    /// # Errors
    ///
    /// The first rule that the entry breaks. Names and scopes reach headers, so they are limited
    /// to what a header may carry.
    pub fn check(&self) -> Result<(), BadEntry> {
        for (field, name) in [("version", &self.version), ("key", &self.key), ("client", &self.client)] {
            if !is_name(name) {
                return Err(BadEntry::Name(field));
            }
        }
        if self.scopes.len() > MAX_SCOPES || !self.scopes.iter().all(|scope| is_scope(scope)) {
            return Err(BadEntry::Scopes);
        }
        if let (Some(from), Some(to)) = (self.not_before, self.expires_at)
            && from >= to
        {
            return Err(BadEntry::Window);
        }
        let without_deadline = match self.state {
            State::Retiring => self.expires_at.is_none(),
            State::Pending => self.not_before.is_none(),
            _ => false,
        };
        if without_deadline {
            return Err(BadEntry::Deadline);
        }
        match self.brownout {
            Some(brownout) if !(0.0..=1.0).contains(&brownout.share) => Err(BadEntry::Brownout),
            _ => Ok(()),
        }
    }

    /// The stricter of two entries that claim the same digest.
    #[must_use]
    pub fn stricter<'a>(&'a self, other: &'a Self) -> &'a Self {
        let end = |entry: &Self| entry.expires_at.map_or(u64::MAX, |at| at.0);
        match self.state.cmp(&other.state) {
            std::cmp::Ordering::Greater => self,
            std::cmp::Ordering::Less => other,
            std::cmp::Ordering::Equal if end(self) <= end(other) => self,
            std::cmp::Ordering::Equal => other,
        }
    }
}

/// Whether `text` can name a client, a key or a version: 1 to 128 visible ASCII characters without
/// quotes, commas and backslashes, so that it can stand in a header and in a list.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_name_byte)
}

/// Whether `text` can be a scope; like a name, and at most 64 characters.
#[must_use]
pub fn is_scope(text: &str) -> bool {
    text.len() <= MAX_SCOPE && is_name(text)
}

/// Whether `text` can name a client in a path: as [`is_name`], but for `.` and `..`, which no path can hold.
#[must_use]
pub fn is_client_name(text: &str) -> bool {
    is_name(text) && !is_dots(text)
}

/// Whether `text` can name a ring: 1 to 64 letters, digits, `.`, `_` and `-`, and not `.` or `..`, so that it can stand
/// in a path, in a metric and between the slashes of a proxy's storage keys.
#[must_use]
pub fn is_ring_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && !is_dots(text)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Whoever resolves a path takes these for the way to another one.
#[must_use]
pub fn is_dots(text: &str) -> bool {
    matches!(text, "." | "..")
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b'\\')
}

// === impl Epoch ===

/// The text is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an epoch is a UUID")]
pub struct BadEpoch;

impl Epoch {
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The earliest one that is later, for whoever's clock is behind; `None` after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        u128::from_be_bytes(self.0).checked_add(1).map(|next| Self(next.to_be_bytes()))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Epoch {
    type Err = BadEpoch;

    fn from_str(text: &str) -> Result<Self, BadEpoch> {
        let dashed = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| matches!(at, 8 | 13 | 18 | 23) == (byte == b'-'));
        if !dashed {
            return Err(BadEpoch);
        }
        let mut bytes = [0; 16];
        hex::decode_to_slice(text.replace('-', ""), &mut bytes).map_err(|_| BadEpoch)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Epoch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_written_as_uuids_and_ordered() {
        let early: Epoch = "0199a3b4-0000-7000-8000-000000000001".parse().unwrap();
        let late: Epoch = "0199a3b5-0000-7000-8000-000000000000".parse().unwrap();
        assert!(early < late);
        assert_eq!(early.to_string(), "0199a3b4-0000-7000-8000-000000000001");
        for bad in ["", "0199", "0199a3b4-0000-7000-8000-00000000000g", "0199a3b400007000800000000000000100"]
        {
            assert_eq!(bad.parse::<Epoch>(), Err(BadEpoch), "{bad}");
        }
    }

    #[test]
    fn names_can_stand_in_a_header() {
        for good in ["acme", "a", "ops@example.com", "team/a:b", &"x".repeat(128)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a b", "a,b", "a\"b", "a\\b", "a\r\nb", "ä", "\0", &"x".repeat(129)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_stricter_entry_wins() {
        let entry = |state| Entry::new(Digest::of(b"k"), "kv_1", "key_1", "acme", 1, state);
        let order = [
            State::Active,
            State::Retiring,
            State::Pending,
            State::Retired,
            State::Revoked,
            State::Compromised,
            State::Unreadable,
        ];
        for pair in order.windows(2) {
            let (mild, strict) = (entry(pair[0]), entry(pair[1]));
            assert_eq!(mild.stricter(&strict), &strict);
            assert_eq!(strict.stricter(&mild), &strict);
        }
        let endless = entry(State::Active);
        let ending = Entry { expires_at: Some(Millis(5)), ..entry(State::Active) };
        assert_eq!(endless.stricter(&ending), &ending);
        assert_eq!(ending.stricter(&endless), &ending);
    }
}
