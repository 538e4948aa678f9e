//! What is put before the same answer: an Envoy for each.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use keywheel_testkit::{Envoy, EnvoyConfig, Paths};
use serde_json::{Value, json};

use crate::report::count;
use crate::ring_server::RingServer;

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const FLOOR: &str = include_str!("../floor.wat");
const CALLS: &str = include_str!("../calls.wat");

/// The ring of all arms that are not about its size.
pub(crate) const USUAL: u32 = 1_000;
const FEW: u32 = 10;
const MANY: u32 = 100_000;

/// An arm, as it is called on the command line: what stands in the place of the shipped filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Name {
    /// Nothing
    Bare,
    /// Envoy's own, with the same keys
    ApiKeyAuth,
    /// A script that does the same with a table
    Lua,
    /// A gRPC call to a local server that always allows
    ExtAuthz,
    /// A hand-written wasm module that makes three header hostcalls and checks nothing
    Floor,
    /// The same with every callback and hostcall of keywheel, minimal
    Calls,
    /// keywheel with one source, one identity header, and nothing that can be left out
    Minimal,
    /// keywheel as envoy/envoy.yaml has it
    Shipped,
    /// keywheel with everything on
    Everything,
    /// The shipped configuration with 10 keys
    Few,
    /// With 100,000
    Many,
    /// With as many as --keys says
    Most,
    /// With 10 keys, of which few are asked for most of the time
    FewZipf,
    /// The same with 1,000
    UsualZipf,
    /// The same with 100,000
    ManyZipf,
    /// The same with as many as --keys says
    MostZipf,
}

/// What the arms need besides Envoy.
pub(crate) struct Parts<'a> {
    pub(crate) paths: &'a Paths,
    /// The hand-written modules, assembled.
    pub(crate) modules: &'a Modules,
    /// The server that always allows.
    pub(crate) authz: SocketAddr,
}

/// The hand-written modules, as files.
pub(crate) struct Modules {
    floor: PathBuf,
    calls: PathBuf,
}

impl Modules {
    /// Assembles them in `dir`.
    pub(crate) fn assemble(dir: &Path) -> anyhow::Result<Self> {
        let assembled = |name: &str, text| {
            let file = dir.join(name).with_extension("wasm");
            std::fs::write(&file, wat::parse_str(text).with_context(|| format!("{name}.wat"))?)?;
            anyhow::Ok(file)
        };
        Ok(Self { floor: assembled("floor", FLOOR)?, calls: assembled("calls", CALLS)? })
    }
}

impl Name {
    /// How many its ring has.
    pub(crate) const fn keys(self, most: u32) -> u32 {
        match self {
            Self::Few | Self::FewZipf => FEW,
            Self::Many | Self::ManyZipf => MANY,
            Self::Most | Self::MostZipf => most,
            _ => USUAL,
        }
    }

    pub(crate) fn title(self, keys: u32) -> String {
        let name = match self {
            Self::Bare => "no filter",
            Self::ApiKeyAuth => "`api_key_auth`",
            Self::Lua => "Lua",
            Self::ExtAuthz => "`ext_authz`",
            Self::Floor => "wasm floor",
            Self::Calls => "wasm floor, keywheel's calls",
            Self::Minimal => "keywheel, minimal",
            Self::Shipped => "keywheel, as shipped",
            Self::Everything => "keywheel, everything on",
            Self::Few | Self::Many | Self::Most => return format!("{} keys", count(self.keys(keys).into())),
            Self::FewZipf | Self::UsualZipf | Self::ManyZipf | Self::MostZipf => {
                return format!("{} keys by Zipf's law", count(self.keys(keys).into()));
            }
        };
        name.into()
    }

    /// Whether it is asked with the keys of few callers most of the time. That takes an Envoy of its own:
    /// other traffic would push those keys out of its caches.
    pub(crate) const fn is_zipf(self) -> bool {
        matches!(self, Self::FewZipf | Self::UsualZipf | Self::ManyZipf | Self::MostZipf)
    }

    /// Whether it takes its keys from a ring.
    pub(crate) const fn is_ours(self) -> bool {
        !matches!(
            self,
            Self::Bare | Self::ApiKeyAuth | Self::Lua | Self::ExtAuthz | Self::Floor | Self::Calls
        )
    }

    /// What it answers to a request without a valid key.
    pub(crate) const fn refusal(self) -> u16 {
        match self {
            Self::Bare | Self::ExtAuthz | Self::Floor | Self::Calls => 200,
            _ => 401,
        }
    }

    /// An Envoy with it, and with one worker. One that takes a ring holds all of it.
    pub(crate) async fn envoy(self, parts: &Parts<'_>, ring: &RingServer) -> anyhow::Result<Envoy> {
        let config = base(parts.paths, ring.address(), &ring.trust())?;
        let config = match self {
            Self::Bare => config.without_filter(),
            Self::ApiKeyAuth => replaced(config, api_key_auth(ring.keys())),
            Self::Lua => replaced(config, lua(ring.keys())),
            // Nothing is sent to the upstream, so its place is free.
            Self::ExtAuthz => {
                replaced(config, ext_authz()).with("/static_resources/clusters/1", authz_cluster(parts.authz))
            }
            Self::Floor => module(config, &parts.modules.floor),
            Self::Calls => module(config, &parts.modules.calls),
            Self::Minimal => config.with_plugin(minimal),
            Self::Everything => config.with_plugin(everything),
            // Only the keys differ.
            _ => config,
        };
        let envoy = Envoy::start(parts.paths, config, 1).await?;
        if self.is_ours() {
            synced(&envoy, ring.keys().len() as u64).await?;
        }
        Ok(envoy)
    }
}

