//! How a key is written: `kw_live_<id>_<secret><check>`.
//!
//! `kw_live_` is the ring's prefix and environment label, `id` names the version in public,
//! `secret` is 32 random bytes in base62 (43 characters) and `check` is the CRC-32 of everything
//! before it in base62 (6 characters), so that a typo is told from an unknown key without a lookup.
//! Everything is a word character, so a double click selects the whole key.

use std::fmt;
use std::str::FromStr;

use zeroize::{Zeroize, Zeroizing};

use crate::Digest;

pub(crate) const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID_LEN: usize = 16;
const SECRET_LEN: usize = 43;
const CHECK_LEN: usize = 6;

/// A key in plain text. It cannot be printed by accident, and its memory is cleared on drop.
pub struct PlainKey(Zeroizing<String>);

/// What stands before the id: a prefix and an environment label, `kw_live_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrefix(String);

/// The public name of one key version, `kv_<id>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId(String);

/// What can be told from a key's text alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape<'a> {
    /// It bears the ring's prefix and its check is right.
    Ours { id: &'a str },
    /// It bears the ring's prefix, but no such key was ever issued.
    Malformed,
    /// Another system made it; it may have been imported.
    Foreign,
}

/// Tells whether `text` can be a key that was issued under `prefix`.
#[must_use]
pub fn shape<'a>(prefix: &str, text: &'a [u8]) -> Shape<'a> {
    let Some(rest) = text.strip_prefix(prefix.as_bytes()) else {
        return Shape::Foreign;
    };
    let checked = || {
        let (body, check) = text.split_at_checked(text.len().checked_sub(CHECK_LEN)?)?;
        if check != base62_fixed::<CHECK_LEN>(&crc32fast::hash(body).to_be_bytes()) {
            return None;
        }
        let rest = std::str::from_utf8(rest).ok()?;
        let (id, secret) = rest.split_once('_')?;
        (secret.len() == SECRET_LEN + CHECK_LEN && !id.is_empty()).then_some(id)
    };
    checked().map_or(Shape::Malformed, |id| Shape::Ours { id })
}

// === impl PlainKey ===

impl PlainKey {
    /// Writes a key for `version`. `random` must come from a cryptographic source.
    #[must_use]
    pub fn generate(prefix: &KeyPrefix, version: &VersionId, mut random: [u8; 32]) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(128));
        text.push_str(&prefix.0);
        text.push_str(version.id());
        text.push('_');
        let mut secret = base62_fixed::<SECRET_LEN>(&random);
        random.zeroize();
        text.extend(secret.iter().map(|byte| char::from(*byte)));
        secret.zeroize();
        let check = base62_fixed::<CHECK_LEN>(&crc32fast::hash(text.as_bytes()).to_be_bytes());
        text.extend(check.iter().map(|byte| char::from(*byte)));
        Self(text)
    }

    /// The text itself, to hand over or to send. Do not log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl From<String> for PlainKey {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainKey([redacted])")
    }
}

// === impl KeyPrefix ===

/// The text is not `<prefix>_<label>_`, each 1 to 16 lower-case letters or digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key prefix is `<prefix>_<label>_`, each 1 to 16 lower-case letters or digits")]
pub struct BadKeyPrefix;

impl KeyPrefix {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyPrefix {
    type Err = BadKeyPrefix;

    fn from_str(text: &str) -> Result<Self, BadKeyPrefix> {
        let word = |word: &str| {
            (1..=16).contains(&word.len())
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        let mut parts = text.split('_');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(prefix), Some(label), Some(""), None) if word(prefix) && word(label) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(BadKeyPrefix),
        }
    }
}

// === impl VersionId ===

/// The text is not `kv_` and 16 letters or digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version id is `kv_` and 16 letters or digits")]
pub struct BadVersionId;

impl VersionId {
    /// Writes 95 of the 96 random bits as an id.
    #[must_use]
    pub fn from_random(mut random: [u8; 12]) -> Self {
        // 62^16 lies between 2^95 and 2^96.
        random[0] &= 0x7f;
        Self(format!("kv_{}", base62_text::<ID_LEN>(&random)))
    }

