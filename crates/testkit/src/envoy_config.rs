//! `envoy/envoy.yaml`, and changes to it.
//!
//! What tests run is what ships, with the addresses of the test. A change to a place that the file no
//! longer has fails loudly.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

/// The shipped configuration.
pub const SHIPPED: &str = include_str!("../../../envoy/envoy.yaml");
/// The shipped listener that takes pushed documents.
const RECEIVER: &str = include_str!("../../../envoy/receiver.yaml");

const LISTENER: &str = "/static_resources/listeners/0";
const MANAGER: &str = "/filter_chains/0/filters/0/typed_config";

/// A configuration of Envoy, read. Envoy takes it as JSON.
#[derive(Debug, Clone)]
pub struct EnvoyConfig(Value);

impl EnvoyConfig {
    /// # Errors
    ///
    /// `envoy/envoy.yaml` is not YAML.
    pub fn shipped() -> anyhow::Result<Self> {
        serde_saphyr::from_str(SHIPPED).map(Self).context("envoy/envoy.yaml")
    }

    /// Where the filter is.
    #[must_use]
    pub fn with_wasm(self, file: &Path) -> Self {
        self.with_vm(|vm| vm["code"]["local"]["filename"] = json!(file.display().to_string()))
    }

    /// Changes the virtual machine that the filter runs in: its name, its code, its configuration.
    #[must_use]
    pub fn with_vm(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.filter()["vm_config"]);
        self
    }

    /// Takes the filter out, to see what Envoy does without it.
    #[must_use]
    pub fn without_filter(mut self) -> Self {
        self.filters().retain(|filter| filter["name"] != "keywheel");
        self
    }

    /// Puts another HTTP filter before all that are there.
    #[must_use]
    pub fn with_filter_before(mut self, filter: Value) -> Self {
        self.filters().insert(0, filter);
        self
    }

    /// Puts another HTTP filter where the filter is, such as one that says where it is to be had.
    ///
    /// # Panics
    ///
    /// `envoy/envoy.yaml` has no filter `keywheel`.
    #[must_use]
    pub fn with_filter_instead(mut self, filter: Value) -> Self {
        let place = self.filters().iter_mut().find(|filter| filter["name"] == "keywheel");
        *place.expect("envoy.yaml has a filter `keywheel`") = filter;
        self
    }

    /// Adds a second listener: the first as it is now, with changes, under another name and address.
    ///
    /// # Panics
    ///
    /// `envoy/envoy.yaml` has no listener.
    #[must_use]
    pub fn with_another_listener(
        mut self,
        name: &str,
        address: SocketAddr,
        change: impl FnOnce(Self) -> Self,
    ) -> Self {
        let mut other = change(self.clone()).with_listener(address);
        let mut listener = other.at(LISTENER).take();
        listener["name"] = json!(name);
        let listeners = self.at("/static_resources/listeners").as_array_mut();
        listeners.expect("listeners is a list").push(listener);
        self
    }

    /// Adds the shipped listener that takes pushed documents, with the first one's module and trust.
    ///
    /// # Panics
    ///
    /// `envoy/receiver.yaml` is not YAML, or not like that.
    #[must_use]
    pub fn with_receiver(mut self, address: SocketAddr) -> Self {
        // Behind the limit of connections.
        const MANAGER: &str = "/filter_chains/0/filters/1/typed_config";
        const PLUGIN: &str = "/http_filters/0/typed_config/config";
        let plugin = self.filter().clone();
        let mut listener: Value = serde_saphyr::from_str(RECEIVER).expect("envoy/receiver.yaml");
        for (place, value) in [
            ("/address/socket_address".into(), socket_address(address)),
            (format!("{MANAGER}{PLUGIN}/vm_config"), plugin["vm_config"].clone()),
            (
                format!("{MANAGER}{PLUGIN}/configuration/value/control/trust"),
                plugin["configuration"]["value"]["control"]["trust"].clone(),
            ),
        ] {
            let held = listener.pointer_mut(&place);
            *held.unwrap_or_else(|| panic!("receiver.yaml has nothing at {place}")) = value;
        }
        let listeners = self.at("/static_resources/listeners").as_array_mut();
        listeners.expect("listeners is a list").push(listener);
        self
    }

    /// Adds a cluster that is like another one, but elsewhere.
    ///
    /// # Panics
    ///
    /// There is no cluster `like`.
    #[must_use]
    pub fn with_another_cluster(mut self, name: &str, like: &str, address: SocketAddr) -> Self {
        let clusters = self.at("/static_resources/clusters").as_array_mut();
        let clusters = clusters.expect("clusters is a list");
        let cluster = clusters.iter().find(|cluster| cluster["name"] == like).cloned();
        let mut cluster = cluster.unwrap_or_else(|| panic!("envoy.yaml has no cluster `{like}`"));
        cluster["name"] = json!(name);
        cluster["load_assignment"]["cluster_name"] = json!(name);
        clusters.push(cluster);
        self.with_cluster(name, address)
    }

    #[must_use]
    pub fn with_listener(mut self, address: SocketAddr) -> Self {
        *self.at(&format!("{LISTENER}/address/socket_address")) = socket_address(address);
        self
    }

    #[must_use]
    pub fn with_admin(mut self, address: SocketAddr) -> Self {
        *self.at("/admin/address/socket_address") = socket_address(address);
        self
    }

    /// Where a cluster's one endpoint is.
    #[must_use]
    pub fn with_cluster(mut self, name: &str, address: SocketAddr) -> Self {
        let clusters = self.at("/static_resources/clusters").as_array_mut();
        let cluster = clusters.into_iter().flatten().find(|cluster| cluster["name"] == name);
        let endpoint = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
        let place = cluster.and_then(|cluster| cluster.pointer_mut(endpoint));
        *place.unwrap_or_else(|| panic!("envoy.yaml has no cluster `{name}` with an endpoint")) =
            socket_address(address);
        self
    }

    /// Whose documents the filter takes.
    #[must_use]
    pub fn with_trust(self, trust: &[String]) -> Self {
        self.with_plugin(|plugin| plugin["control"]["trust"] = json!(trust))
    }

    /// Changes the filter's own configuration.
    #[must_use]
    pub fn with_plugin(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.filter()["configuration"]["value"]);
        self
    }

    /// Hands the filter its configuration as JSON in a string, as Istio does, and not as a YAML struct.
    #[must_use]
    pub fn with_plugin_in_a_string(mut self) -> Self {
        let configuration = &mut self.filter()["configuration"];
        let text = configuration["value"].to_string();
        *configuration = json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text});
        self
    }

    /// Changes anything else, by JSON pointer.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        *self.at(pointer) = value;
        self
    }

    /// Adds a field to what is at a JSON pointer.
    #[must_use]
    pub fn with_field(mut self, pointer: &str, name: &str, value: Value) -> Self {
        self.at(pointer)[name] = value;
        self
    }

    /// Takes the listener out, to be read from a file that may be replaced while Envoy runs.
    ///
    /// # Panics
    ///
    /// The file has no listener.
    #[must_use]
    pub fn with_listener_in(mut self, file: &Path) -> (Self, ListenerFile) {
        let mut listener = self.at(LISTENER).take();
        listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        *self.at("/static_resources/listeners") = json!([]);
        self.0["dynamic_resources"] =
            json!({"lds_config": {"path_config_source": {"path": file.display().to_string()}}});
        (self, ListenerFile(json!({"resources": [listener]})))
    }

    /// As Envoy reads it.
    #[must_use]
    pub fn to_json(&self) -> String {
        self.0.to_string()
    }

    fn filters(&mut self) -> &mut Vec<Value> {
        let filters = self.at(&format!("{LISTENER}{MANAGER}/http_filters")).as_array_mut();
        filters.expect("http_filters is a list")
    }

    /// The wasm plugin.
    fn filter(&mut self) -> &mut Value {
        let filter = self.filters().iter_mut().find(|filter| filter["name"] == "keywheel");
        let plugin = filter.and_then(|filter| filter.pointer_mut("/typed_config/config"));
        plugin.expect("envoy.yaml has a filter `keywheel` with a configuration")
    }

    fn at(&mut self, pointer: &str) -> &mut Value {
        self.0.pointer_mut(pointer).unwrap_or_else(|| panic!("envoy.yaml has nothing at {pointer}"))
    }
}

