use serde_json::Value;

use crate::support::{Server, keywheel};

#[test]
fn exit_codes_and_json_errors_tell_scripts_what_happened() {
    let server = Server::start();
    let check = |args: &[&str], code: i32, says: &str| {
        let output = server.run(&[args, &["--output", "json"]].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(output.stdout.is_empty(), "errors are not on stdout");
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["error"]["exit_code"], code);
        let detail = error["error"]["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{detail}");
    };
    check(&["key", "show", "key_none"], 1, "there is no key `key_none`");
    server.human(&["client", "create", "idle"]);
    assert_eq!(server.json(&["key", "list", "--client", "idle"]), Value::Array(Vec::new()));
    check(&["key", "list", "--client", "nope"], 1, "there is no client `nope`");
    check(&["rotation", "list", "--client", "nope"], 1, "there is no client `nope`");
    check(&["rotation", "list", "--key", "key_none"], 1, "there is no key `key_none`");
    check(
        &["client", "update", "idle", "--owner", "me", "--if-match", "zz"],
        1,
        "if-match: `*`, or entity tags",
    );
    check(&["client", "create", "a b"], 1, "name: 1 to 128 visible ASCII characters");
    check(&["key", "list", "--url", "http://127.0.0.1:1"], 3, "Is `keywheel serve` running there?");
    check(&["key", "list", "--token", "kwt_wrong"], 4, "not one of this control plane's");

    let no_token = keywheel().args(["key", "list"]).output().unwrap();
    assert_eq!(no_token.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&no_token.stderr).contains("KEYWHEEL_TOKEN"));
    let hasty = server.run(&["ring", "forget", "--silent-for", "1s"]);
    let said = String::from_utf8(hasty.stderr).unwrap();
    assert!(
        hasty.status.code() == Some(2) && said.contains("a proxy that runs may be silent for 60s"),
        "{said}"
    );
    let nobody = server.human(&["ring", "forget", "--silent-for", "24h"]);
    assert_eq!(nobody, "No proxy of ring production was silent for so long: none is forgotten.\n");
    for wrong in [&["key", "rotate"][..], &["key", "rotate", "key_1", "--overlap", "1y"], &["nonsense"]] {
        assert_eq!(server.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    let help = String::from_utf8(keywheel().arg("--help").output().unwrap().stdout).unwrap();
    assert!(help.contains("Exit codes:"), "{help}");
}
