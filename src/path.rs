//! Paths as every later hop reads them.
//!
//! A rule that is tried on one reading of a path can be skipped by spelling it in another. So a path
//! that two servers could read differently is refused before any rule is tried, and what is left is
//! compared after its percent-encoding is undone.

use std::borrow::Cow;

/// The longest path that is looked at, in bytes, without its query.
const MAX: usize = 8192;

/// The path in front of a query, decoded; `None` if it has no single reading: dot segments, empty
/// segments, encoded or backward slashes, encoded `?` and `#`, path parameters (`;`), a fragment, an escape inside an
/// escape, a broken escape, control characters, bytes that are not UTF-8, or no `/` at the beginning.
#[must_use]
pub fn canonical(path_and_query: &[u8]) -> Option<Cow<'_, [u8]>> {
    let path = split_query(path_and_query).0;
    if path.first() != Some(&b'/') || path.len() > MAX {
        return None;
    }
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b';' | b'#');
    if !path.iter().all(plain) {
        return None;
    }
    let decoded = if path.contains(&b'%') { Cow::Owned(decode(path)?) } else { Cow::Borrowed(path) };
    let mut segments = decoded.get(1..)?.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let empty = segment.is_empty() && segments.peek().is_some();
        if empty || segment == b"." || segment == b".." {
            return None;
        }
    }
    Some(decoded)
}

/// Parts a `:path` at its first `?`.
#[must_use]
pub fn split_query(path_and_query: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut parts = path_and_query.splitn(2, |byte| *byte == b'?');
    (parts.next().unwrap_or_default(), parts.next())
}

/// A pattern that whole segments must fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Decoded; `None` is a placeholder such as `{id}`.
    segments: Vec<Option<Vec<u8>>>,
    /// Whether more segments may follow.
    open_ended: bool,
}

impl Pattern {
    /// A path and nothing else. `None` if it is not canonical; so with the next two.
    #[must_use]
    pub fn exact(path: &str) -> Option<Self> {
        Self::read(path, false, false)
    }

    /// A path and all below it. `/orders` covers `/orders/7` and not `/orders-old`.
    #[must_use]
    pub fn prefix(path: &str) -> Option<Self> {
        Self::read(path, true, false)
    }

    /// A path in which `{name}` stands for one segment.
    #[must_use]
    pub fn template(path: &str) -> Option<Self> {
        Self::read(path, false, true)
    }

    fn read(path: &str, open_ended: bool, placeholders: bool) -> Option<Self> {
        if path.contains('?') {
            return None;
        }
        let decoded = canonical(path.as_bytes())?;
        let mut segments = Vec::new();
        for segment in segments_of(&decoded) {
            let braces = segment.iter().any(|byte| matches!(byte, b'{' | b'}'));
            segments.push(match segment {
                [b'{', name @ .., b'}'] if placeholders && is_identifier(name) => None,
                // A brace that is no placeholder is a mistake, and would match nothing that is meant.
                _ if braces => return None,
                literal => Some(literal.to_vec()),
            });
        }
        Some(Self { segments, open_ended })
    }

    /// Whether a path fits that [`canonical`] returned. A `/` at its end makes no difference.
    #[must_use]
    pub fn matches(&self, canonical: &[u8]) -> bool {
        let mut segments = segments_of(canonical);
        for wanted in &self.segments {
            match (segments.next(), wanted) {
                (Some(segment), Some(literal)) if segment == literal.as_slice() => {}
                (Some(_), None) => {}
                _ => return false,
            }
        }
        self.open_ended || segments.next().is_none()
    }
}

/// The segments of a canonical path; an empty last one is not among them.
fn segments_of(canonical: &[u8]) -> impl Iterator<Item = &[u8]> {
    canonical.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty())
}

fn is_identifier(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// Undoes percent-encoding, where what comes out has one reading.
fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let decoded = hex_pair(*rest.next()?, *rest.next()?)?;
        if decoded.is_ascii_control() || matches!(decoded, b'/' | b'\\' | b';' | b'?' | b'#') {
            return None;
        }
        out.push(decoded);
    }
    // `%252f` is a slash to whoever decodes twice, and so is `%25%32%66`.
    if out.windows(3).any(|part| matches!(part, [b'%', high, low] if hex_pair(*high, *low).is_some())) {
        return None;
    }
    // Overlong forms of `/` and `.` are not UTF-8, but some decoders take them.
    std::str::from_utf8(&out).ok()?;
    Some(out)
}

/// The byte that two hexadecimal digits stand for.
pub(crate) fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)?.checked_mul(16)?.checked_add(digit(low)?)?).ok()
}
