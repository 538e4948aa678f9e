//! One request.

use std::rc::Rc;

use keywheel_keyring::Entry;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::hostcalls::{self, Shared};
use super::root::Plugin;
use crate::config::{Config, Source};
use crate::credential::{self, Found, Headers};
use crate::decide::Reason;
use crate::reply::refuse;
use crate::vm::{Refusal, Vm};

pub(super) struct Http {
    pub(super) plugin: Option<Rc<Plugin>>,
}

impl Context for Http {}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        // Without a configuration or with a VM that is busy with itself nothing can be explained,
        // and what cannot be explained denies.
        let Some(plugin) = &self.plugin else {
            return deny(Reason::RingUnavailable, None);
        };
        let outcome = match plugin.vm.try_borrow_mut() {
            Ok(mut vm) => {
                let outcome = judge(plugin, &mut vm);
                vm.count(outcome.err());
                outcome
            }
            Err(_) => Err(Reason::RingUnavailable),
        };
        // The VM is free again here: a local reply may come back into this module.
        match outcome {
            Ok(()) => Action::Continue,
            Err(reason) => deny(reason, Some(&plugin.config)),
        }
    }
}

/// Decides on the request, and makes it ready for the upstream where it passes.
fn judge(plugin: &Plugin, vm: &mut Vm) -> Result<(), Reason> {
    let now = plugin.now();
    let config = &plugin.config;
    if !vm.is_ready(&Shared, now) {
        return Err(Reason::RingUnavailable);
    }
    let headers = RequestHeaders { plugin };
    let found = credential::find(&config.sources, &headers, config.max_credential_bytes);
    let credential = match found {
        None | Some((_, Found::Empty | Found::Absent)) => return Err(Reason::MissingKey),
        Some((_, Found::Ambiguous)) => return Err(Reason::AmbiguousKey),
        Some((_, Found::Malformed)) => return Err(Reason::MalformedKey),
        Some((_, Found::Credential(credential))) => credential,
    };
    match vm.check(&Shared, &credential, now) {
        Ok(entry) => {
            tell_log(entry);
            hostcalls::set_property("keywheel.outcome", b"valid");
            if forward(config, entry, &headers) { Ok(()) } else { Err(Reason::RingUnavailable) }
        }
        Err(Refusal { reason, entry }) => {
            if let Some(entry) = entry {
                tell_log(entry);
            }
            Err(reason)
        }
    }
}

/// Sets the identity headers in place of whatever the client sent, and hides the credential. False
/// if the host refused any of it: the request then must not go on.
fn forward(config: &Config, entry: &Entry, headers: &RequestHeaders<'_>) -> bool {
    let set = |name: &Option<String>, value: &str| match name {
        None => true,
        Some(name) if value.is_empty() => hostcalls::remove_request_header(name),
        Some(name) => hostcalls::set_request_header(name, value.as_bytes()),
    };
    let scopes = || match config.identity.scopes {
        Some(_) => entry.scopes.join(" "),
        None => String::new(),
    };
    let identified = set(&config.identity.client, &entry.client)
        && set(&config.identity.key, &entry.key)
        && set(&config.identity.scopes, &scopes());
    identified
        && (!config.hide_credential
            || config.sources.iter().all(|source| {
                let Source::Header { name, .. } = source;
                // Another scheme's credential is not ours to hide.
                !credential::holds(source, headers) || hostcalls::remove_request_header(name)
            }))
}

/// Filter state for access logs: `wasm.keywheel.client` and so on.
fn tell_log(entry: &Entry) {
    hostcalls::set_property("keywheel.client", entry.client.as_bytes());
    hostcalls::set_property("keywheel.key", entry.key.as_bytes());
    hostcalls::set_property("keywheel.version", entry.version.as_bytes());
}

fn deny(reason: Reason, config: Option<&Config>) -> Action {
    hostcalls::set_property("keywheel.outcome", reason.code().as_bytes());
    let nowhere = Source::Header { name: String::new(), scheme: None };
    let source = config.and_then(|config| config.sources.first()).unwrap_or(&nowhere);
    let ring = config.map_or("", |config| config.ring.as_str());
    let reply = refuse(reason, ring, source);
    hostcalls::send_local_response(
        reply.status,
        &reply.details,
        &reply.headers,
        &reply.body,
        reply.grpc_status,
    );
    Action::Pause
}

/// The path of the property that holds all values of a source's header.
pub(super) fn property_of(source: &Source) -> Vec<u8> {
    let Source::Header { name, .. } = source;
    [b"request\0headers\0", name.as_bytes()].concat()
}

struct RequestHeaders<'a> {
    plugin: &'a Plugin,
}

impl Headers for RequestHeaders<'_> {
    fn joined(&self, name: &str) -> Option<Vec<u8>> {
        let sources = self.plugin.config.sources.iter();
        let at = sources.zip(&self.plugin.properties).find(|(source, _)| {
            let Source::Header { name: of, .. } = source;
            of == name
        });
        hostcalls::property(at?.1)
    }

    fn first(&self, name: &str) -> Option<Vec<u8>> {
        hostcalls::request_header(name)
    }
}
