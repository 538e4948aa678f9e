//! What the filter's behaviour tests share: fakes of Envoy's shared data and of the control plane,
//! and a world that drives several VMs on virtual time.
#![allow(dead_code, unused_imports)] // Each test file uses its part.

mod control;
mod envoy;
mod protobuf;
mod request;
mod world;

use keywheel_filter::config::Config;
use keywheel_keyring::{Digest, Entry, PublicKey, State};

pub use control::{FakeControl, Fault, Signed};
pub use envoy::{FakeHost, FakeSharedData};
pub use protobuf::yaml_struct;
pub use request::{FakeRequest, UNREADABLE};
pub use world::World;

/// A small configuration of ring `production`, with one cluster to ask.
pub fn config(trust: Vec<PublicKey>) -> Config {
    let trust: Vec<String> = trust.iter().map(|key| format!("\"{key}\"")).collect();
    config_from(&format!(r#""control":{{"clusters":["keywheel"],"trust":[{}]}}"#, trust.join(",")))
}

/// A configuration of ring `production` with key in `x-api-key`, and these fields besides.
pub fn config_from(fields: &str) -> Config {
    let text = format!(r#"{{"ring":"production","sources":[{{"header":"x-api-key"}}],{fields}}}"#);
    Config::parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{text}: {errors:?}"))
}

/// xorshift64: the same sequence natively and in wasm.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    pub fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// The entry of the key whose text is `secret`.
pub fn entry(secret: &str, state: State) -> Entry {
    Entry::new(Digest::of(secret.as_bytes()), &format!("kv_{secret}"), "key_1", "acme", 0, state)
}
