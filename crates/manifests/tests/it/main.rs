//! What the manifests of `envoy/` say is what Kubernetes, Istio, Envoy Gateway and the filter take, and they agree with each
//! other. That Envoy does with it what it should is in `tests/e2e/istio.rs` and its neighbours.
//!
//! Not checked here: rules in CEL (`x-kubernetes-validations`), defaults, and what an admission controller adds. Only an
//! API server does that.

mod dashboards;
mod kinds_of_kubernetes;
mod kustomizations;
mod names_agree;
mod plugin_configuration;
mod pods_are_confined;
mod published_schemas;

/// The command line has a test of its own for what it is given: `tests/e2e/kubernetes.rs`.
const CONTROL_PLANE: [&str; 2] =
    ["kubernetes/base-postgres/deployment.yaml", "kubernetes/sqlite/deployment.yaml"];
