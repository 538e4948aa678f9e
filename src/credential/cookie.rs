//! A cookie, RFC 6265 §4.2. Several `cookie` headers, which the RFC forbids, arrive joined by commas, which
//! no cookie may hold.

use std::ops::Range;

use super::{Credential, Found, Headers, parts, without};

const COOKIE: &str = "cookie";

pub(super) fn read<H: Headers>(headers: &H, name: &str) -> Found<H::Value> {
    let Some(cookies) = headers.joined(COOKIE) else {
        return Found::Absent;
    };
    let mut ours = parts(&cookies, separates).filter_map(|pair| value_of(&cookies, pair, name));
    let (first, second) = (ours.next(), ours.next());
    drop(ours);
    match (first, second) {
        (None, _) => Found::Absent,
        (Some(_), Some(_)) => Found::Ambiguous,
        (Some(range), None) => Found::Credential(Credential::Part(cookies, range)),
    }
}

pub(super) fn hide(headers: &impl Headers, name: &str) -> bool {
    let Some(cookies) = headers.joined(COOKIE) else {
        return true;
    };
    let is_ours = |pair| value_of(&cookies, pair, name).is_some();
    let Some(kept) = without(&cookies, separates, is_ours) else {
        return true;
    };
    let kept = kept.trim_ascii_start();
    if kept.is_empty() { headers.remove(COOKIE) } else { headers.set(COOKIE, kept) }
}

const fn separates(byte: &u8) -> bool {
    matches!(byte, b';' | b',')
}

/// Where the value of a pair stands, without quotes around it, if the pair has this name.
fn value_of(cookies: &[u8], pair: Range<usize>, name: &str) -> Option<Range<usize>> {
    let text = cookies.get(pair.clone())?;
    let leading = text.len().checked_sub(text.trim_ascii_start().len())?;
    let text = text.trim_ascii();
    // Some servers allow spaces around the `=`.
    let value = match text.strip_prefix(name.as_bytes())?.trim_ascii_start() {
        [] => &[],
        [b'=', value @ ..] => value.trim_ascii_start(),
        _ => return None,
    };
    let before = text.len().checked_sub(value.len())?;
    let start = pair.start.checked_add(leading)?.checked_add(before)?;
    Some(match value {
        [b'"', inner @ .., b'"'] => {
            let start = start.checked_add(1)?;
            start..start.checked_add(inner.len())?
        }
        value => start..start.checked_add(value.len())?,
    })
}
