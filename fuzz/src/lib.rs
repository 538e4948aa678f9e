//! What must hold for any bytes. Each target is a plain function that panics where something does not.
//!
//! # Layout
//!
//! | target | its bytes are | what must hold |
//! |---|---|---|
//! | [`config`] | a plugin configuration | taken or refused by name, in JSON as in a YAML struct |
//! | [`credential`] | sources, and a request's headers | what is found is a key, and hiding hides it and nothing else |
//! | [`document`] | a ring document | nothing in it is left out, and nothing bad lets anyone in |
//! | [`bucket`] | stored bytes, or changes | a plain map agrees |
//! | [`rules`] | rules, and request lines | no spelling of a path changes the decision |
//! | [`refresh`] | a script of what happens to a process | every VM ends with the control plane's ring |
//!
//! `cargo xtask fuzz` lets libFuzzer make up the bytes; `tests/corpus.rs` includes this file and replays
//! `fuzz/corpus/` with the compiler that everything else uses.

pub mod bucket;
pub mod bytes;
pub mod config;
pub mod credential;
pub mod document;
pub mod refresh;
pub mod rules;

#[path = "../../tests/support/mod.rs"]
pub mod support;

/// Fails by a panic.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 6] = [
    ("config", config::config),
    ("credential", credential::credential),
    ("document", document::document),
    ("bucket", bucket::bucket),
    ("rules", rules::rules),
    ("refresh", refresh::refresh),
];
