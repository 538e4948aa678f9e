//! What a route's metadata asks for, in place of the rules.
//!
//! Envoy hands over `metadata.filter_metadata.keywheel.access` of the route: a word as its bytes, an
//! object or a list as pairs (a count, the lengths of each name and value, then the bytes of each with a
//! zero behind it; the items of a list are names without values). All numbers are 32 bits, little-endian.

use crate::config::{access_from, word_access};
use crate::policy::Access;

/// More than any sensible object or list holds.
const MAX_PAIRS: usize = 256;

/// Reads it; `None` if it asks for nothing that can be explained.
#[must_use]
pub fn access(bytes: &[u8]) -> Option<Access> {
    if let Some(word) = std::str::from_utf8(bytes).ok().and_then(word_access) {
        return Some(word);
    }
    let fields = pairs(bytes)?;
    let list = |wanted: &str| -> Option<Option<Vec<String>>> {
        let Some((_, value)) = fields.iter().find(|(name, _)| *name == wanted.as_bytes()) else {
            return Some(None);
        };
        let items = pairs(value)?;
        let text = |(item, rest): (&[u8], &[u8])| {
            rest.is_empty().then(|| std::str::from_utf8(item).ok().map(str::to_owned)).flatten()
        };
        items.into_iter().map(text).collect::<Option<_>>().map(Some)
    };
    // A name that is not text is none that is known.
    let names = fields.iter().map(|(name, _)| std::str::from_utf8(name).unwrap_or_default());
    access_from(names, list("scopes")?, list("any_scope")?, list("clients")?)
}

/// Reads pairs; `None` unless the bytes are exactly that.
fn pairs(bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let (count, mut rest) = bytes.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count) as usize;
    if count > MAX_PAIRS {
        return None;
    }
    let (lengths, mut texts) = rest.split_at_checked(count.checked_mul(8)?)?;
    rest = lengths;
    let mut pairs = Vec::with_capacity(count);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (other, after) = after.split_first_chunk::<4>()?;
        pairs.push((text(&mut texts, *length)?, text(&mut texts, *other)?));
        rest = after;
    }
    texts.is_empty().then_some(pairs)
}

fn text<'a>(texts: &mut &'a [u8], length: [u8; 4]) -> Option<&'a [u8]> {
    let (text, rest) = texts.split_at_checked(u32::from_le_bytes(length) as usize)?;
    let (zero, rest) = rest.split_first()?;
    *texts = rest;
    (*zero == 0).then_some(text)
}