/// An Envoy as it ships. It may not hold the ring yet.
pub(crate) async fn shipped(paths: &Paths, ring: &RingServer, workers: usize) -> anyhow::Result<Envoy> {
    Envoy::start(paths, base(paths, ring.address(), &ring.trust())?, workers).await
}

/// Waits until an Envoy holds so many entries.
pub(crate) async fn synced(envoy: &Envoy, keys: u64) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let entries = envoy.metric("keywheel_ring_entries").await?;
        if entries == keys {
            return Ok(());
        }
        anyhow::ensure!(start.elapsed() < Duration::from_secs(120), "only {entries} entries after 120 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The shipped configuration, without what costs the same whether there is a filter or not: it
/// answers by itself and writes no access log.
pub(crate) fn base(paths: &Paths, control: SocketAddr, trust: &[String]) -> anyhow::Result<EnvoyConfig> {
    let answer = json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}]);
    let config = EnvoyConfig::shipped()?.with_wasm(&paths.wasm).with_trust(trust);
    let config = config.with_cluster("keywheel", control);
    // Nothing reaches the upstream, but its cluster must have an address.
    let config = config.with_cluster("upstream", control);
    let config = config.with(&format!("{MANAGER}/route_config/virtual_hosts/0/routes"), answer);
    Ok(config.with(&format!("{MANAGER}/access_log"), json!([])))
}

fn replaced(config: EnvoyConfig, filter: Value) -> EnvoyConfig {
    config.with(&format!("{MANAGER}/http_filters/0"), filter)
}

fn api_key_auth(keys: &[String]) -> Value {
    let credentials: Vec<Value> = keys
        .iter()
        .zip(1..)
        .map(|(key, number)| json!({"key": key, "client": format!("client-{number}")}))
        .collect();
    json!({
        "name": "envoy.filters.http.api_key_auth",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
            "credentials": credentials,
            "key_sources": [{"header": "x-api-key"}],
            "forwarding": {"header": "x-client-id", "hide_credentials": true},
        },
    })
}

fn lua(keys: &[String]) -> Value {
    let clients: String =
        keys.iter().zip(1..).map(|(key, number)| format!("[\"{key}\"]=\"client-{number}\",\n")).collect();
    let script = format!(
        "local clients = {{\n{clients}}}\n\
         function envoy_on_request(handle)\n\
           local headers = handle:headers()\n\
           local client = clients[headers:get(\"x-api-key\")]\n\
           if client == nil then\n\
             handle:respond({{[\":status\"] = \"401\"}}, \"unknown key\")\n\
             return\n\
           end\n\
           headers:remove(\"x-api-key\")\n\
           headers:replace(\"x-client-id\", client)\n\
         end\n"
    );
    json!({
        "name": "envoy.filters.http.lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": script},
        },
    })
}

fn ext_authz() -> Value {
    json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "5s"},
        },
    })
}

fn authz_cluster(address: SocketAddr) -> Value {
    let endpoint = json!({"address": address.ip().to_string(), "port_value": address.port()});
    json!({
        "name": "authz",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
        "load_assignment": {"cluster_name": "authz", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": endpoint}}},
        ]}]},
    })
}

/// The shipped filter's place in Envoy, with a module that is there to be measured against.
fn module(config: EnvoyConfig, module: &Path) -> EnvoyConfig {
    config
        .with_wasm(module)
        .with(&format!("{MANAGER}/http_filters/0/typed_config/config/configuration"), json!(null))
}

fn minimal(plugin: &mut Value) {
    plugin["sources"] = json!([{"header": "x-api-key"}]);
    plugin["hide_credential"] = json!(true);
    plugin["identity"] = json!({"client": "x-client-id"});
    plugin["filter_state"] = json!(false);
}

/// All that a user can turn on at once. A request of the bench has its key in the last source, and only
/// the last rule is for it.
fn everything(plugin: &mut Value) {
    plugin["sources"] = json!([
        {"header": "authorization", "scheme": "Bearer"},
        {"query": "api_key"},
        {"cookie": "api_key"},
        {"header": "x-api-key"},
    ]);
    plugin["identity"] =
        json!({"client": "x-client-id", "key": "x-api-key-id", "scopes": "x-api-key-scopes"});
    plugin["rules"] = json!([
        {"match": {"path_prefix": "/public"}, "access": "open"},
        {"match": {"path_prefix": "/quotes"}, "access": "optional"},
        {"match": {"path_prefix": "/orders", "methods": ["POST"]}, "access": {"scopes": ["trade"]}},
        {"match": {"host": "*.internal.example.com"}, "access": {"clients": ["ops"]}},
        {"match": {"route": "admin"}, "access": {"clients": ["ops"]}},
        {"match": {"path_prefix": "/", "methods": ["GET"]}, "access": {"scopes": ["market:read"]}},
    ]);
    plugin["default"] = json!("any_key");
    plugin["route_overrides"] = json!(true);
    plugin["stable_routes"] = json!(true);
    plugin["preflight"] = json!("allow");
    plugin["stale"] = json!({"after": "24h", "then": "refuse"});
    plugin["readiness"] = json!({"path": "/keywheel/ready"});
    plugin["notices"] = json!({"headers": true, "sunset": true, "link": "https://example.com/rotate"});
}
