//! Finding the credential in a request.

use crate::config::Source;

/// What a source holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The source is not in the request: the next one is tried.
    Absent,
    /// It is there, without a credential.
    Empty,
    /// It is there more than once.
    Ambiguous,
    /// Too long, or with bytes that no key has.
    Malformed,
    Credential(Vec<u8>),
}

/// The headers of one request.
pub trait Headers {
    /// All values of a header, joined by `,`.
    fn joined(&self, name: &str) -> Option<Vec<u8>>;
    /// The first value of a header.
    fn first(&self, name: &str) -> Option<Vec<u8>>;
}

/// Reads the first source that is present. There is no fall-through: a wrong credential in the
/// first source is not saved by a right one in the second.
pub fn find<'s>(
    sources: &'s [Source],
    headers: &impl Headers,
    max_bytes: usize,
) -> Option<(&'s Source, Found)> {
    sources.iter().find_map(|source| match read(source, headers, max_bytes) {
        Found::Absent => None,
        found => Some((source, found)),
    })
}

/// Whether the source may hold a credential that must not reach the upstream. A header without a
/// scheme is ours whatever it holds.
pub fn holds(source: &Source, headers: &impl Headers) -> bool {
    match source {
        Source::Header { scheme: None, .. } => true,
        Source::Header { name, scheme: Some(scheme) } => headers.joined(name).is_some_and(|value| {
            value
                .split(|byte| *byte == b',')
                .any(|part| strip_scheme(part.trim_ascii_start(), scheme).is_some())
        }),
    }
}

fn read(source: &Source, headers: &impl Headers, max_bytes: usize) -> Found {
    let Source::Header { name, scheme } = source;
    let Some(mut value) = headers.joined(name) else {
        return Found::Absent;
    };
    // Several values arrive joined. A key may hold a comma itself, so only the second look, which
    // ordinary requests never need, tells the two apart.
    if value.contains(&b',') && headers.first(name).as_deref() != Some(&value) {
        return Found::Ambiguous;
    }
    if let Some(scheme) = scheme {
        match strip_scheme(&value, scheme) {
            // Another scheme is another source's, or nobody's.
            None => return Found::Absent,
            Some(start) => drop(value.drain(..start)),
        }
    }
    if value.is_empty() {
        Found::Empty
    } else if value.len() > max_bytes || !value.iter().all(u8::is_ascii_graphic) {
        Found::Malformed
    } else {
        Found::Credential(value)
    }
}

/// Where the credential starts behind `scheme`, which is compared without regard to case.
fn strip_scheme(value: &[u8], scheme: &str) -> Option<usize> {
    let (found, rest) = value.split_at_checked(scheme.len())?;
    if !found.eq_ignore_ascii_case(scheme.as_bytes()) {
        return None;
    }
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    (spaces > 0 || rest.is_empty()).then(|| value.len() - (rest.len() - spaces))
}
