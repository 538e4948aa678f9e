//! A signed document, once its signature held, and the little of it that decides on its place.

use keywheel_control::ring::Signed;
use keywheel_keyring::document::DocumentError;
use keywheel_keyring::signature::{self, SignatureError};
use keywheel_keyring::{Document, Epoch, Kind, Millis, PublicKey, SignerId};

/// A document that a trusted key signed for this ring.
#[derive(Debug, Clone)]
pub struct Checked {
    pub signed: Signed,
    pub facts: Facts,
}

/// What of a document decides on its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub epoch: Epoch,
    pub kind: Kind,
    pub revision: u64,
    pub issued_at: Millis,
    pub expires_at: Millis,
    pub signer: SignerId,
}

/// Why a document is neither kept nor served, wherever it came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("{0}; trust is what --trust says")]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Unreadable(#[from] DocumentError),
    #[error("it is a document of ring `{0}`")]
    OtherRing(String),
}

/// Verifies first and reads then, as a proxy does.
///
/// # Errors
///
/// [`Unfit`].
pub fn check(ring: &str, trust: &[PublicKey], signed: Signed) -> Result<Checked, Unfit> {
    let (signer, signature) = (signed.signer.as_bytes(), signed.signature.as_bytes());
    let signer = signature::verify(trust, &signed.body, Some(signer), Some(signature))?;
    let document = Document::parse(&signed.body)?.document;
    if document.ring != ring {
        return Err(Unfit::OtherRing(document.ring));
    }
    let Document { epoch, kind, revision, issued_at, expires_at, .. } = document;
    let facts = Facts { epoch, kind, revision, issued_at, expires_at, signer };
    Ok(Checked { signed: Signed { revision, ..signed }, facts })
}
