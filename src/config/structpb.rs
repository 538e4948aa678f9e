//! A configuration that Envoy read as a YAML struct reaches the module as the protobuf message
//! `google.protobuf.Struct`, not as JSON. This turns it into the same JSON value.

use serde_json::{Map, Number, Value};

/// Deeper nesting than any configuration has.
const MAX_DEPTH: u8 = 16;

/// Reads an encoded `google.protobuf.Struct`; `None` if the bytes are not one.
pub(super) fn read(bytes: &[u8]) -> Option<Value> {
    object(bytes, MAX_DEPTH)
}

/// `message Struct { map<string, Value> fields = 1; }`
fn object(mut bytes: &[u8], depth: u8) -> Option<Value> {
    let mut map = Map::new();
    while let Some((field, value)) = next(&mut bytes)? {
        let (1, Wire::Bytes(mut entry)) = (field, value) else { return None };
        let (mut name, mut of) = (String::new(), Value::Null);
        while let Some((field, part)) = next(&mut entry)? {
            match (field, part) {
                (1, Wire::Bytes(text)) => name = std::str::from_utf8(text).ok()?.to_owned(),
                (2, Wire::Bytes(bytes)) => of = value_of(bytes, depth.checked_sub(1)?)?,
                _ => return None,
            }
        }
        map.insert(name, of);
    }
    Some(Value::Object(map))
}

/// `message Value { oneof kind { null 1, number 2, string 3, bool 4, struct 5, list 6 } }`
fn value_of(mut bytes: &[u8], depth: u8) -> Option<Value> {
    let mut value = Value::Null;
    while let Some(part) = next(&mut bytes)? {
        value = match part {
            (1, Wire::Varint(_)) => Value::Null,
            (2, Wire::Fixed64(bits)) => Value::Number(Number::from_f64(f64::from_bits(bits))?),
            (3, Wire::Bytes(text)) => Value::String(std::str::from_utf8(text).ok()?.to_owned()),
            (4, Wire::Varint(flag)) => Value::Bool(flag != 0),
            (5, Wire::Bytes(fields)) => object(fields, depth.checked_sub(1)?)?,
            (6, Wire::Bytes(items)) => list(items, depth.checked_sub(1)?)?,
            _ => return None,
        };
    }
    Some(value)
}

/// `message ListValue { repeated Value values = 1; }`
fn list(mut bytes: &[u8], depth: u8) -> Option<Value> {
    let mut items = Vec::new();
    while let Some(part) = next(&mut bytes)? {
        let (1, Wire::Bytes(item)) = part else { return None };
        items.push(value_of(item, depth)?);
    }
    Some(Value::Array(items))
}

enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

/// The next field, `Some(None)` at the end, `None` if the bytes are not protobuf.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<Option<(u64, Wire<'a>)>> {
    if bytes.is_empty() {
        return Some(None);
    }
    let tag = varint(bytes)?;
    let value = match tag & 7 {
        0 => Wire::Varint(varint(bytes)?),
        1 => {
            let (head, tail) = bytes.split_first_chunk()?;
            *bytes = tail;
            Wire::Fixed64(u64::from_le_bytes(*head))
        }
        2 => {
            let len = usize::try_from(varint(bytes)?).ok()?;
            let (head, tail) = bytes.split_at_checked(len)?;
            *bytes = tail;
            Wire::Bytes(head)
        }
        _ => return None,
    };
    Some(Some((tag >> 3, value)))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
