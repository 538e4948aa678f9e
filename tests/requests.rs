//! What becomes of a request: rules, refusals word for word, identity, and the modes.

mod support;

use keywheel_filter::Now;
use keywheel_filter::config::Config;
use keywheel_filter::decide::Reason;
use keywheel_filter::reply::{Notice, Reply};
use keywheel_filter::request::{Verdict, handle};
use keywheel_filter::vm::Vm;
use keywheel_keyring::{Brownout, Entry, Millis, SigningKey, State};
use serde_json::Value;
use support::{FakeControl, FakeRequest, World, config_from, entry};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// An Envoy that holds a ring, and a VM with the configuration in question.
struct Proxy {
    world: World,
    config: Config,
    vm: Vm,
}

impl Proxy {
    /// With these fields in the configuration, besides `control` and a source `x-api-key`.
    fn with(fields: &str) -> Self {
        Self::of(ring(), fields)
    }

    fn of(control: FakeControl, fields: &str) -> Self {
        let mut world = World::new(1, control);
        world.run_until("convergence", World::converged);
        let trust = world.control.trust()[0].clone();
        let fields = if fields.is_empty() { String::new() } else { format!(",{fields}") };
        let config =
            config_from(&format!(r#""control":{{"clusters":["keywheel"],"trust":["{trust}"]}}{fields}"#));
        let vm = Vm::new(&config, "node", 99);
        Self { world, config, vm }
    }

    fn ask(&mut self, request: &FakeRequest) -> Verdict {
        let now = self.world.now();
        handle(&self.config, &mut self.vm, &self.world.shared, request, now)
    }

    /// The outcome that access logs are told.
    fn outcome(&mut self, request: &FakeRequest) -> String {
        let verdict = self.ask(request);
        let outcome = request.told.borrow().get("keywheel.outcome").cloned().expect("an outcome is told");
        let refused = Reason::ALL.iter().any(|reason| reason.code() == outcome);
        assert_eq!(matches!(verdict, Verdict::Answer(_)), refused, "{outcome}: {verdict:?}");
        outcome
    }

    fn refusal(&mut self, request: &FakeRequest) -> Reply {
        match self.ask(request) {
            Verdict::Answer(reply) => reply,
            passed @ Verdict::Pass(_) => panic!("{passed:?}"),
        }
    }

    fn notice(&mut self, request: &FakeRequest) -> Option<Notice> {
        match self.ask(request) {
            Verdict::Pass(notice) => notice,
            Verdict::Answer(reply) => panic!("{reply:?}"),
        }
    }
}

/// A key in every state that a request can meet.
fn ring() -> FakeControl {
    const START: u64 = 1_790_000_000_000;
    let mut control = FakeControl::new();
    let scoped = |secret: &str, scopes: &[&str], client: &str| Entry {
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        client: client.to_owned(),
        ..entry(secret, State::Active)
    };
    control.put(scoped("good", &[], "acme"));
    control.put(scoped("reader", &["market:read"], "acme"));
    control.put(scoped("trader", &["market:read", "trade"], "desk"));
    control.put(scoped("ops", &["trade"], "ops"));
    let ends = Some(Millis(START + 3_600_000));
    control.put(Entry { expires_at: ends, successor: true, ..entry("retiring", State::Retiring) });
    control.put(Entry { not_before: ends, ..entry("early", State::Pending) });
    control.put(Entry { expires_at: Some(Millis(START)), ..entry("late", State::Active) });
    control.put(entry("retired", State::Retired));
    control.put(entry("revoked", State::Revoked));
    control.put(entry("leaked", State::Compromised));
    let brownout = Some(Brownout { share: 1.0, until: Millis(u64::MAX) });
    control.put(Entry { expires_at: ends, brownout, ..entry("brown", State::Retiring) });
    control
}

fn get(path: &str, key: &str) -> FakeRequest {
    if key.is_empty() { FakeRequest::get(path, &[]) } else { FakeRequest::get(path, &[("x-api-key", key)]) }
}

const RULES: &str = r#""rules":[
    {"match":{"path_prefix":"/public"},"access":"open"},
    {"match":{"path_prefix":"/quotes"},"access":"optional"},
    {"match":{"path_prefix":"/orders","methods":["POST","DELETE"]},"access":{"scopes":["market:read","trade"]}},
    {"match":{"path_template":"/orders/{id}"},"access":{"any_scope":["trade","audit"]}},
    {"match":{"host":"ops.example.com"},"access":{"clients":["ops"]}},
    {"match":{"host":"*.internal"},"access":{"clients":[]}},
    {"match":{"path":"/both"},"access":{"scopes":["trade"],"clients":["desk"]}},
    {"match":{"path":"/closed"},"access":"deny"}
  ],"default":"any_key""#;

#[test]
fn the_first_rule_that_matches_decides() {
    let mut proxy = Proxy::with(RULES);
    let mut check = |request: FakeRequest, expected: &str| {
        let said = format!("{request:?}");
        assert_eq!(proxy.outcome(&request), expected, "{said}");
    };
    let post = |path: &str, key: &str| get(path, key).replace(":method", "POST");
    check(get("/public", ""), "open");
    check(get("/public/x", "nonsense"), "open");
    check(get("/publicity", ""), "missing_key");
    check(get("/quotes", ""), "anonymous");
    check(get("/quotes", "good"), "valid");
    check(get("/quotes", "nonsense"), "unknown_key");
    check(get("/quotes/x", "revoked"), "key_revoked");
    check(post("/orders", "trader"), "valid");
    check(post("/orders", "reader"), "insufficient_scope");
    check(post("/orders", "ops"), "insufficient_scope");
    check(post("/orders", ""), "missing_key");
    check(post("/orders", "leaked"), "key_revoked");
    check(get("/orders", "good"), "valid");
    check(get("/orders/7", "ops"), "valid");
    check(get("/orders/7", "reader"), "insufficient_scope");
    check(get("/orders/7/fills", "reader"), "valid");
    let at = |host: &str, key: &str| get("/", key).replace(":authority", host);
    for host in ["ops.example.com", "OPS.example.com:8080", "ops.example.com."] {
        check(at(host, "ops"), "valid");
        check(at(host, "good"), "client_not_allowed");
    }
    check(at("xops.example.com", "good"), "valid");
    for host in [
        "ops.example.com:80:80",
        "ops.example.com,b",
        "u@ops.example.com",
        "%6fps.example.com",
        "",
        "a:b",
        "[::1",
    ] {
        check(at(host, "good"), "path_not_canonical");
    }
    check(at("[::1]:80", "good"), "valid");
    check(post("/orders", "reader").replace(":method", "post"), "insufficient_scope");
    check(at("a.internal", "ops"), "client_not_allowed");
    check(at("internal", "ops"), "valid");
    check(get("/both", "trader"), "valid");
    check(get("/both", "ops"), "client_not_allowed");
    check(get("/closed", "trader"), "no_rule");
    check(get("/closed", ""), "missing_key");
    check(get("/elsewhere", "reader"), "valid");
    // Another spelling of a path skips no rule.
    check(post("/%6Frders", "reader"), "insufficient_scope");
    check(post("/orders/", "reader"), "insufficient_scope");
    for path in
        ["/public/../orders", "//orders", "/public/%2e%2e/orders", "/orders;x", "/a%2forders", "/orders#"]
    {
        check(post(path, "trader"), "path_not_canonical");
    }
}

#[test]
fn what_no_rule_matches_is_for_the_default_to_say() {
    let rules = RULES.replace(r#""default":"any_key""#, r#""default":"deny""#);
    let mut proxy = Proxy::with(&rules);
    assert_eq!(proxy.outcome(&get("/elsewhere", "trader")), "no_rule");
    assert_eq!(proxy.outcome(&get("/elsewhere", "")), "missing_key");
    assert_eq!(proxy.outcome(&get("/public", "")), "open");
}

#[test]
fn a_default_without_rules_counts_too() {
    for fields in [r#""default":"deny""#, r#""default":"deny","rules":[]"#] {
        let mut proxy = Proxy::with(fields);
        assert_eq!(proxy.outcome(&get("/", "good")), "no_rule", "{fields}");
        assert_eq!(proxy.outcome(&get("/", "")), "missing_key", "{fields}");
    }
}

#[test]
fn without_rules_any_valid_key_may_do_anything_and_paths_are_not_looked_at() {
    let mut proxy = Proxy::with("");
    assert_eq!(proxy.outcome(&get("/a/../b;c//d", "good")), "valid");
}

/// DESIGN §9, word for word.
#[test]
fn every_refusal_has_its_status_headers_and_body() {
    let mut proxy = Proxy::with(RULES);
    let mut check = |request: FakeRequest, status: u16, code: &str, grpc: i32, extra: &[(&str, &str)]| {
        let reply = proxy.refusal(&request);
        assert_eq!((reply.status, reply.details.as_str()), (status, format!("keywheel{{{code}}}").as_str()));
        assert_eq!(reply.grpc_status, grpc, "{code}");
        let mut headers: Vec<(&str, &str)> =
            reply.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.sort_unstable();
        let mut expected = vec![("cache-control", "no-store"), ("content-type", "application/problem+json")];
        expected.extend_from_slice(extra);
        expected.sort_unstable();
        assert_eq!(headers, expected, "{code}");
        let body: Value = serde_json::from_str(&reply.body).expect("JSON");
        assert_eq!((&body["code"], &body["status"]), (&Value::from(code), &Value::from(status)));
        assert!(body["type"].as_str().is_some_and(|kind| kind.ends_with(&format!("/docs/errors/{code}.md"))));
        assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()));
        // Nothing of the credential comes back.
        for secret in ["nonsense", "brown", "late"] {
            assert!(!reply.body.contains(&format!("\"{secret}")), "{}", reply.body);
        }
    };
    let challenge = ("www-authenticate", r#"ApiKey realm="production", header="x-api-key""#);
    let retry = ("retry-after", "1");
    check(get("/", ""), 401, "missing_key", 16, &[challenge]);
    check(get("/", "").replace("x-api-key", ""), 401, "missing_key", 16, &[challenge]);
    let twice = get("/", "good");
    twice.push("x-api-key", b"good");
    check(twice, 401, "ambiguous_key", 16, &[challenge]);
    check(get("/", "a b"), 401, "malformed_key", 16, &[challenge]);
    check(get("/", &"k".repeat(513)), 401, "malformed_key", 16, &[challenge]);
    check(get("/", "kw_live_0000000000000000_wrong"), 401, "malformed_key", 16, &[challenge]);
    check(get("/", "nonsense"), 401, "unknown_key", 16, &[challenge]);
    check(get("/", "early"), 401, "key_not_yet_valid", 16, &[challenge]);
    check(get("/", "late"), 401, "key_expired", 16, &[challenge]);
    check(get("/", "retired"), 401, "key_retired", 16, &[challenge]);
    check(get("/", "revoked"), 401, "key_revoked", 16, &[challenge]);
    check(get("/", "leaked"), 401, "key_revoked", 16, &[challenge]);
    check(get("/", "brown"), 401, "key_brownout", 16, &[challenge, retry]);
    check(get("/both", "good"), 403, "client_not_allowed", 7, &[]);
    check(get("/orders/7", "good"), 403, "insufficient_scope", 7, &[challenge]);
    check(get("/closed", "good"), 403, "no_rule", 7, &[]);
    check(get("/a//b", "good"), 400, "path_not_canonical", 3, &[]);

    let mut absent = Proxy::with("");
    absent.world = World::new(1, FakeControl::new());
    let reply = absent.refusal(&get("/", "good"));
    assert_eq!(
        (reply.status, reply.details.as_str(), reply.grpc_status),
        (503, "keywheel{ring_unavailable}", 14)
    );
    assert!(reply.headers.contains(&("retry-after", "1".into())));
    assert!(!reply.headers.iter().any(|(name, _)| *name == "www-authenticate"));
}

#[test]
fn a_bearer_source_is_challenged_as_rfc_6750_says() {
    let text = |fields: &str| {
        let trust = Proxy::with("").config.control.trust[0].to_string();
        format!(
            r#"{{"ring":"production","control":{{"clusters":["k"],"trust":["{trust}"]}},"sources":[{{"header":"authorization","scheme":"Bearer"}}]{fields}}}"#
        )
    };
    let rules = r#","rules":[{"match":{"path":"/t"},"access":{"scopes":["trade"],"any_scope":["a","b"]}}],"default":"any_key""#;
    let mut proxy = Proxy::with("");
    proxy.config = Config::parse(text(rules).as_bytes()).expect("a good configuration");
    let mut challenge = |request: FakeRequest| {
        let reply = proxy.refusal(&request);
        reply.headers.into_iter().find(|(name, _)| *name == "www-authenticate").map(|(_, value)| value)
    };
    let bearer =
        |path: &str, key: &str| FakeRequest::get(path, &[("authorization", &format!("Bearer {key}"))]);
    assert_eq!(challenge(get("/", "")).as_deref(), Some(r#"Bearer realm="production""#));
    assert_eq!(
        challenge(bearer("/", "nonsense")).as_deref(),
        Some(r#"Bearer realm="production", error="invalid_token""#)
    );
    let twice = bearer("/", "a");
    twice.push("authorization", b"Bearer b");
    assert_eq!(challenge(twice).as_deref(), Some(r#"Bearer realm="production", error="invalid_request""#));
    assert_eq!(
        challenge(bearer("/t", "good")).as_deref(),
        Some(r#"Bearer realm="production", error="insufficient_scope", scope="trade a b""#)
    );
}

#[test]
fn a_grpc_caller_gets_a_message_instead_of_a_document() {
    let mut proxy = Proxy::with("");
    let web = FakeRequest::get("/pkg.Service/Method", &[("content-type", "application/grpc-web")]);
    assert!(proxy.refusal(&web).body.starts_with('{'), "it reads a body");
    let request = FakeRequest::get("/pkg.Service/Method", &[("content-type", "application/grpc+proto")]);
    let reply = proxy.refusal(&request);
    assert_eq!((reply.body.as_str(), reply.grpc_status), ("An API key is required", 16));
    assert!(!reply.headers.iter().any(|(name, _)| *name == "content-type"));
}

/// DESIGN §3.9
#[test]
fn a_forged_identity_never_reaches_the_upstream() {
    let identity = r#""identity":{"client":"x-client-id","key":"x-key-id","scopes":"x-scopes"}"#;
    let forge = |path: &str, key: &str| {
        let request = get(path, key);
        for name in ["x-client-id", "x-key-id", "x-scopes"] {
            request.push(name, b"admin");
            request.push(name, b"root");
        }
        request
    };
    for mode in ["enforce", "observe"] {
        let mut proxy = Proxy::with(&format!(r#"{identity},{RULES},"mode":"{mode}","preflight":"allow""#));
        let mut check = |request: FakeRequest, outcome: &str, expected: [&str; 3]| {
            assert_eq!(proxy.outcome(&request), outcome);
            let seen = ["x-client-id", "x-key-id", "x-scopes"].map(|name| request.header(name));
            assert_eq!(seen, expected, "{mode}: {outcome}");
        };
        check(forge("/", "trader"), "valid", ["desk", "key_1", "market:read trade"]);
        check(forge("/", "good"), "valid", ["acme", "key_1", "-"]);
        check(forge("/public", ""), "open", ["-", "-", "-"]);
        check(forge("/public", "trader"), "open", ["-", "-", "-"]);
        check(forge("/quotes", ""), "anonymous", ["-", "-", "-"]);
        let preflight = forge("/", "").replace(":method", "OPTIONS");
        preflight.push("origin", b"https://example.com");
        preflight.push("access-control-request-method", b"POST");
        check(preflight, "preflight", ["-", "-", "-"]);
        if mode == "observe" {
            check(forge("/", "nonsense"), "observed_unknown_key", ["-", "-", "-"]);
            check(forge("/a//b", "good"), "observed_path_not_canonical", ["-", "-", "-"]);
        }
    }
}

#[test]
fn a_host_that_refuses_to_change_the_request_lets_nothing_pass() {
    for fields in
        [r#""identity":{"client":"x-client-id"}"#, r#""identity":{"client":"x-client-id"},"mode":"observe""#]
    {
        let mut proxy = Proxy::with(fields);
        for key in ["good", "nonsense"] {
            let request = get("/", key).stubborn();
            assert!(matches!(proxy.ask(&request), Verdict::Answer(_)), "{fields}");
        }
    }
}

#[test]
fn the_credential_is_taken_out_of_every_source() {
    let all = |fields: &str| {
        let mut proxy = Proxy::with(fields);
        let request =
            FakeRequest::get("/?api_key=good&a=1", &[("x-api-key", "good"), ("cookie", "api_key=x; b=2")]);
        let trust = proxy.config.control.trust[0].to_string();
        let text = format!(
            r#"{{"ring":"production","control":{{"clusters":["k"],"trust":["{trust}"]}},
                "sources":[{{"header":"x-api-key"}},{{"query":"api_key"}},{{"cookie":"api_key"}}]{fields}}}"#
        );
        proxy.config = Config::parse(text.as_bytes()).expect("a good configuration");
        assert_eq!(proxy.outcome(&request), "valid");
        [":path", "x-api-key", "cookie"].map(|name| request.header(name))
    };
    assert_eq!(all(""), ["/?a=1", "-", "b=2"]);
}

#[test]
fn in_observe_mode_everything_passes_and_the_credential_stays() {
    let mut proxy = Proxy::with(r#""mode":"observe""#);
    for (key, outcome) in [
        ("good", "valid"),
        ("", "observed_missing_key"),
        ("nonsense", "observed_unknown_key"),
        ("revoked", "observed_key_revoked"),
    ] {
        let request = get("/", key);
        assert_eq!(proxy.ask(&request), Verdict::Pass(None), "{key}");
        assert_eq!(request.told.borrow()["keywheel.outcome"], outcome);
        assert_eq!(request.header("x-api-key"), if key.is_empty() { "-" } else { key });
    }
    proxy.world = World::new(1, FakeControl::new());
    proxy.vm = Vm::new(&proxy.config, "node", 5);
    let request = get("/", "good");
    assert_eq!(proxy.ask(&request), Verdict::Pass(None), "even without a ring");
    assert_eq!(request.told.borrow()["keywheel.outcome"], "observed_ring_unavailable");
}

#[test]
fn only_a_real_preflight_needs_no_key() {
    let ask = |fields: &str, method: &str, headers: &[(&str, &str)]| {
        let request = FakeRequest::get("/", headers).replace(":method", method);
        Proxy::with(fields).outcome(&request)
    };
    let full = [("origin", "https://example.com"), ("access-control-request-method", "POST")];
    let allow = r#""preflight":"allow""#;
    assert_eq!(ask(allow, "OPTIONS", &full), "preflight");
    assert_eq!(ask(allow, "GET", &full), "missing_key");
    assert_eq!(ask(allow, "OPTIONS", &full[..1]), "missing_key");
    assert_eq!(ask(allow, "OPTIONS", &full[1..]), "missing_key");
    assert_eq!(ask("", "OPTIONS", &full), "missing_key");
    assert_eq!(ask(allow, "OPTIONS", &[("origin", ""), full[1]]), "missing_key");
    assert_eq!(
        ask(r#""preflight":"allow","default":"deny""#, "OPTIONS", &full),
        "missing_key",
        "deny is deny"
    );
}

/// DESIGN §3.4
#[test]
fn without_a_ring_only_what_needs_no_key_is_served() {
    let mut proxy = Proxy::with(RULES);
    proxy.world = World::new(1, FakeControl::new());
    assert_eq!(proxy.outcome(&get("/public", "")), "open");
    assert_eq!(proxy.outcome(&get("/quotes", "")), "anonymous");
    assert_eq!(proxy.outcome(&get("/quotes", "good")), "ring_unavailable");
    assert_eq!(proxy.outcome(&get("/", "good")), "ring_unavailable");
    assert_eq!(proxy.outcome(&get("/", "")), "ring_unavailable");
}

#[test]
fn a_stale_ring_serves_or_refuses_as_configured() {
    let ask = |fields: &str, hours: u64| {
        let mut proxy = Proxy::with(fields);
        // Of its last document, which came a moment after the clock stood still.
        proxy.world.wall += hours * 3_600_000 + 1_000;
        proxy.outcome(&get("/", "good"))
    };
    let refuse = r#""stale":{"after":"2h","then":"refuse"}"#;
    assert_eq!(ask(refuse, 1), "valid");
    assert_eq!(ask(refuse, 2), "ring_stale");
    assert_eq!(ask(r#""stale":{"after":"2h"}"#, 9_999), "valid");
    assert_eq!(ask("", 9_999), "valid");
    let mut proxy = Proxy::with(&format!("{refuse},{RULES}"));
    proxy.world.wall += 3 * 3_600_000;
    assert_eq!(proxy.outcome(&get("/public", "")), "open");
}

#[test]
fn a_caller_with_a_retiring_key_is_told() {
    let notice = |fields: &str, key: &str| Proxy::with(fields).notice(&get("/", key));
    let told = |notice: Option<Notice>| -> Vec<String> {
        notice.unwrap_or_default().into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
    };
    assert_eq!(
        told(notice("", "retiring")),
        ["api-key-status: retiring", "api-key-expires: Mon, 21 Sep 2026 15:13:20 GMT"]
    );
    assert_eq!(notice("", "good"), None);
    assert_eq!(notice(r#""notices":{"headers":false}"#, "retiring"), None);
    let link = r#""notices":{"link":"https://example.com/rotate","sunset":true}"#;
    let lines = told(notice(link, "retiring"));
    assert_eq!(lines[2], r#"link: <https://example.com/rotate>; rel="deprecation""#);
    assert!(lines[3].starts_with("deprecation: @17900000"), "{lines:?}");
    assert_eq!(lines[4], "sunset: Mon, 21 Sep 2026 15:13:20 GMT");
}

#[test]
fn readiness_is_a_path_of_its_own() {
    let mut proxy = Proxy::with(r#""readiness":{"path":"/keywheel/ready"}"#);
    let status = |proxy: &mut Proxy, path: &str| match proxy.ask(&get(path, "")) {
        Verdict::Answer(reply) => reply.status,
        Verdict::Pass(_) => 0,
    };
    assert_eq!(status(&mut proxy, "/keywheel/ready"), 200);
    assert_eq!(status(&mut proxy, "/keywheel/ready?x"), 200);
    assert_eq!(status(&mut proxy, "/keywheel/readyx"), 401);
    proxy.world = World::new(1, FakeControl::new());
    proxy.vm = Vm::new(&proxy.config, "node", 5);
    assert_eq!(status(&mut proxy, "/keywheel/ready"), 503);
}

#[test]
fn filter_state_tells_who_called_and_can_be_left_out() {
    let told = |fields: &str, key: &str| {
        let request = get("/", key);
        Proxy::with(fields).ask(&request);
        let told = request.told.borrow().clone();
        told.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    let who = "keywheel.client=desk keywheel.key=key_1 keywheel.outcome=valid keywheel.version=kv_trader";
    assert_eq!(told("", "trader"), who);
    assert_eq!(
        told("", "revoked"),
        "keywheel.client=acme keywheel.key=key_1 keywheel.outcome=key_revoked keywheel.version=kv_revoked"
    );
    assert_eq!(told("", "nonsense"), "keywheel.outcome=unknown_key");
    assert_eq!(told(r#""filter_state":false"#, "trader"), "");
}

/// Pairs as Envoy serialises a map, or a list whose values are empty.
fn pairs(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = (pairs.len() as u32).to_le_bytes().to_vec();
    for (name, value) in pairs {
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for (name, value) in pairs {
        out.extend_from_slice(&[*name, b"\0", *value, b"\0"].concat());
    }
    out
}

const METADATA: [&str; 4] = ["xds", "route_metadata", "filter_metadata", "keywheel"];

#[test]
fn a_route_may_say_what_it_needs_where_that_is_allowed() {
    let path = [&METADATA[..], &["access"]].concat();
    let scopes = pairs(&[(b"scopes", &pairs(&[(b"trade", b"")]))]);
    let clients = pairs(&[(b"clients", &pairs(&[]))]);
    let outcome = |fields: &str, metadata: &[u8], key: &str| {
        Proxy::with(fields).outcome(&get("/closed", key).with_property(&path, metadata))
    };
    let on = format!(r#""route_overrides":true,"stable_routes":true,{RULES}"#);
    assert_eq!(outcome(&on, b"open", ""), "open");
    assert_eq!(outcome(&on, b"any_key", "good"), "valid");
    assert_eq!(outcome(&on, b"deny", "good"), "no_rule");
    assert_eq!(outcome(&on, &scopes, "trader"), "valid");
    assert_eq!(outcome(&on, &scopes, "good"), "insufficient_scope");
    assert_eq!(outcome(&on, &clients, "trader"), "client_not_allowed");
    for bad in
        [&b""[..], b"opan", b"\xff", &scopes[..scopes.len() - 1], &pairs(&[(b"scope", b"x")]), &pairs(&[])]
    {
        assert_eq!(outcome(&on, bad, "trader"), "no_rule", "{bad:?}");
        assert_eq!(outcome(&on, bad, ""), "missing_key", "{bad:?}");
    }
    assert_eq!(outcome(&on, support::UNREADABLE, "trader"), "no_rule", "what Envoy cannot show");
    // Who writes routes may not open the gate unless the configuration says so.
    assert_eq!(outcome(RULES, b"open", "good"), "no_rule");
    // Without rules besides.
    let alone = r#""route_overrides":true,"hide_credential":false"#;
    assert_eq!(outcome(alone, b"open", ""), "open");
    assert_eq!(Proxy::with(alone).outcome(&get("/a//b", "good")), "valid");
}

#[test]
fn rules_may_look_at_the_route_and_its_metadata() {
    let rules = r#""rules":[{"match":{"route":"admin"},"access":{"clients":["ops"]}},
        {"match":{"route_metadata":{"team":"desk"}},"access":{"clients":["desk"]}}],"default":"any_key","stable_routes":true"#;
    let mut proxy = Proxy::with(rules);
    let admin = |key: &str| get("/", key).with_property(&["xds", "route_name"], b"admin");
    let desk = |key: &str| get("/", key).with_property(&[&METADATA[..], &["team"]].concat(), b"desk");
    assert_eq!(proxy.outcome(&admin("ops")), "valid");
    assert_eq!(proxy.outcome(&admin("good")), "client_not_allowed");
    assert_eq!(proxy.outcome(&desk("trader")), "valid");
    assert_eq!(proxy.outcome(&desk("good")), "client_not_allowed");
    assert_eq!(proxy.outcome(&get("/", "good")), "valid");
}

#[test]
fn a_seed_serves_until_there_is_another_ring() {
    let control = ring();
    let mut whole = FakeControl::new();
    whole.page_size = 100;
    for entry in control.entries.values() {
        whole.put(entry.clone());
    }
    let mut world = World::new(0, whole);
    world.reachable = false;
    let call = |path: &str| keywheel_filter::refresh::Call {
        id: 1,
        cluster: 0,
        path: path.into(),
        proxy: String::new(),
        body: None,
        timeout_ms: 0,
    };
    // Issued long ago: what an old seed is worth is `stale`'s to say.
    let page = world.control.answer(&call("/v1/rings/production/snapshot?"), 1_000, true).expect("a page");
    let seed = serde_json::json!({
        "signer": page.signer, "signature": page.signature,
        "document": String::from_utf8(page.body).expect("JSON"),
    });
    let trust = world.control.trust()[0].to_string();
    let control = format!(r#""control":{{"clusters":["k"],"trust":["{trust}"]}}"#);
    let config = config_from(&format!(r#"{control},"seed":{seed}"#));
    let at = world.add(Vm::new(&config, "node", 7));
    world.run(100);
    assert_eq!(world.request(at, "good"), Ok("acme".into()));
    assert_eq!(world.request(at, "revoked"), Err(Reason::KeyRevoked));
    // The control plane comes, and goes on from there.
    world.control.put(entry("new", State::Active));
    world.reachable = true;
    world.run_until("the change", |world| {
        world.vms[at].as_ref().is_some_and(|vm| vm.adopted().is_some_and(|p| p.revision == 12))
    });
    assert_eq!(world.request(at, "new"), Ok("acme".into()));

    let other = SigningKey::from_seed([9; 32]).public();
    for (fields, says) in [
        (format!(r#""control":{{"clusters":["k"],"trust":["{other}"]}},"seed":{seed}"#), "cannot be used"),
        (format!(r#"{control},"seed":{{"signer":"a"}}"#), "keywheel ring export --seed"),
    ] {
        let text = format!(r#"{{"ring":"production","sources":[{{"header":"x-api-key"}}],{fields}}}"#);
        let errors = Config::parse(text.as_bytes()).expect_err("a bad seed");
        assert!(
            errors.iter().any(|error| error.path == "seed" && error.problem.contains(says)),
            "{errors:?}"
        );
    }
}

/// DESIGN §3.4
#[test]
fn a_clock_that_was_set_back_revives_nothing() {
    let mut proxy = Proxy::with("");
    proxy.world.wall -= 10 * 3_600_000;
    assert_eq!(proxy.outcome(&get("/", "late")), "key_expired");
    let now = Now { wall: Millis(0), mono: proxy.world.mono };
    let verdict = handle(&proxy.config, &mut proxy.vm, &proxy.world.shared, &get("/", "late"), now);
    assert!(matches!(verdict, Verdict::Answer(_)));
}
