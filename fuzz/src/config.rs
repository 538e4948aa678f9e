//! `config`: any bytes as the plugin configuration.

use keywheel_filter::Now;
use keywheel_filter::config::{Config, Mode};
use keywheel_filter::request::handle;
use keywheel_filter::vm::{TICK, Vm};
use keywheel_keyring::Millis;
use keywheel_keyring::entry::is_ring_name;
use serde_json::Value;

use super::support::{FakeHost, FakeRequest, FakeSharedData, yaml_struct};

/// Deeper nesting than this need not survive the way through a YAML struct.
const DEPTH: usize = 7;

pub fn config(data: &[u8]) {
    let parsed = Config::parse(data);
    match &parsed {
        Ok(config) => {
            is_sound(config);
            starts(config);
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert!(!error.path.is_empty() && !error.problem.is_empty(), "{error:?}");
            }
        }
    }
    let Ok(mut value @ Value::Object(_)) = serde_json::from_slice(data) else { return };
    let respelt = serde_json::to_vec(&value).expect("it was JSON");
    assert_eq!(Config::parse(&respelt), parsed, "spaces and the order of fields mean nothing");
    if depth(&value) <= DEPTH {
        assert_eq!(Config::parse(&yaml_struct(&value)), parsed, "a YAML struct means the same");
    }
    if parsed.is_ok() {
        value["no_such_field"] = Value::Null;
        let more = serde_json::to_vec(&value).expect("it was JSON");
        let errors = Config::parse(&more).expect_err("a field that is not known is refused");
        assert_eq!(errors.first().map(|error| error.path.as_str()), Some("no_such_field"));
    }
}

fn is_sound(config: &Config) {
    assert!(is_ring_name(&config.ring));
    assert!(!config.control.trust.is_empty());
    assert!(!config.sources.is_empty() || config.mode == Mode::Receive);
    assert!((16..=4096).contains(&config.max_credential_bytes));
    assert!(config.policy.rules.len() <= 1000);
    let mut names: Vec<&str> = config.identity.names().collect();
    assert!(names.iter().all(|name| *name == name.to_ascii_lowercase()));
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
}

/// A VM with it ticks and answers.
fn starts(config: &Config) {
    let shared = FakeSharedData::default();
    let host = FakeHost { shared: &shared, calls: Default::default() };
    let mut vm = Vm::new(config, "node/1", 1);
    for step in 0..3 {
        let now = Now { wall: Millis(1_790_000_000_000 + step * TICK), mono: step * TICK };
        vm.tick(&host, now);
        let request = FakeRequest::get("/orders/7?api_key=k", &[("cookie", "api_key=k"), ("x-api-key", "k")]);
        let _ = handle(config, &mut vm, &host, &request, now);
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
