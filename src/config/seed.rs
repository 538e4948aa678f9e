//! `seed`: a ring to begin with, where no control plane can be reached.

use keywheel_keyring::{Document, Kind, signature};

use super::Control;
use super::fields::Fields;

/// A signed snapshot of a whole ring, as `keywheel ring export --seed` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    pub signer: String,
    pub signature: String,
    /// The exact bytes that were signed.
    pub document: String,
}

const SEED: &str = "what `keywheel ring export --seed` prints: an object with signer, signature and document";

/// Reads the seed and checks all that can be checked without a clock.
pub(super) fn read(
    fields: &mut Fields<'_, '_>,
    ring: Option<&str>,
    control: Option<&Control>,
) -> Option<Seed> {
    let path = fields.path_of("seed");
    let seed = fields.value("seed", SEED, |value| {
        let map = value.as_object().filter(|map| map.len() == 3)?;
        let text = |name| map.get(name)?.as_str().map(str::to_owned);
        Some(Seed { signer: text("signer")?, signature: text("signature")?, document: text("document")? })
    })?;
    if let Err(problem) = seed.check(ring?, control?) {
        fields.refuse(path, problem);
    }
    Some(seed)
}

impl Seed {
    fn check(&self, ring: &str, control: &Control) -> Result<(), String> {
        let (signer, signature) = (self.signer.as_bytes(), self.signature.as_bytes());
        signature::verify(&control.trust, self.document.as_bytes(), Some(signer), Some(signature))
            .map_err(|error| format!("cannot be used: {error}"))?;
        let parsed =
            Document::parse(self.document.as_bytes()).map_err(|error| format!("cannot be used: {error}"))?;
        if parsed.document.ring != ring {
            return Err(format!("must be of ring {ring}, not of {}", parsed.document.ring));
        }
        match parsed.document.kind {
            Kind::Snapshot { after: None, through: None } => Ok(()),
            _ => Err("must be a snapshot of the whole ring in one page".into()),
        }
    }
}
