//! SHA-256 of a key's full text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

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
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| BadDigest)?;
        Ok(Self(bytes))
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
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
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
