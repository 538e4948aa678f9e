//! One request, as Envoy shows it.

use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};

use super::hostcalls::{self, Map};
use super::memory::Returned;
use super::root::Root;
use crate::credential::Headers;
use crate::receive::{self, Ask};
use crate::reply::{Notice, Reply};
use crate::request::{self, Request, Unreadable, Verdict};

/// The headers of a document that is pushed.
pub(super) struct Push {
    pub(super) signer: Option<Vec<u8>>,
    pub(super) signature: Option<Vec<u8>>,
}

/// Decides on the request of the callback that runs now.
pub(super) fn decide(root: &mut Root) -> Verdict {
    let now = root.now();
    request::handle(&root.config, &mut root.vm, &hostcalls::Shared, &Current, now)
}

/// Reads what a request to the receiving listener wants: a document, once its body is there, or else the
/// answer.
pub(super) fn receive(root: &mut Root, end: bool) -> Result<Push, Reply> {
    let text = |name| Current.first(name).map(|value| value.to_vec());
    let (method, path) = (text(":method").unwrap_or_default(), text(":path").unwrap_or_default());
    match receive::ask(&root.config.ring, &method, &path) {
        Ask::Wrong(reply) => Err(reply),
        Ask::Position => Err(root.position()),
        Ask::Document => {
            let push = Push { signer: text(SIGNER_HEADER), signature: text(SIGNATURE_HEADER) };
            if end { Err(root.receive(&push, 0)) } else { Ok(push) }
        }
    }
}

pub(super) fn send(reply: &Reply) {
    let headers: Vec<(&str, &str)> =
        reply.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    hostcalls::send_local_response(reply.status, &reply.details, &headers, &reply.body, reply.grpc_status);
}

pub(super) fn add_notice(notice: &Notice) {
    for (name, value) in notice {
        // Links and what is said of the resource may be the upstream's too, and stay. A header that the host
        // does not take is a courtesy that the caller misses.
        let _ = match *name {
            "link" => hostcalls::add_header(Map::Response, name, value.as_bytes()),
            "sunset" | "deprecation" if hostcalls::header(Map::Response, name).is_some() => true,
            _ => hostcalls::set_header(Map::Response, name, value.as_bytes()),
        };
    }
}

/// The request of the callback that runs now.
struct Current;

/// Longer than any path of a property that is asked for.
const MAX_PATH: usize = 512;
const SHORT_PATH: usize = 64;
/// The path of a header, but for its name.
const HEADERS: &[u8; 16] = b"request\0headers\0";

impl Headers for Current {
    type Value = Returned;

    fn joined(&self, name: &str) -> Option<Returned> {
        // What cannot be shown is no header. Most names are short: to clear and to fill the long path below
        // takes four calls out of the module, which find nothing of theirs in the caches.
        let mut path = [0; SHORT_PATH];
        let (beginning, rest) = path.split_at_mut(HEADERS.len());
        beginning.copy_from_slice(HEADERS);
        match rest.get_mut(..name.len()) {
            Some(place) => place.copy_from_slice(name.as_bytes()),
            None => return self.property(&["request", "headers", name]).ok().flatten(),
        }
        let len = HEADERS.len().saturating_add(name.len());
        hostcalls::property(path.get(..len)?).ok().flatten()
    }

    fn first(&self, name: &str) -> Option<Returned> {
        hostcalls::header(Map::Request, name)
    }

    fn set(&self, name: &str, value: &[u8]) -> bool {
        hostcalls::set_header(Map::Request, name, value)
    }

    fn remove(&self, name: &str) -> bool {
        hostcalls::remove_header(Map::Request, name)
    }
}

impl Request for Current {
    fn property(&self, path: &[&str]) -> Result<Option<Returned>, Unreadable> {
        let mut joined = [0; MAX_PATH];
        let mut len = 0_usize;
        for part in path {
            // A zero byte parts the names.
            let start = if len == 0 { 0 } else { len.saturating_add(1) };
            len = start.saturating_add(part.len());
            joined.get_mut(start..len).ok_or(Unreadable)?.copy_from_slice(part.as_bytes());
        }
        hostcalls::property(joined.get(..len).ok_or(Unreadable)?)
    }

    fn tell(&self, name: &str, value: &[u8]) {
        hostcalls::set_property(name, value);
    }
}
