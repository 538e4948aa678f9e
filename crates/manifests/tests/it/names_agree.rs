//! Names, ports and labels that stand in several files are the same in all of them.

use std::collections::BTreeSet;

use keywheel_manifests::{Object, all, directory, parse, read};
use serde_json::{Value, json};

use super::plugin_configuration::configurations;

/// The pod template of a workload, with where it is from.
struct Pods {
    object: Object,
}

impl Pods {
    fn labels(&self) -> &Value {
        self.object.at("/spec/template/metadata/labels")
    }

    fn container(&self) -> &Value {
        self.object.at("/spec/template/spec/containers/0")
    }

    fn port(&self, wanted: &Value) -> Option<u64> {
        let ports = self.container()["ports"].as_array().into_iter().flatten();
        let mut ports = ports.filter(|port| port["name"] == *wanted || port["containerPort"] == *wanted);
        ports.next()?["containerPort"].as_u64()
    }
}

fn pods() -> Vec<Pods> {
    let objects = all().unwrap().into_iter();
    objects.filter(|object| !object.at("/spec/template").is_null()).map(|object| Pods { object }).collect()
}

fn of_kind(kind: &str) -> Vec<Object> {
    let found: Vec<_> = all().unwrap().into_iter().filter(|object| object.kind() == kind).collect();
    assert!(!found.is_empty(), "there is no {kind}");
    found
}

/// Whether all of `wanted` is among `labels`.
fn selects(wanted: &Value, labels: &Value) -> bool {
    wanted.as_object().is_some_and(|wanted| wanted.iter().all(|(name, value)| labels[name] == *value))
}

/// A service of these manifests by its name in the cluster, as `name.namespace.svc.cluster.local`.
fn service(host: &str) -> Option<Object> {
    let named = |object: &Object| format!("{}.{}.svc.cluster.local", object.name(), object.namespace());
    of_kind("Service").into_iter().find(|object| named(object) == host)
}

/// Whether somebody listens on this port of a service or of a service entry.
fn serves(host: &str, port: u64) -> bool {
    let entries = of_kind("ServiceEntry").into_iter();
    let mut entries = entries.filter(|entry| entry.at("/spec/hosts") == &json!([host]));
    match (service(host), entries.next()) {
        (Some(service), _) => listed(service.at("/spec/ports"), "port", port),
        (None, Some(entry)) => listed(entry.at("/spec/ports"), "number", port),
        (None, None) => false,
    }
}

fn listed(ports: &Value, field: &str, port: u64) -> bool {
    ports.as_array().into_iter().flatten().any(|listed| listed[field].as_u64() == Some(port))
}

#[test]
fn each_filter_asks_a_cluster_that_is_there() {
    for (object, configuration) in configurations() {
        let clusters = configuration.pointer("/control/clusters").and_then(Value::as_array).unwrap().clone();
        assert!(!clusters.is_empty(), "{object}");
        for cluster in clusters {
            let cluster = cluster.as_str().unwrap();
            let (host, port) =
                if object.kind() == "WasmPlugin" { in_istio(cluster) } else { in_gateway(cluster, &object) };
            assert!(serves(&host, port), "{object}: nobody serves {host}:{port}");
            // The control plane's certificate, and Envoy's route to it, go by this name.
            assert_eq!(configuration.pointer("/control/authority"), Some(&json!(host)), "{object}");
        }
    }
}

/// Istio's name of a cluster, taken apart, with the rule that says how it is reached.
fn in_istio(cluster: &str) -> (String, u64) {
    let parts: Vec<_> = cluster.split('|').collect();
    let ["outbound", port, "", host] = parts[..] else {
        panic!("{cluster} is no name of a cluster in Istio")
    };
    let rules = of_kind("DestinationRule").into_iter();
    let rules: Vec<_> = rules.filter(|rule| rule.text("/spec/host") == host).collect();
    assert_eq!(rules.len(), 1, "one DestinationRule is for {host}");
    let mode = rules[0].text("/spec/trafficPolicy/tls/mode");
    assert!(["ISTIO_MUTUAL", "MUTUAL"].contains(&mode), "{host} is reached with {mode}");
    (host.to_owned(), port.parse().unwrap())
}

