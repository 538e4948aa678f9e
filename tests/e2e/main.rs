//! The whole of it against a real Envoy: one behaviour to a file, real keys, real HTTP.
//!
//! `cargo xtask test` builds what is started here and says where it is. Each test has an Envoy, a
//! control plane and an upstream of its own, so they run side by side. None asserts how long something
//! takes: they wait until it is so, with a generous deadline.
#![cfg(not(target_arch = "wasm32"))]

mod access_log;
mod ambiguous_key;
mod bad_documents;
mod canary;
mod command_line;
mod compat;
mod concurrency;
mod control_plane_restart;
mod deployed;
mod differing_trust;
mod doctor;
mod envoy_restart;
mod expiry;
mod failover;
mod fragile;
mod gateway;
mod istio;
mod kubernetes;
mod late_proxy;
mod leader_contested;
mod leader_replaced;
mod leader_silent;
mod leader_trapped;
mod listener_update;
mod listeners_alike;
mod listeners_that_differ;
mod malformed_key;
mod malformed_neighbour;
mod metrics;
mod missing_key;
mod modes;
mod neighbour;
mod overlap;
#[path = "../../crates/control/tests/it/pki.rs"]
mod pki;
mod plugin_configuration;
mod proof;
mod proxy_first;
mod pushed_ring;
mod refusal;
mod refusals;
mod relay;
mod replaceable;
mod restore;
mod revoke;
mod ring_credentials;
mod route_rules;
mod rules;
mod scene;
mod secrets;
mod seed;
mod serve_bad_input;
mod shipped_configuration;
mod sources;
mod stage;
mod traffic;
mod trailers;
mod two_rings;
mod unknown_key;
mod usage;
mod valid_key;
