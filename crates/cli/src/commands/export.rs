use keywheel_api::Ring;
use keywheel_keyring::document::MAX_ENTRIES;
use keywheel_keyring::{Document, Kind, PublicKey, signature};
use serde::Serialize;

use super::key::segment;
use crate::failure::Failure;
use crate::http::Api;
use crate::output::print;
use crate::source::{Ask, Source, SourceError};

/// What the filter's configuration field `seed` takes.
#[derive(Debug, Serialize)]
struct Seed {
    signer: String,
    signature: String,
    /// The exact bytes that were signed.
    document: String,
}

/// Prints a whole ring as one signed page, in one line of JSON whatever the output is.
pub(crate) async fn seed(ring: &str, source: &Source, api: &Api<'_>) -> Result<(), Failure> {
    let page = source.take(&Ask::FirstPage).await.map_err(SourceError::into_failure)?;
    // From the admin listener, so that whoever answers at the ring's address cannot vouch for itself.
    let shown: Ring = api.get(&format!("/v1/rings/{}", segment(ring))).await?;
    let trust: Vec<PublicKey> = shown.trust.iter().filter_map(|key| key.parse().ok()).collect();
    let (signer, signed) = (page.signer.as_bytes(), page.signature.as_bytes());
    signature::verify(&trust, &page.body, Some(signer), Some(signed)).map_err(Failure::Signature)?;
    let document = Document::parse(&page.body).map_err(Failure::Document)?.document;
    match document.kind {
        Kind::Snapshot { after: None, through: None } if document.ring == ring => {}
        Kind::Snapshot { through: Some(_), .. } => {
            return Err(Failure::SeedTooLarge {
                ring: ring.to_owned(),
                entries: shown.entries,
                most: MAX_ENTRIES,
            });
        }
        _ => return Err(Failure::NotASeed { ring: ring.to_owned() }),
    }
    let seed = Seed {
        signer: page.signer,
        signature: page.signature,
        // It was read as JSON, so it is UTF-8.
        document: String::from_utf8_lossy(&page.body).into_owned(),
    };
    print(&serde_json::to_string(&seed).map_err(std::io::Error::from)?)
}
