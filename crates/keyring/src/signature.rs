//! Ed25519 over a document's exact bytes.
//!
//! The signature and the id of the key that made it travel in the response headers
//! [`SIGNATURE_HEADER`] and [`SIGNER_HEADER`], so that a relay can forward the body untouched.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroize;

/// Base64 of the 64-byte signature.
pub const SIGNATURE_HEADER: &str = "keywheel-signature";
/// The [`SignerId`] of the key that signed.
pub const SIGNER_HEADER: &str = "keywheel-signer";

/// A public key that a proxy trusts, written in base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    id: SignerId,
}

/// The first eight bytes of the SHA-256 of a public key, in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignerId([u8; 8]);

/// A private key. It cannot be printed, and its memory is cleared on drop.
pub struct SigningKey(ed25519_dalek::SigningKey);

/// Why a document's signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the document is not signed")]
    Missing,
    #[error("the document is signed by a key that is not in `control.trust`")]
    Untrusted,
    #[error("the signature does not fit the document's bytes")]
    Wrong,
}

/// Tells whose signature the body bears.
///
/// # Errors
///
/// [`SignatureError`] if it bears none, one of an untrusted key, or one that does not fit.
pub fn verify(
    trust: &[PublicKey],
    body: &[u8],
    signer: Option<&[u8]>,
    signature: Option<&[u8]>,
) -> Result<SignerId, SignatureError> {
    let (Some(signer), Some(signature)) = (signer, signature) else {
        return Err(SignatureError::Missing);
    };
    let signer = std::str::from_utf8(signer).ok().and_then(|text| text.parse().ok());
    let key = trust.iter().find(|key| Some(key.id) == signer).ok_or(SignatureError::Untrusted)?;
    let bytes = STANDARD.decode(signature).map_err(|_| SignatureError::Wrong)?;
    let signature = Signature::from_slice(&bytes).map_err(|_| SignatureError::Wrong)?;
    key.key.verify_strict(body, &signature).map_err(|_| SignatureError::Wrong)?;
    Ok(key.id)
}

// === impl SigningKey ===

impl SigningKey {
    /// `seed` must come from a cryptographic source.
    #[must_use]
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&seed);
        seed.zeroize();
        Self(key)
    }

    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey::from(self.0.verifying_key())
    }

    /// The value for [`SIGNATURE_HEADER`].
    #[must_use]
    pub fn sign(&self, body: &[u8]) -> String {
        STANDARD.encode(self.0.sign(body).to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey([redacted])")
    }
}

// === impl PublicKey ===

/// The text is not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a public key is the base64 of 32 bytes, as `keywheel ring show` prints it")]
pub struct BadPublicKey;

impl PublicKey {
    #[must_use]
    pub const fn id(&self) -> SignerId {
        self.id
    }
}

impl From<VerifyingKey> for PublicKey {
    fn from(key: VerifyingKey) -> Self {
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let id = hash.first_chunk().copied().unwrap_or_default();
        Self { key, id: SignerId(id) }
    }
}

impl FromStr for PublicKey {
    type Err = BadPublicKey;

    fn from_str(text: &str) -> Result<Self, BadPublicKey> {
        let bytes = STANDARD.decode(text).map_err(|_| BadPublicKey)?;
        let bytes = bytes.try_into().map_err(|_| BadPublicKey)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| BadPublicKey)?;
        // A key of small order would accept forged signatures.
        if key.is_weak() { Err(BadPublicKey) } else { Ok(key.into()) }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.key.as_bytes()))
    }
}

// === impl SignerId ===

impl SignerId {
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SignerId {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut bytes = [0; 8];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_signature_over_the_exact_bytes_holds() {
        let (key, other) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]));
        let trust = [key.public()];
        let body = b"{\"ring\":\"production\"}";
        let signature = key.sign(body);
        let signer = key.public().id().to_string();
        let check = |body: &[u8], signer: Option<&str>, signature: Option<&str>| {
            verify(&trust, body, signer.map(str::as_bytes), signature.map(str::as_bytes))
        };

        assert_eq!(check(body, Some(&signer), Some(&signature)), Ok(key.public().id()));
        assert_eq!(check(body, None, Some(&signature)), Err(SignatureError::Missing));
        assert_eq!(check(body, Some(&signer), None), Err(SignatureError::Missing));
        assert_eq!(check(b"{}", Some(&signer), Some(&signature)), Err(SignatureError::Wrong));
        assert_eq!(check(body, Some(&signer), Some("AAAA")), Err(SignatureError::Wrong));
        assert_eq!(check(body, Some(&signer), Some(&other.sign(body))), Err(SignatureError::Wrong));
        let stranger = other.public().id().to_string();
        assert_eq!(check(body, Some(&stranger), Some(&other.sign(body))), Err(SignatureError::Untrusted));
    }

    #[test]
    fn public_keys_round_trip_and_weak_ones_are_refused() {
        let key = SigningKey::from_seed([1; 32]).public();
        assert_eq!(key.to_string().parse(), Ok(key));
        let weak = STANDARD.encode([0; 32]);
        for bad in ["", "AAAA", "not base64!", &weak] {
            assert_eq!(bad.parse::<PublicKey>(), Err(BadPublicKey), "{bad}");
        }
    }
}
