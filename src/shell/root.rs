//! The root context: configuration, ticks and calls. One per VM and plugin configuration.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use super::hostcalls::{self, Shared};
use super::http::Http;
use super::metrics::Published;
use crate::config::Config;
use crate::refresh::{Answer, Call};
use crate::shared::{Conflict, SharedData};
use crate::vm::{Host, TICK, Vm};
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};

/// No document is longer; Envoy itself stops at 32 MiB.
const MAX_BODY: usize = keywheel_keyring::document::MAX_BYTES;

#[derive(Default)]
pub(super) struct Root {
    plugin: Option<Rc<Plugin>>,
    published: Option<Published>,
    /// Calls under way: Envoy's token, and the name that the core gave.
    calls: Rc<RefCell<BTreeMap<u32, u32>>>,
}

/// What the root context shares with the contexts of its requests.
pub(super) struct Plugin {
    pub(super) config: Config,
    pub(super) vm: RefCell<Vm>,
    started: Instant,
    /// For each source, the property that holds all values of its header.
    pub(super) properties: Vec<Vec<u8>>,
}

impl Plugin {
    pub(super) fn now(&self) -> crate::Now {
        hostcalls::now(self.started)
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, _headers: usize, body_size: usize, _trailers: usize) {
        let Some(id) = self.calls.borrow_mut().remove(&token) else {
            return;
        };
        let Some(plugin) = self.plugin.clone() else {
            return;
        };
        let status = hostcalls::call_response_header(":status")
            .and_then(|status| String::from_utf8(status).ok()?.parse().ok())
            .unwrap_or(0);
        let signer = hostcalls::call_response_header(SIGNER_HEADER);
        let signature = hostcalls::call_response_header(SIGNATURE_HEADER);
        let body = hostcalls::call_response_body(body_size.min(MAX_BODY + 1)).unwrap_or_default();
        let answer =
            Answer { status, signer: signer.as_deref(), signature: signature.as_deref(), body: &body };
        let now = plugin.now();
        let Ok(mut vm) = plugin.vm.try_borrow_mut() else {
            return;
        };
        vm.answer(&self.host(&plugin), id, answer, now);
        drop(vm);
        self.publish(&plugin);
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let bytes = if size == 0 { None } else { hostcalls::plugin_configuration(size) };
        let config = match Config::parse(&bytes.unwrap_or_default()) {
            Ok(config) => config,
            Err(errors) => {
                for error in errors {
                    log::error!("keywheel: the configuration is refused: {error}");
                }
                return false;
            }
        };
        let mut id = [0; 8];
        if getrandom::fill(&mut id).is_err() {
            log::error!("keywheel: the configuration is refused: Envoy gives no random bytes");
            return false;
        }
        // Some versions of Envoy know it by the one name, some by the other.
        let node = hostcalls::property(b"xds\0node\0id")
            .or_else(|| hostcalls::property(b"node\0id"))
            .filter(|node| !node.is_empty())
            .unwrap_or_else(|| b"unnamed".to_vec());
        let vm = Vm::new(
            &config.ring,
            config.control.trust.clone(),
            config.control.clusters.len(),
            &String::from_utf8_lossy(&node),
            u64::from_le_bytes(id),
        );
        let properties = config.sources.iter().map(super::http::property_of).collect();
        self.published = Some(Published::new(&config.ring));
        self.plugin =
            Some(Rc::new(Plugin { config, vm: RefCell::new(vm), started: Instant::now(), properties }));
        self.set_tick_period(Duration::from_millis(TICK));
        true
    }

    fn on_tick(&mut self) {
        let Some(plugin) = self.plugin.clone() else {
            return;
        };
        let now = plugin.now();
        if let Ok(mut vm) = plugin.vm.try_borrow_mut() {
            vm.tick(&self.host(&plugin), now);
        }
        self.publish(&plugin);
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Http { plugin: self.plugin.clone() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Root {
    fn host<'a>(&'a self, plugin: &'a Plugin) -> Envoy<'a> {
        Envoy { config: &plugin.config, calls: &self.calls, context: self }
    }

    fn publish(&mut self, plugin: &Plugin) {
        let (Some(published), Ok(mut vm)) = (&mut self.published, plugin.vm.try_borrow_mut()) else {
            return;
        };
        published.add(vm.take_metrics());
        if let Some(gauges) = vm.gauges(plugin.now().wall) {
            published.set(gauges);
        }
    }
}

/// Shared data and calls, as the core wants them.
struct Envoy<'a> {
    config: &'a Config,
    calls: &'a RefCell<BTreeMap<u32, u32>>,
    context: &'a Root,
}

impl SharedData for Envoy<'_> {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        Shared.get(key)
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
        let headers = vec![
            (":method", "GET"),
            (":path", call.path.as_str()),
            (":authority", self.config.control.authority.as_str()),
            ("accept", "application/json"),
            ("keywheel-proxy", call.proxy.as_str()),
        ];
        let timeout = Duration::from_millis(call.timeout_ms);
        let Ok(token) = self.context.dispatch_http_call(cluster, headers, None, vec![], timeout) else {
            return false;
        };
        self.calls.borrow_mut().insert(token, call.id);
        true
    }
}