/// The cluster that the patch adds to the same gateway.
fn in_gateway(cluster: &str, policy: &Object) -> (String, u64) {
    let patches = of_kind("EnvoyPatchPolicy");
    let patch = &patches[0];
    assert_eq!(patch.namespace(), policy.namespace());
    assert_eq!(patch.at("/spec/targetRef"), policy.at("/spec/targetRefs/0"));
    let added = patch.at("/spec/jsonPatches/0");
    let names = ["/name", "/operation/value/name", "/operation/value/load_assignment/cluster_name"];
    for name in names {
        assert_eq!(added.pointer(name), Some(&json!(cluster)), "{patch}: {name}");
    }
    let address =
        "/operation/value/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
    let address = added.pointer(address).unwrap();
    let host = address["address"].as_str().unwrap().to_owned();
    let tls = added.pointer("/operation/value/transport_socket/typed_config").unwrap();
    assert_eq!(tls["sni"], json!(host));
    let exact = "/common_tls_context/combined_validation_context/default_validation_context/match_typed_subject_alt_names/0/matcher/exact";
    assert_eq!(tls.pointer(exact), Some(&json!(host)));
    (host, address["port_value"].as_u64().unwrap())
}

#[test]
fn services_budgets_and_policies_select_pods_that_are_there() {
    let mut selectors = Vec::new();
    for object in all().unwrap() {
        let pointers: &[&str] = match object.kind() {
            "Service" => &["/spec/selector"],
            "NetworkPolicy" => &["/spec/podSelector/matchLabels"],
            "PodDisruptionBudget" | "PeerAuthentication" | "AuthorizationPolicy" => {
                &["/spec/selector/matchLabels"]
            }
            "Deployment" | "StatefulSet" => &["/spec/selector/matchLabels"],
            _ => continue,
        };
        selectors.extend(pointers.iter().map(|pointer| (object.clone(), object.at(pointer).clone())));
    }
    for (object, selector) in selectors {
        assert!(selector.as_object().is_some_and(|labels| !labels.is_empty()), "{object} selects everything");
        let selected = pods()
            .into_iter()
            .any(|pods| pods.object.namespace() == object.namespace() && selects(&selector, pods.labels()));
        assert!(selected, "{object} selects no pod");
    }
    for pods in pods() {
        let spreads = pods.object.at("/spec/template/spec/topologySpreadConstraints").as_array().cloned();
        for spread in spreads.into_iter().flatten() {
            assert!(selects(&spread["labelSelector"]["matchLabels"], pods.labels()), "{}", pods.object);
        }
    }
}

#[test]
fn services_and_policies_lead_to_ports_that_listen() {
    for service in of_kind("Service") {
        for pods in pods().iter().filter(|pods| selects(service.at("/spec/selector"), pods.labels())) {
            for port in service.at("/spec/ports").as_array().unwrap() {
                // A service without a port of its own for it would need a second lookup in every file.
                assert_eq!(
                    pods.port(&port["targetPort"]),
                    port["port"].as_u64(),
                    "{service} and {}",
                    pods.object
                );
            }
        }
    }
    let known: BTreeSet<u64> = pods()
        .iter()
        .flat_map(|pods| pods.container()["ports"].as_array().cloned().unwrap_or_default())
        .filter_map(|port| port["containerPort"].as_u64())
        // Those of Istio's sidecar.
        .chain([15020, 15090])
        .collect();
    for policy in of_kind("NetworkPolicy") {
        for rule in policy.at("/spec/ingress").as_array().into_iter().flatten() {
            for port in rule["ports"].as_array().unwrap() {
                assert!(
                    known.contains(&port["port"].as_u64().unwrap()),
                    "{policy}: nobody listens on {port}"
                );
            }
        }
    }
    for policy in of_kind("AuthorizationPolicy") {
        for rule in policy.at("/spec/rules").as_array().unwrap() {
            for port in rule.pointer("/to/0/operation/ports").and_then(Value::as_array).unwrap() {
                let port = port.as_str().unwrap().parse().unwrap();
                assert!(known.contains(&port), "{policy}: nobody listens on {port}");
            }
        }
    }
    for pods in pods() {
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let port = &pods.container()[probe]["httpGet"]["port"];
            assert!(pods.port(port).is_some(), "{}: {probe} asks {port}", pods.object);
        }
    }
}

