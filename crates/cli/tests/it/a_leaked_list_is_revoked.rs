use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use keywheel_keyring::Digest;

use crate::support::Server;

#[test]
fn leaked_keys_are_revoked_for_ever_and_neither_sent_nor_printed() {
    let mut server = Server::start();
    server.human(&["client", "create", "acme"]);
    let made = server.json(&["key", "create", "--client", "acme"]);
    let (key, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    let list = server.dir.path().join("leaked");
    fs::write(&list, format!("{secret}\n\nsomebody-elses-key\n")).unwrap();
    let list = list.to_str().unwrap();
    let said = server.human(&["revoke", "--compromised", "--from", list]);
    assert!(said.contains(key) && said.contains(&Digest::of(b"somebody-elses-key").to_string()), "{said}");
    assert!(!said.contains(secret) && !said.contains("somebody-elses-key"), "{said}");
    assert!(server.human(&["key", "show", key]).contains("compromised"));

    let mut command = server.command(&["revoke", "--compromised", "--digests", "--from", "-"]);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let digest = Digest::of(secret.as_bytes()).to_string();
    process.stdin.take().unwrap().write_all(digest.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains(key));

    let wrong = server.run(&["revoke", "--compromised", "--digests", "--from", list]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(!String::from_utf8_lossy(&wrong.stderr).contains(secret));
    assert_eq!(server.run(&["revoke", "--from", list]).status.code(), Some(2), "only --compromised");
    server.kill();
    let log = fs::read_to_string(server.log()).unwrap();
    assert!(!log.contains(&secret[secret.len() - 40..]) && !log.contains("somebody-elses-key"));
}
