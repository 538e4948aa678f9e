use serde_json::Value;

/// A fake of Envoy's encoding of a YAML struct: `google.protobuf.Struct` for an object, `ListValue` for a
/// list.
pub fn yaml_struct(value: &Value) -> Vec<u8> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, value)| {
                field(1, &[field(1, name.as_bytes()), field(2, &message(value))].concat())
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(|item| field(1, &message(item))).collect(),
        scalar => message(scalar),
    }
}

fn message(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => vec![1 << 3, 0],
        Value::Number(number) => {
            [&[2 << 3 | 1][..], &number.as_f64().expect("a number").to_le_bytes()].concat()
        }
        Value::String(text) => field(3, text.as_bytes()),
        Value::Bool(flag) => vec![4 << 3, u8::from(*flag)],
        Value::Object(_) => field(5, &yaml_struct(value)),
        Value::Array(_) => field(6, &yaml_struct(value)),
    }
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(bytes);
    out
}
