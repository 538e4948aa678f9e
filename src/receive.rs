//! `receive` mode: an internal listener that takes what a control plane pushes.
//!
//! Nothing is trusted but the signature and the revision: what comes in is judged as if it had been
//! fetched. The protocol is in `docs/ring-protocol.md`.

use keywheel_keyring::document::MAX_BYTES;
use keywheel_keyring::generation::Position;
use serde_json::{Map, Value, json};

use crate::Now;
use crate::refresh::{Answer, Reaction};
use crate::reply::{DOCS, Reply};
use crate::vm::{Host, Vm};

/// What a request to the receiving listener wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// `GET …/position`
    Position,
    /// `POST …/documents`: its body is needed.
    Document,
    /// None of these.
    Wrong(Reply),
}

/// A longer body is refused before all of it is there.
#[must_use]
pub const fn is_too_long(bytes: usize) -> bool {
    bytes > MAX_BYTES
}

/// Reads the request line.
#[must_use]
pub fn ask(ring: &str, method: &[u8], path: &[u8]) -> Ask {
    let path = crate::path::split_query(path).0;
    let rest = path
        .strip_prefix(b"/v1/rings/")
        .and_then(|rest| rest.strip_prefix(ring.as_bytes()))
        .and_then(|rest| rest.strip_prefix(b"/"));
    match (rest, method) {
        (Some(b"position"), b"GET") => Ask::Position,
        (Some(b"documents"), b"POST") => Ask::Document,
        (Some(b"position"), _) => Ask::Wrong(wrong_method("GET")),
        (Some(b"documents"), _) => Ask::Wrong(wrong_method("POST")),
        _ => {
            let detail = format!("this listener takes documents of ring {ring}");
            Ask::Wrong(problem(404, "not_found", "Nothing is here", &detail, Map::new()))
        }
    }
}

/// Where the ring is.
pub fn position(vm: &mut Vm, host: &impl Host, now: Now) -> Reply {
    reply(200, "position", "application/json", Value::Object(standing(vm, host, now)).to_string())
}

/// Takes a document.
pub fn document(vm: &mut Vm, host: &impl Host, document: Answer<'_>, now: Now) -> Reply {
    match vm.receive(host, document, now) {
        Reaction::Apply { .. } | Reaction::Nothing => position(vm, host, now),
        Reaction::Rejected { reason, detail } => {
            let mut fields = standing(vm, host, now);
            fields.insert("reason".into(), reason.as_str().into());
            problem(409, "document_refused", "The document changes nothing", &detail, fields)
        }
        Reaction::Failed(why) => {
            let fields = standing(vm, host, now);
            let mut reply =
                problem(503, "ring_busy", "The document was not stored; send it again", &why, fields);
            reply.headers.push(("retry-after", "1".to_owned()));
            reply
        }
    }
}

/// The refusal of a body that is too long.
#[must_use]
pub fn too_long() -> Reply {
    let detail = format!("a document has at most {MAX_BYTES} bytes");
    problem(413, "document_too_long", "The document is too long", &detail, Map::new())
}

fn standing(vm: &mut Vm, host: &impl Host, now: Now) -> Map<String, Value> {
    let ring = vm.ring_name().to_owned();
    let (generation, enforced) = vm.standing(host, now);
    let revision = |position: Option<Position>| position.map_or(0, |position| position.revision);
    // Once all pages are in, a sender has nothing to add to them.
    let sync = generation.sync.as_ref().filter(|sync| !sync.is_paged()).map(|sync| {
        let cursor = sync.cursor.map(|cursor| cursor.to_string());
        json!({"epoch": sync.first.epoch.to_string(), "revision": sync.floor, "cursor": cursor})
    });
    let mut fields = Map::new();
    fields.insert("ring".into(), ring.into());
    fields.insert("epoch".into(), generation.complete.map(|complete| complete.epoch.to_string()).into());
    fields.insert("revision".into(), revision(generation.complete).into());
    fields.insert("sync".into(), sync.into());
    fields.insert("vms".into(), enforced.vms.into());
    fields.insert("enforced".into(), revision(enforced.least).into());
    fields
}

fn wrong_method(allowed: &'static str) -> Reply {
    let detail = format!("only {allowed} is answered here");
    let mut reply = problem(405, "method_not_allowed", "Wrong method", &detail, Map::new());
    reply.headers.push(("allow", allowed.to_owned()));
    reply
}

/// RFC 9457.
fn problem(status: u16, code: &str, title: &str, detail: &str, mut fields: Map<String, Value>) -> Reply {
    // The pages of errors that the control plane answers too have hyphens in their names.
    let page = if matches!(status, 404 | 405) { code.replace('_', "-") } else { code.to_owned() };
    let values: [(&str, Value); 5] = [
        ("type", format!("{DOCS}{page}.md").into()),
        ("title", title.into()),
        ("status", status.into()),
        ("code", code.into()),
        ("detail", detail.into()),
    ];
    for (name, value) in values {
        fields.insert(name.into(), value);
    }
    reply(status, code, "application/problem+json", Value::Object(fields).to_string())
}

fn reply(status: u16, code: &str, kind: &str, body: String) -> Reply {
    Reply {
        status,
        details: format!("keywheel{{{code}}}"),
        headers: vec![("cache-control", "no-store".to_owned()), ("content-type", kind.to_owned())],
        body,
        grpc_status: -1,
    }
}