#[test]
fn what_pods_mount_and_read_is_there_or_the_readme_says_how_to_make_it() {
    let readme = std::fs::read_to_string(directory().join("kubernetes/README.md")).unwrap();
    let config_maps: BTreeSet<_> = of_kind("ConfigMap").iter().map(|map| map.name().to_owned()).collect();
    let claims: BTreeSet<_> =
        of_kind("PersistentVolumeClaim").iter().map(|claim| claim.name().to_owned()).collect();
    let makes = |object: &Object, secret: &str| {
        assert!(
            readme.contains(&format!("create secret generic {secret} ")),
            "{object}: README.md makes no {secret}"
        );
    };
    for pods in pods() {
        let object = &pods.object;
        let spec = object.at("/spec/template/spec");
        let mut volumes = BTreeSet::new();
        for volume in spec["volumes"].as_array().into_iter().flatten() {
            volumes.insert(volume["name"].clone().to_string());
            if let Some(secret) = volume.pointer("/secret/secretName").and_then(Value::as_str) {
                makes(object, secret);
            }
            if let Some(claim) = volume.pointer("/persistentVolumeClaim/claimName").and_then(Value::as_str) {
                assert!(claims.contains(claim), "{object}: there is no claim {claim}");
            }
        }
        let templates = object.at("/spec/volumeClaimTemplates").as_array().into_iter().flatten();
        volumes.extend(templates.map(|template| template["metadata"]["name"].clone().to_string()));
        let container = pods.container();
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mounted: BTreeSet<_> = mounts.iter().map(|mount| mount["name"].to_string()).collect();
        assert_eq!(mounted, volumes, "{object}");
        for variable in container["env"].as_array().into_iter().flatten() {
            if let Some(secret) = variable.pointer("/valueFrom/secretKeyRef/name").and_then(Value::as_str) {
                makes(object, secret);
            }
        }
        for source in container["envFrom"].as_array().into_iter().flatten() {
            let map = source["configMapRef"]["name"].as_str().unwrap();
            assert!(config_maps.contains(map), "{object}: there is no ConfigMap {map}");
        }
        // Every path in arguments and environment is one that is mounted.
        let paths =
            container["args"].as_array().unwrap().iter().filter_map(|arg| arg.as_str()?.split_once("=/"));
        let paths = paths.map(|(_, path)| format!("/{path}"));
        let variables = container["env"].as_array().into_iter().flatten();
        let values = variables.filter_map(|variable| variable["value"].as_str());
        for path in paths.chain(values.filter(|value| value.starts_with('/')).map(str::to_owned)) {
            let below = |mount: &Value| {
                let mount = mount["mountPath"].as_str().unwrap();
                path == mount || path.starts_with(&format!("{mount}/"))
            };
            assert!(mounts.iter().any(below), "{object}: {path} is not mounted");
        }
    }
}

#[test]
fn metrics_are_labelled_alike_everywhere() {
    let shipped = &read("envoy.yaml").unwrap()[0];
    let wanted = shipped.at("/stats_config/stats_tags");
    assert_eq!(wanted.as_array().map(Vec::len), Some(3));
    let filter = &of_kind("EnvoyFilter")[0];
    assert_eq!(filter.at("/spec/configPatches/0/patch/value/stats_config/stats_tags"), wanted);
    let proxy = &of_kind("EnvoyProxy")[0];
    let bootstrap = parse(&proxy.file, proxy.text("/spec/bootstrap/value")).unwrap().remove(0);
    assert_eq!(bootstrap.at("/stats_config/stats_tags"), wanted);
}

/// What the gateway's cluster reads is what its Envoys mount.
#[test]
fn the_gateways_certificate_is_where_its_cluster_looks() {
    let proxy = &of_kind("EnvoyProxy")[0];
    let deployment = proxy.at("/spec/provider/kubernetes/envoyDeployment");
    let secrets = of_kind("ConfigMap").into_iter().find(|map| map.name() == "keywheel-sds").unwrap();
    let mount = |volume: &str| {
        let mounts = deployment["container"]["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["name"] == volume).unwrap();
        mount["mountPath"].as_str().unwrap().to_owned()
    };
    let volumes = deployment.pointer("/pod/volumes").unwrap();
    assert_eq!(volumes[0]["configMap"]["name"], json!(secrets.name()));
    let patch = &of_kind("EnvoyPatchPolicy")[0];
    let tls =
        patch.at("/spec/jsonPatches/0/operation/value/transport_socket/typed_config/common_tls_context");
    for asked in [
        tls.pointer("/tls_certificate_sds_secret_configs/0").unwrap(),
        tls.pointer("/combined_validation_context/validation_context_sds_secret_config").unwrap(),
    ] {
        let path = asked.pointer("/sds_config/path_config_source/path").and_then(Value::as_str).unwrap();
        let file = path.strip_prefix(&format!("{}/", mount("keywheel-sds"))).unwrap();
        let text = secrets.at("/data")[file].as_str().unwrap();
        let secret = parse(&secrets.file, text).unwrap().remove(0);
        assert_eq!(secret.at("/resources/0/name"), &asked["name"]);
        let places = text.matches("/etc/").count();
        assert_eq!(text.matches(&mount("keywheel-proxy")).count(), places, "{file} names another directory");
    }
}
