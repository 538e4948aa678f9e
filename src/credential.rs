//! Finding the credential in a request, and taking it out.

mod cookie;
mod header;
mod query;

use std::ops::{Deref, Range};

use zeroize::Zeroizing;

use crate::config::Source;

/// What a source holds.
#[derive(Debug)]
pub enum Found<V> {
    /// The source is not in the request: the next one is tried.
    Absent,
    /// It is there, without a credential.
    Empty,
    /// It is there more than once.
    Ambiguous,
    /// Too long, or with bytes that no key has.
    Malformed,
    Credential(Credential<V>),
}

/// The bytes of a credential: a part of a header's value, or what came out when its encoding was undone.
pub enum Credential<V> {
    Part(V, Range<usize>),
    Decoded(Zeroizing<Vec<u8>>),
}

/// The headers of one request.
pub trait Headers {
    /// A value, in memory that may be borrowed from the host.
    type Value: Deref<Target = [u8]>;
    /// All values of a header, joined by `,`.
    fn joined(&self, name: &str) -> Option<Self::Value>;
    /// The first value of a header.
    fn first(&self, name: &str) -> Option<Self::Value>;
    /// Sets a header to one value, whatever it held. False if the host refused.
    #[must_use]
    fn set(&self, name: &str, value: &[u8]) -> bool;
    /// Removes every value of a header. False if the host refused.
    #[must_use]
    fn remove(&self, name: &str) -> bool;
}

/// Reads the first source that is present. There is no fall-through: a wrong credential in the
/// first source is not saved by a right one in the second.
pub fn find<'s, H: Headers>(
    sources: &'s [Source],
    headers: &H,
    max_bytes: usize,
) -> Option<(&'s Source, Found<H::Value>)> {
    sources.iter().find_map(|source| {
        let found = match source {
            Source::Header { name, scheme } => header::read(headers, name, scheme.as_deref()),
            Source::Query { name } => query::read(headers, name),
            Source::Cookie { name } => cookie::read(headers, name),
        };
        match found {
            Found::Absent => None,
            Found::Credential(credential) => Some((source, credential.judge(max_bytes))),
            found => Some((source, found)),
        }
    })
}

/// Takes the credential out of every source, whether it was looked at or not, and leaves the rest as it
/// came, byte for byte. False if the host refused: the request must then not go on.
#[must_use]
pub fn hide(sources: &[Source], headers: &impl Headers) -> bool {
    sources.iter().all(|source| match source {
        Source::Header { name, scheme } => header::hide(headers, name, scheme.as_deref()),
        Source::Query { name } => query::hide(headers, name),
        Source::Cookie { name } => cookie::hide(headers, name),
    })
}

/// Where the parts of a text stand that `separates` divides.
fn parts(text: &[u8], separates: fn(&u8) -> bool) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0_usize;
    text.split(separates).map(move |part| {
        let range = from..from.saturating_add(part.len());
        from = range.end.saturating_add(1);
        range
    })
}

/// A text without some of its parts, or `None` if it has none of them. What stays keeps the separator in
/// front of it, but the first.
fn without(
    text: &[u8],
    separates: fn(&u8) -> bool,
    is_ours: impl Fn(Range<usize>) -> bool,
) -> Option<Vec<u8>> {
    if !parts(text, separates).any(&is_ours) {
        return None;
    }
    let mut kept = Vec::with_capacity(text.len());
    for (at, part) in parts(text, separates).filter(|part| !is_ours(part.clone())).enumerate() {
        let from = if at == 0 { part.start } else { part.start.saturating_sub(1) };
        kept.extend_from_slice(text.get(from..part.end).unwrap_or_default());
    }
    Some(kept)
}

/// Whether all bytes are such as a key may have. Looking at all of them, also behind the first that is not, is
/// what can be done for sixteen at a time.
fn is_graphic(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |graphic, byte| graphic & byte.is_ascii_graphic())
}

// === impl Credential ===

impl<V: Deref<Target = [u8]>> Credential<V> {
    fn judge(self, max_bytes: usize) -> Found<V> {
        if self.is_empty() {
            Found::Empty
        } else if self.len() > max_bytes || !is_graphic(&self) {
            Found::Malformed
        } else {
            Found::Credential(self)
        }
    }
}

impl<V: Deref<Target = [u8]>> Deref for Credential<V> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Part(value, range) => value.get(range.clone()).unwrap_or_default(),
            Self::Decoded(bytes) => bytes,
        }
    }
}

impl<V> std::fmt::Debug for Credential<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential([redacted])")
    }
}
