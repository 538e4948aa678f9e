//! A cookie, RFC 6265 §4.2. Several `cookie` headers, which the RFC forbids, arrive joined by commas, which
//! no cookie may hold.

use std::ops::Range;

use super::{Credential, Found, Headers};

const COOKIE: &str = "cookie";

pub(super) fn read<H: Headers>(headers: &H, name: &str) -> Found<H::Value> {
    let Some(cookies) = headers.joined(COOKIE) else {
        return Found::Absent;
    };
    let mut ours = pairs(&cookies).filter_map(|pair| value_of(&cookies, pair, name));
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
    let is_ours = |pair: &Range<usize>| value_of(&cookies, pair.clone(), name).is_some();
    if !pairs(&cookies).any(|pair| is_ours(&pair)) {
        return true;
    }
    let mut kept = Vec::with_capacity(cookies.len());
    for (at, pair) in pairs(&cookies).filter(|pair| !is_ours(pair)).enumerate() {
        // Each is kept with the separator in front of it, but the first.
        let from = if at == 0 { pair.start } else { pair.start.saturating_sub(1) };
        kept.extend_from_slice(cookies.get(from..pair.end).unwrap_or_default());
    }
    let kept = kept.trim_ascii_start();
    if kept.is_empty() { headers.remove(COOKIE) } else { headers.set(COOKIE, kept) }
}

/// Where each `name=value` stands, with the spaces around it.
fn pairs(cookies: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0_usize;
    cookies.split(|byte| matches!(byte, b';' | b',')).map(move |pair| {
        let range = from..from.saturating_add(pair.len());
        from = range.end.saturating_add(1);
        range
    })
}

/// Where the value of a pair stands, without quotes around it, if the pair has this name.
fn value_of(cookies: &[u8], pair: Range<usize>, name: &str) -> Option<Range<usize>> {
    let text = cookies.get(pair.clone())?;
    let leading = text.len().checked_sub(text.trim_ascii_start().len())?;
    let text = text.trim_ascii();
    let value = match text.strip_prefix(name.as_bytes())? {
        [] => &[],
        [b'=', value @ ..] => value,
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
