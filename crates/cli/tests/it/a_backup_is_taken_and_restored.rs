use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::support::Server;

#[test]
fn a_backup_that_is_taken_while_keys_are_made_holds_all_that_were_answered_before() {
    let mut server = Server::start();
    server.human(&["client", "create", "acme"]);
    let create = ["key", "create", "--client", "acme"];
    let before = server.json(&create)["id"].clone();
    let mut busy: Vec<_> =
        (0..4).map(|_| server.command(&create).stdout(Stdio::null()).spawn().unwrap()).collect();
    let copy = server.dir.path().join("copy.db");
    let copy = copy.to_str().unwrap();
    let said = server.human(&["backup", "--out", copy]);
    assert!(said.contains("does not hold the master key"), "{said}");
    for process in &mut busy {
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
    let data = server.dir.path().join("data");
    let left = |end: &str| {
        fs::read_dir(&data)
            .unwrap()
            .filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().ends_with(end))
            .count()
    };
    assert_eq!(left(".tmp"), 0);
    let again = server.run(&["backup", "--out", copy]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("it exists"));

    let after = server.json(&create)["id"].clone();
    server.human(&["key", "revoke", before.as_str().unwrap()]);
    let journal = server.dir.path().join("journal.json");
    fs::write(&journal, server.human(&["audit", "list", "--output", "json"])).unwrap();
    let epoch = server.ready["epoch"].as_str().unwrap().to_owned();
    server.kill();
    fs::rename(data.join("keywheel.db"), server.dir.path().join("lost.db")).unwrap();
    for name in ["keywheel.db-wal", "keywheel.db-shm"] {
        let _ = fs::remove_file(data.join(name));
    }

    let restore = ["restore", "--from", copy, "--data", data.to_str().unwrap()];
    let held = server.run(&restore);
    assert_eq!(held.status.code(), Some(7), "done, and not published");
    let held = String::from_utf8_lossy(&held.stdout);
    assert!(held.contains("The ring is held back"), "{held}");
    server.start_again();
    assert!(server.human(&["ring", "show"]).contains("nothing is published"));
    assert!(!server.run(&["ring", "export", "--seed"]).status.success());
    server.stop();
    let merge =
        ["restore", "--in-place", "--data", data.to_str().unwrap(), "--journal", journal.to_str().unwrap()];
    let merged = server.human(&merge);
    assert!(merged.contains("Denied again") && merged.contains("their holders need new keys"), "{merged}");
    server.start_again();
    assert!(server.ready["epoch"].as_str().unwrap() > epoch.as_str());
    let show =
        |key: &serde_json::Value| server.run(&["key", "show", key.as_str().unwrap(), "--output", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&show(&before).stdout).unwrap();
    assert_eq!(shown["versions"][0]["state"], "revoked");
    assert!(!show(&after).status.success(), "it is younger than the copy");
    server.human(&["ring", "export", "--seed"]);
    server.human(&["audit", "verify"]);
}

#[test]
fn the_list_that_filters_trust_is_printed_as_they_read_it() {
    let server = Server::start();
    let next = server.json(&["ring", "signing-key", "create"]);
    let id = next["id"].as_str().unwrap();
    let trust = || serde_json::from_str::<Vec<String>>(&server.human(&["ring", "trust"])).unwrap();
    assert_eq!(trust().len(), 1);
    let said = server.human(&["ring", "signing-key", "publish", id]);
    assert!(
        said.contains("bring what `keywheel ring trust` prints to the configuration of every proxy"),
        "{said}"
    );
    assert_eq!(trust()[1], next["public_key"]);
    server.human(&["ring", "signing-key", "activate", id]);
    let listed = server.human(&["ring", "signing-key", "list"]);
    assert!(listed.contains("published") && listed.contains("active"), "{listed}");
    let old = server.json(&["ring", "signing-key", "list"])[0]["id"].clone();
    server.human(&["ring", "signing-key", "retire", old.as_str().unwrap()]);
    assert_eq!(trust(), [next["public_key"].as_str().unwrap()]);
    let seed: serde_json::Value = serde_json::from_str(&server.human(&["ring", "export", "--seed"])).unwrap();
    assert_eq!(seed["signer"], id);
}

#[test]
fn the_master_key_is_rotated_by_command() {
    let mut server = Server::start();
    let data = server.dir.path().join("data");
    let rotate = ["master-key", "rotate", "--data", data.to_str().unwrap()];
    let refused = server.run(&rotate);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another keywheel serves"), "it is offline");
    let before = fs::read(data.join("master.key")).unwrap();
    server.stop();
    let said = server.human(&rotate);
    assert!(said.contains("1 signing keys") && said.contains("backups made before now need it"), "{said}");
    assert_ne!(fs::read(data.join("master.key")).unwrap(), before);
    let trust = server.ready["trust"].clone();
    server.start_again();
    assert_eq!(server.ready["trust"], trust);
    server.human(&["ring", "export", "--seed"]);
}
