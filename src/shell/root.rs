//! One plugin configuration within a VM: its ring, its ticks and its calls.

use std::cell::RefCell;
use std::collections::BTreeMap;

use keywheel_keyring::Millis;
use keywheel_keyring::document::AHEAD_HEADER;
use keywheel_keyring::document::MAX_BYTES;
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};

use super::hostcalls::{self, Buffer, Map, Shared};
use super::http::Push;
use super::metrics::Published;
use crate::Now;
use crate::config::Config;
use crate::receive;
use crate::refresh::{Answer, Call};
use crate::reply::Reply;
use crate::shared::{Conflict, SharedData};
use crate::vm::{Host, TICK, Vm};

/// The wall clock is read this often, in milliseconds.
const CLOCK: u64 = 250;

pub(super) struct Root {
    pub(super) config: Config,
    pub(super) vm: Vm,
    published: Published,
    /// Calls under way: Envoy's token, and the name that the core gave.
    calls: RefCell<BTreeMap<u32, u32>>,
    /// When the wall clock was last read. Between two readings it is reckoned from the other one.
    clock: Now,
}

/// Reads the configuration; `None` if it is refused, with the reasons in the log.
pub(super) fn configure(size: usize) -> Option<Root> {
    let bytes = if size == 0 { None } else { hostcalls::buffer(Buffer::PluginConfiguration, size) };
    let config = match Config::parse(&bytes.unwrap_or_default()) {
        Ok(config) => config,
        Err(errors) => {
            for error in errors {
                log::error!("keywheel: the configuration is refused: {error}");
            }
            return None;
        }
    };
    let mut id = [0; 8];
    if getrandom::fill(&mut id).is_err() {
        log::error!("keywheel: the configuration is refused: Envoy gives no random bytes");
        return None;
    }
    // Some versions of Envoy know it by the one name, some by the other.
    let named = |path| hostcalls::property(path).ok().flatten().filter(|node| !node.is_empty());
    let node = named(b"xds\0node\0id".as_slice())
        .or_else(|| named(b"node\0id".as_slice()))
        .map_or_else(|| "unnamed".to_owned(), |node| String::from_utf8_lossy(&node).into_owned());
    hostcalls::set_tick_period(TICK);
    Some(Root {
        vm: Vm::new(&config, &node, u64::from_le_bytes(id)),
        published: Published::new(&config.ring),
        calls: RefCell::default(),
        clock: Now { wall: hostcalls::wall(), mono: hostcalls::mono() },
        config,
    })
}

impl Root {
    /// The time now, for one hostcall. A wall clock that was set is seen within [`CLOCK`].
    pub(super) fn now(&mut self) -> Now {
        let mono = hostcalls::mono();
        let since = mono.saturating_sub(self.clock.mono);
        if since > CLOCK {
            self.clock = Now { wall: hostcalls::wall(), mono };
            return self.clock;
        }
        Now { wall: Millis(self.clock.wall.0.saturating_add(since)), mono }
    }

    pub(super) fn tick(&mut self) {
        let now = self.now();
        let host = Envoy { config: &self.config, calls: &self.calls };
        self.vm.tick(&host, now);
        self.publish(now);
    }

    pub(super) fn answer(&mut self, token: u32, body_size: usize) {
        let Some(id) = self.calls.borrow_mut().remove(&token) else {
            return;
        };
        let status = hostcalls::header(Map::CallResponse, ":status")
            .and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok())
            .unwrap_or(0);
        let signer = hostcalls::header(Map::CallResponse, SIGNER_HEADER).map(|signer| signer.to_vec());
        let signature =
            hostcalls::header(Map::CallResponse, SIGNATURE_HEADER).map(|signature| signature.to_vec());
        let ahead = hostcalls::header(Map::CallResponse, AHEAD_HEADER);
        let size = body_size.min(MAX_BYTES.saturating_add(1));
        let body = hostcalls::buffer(Buffer::CallResponseBody, size).unwrap_or_default();
        let answer = Answer {
            status,
            signer: signer.as_deref(),
            signature: signature.as_deref(),
            ahead: ahead.as_deref(),
            body: &body,
        };
        let now = self.now();
        let host = Envoy { config: &self.config, calls: &self.calls };
        self.vm.answer(&host, id, answer, now);
        self.publish(now);
    }

    /// Where the ring is, for who pushes.
    pub(super) fn position(&mut self) -> Reply {
        let now = self.now();
        let host = Envoy { config: &self.config, calls: &self.calls };
        receive::position(&mut self.vm, &host, now)
    }

    /// Takes the document that is the request's body.
    pub(super) fn receive(&mut self, push: &Push, size: usize) -> Reply {
        let body = if size == 0 { None } else { hostcalls::buffer(Buffer::RequestBody, size) };
        let body = body.unwrap_or_default();
        let (signer, signature) = (push.signer.as_deref(), push.signature.as_deref());
        let now = self.now();
        let host = Envoy { config: &self.config, calls: &self.calls };
        receive::document(
            &mut self.vm,
            &host,
            Answer { status: 200, signer, signature, ahead: None, body: &body },
            now,
        )
    }

    fn publish(&mut self, now: Now) {
        if let Some(metrics) = self.vm.take_metrics() {
            self.published.add(&metrics);
        }
        if let Some(gauges) = self.vm.gauges(now.wall) {
            self.published.set(gauges);
        }
    }
}

/// Shared data and calls, as the core wants them.
struct Envoy<'a> {
    config: &'a Config,
    calls: &'a RefCell<BTreeMap<u32, u32>>,
}

impl SharedData for Envoy<'_> {
    fn read<R>(&self, key: &str, read: impl FnOnce(Option<(&[u8], u32)>) -> R) -> R {
        Shared.read(key, read)
    }

    fn set(&self, key: &str, bytes: &[u8], cas: u32) -> Result<(), Conflict> {
        Shared.set(key, bytes, cas)
    }
}

impl Host for Envoy<'_> {
    fn call(&self, call: &Call) -> bool {
        let Some(cluster) = self.config.control.clusters.get(call.cluster) else {
            return false;
        };
        let mut headers = vec![
            (":method", if call.body.is_some() { "POST" } else { "GET" }),
            (":path", call.path.as_str()),
            (":authority", self.config.control.authority.as_str()),
            ("accept", "application/json"),
            ("keywheel-proxy", call.proxy.as_str()),
        ];
        if call.body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        let body = call.body.as_deref().unwrap_or_default();
        let Some(token) = hostcalls::http_call(cluster, &headers, body, call.timeout_ms) else {
            return false;
        };
        self.calls.borrow_mut().insert(token, call.id);
        true
    }
}
