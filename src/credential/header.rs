//! A header, with a scheme in front of the credential or without.

use super::{Credential, Found, Headers};

pub(super) fn read<H: Headers>(headers: &H, name: &str, scheme: Option<&str>) -> Found<H::Value> {
    let Some(value) = headers.joined(name) else {
        return Found::Absent;
    };
    // Several values arrive joined. A key may hold a comma itself, so only the second look, which
    // ordinary requests never need, tells the two apart.
    if value.contains(&b',') && headers.first(name).as_deref() != Some(&*value) {
        return Found::Ambiguous;
    }
    let start = match scheme {
        None => 0,
        Some(scheme) => {
            // Envoy itself joins several `authorization` headers into one.
            let mut more = value.split(|byte| *byte == b',').skip(1);
            if more.any(|part| after_scheme(part.trim_ascii_start(), scheme).is_some()) {
                return Found::Ambiguous;
            }
            match after_scheme(&value, scheme) {
                Some(start) => start,
                // Another scheme is another source's, or nobody's.
                None => return Found::Absent,
            }
        }
    };
    let end = value.len();
    Found::Credential(Credential::Part(value, start..end))
}

/// A header without a scheme is ours whatever it holds; another scheme's credential is not ours to hide.
pub(super) fn hide(headers: &impl Headers, name: &str, scheme: Option<&str>) -> bool {
    let ours = scheme.is_none_or(|scheme| {
        headers.joined(name).is_some_and(|value| {
            let mut parts = value.split(|byte| *byte == b',');
            parts.any(|part| after_scheme(part.trim_ascii_start(), scheme).is_some())
        })
    });
    !ours || headers.remove(name)
}

/// Where the credential starts behind `scheme`, which is compared without regard to case.
fn after_scheme(value: &[u8], scheme: &str) -> Option<usize> {
    let (found, rest) = value.split_at_checked(scheme.len())?;
    if !found.eq_ignore_ascii_case(scheme.as_bytes()) {
        return None;
    }
    // A tab is no space to RFC 9110, but is to many who read behind us.
    let spaces = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    (spaces > 0 || rest.is_empty()).then(|| scheme.len().saturating_add(spaces))
}
