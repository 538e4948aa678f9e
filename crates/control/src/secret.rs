//! Secrets are types: they cannot be printed, and what is stored of them is another type.

use std::fmt;

use keywheel_keyring::Digest;
use zeroize::Zeroizing;

/// A token for the control plane in plain text, `kwt_…`.
pub struct PlainToken(Zeroizing<String>);

/// SHA-256 of a token: with 256 random bits a slow hash would buy nothing.
#[derive(Clone, Copy)]
pub struct HashedToken(Digest);

/// The operating system gave no randomness.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness;

/// # Errors
///
/// [`NoRandomness`]; nothing may be made then.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

// === impl PlainToken ===

impl PlainToken {
    /// # Errors
    ///
    /// [`NoRandomness`].
    pub fn generate() -> Result<Self, NoRandomness> {
        let random = Zeroizing::new(random::<32>()?);
        let mut text = Zeroizing::new(String::with_capacity(68));
        text.push_str("kwt_");
        text.push_str(&Zeroizing::new(hex::encode(random.as_slice())));
        Ok(Self(text))
    }

    /// The text itself, to hand over once. Do not log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn hash(&self) -> HashedToken {
        HashedToken(Digest::of(self.0.as_bytes()))
    }
}

impl From<&str> for PlainToken {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for PlainToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainToken([redacted])")
    }
}

// === impl HashedToken ===

impl HashedToken {
    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Digest::from_bytes(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for HashedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashedToken([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_printed() {
        let token = PlainToken::generate().unwrap();
        assert!(token.expose().starts_with("kwt_") && token.expose().len() == 68);
        assert_eq!(format!("{token:?}"), "PlainToken([redacted])");
        assert_eq!(format!("{:?}", token.hash()), "HashedToken([redacted])");
    }
}
