//! SHA-256 of a key's full text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::bytes::{NO_DIGIT, digit_values};

/// SHA-256 of a key's full text: the only form in which a key is stored or sent.
///
/// Equality takes the same time wherever two digests differ.
#[derive(Clone, Copy, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    pub const LEN: usize = 32;
    /// The end of the digest space, where the last snapshot page ends.
    pub const MAX: Self = Self([0xff; 32]);

    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn from_hex(text: &[u8]) -> Option<Self> {
        const VALUES: [u8; 256] = digit_values(b"0123456789abcdef", b"0123456789ABCDEF");
        let value = |digit: u8| VALUES.get(usize::from(digit)).copied().unwrap_or(NO_DIGIT);
        let digits: &[u8; 2 * Self::LEN] = text.try_into().ok()?;
        let (pairs, _) = digits.as_chunks::<2>();
        let mut bytes = [0; Self::LEN];
        let mut seen = 0;
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let (high, low) = (value(*high), value(*low));
            // Only what is no digit has one of the upper bits.
            seen |= high | low;
            *byte = high << 4 | low & 0xf;
        }
        (seen < 16).then_some(Self(bytes))
    }

    /// The first two bytes, which choose the bucket.
    #[must_use]
    pub const fn bucket(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }
}

// === impl PartialEq, Hash, Display, FromStr, serde ===

impl std::hash::Hash for Digest {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        // Eight bytes at a time: one by one they would cost a request more than the hash does.
        let (these, _) = self.0.as_chunks::<8>();
        let (those, _) = other.0.as_chunks::<8>();
        let difference = these
            .iter()
            .zip(those)
            .fold(0, |sum, (this, that)| sum | (u64::from_ne_bytes(*this) ^ u64::from_ne_bytes(*that)));
        difference.ct_eq(&0).into()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 64 lower- or upper-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits: the SHA-256 of a key's text")]
pub struct BadDigest;

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        Self::from_hex(text.as_bytes()).ok_or(BadDigest)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Digest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hexadecimal digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Digest, E> {
                self.visit_bytes(text.as_bytes())
            }

            fn visit_bytes<E: serde::de::Error>(self, text: &[u8]) -> Result<Digest, E> {
                Digest::from_hex(text).ok_or_else(|| E::custom(BadDigest))
            }
        }
        // Digits need no look at whether they are UTF-8.
        deserializer.deserialize_bytes(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_digest_round_trip() {
        let digest = Digest::of(b"kw_live_example");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("ab".parse::<Digest>(), Err(BadDigest));
        assert_eq!("zz".repeat(32).parse::<Digest>(), Err(BadDigest));
    }

    #[test]
    fn every_byte_counts_when_digests_are_compared() {
        let digest = Digest::of(b"k");
        for at in 0..Digest::LEN {
            let mut bytes = *digest.as_bytes();
            bytes[at] ^= 0x80;
            assert_ne!(Digest::from_bytes(bytes), digest, "{at}");
        }
    }

    #[test]
    fn the_bucket_is_the_first_two_bytes() {
        let mut bytes = [0; 32];
        bytes[0] = 0x12;
        bytes[1] = 0x34;
        assert_eq!(Digest::from_bytes(bytes).bucket(), 0x1234);
    }
}
