//! Names of versions and keys, of which nearly all begin alike and go on as an id.

use crate::bytes::{Corrupt, NO_DIGIT, Reader, digit_values, put_text};
use crate::key_text::ALPHABET;

/// What nearly all versions and keys begin with.
pub(super) const VERSION: &str = "kv_";
pub(super) const KEY: &str = "key_";
/// Added to the length of a name whose beginning is left out.
const SHORTENED: u8 = 129;
/// In the place of a length: the beginning is left out, and an id follows.
const ID: u8 = u8::MAX;

pub(super) fn put_name(out: &mut Vec<u8>, beginning: &str, name: &str) {
    let rest = name.strip_prefix(beginning).filter(|rest| rest.len() < usize::from(ID - SHORTENED));
    match rest.map(|rest| (rest, packed(rest))) {
        Some((_, Some(id))) => {
            out.push(ID);
            out.extend_from_slice(id.as_flattened());
        }
        Some((rest, None)) => {
            out.push(SHORTENED.saturating_add(rest.len() as u8));
            out.extend_from_slice(rest.as_bytes());
        }
        None => put_text(out, name),
    }
}

/// An id of 16 base62 digits, in 12 bytes: 62⁸ is less than 2⁴⁸.
fn packed(id: &str) -> Option<[[u8; 6]; 2]> {
    let (halves, []) = id.as_bytes().as_chunks::<8>() else { return None };
    let &[high, low] = halves else { return None };
    const VALUES: [u8; 256] = digit_values(ALPHABET, b"");
    let half = |digits: [u8; 8]| {
        let mut seen = 0;
        let number = digits.iter().fold(0_u64, |number, digit| {
            let value = VALUES.get(usize::from(*digit)).copied().unwrap_or(NO_DIGIT);
            seen |= value;
            number.wrapping_mul(62).wrapping_add(value.into())
        });
        // Only what is no digit has one of the upper bits.
        if seen >= 64 { None } else { number.to_le_bytes().first_chunk::<6>().copied() }
    };
    Some([half(high)?, half(low)?])
}

/// Each half is less than 62⁸, or nobody wrote it.
fn check_id(halves: [[u8; 6]; 2]) -> Result<(), Corrupt> {
    let number = |[a, b, c, d, e, f]: [u8; 6]| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    if halves.into_iter().all(|half| number(half) < 62_u64.pow(8)) { Ok(()) } else { Err(Corrupt) }
}

fn unpacked(halves: [[u8; 6]; 2], out: &mut String) -> Result<(), Corrupt> {
    check_id(halves)?;
    for [a, b, c, d, e, f] in halves {
        let mut number = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        let mut digits = [0; 8];
        for digit in digits.iter_mut().rev() {
            *digit = *ALPHABET.get((number % 62) as usize).ok_or(Corrupt)?;
            number /= 62;
        }
        out.extend(digits.map(char::from));
    }
    Ok(())
}

/// Reads over a name.
pub(super) fn check_name(reader: &mut Reader<'_>) -> Result<(), Corrupt> {
    let len = match reader.u8()? {
        ID => return check_id([reader.array()?, reader.array()?]),
        len => len.checked_sub(SHORTENED).unwrap_or(len),
    };
    std::str::from_utf8(reader.take(len.into())?).map(drop).map_err(|_| Corrupt)
}

pub(super) fn name(reader: &mut Reader<'_>, beginning: &str) -> Result<String, Corrupt> {
    let len = reader.u8()?;
    if len == ID {
        let mut name = String::with_capacity(beginning.len().saturating_add(16));
        name.push_str(beginning);
        unpacked([reader.array()?, reader.array()?], &mut name)?;
        return Ok(name);
    }
    let (beginning, len) = match len.checked_sub(SHORTENED) {
        Some(len) => (beginning, len),
        None => ("", len),
    };
    let rest = std::str::from_utf8(reader.take(len.into())?).map_err(|_| Corrupt)?;
    Ok([beginning, rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_packed_id_is_corrupt() {
        let packed = packed("zzzzzzzzzzzzzzzz").unwrap();
        assert_eq!(unpacked(packed, &mut String::new()), Ok(()));
        assert_eq!(unpacked([[0xff; 6], packed[1]], &mut String::new()), Err(Corrupt));
    }
}
