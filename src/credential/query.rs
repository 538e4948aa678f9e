//! A parameter of the query. Its name may be percent-encoded, and `;` may part it from others, as some
//! servers read it.

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::{Credential, Found, Headers, without};
use crate::path::{hex_pair, split_query};

const PATH: &str = ":path";

pub(super) fn read<H: Headers>(headers: &H, name: &str) -> Found<H::Value> {
    let Some(path) = headers.first(PATH) else {
        return Found::Absent;
    };
    let Some(query) = split_query(&path).1 else {
        return Found::Absent;
    };
    let mut ours = query.split(separates).filter(|pair| is_named(pair, name));
    match (ours.next(), ours.next()) {
        (None, _) => Found::Absent,
        (Some(_), Some(_)) => Found::Ambiguous,
        (Some(pair), None) => match decode(split_pair(pair).1) {
            Some(value) => Found::Credential(Credential::Decoded(Zeroizing::new(value.into_owned()))),
            None => Found::Malformed,
        },
    }
}

pub(super) fn hide(headers: &impl Headers, name: &str) -> bool {
    let Some(path) = headers.first(PATH) else {
        return true;
    };
    let (before, Some(query)) = split_query(&path) else {
        return true;
    };
    let is_ours = |pair| query.get(pair).is_some_and(|pair| is_named(pair, name));
    let Some(kept) = without(query, separates, is_ours) else {
        return true;
    };
    // Where every parameter was ours, the `?` goes with them.
    let all = query.split(separates).all(|pair| is_named(pair, name));
    let question: &[u8] = if all { b"" } else { b"?" };
    headers.set(PATH, &[before, question, kept.as_slice()].concat())
}

const fn separates(byte: &u8) -> bool {
    matches!(byte, b'&' | b';')
}

fn is_named(pair: &[u8], name: &str) -> bool {
    decode(split_pair(pair).0).is_some_and(|decoded| *decoded == *name.as_bytes())
}

/// A parameter without `=` has an empty value.
fn split_pair(pair: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = pair.splitn(2, |byte| *byte == b'=');
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// Undoes percent-encoding and `+`; `None` if an escape is broken.
fn decode(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'%' => hex_pair(*rest.next()?, *rest.next()?)?,
            b'+' => b' ',
            byte => *byte,
        });
    }
    Some(Cow::Owned(out))
}
