//! Canonical bytes: each field behind its length, so that no two records have the same ones. The first
//! field says what follows, so that no record passes for a checkpoint and neither for a ring document,
//! which begins with `{`.

use jiff::Timestamp;
use keywheel_keyring::Digest;

use super::{AuditEvent, Head};

const RECORD: &[u8] = b"keywheel audit record 1";
const CHECKPOINT: &[u8] = b"keywheel audit checkpoint 1";

pub(super) fn record(seq: u64, event: &AuditEvent, previous: Digest) -> Vec<u8> {
    let AuditEvent { at, actor, action, resource, before, after, request_id, client_address } = event;
    let mut bytes = Vec::new();
    field(&mut bytes, RECORD);
    field(&mut bytes, &seq.to_be_bytes());
    field(&mut bytes, &at.as_millisecond().to_be_bytes());
    for text in [actor, action, resource] {
        field(&mut bytes, text.as_bytes());
    }
    for text in [before, after, request_id, client_address] {
        optional(&mut bytes, text.as_deref());
    }
    field(&mut bytes, previous.as_bytes());
    bytes
}

pub(super) fn checkpoint(head: Head, at: Timestamp) -> Vec<u8> {
    let mut bytes = Vec::new();
    field(&mut bytes, CHECKPOINT);
    field(&mut bytes, &head.seq.to_be_bytes());
    field(&mut bytes, head.hash.as_bytes());
    field(&mut bytes, &at.as_millisecond().to_be_bytes());
    bytes
}

fn field(bytes: &mut Vec<u8>, content: &[u8]) {
    bytes.extend_from_slice(&(content.len() as u64).to_be_bytes());
    bytes.extend_from_slice(content);
}

/// What is absent is an empty field; a text, even an empty one, follows a byte of 1.
fn optional(bytes: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => field(bytes, &[&[1], text.as_bytes()].concat()),
        None => field(bytes, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever writes a verifier of their own can check it against this.
    #[test]
    fn the_bytes_are_the_documented_ones() {
        let event = AuditEvent {
            at: Timestamp::from_millisecond(1_790_000_000_123).unwrap(),
            actor: "token_1".into(),
            action: "client.create".into(),
            resource: "acme".into(),
            before: None,
            after: Some("{}".into()),
            request_id: Some(String::new()),
            client_address: None,
        };
        let bytes = record(7, &event, Digest::from_bytes([0xaa; 32]));
        let length = |n: u8| [0, 0, 0, 0, 0, 0, 0, n];
        let expected = [
            &length(23)[..],
            b"keywheel audit record 1",
            &length(8),
            &length(7),
            &length(8),
            &1_790_000_000_123_u64.to_be_bytes(),
            &length(7),
            b"token_1",
            &length(13),
            b"client.create",
            &length(4),
            b"acme",
            &length(0),
            &length(3),
            b"\x01{}",
            &length(1),
            b"\x01",
            &length(0),
            &length(32),
            &[0xaa; 32],
        ];
        assert_eq!(bytes, expected.concat());
    }
}