    /// The part that stands in the key's text.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.strip_prefix("kv_").unwrap_or_default()
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VersionId {
    type Err = BadVersionId;

    fn from_str(text: &str) -> Result<Self, BadVersionId> {
        let id = text.strip_prefix("kv_").ok_or(BadVersionId)?;
        if id.len() == ID_LEN && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadVersionId)
        }
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A random name for anything that is not a version, such as `key_<16 characters>`.
#[must_use]
pub fn random_id(prefix: &str, mut random: [u8; 12]) -> String {
    random[0] &= 0x7f;
    format!("{prefix}_{}", base62_text::<ID_LEN>(&random))
}

// === base62 ===

fn base62_text<const N: usize>(number: &[u8]) -> String {
    base62_fixed::<N>(number).iter().map(|byte| char::from(*byte)).collect()
}

/// Writes a big-endian number in exactly `N` digits, most significant first.
fn base62_fixed<const N: usize>(number: &[u8]) -> [u8; N] {
    let mut number = Zeroizing::new(number.to_vec());
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in number.iter_mut() {
            let value = (remainder << 8) | u32::from(*byte);
            *byte = (value / 62) as u8; // `remainder` is below 62, so the quotient fits.
            remainder = value % 62;
        }
        *digit = ALPHABET.get(remainder as usize).copied().unwrap_or(b'0');
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> PlainKey {
        let prefix = "kw_live_".parse().unwrap();
        PlainKey::generate(&prefix, &VersionId::from_random([9; 12]), [0xff; 32])
    }

    #[test]
    fn a_key_has_the_documented_shape() {
        let key = example();
        let text = key.expose();
        assert_eq!(text.len(), "kw_live_".len() + 16 + 1 + 43 + 6);
        let id = VersionId::from_random([9; 12]);
        assert_eq!(shape("kw_live_", text.as_bytes()), Shape::Ours { id: id.id() });
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    }

    #[test]
    fn every_single_typo_is_malformed() {
        let key = example();
        for at in "kw_live_".len()..key.expose().len() {
            let mut text = key.expose().as_bytes().to_vec();
            text[at] = if text[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(shape("kw_live_", &text), Shape::Malformed, "at {at}");
        }
    }

    #[test]
    fn short_and_foreign_texts_are_told_apart() {
        assert_eq!(shape("kw_live_", b""), Shape::Foreign);
        assert_eq!(shape("kw_live_", b"sk_test_1"), Shape::Foreign);
        assert_eq!(shape("kw_live_", b"kw_live_"), Shape::Malformed);
        assert_eq!(shape("kw_live_", b"kw_live_\xff\xfe"), Shape::Malformed);
    }

    #[test]
    fn a_plain_key_is_never_printed() {
        assert_eq!(format!("{:?}", example()), "PlainKey([redacted])");
    }

    #[test]
    fn base62_counts_like_a_number() {
        assert_eq!(&base62_fixed::<3>(&[0]), b"000");
        assert_eq!(&base62_fixed::<3>(&[61]), b"00z");
        assert_eq!(&base62_fixed::<3>(&[62]), b"010");
        // 2^32 - 1 = 4,294,967,295
        assert_eq!(&base62_fixed::<6>(&[0xff; 4]), b"4gfFC3");
        // The largest 256-bit number still fits 43 digits: 62^43 > 2^256.
        assert_ne!(base62_fixed::<43>(&[0xff; 32])[0], b'0');
    }

    #[test]
    fn prefixes_and_version_ids_are_checked() {
        assert!("kw_live_".parse::<KeyPrefix>().is_ok());
        for bad in ["", "kw", "kw_", "kw_live", "kw__", "Kw_live_", "kw_live_x_", "kw_li-ve_"] {
            assert_eq!(bad.parse::<KeyPrefix>(), Err(BadKeyPrefix), "{bad}");
        }
        assert!("kv_0123456789abcdef".parse::<VersionId>().is_ok());
        for bad in ["", "kv_", "kv_0123456789abcde", "key_0123456789abcdef", "kv_0123456789abcde_"] {
            assert_eq!(bad.parse::<VersionId>(), Err(BadVersionId), "{bad}");
        }
    }
}
