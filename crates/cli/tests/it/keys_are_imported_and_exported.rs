use std::fs;

use serde_json::Value;

use crate::support::Server;

#[test]
fn a_list_is_imported_told_of_and_taken_out_again() {
    let server = Server::start();
    let list = server.dir.path().join("keys.csv");
    fs::write(
        &list,
        "client,key,scopes,expires_at\nacme,hunter2,trade market:read,\nacme,,,\nother,swordfish,,soon\n",
    )
    .unwrap();
    let import = ["key", "import", "--create-clients", "--output", "json", "--from", list.to_str().unwrap()];
    let output = server.run(&import);
    assert_eq!(output.status.code(), Some(1), "some lines were refused");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["imported"], &report["present"]), (&1.into(), &0.into()));
    let lines: Vec<_> =
        report["refused"].as_array().unwrap().iter().map(|refused| &refused["line"]).collect();
    assert_eq!(lines, [3, 4]);
    let all = [output.stdout, output.stderr, fs::read(server.log()).unwrap()].concat();
    for secret in ["hunter2", "swordfish"] {
        assert!(!all.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} is told");
    }

    for format in ["csv", "jsonl"] {
        let out = server.dir.path().join(format!("out.{format}"));
        server.human(&["key", "export", "--format", format, "--to", out.to_str().unwrap()]);
        let again = server.json(&["key", "import", "--from", out.to_str().unwrap()]);
        assert_eq!((&again["imported"], &again["present"]), (&0.into(), &1.into()), "{format}");
    }
    let none = server.human(&["key", "export", "--client", "nobody"]);
    assert_eq!(none, "");
}
