//! Real parts to test against, each in a directory of its own and on ports of its own, so that many
//! tests run at once: Envoy with the shipped configuration, the control plane, an upstream that tells
//! what it saw, and load. What only pretends to be a part is called fake.
//!
//! Every process ends when its handle is dropped. When a test panics, the last lines of the logs that
//! explain it are printed.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`paths`] | where the programs are, as `cargo xtask` says |
//! | [`process`] | a child process, its logs and its end |
//! | [`port`] | ports that nobody else uses |
//! | [`envoy_config`] | `envoy/envoy.yaml`, and changes to it |
//! | [`envoy`] | a running Envoy |
//! | [`envoy_admin`] | its metrics |
//! | [`control_plane`] | a running `keywheel serve` |
//! | [`relay`] | a running `keywheel relay` |
//! | [`admin`] | the control plane's admin API |
//! | [`postgres`] | a PostgreSQL server |
//! | [`fake_control`] | something that serves ring documents, good and bad |
//! | [`module_server`] | an HTTP server with one file |
//! | [`release`] | what a released control plane said, and a fake that says it again |
//! | [`record`] | recording that |
//! | [`upstream`] | an HTTP server that answers with what it was asked |
//! | [`http`] | one connection, one request |
//! | [`load`] | many connections, steadily |
//! | [`wait`] | waiting for something to become true |

pub mod admin;
pub mod control_plane;
pub mod envoy;
pub mod envoy_admin;
pub mod envoy_config;
pub mod fake_control;
pub mod http;
pub mod load;
pub mod module_server;
pub mod paths;
pub mod port;
pub mod postgres;
pub mod process;
pub mod record;
pub mod relay;
pub mod release;
pub mod upstream;
pub mod wait;

pub use admin::Admin;
pub use control_plane::ControlPlane;
pub use envoy::Envoy;
pub use envoy_admin::EnvoyAdmin;
pub use envoy_config::EnvoyConfig;
pub use fake_control::FakeControl;
pub use http::{Connection, Reply};
pub use load::{Load, Plan, Sample};
pub use paths::Paths;
pub use relay::Relay;
pub use release::{FakeRelease, Release};
pub use upstream::Upstream;
pub use wait::until;