/// A listener in a file of its own.
#[derive(Debug, Clone)]
pub struct ListenerFile(Value);

impl ListenerFile {
    /// Puts the file in its place.
    ///
    /// # Errors
    ///
    /// The directory cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        replace(file, &self.0)
    }
}

/// Has Envoy discover these resources in a file.
///
/// # Errors
///
/// The directory cannot be written.
pub fn publish(file: &Path, resources: &[Value]) -> anyhow::Result<()> {
    replace(file, &json!({"resources": resources}))
}

/// In one move, which is what Envoy watches for.
fn replace(file: &Path, response: &Value) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, response.to_string())?;
    std::fs::rename(&new, file)?;
    Ok(())
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"address": address.ip().to_string(), "port_value": address.port()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_that_tests_change_is_in_the_shipped_file() {
        let here = SocketAddr::from(([127, 0, 0, 1], 1234));
        let config = EnvoyConfig::shipped().unwrap();
        let config = config.with_wasm(Path::new("/filter.wasm")).with_listener(here).with_admin(here);
        let config = config.with_cluster("keywheel", here).with_cluster("upstream", here);
        let text = config.with_trust(&["key".into()]).to_json();
        assert!(!text.contains("REPLACE_WITH"), "{text}");
        assert_eq!(text.matches("1234").count(), 4);
    }

    #[test]
    #[should_panic(expected = "envoy.yaml has no cluster `nowhere`")]
    fn a_place_that_is_not_there_is_named() {
        let _ =
            EnvoyConfig::shipped().unwrap().with_cluster("nowhere", SocketAddr::from(([127, 0, 0, 1], 1)));
    }
}
