use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::Server;

/// Asks for changes as proxy `instance` does that enforces the ring up to `revision`.
fn proxy_says(server: &Server, instance: &str, revision: u64) {
    let address = server.ready["ring_url"].as_str().unwrap().trim_start_matches("http://");
    let epoch = server.ready["epoch"].as_str().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /v1/rings/production/changes?epoch={epoch}&since=0 HTTP/1.1\r\nhost: ring\r\nconnection: close\r\n\
         keywheel-proxy: node=edge&instance={instance}&filter=0.1.0&vms=3&epoch={epoch}&stored={revision}\
         &enforced={revision}&age=0\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn wait_says_who_enforces_a_change_and_fails_while_somebody_does_not() {
    let server = Server::start();
    server.human(&["client", "create", "acme"]);
    let output = server.run(&["key", "create", "--client", "acme", "--wait", "--output", "json"]);
    assert!(output.status.success());
    let key: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(key["applied"].is_null(), "the key is as without --wait: {key}");
    let told: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&told["applied"]["complete"], &told["applied"]["rings"][0]["of"]), (&true.into(), &0.into()));

    proxy_says(&server, "a1", 1);
    proxy_says(&server, "b2", 0);
    let proxies = server.human(&["ring", "proxies"]);
    assert!(proxies.starts_with("1 of 2 proxies enforce revision 1 of ring production."), "{proxies}");
    assert!(proxies.contains("lagging") && proxies.contains("current"), "{proxies}");
    let output = server.run(&["key", "revoke", key["id"].as_str().unwrap(), "--wait=1s"]);
    assert_eq!(output.status.code(), Some(6));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("0 of 2 proxies enforce revision 2"), "{told}");
    assert!(told.contains("not yet:  edge (a1), edge (b2)"), "{told}");

    assert!(server.human(&["ring", "forget", "--instance", "b2"]).contains("edge (b2)"));
    proxy_says(&server, "a1", 2);
    let output = server.run(&["key", "revoke", key["id"].as_str().unwrap(), "--wait"]);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("1 of 1 proxies enforce revision 2"));
}
