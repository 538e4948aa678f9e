use crate::support::Server;

#[test]
fn a_campaign_is_tried_made_watched_held_and_rolled_back() {
    let server = Server::start();
    server.human(&["client", "create", "acme"]);
    let mut keys = Vec::new();
    for _ in 0..2 {
        let key =
            server.json(&["key", "create", "--client", "acme", "--label", "team=a", "--scope", "trade"]);
        keys.push(key["id"].as_str().unwrap().to_owned());
    }
    assert!(server.human(&["campaign", "list"]).contains("--dry-run"));
    let create = [
        "campaign",
        "create",
        "q4",
        "--client",
        "acme",
        "--label",
        "team",
        "--scope",
        "trade",
        "--wave",
        "50%",
        "--pause",
        "1h",
        "--overlap",
        "1d",
        "--max-rolled-back",
        "1",
        "--max-refused-share",
        "0.5",
    ];
    let tried = server.human(&[&create[..], &["--dry-run"]].concat());
    assert!(tried.contains("2 keys") && tried.contains("2 waves of 1"), "{tried}");
    assert!(server.human(&["campaign", "list"]).contains("No campaigns"), "a try makes none");

    assert!(server.human(&create).contains("rotates 2 keys, 1 in a wave"));
    assert!(server.human(&["notice", "list"]).contains("a campaign waits for a deposit"));
    let waiting = server.human(&["campaign", "keys", "q4", "--state", "waiting_for_deposit"]);
    assert!(keys.iter().all(|key| waiting.contains(key)), "{waiting}");
    // Before the deposit, which would have its wave start at once.
    assert!(server.human(&["campaign", "pause", "q4"]).contains("is paused"));
    assert!(server.human(&["key", "deposit", &keys[0]]).contains("in a wave of its campaign"));
    let show = server.human(&["campaign", "show", "q4"]);
    assert!(show.contains("1 waiting, 1 waiting for a deposit") && show.contains("1 key (50 %)"), "{show}");
    assert!(server.human(&["campaign", "resume", "q4"]).contains("is running"));
    // Resumed, its first wave is due at once, and the scheduler has been woken.
    let mut tries = 0;
    while server.json(&["campaign", "show", "q4"])["keys"]["rotating"] != 1 {
        tries += 1;
        assert!(tries < 300, "{}", server.human(&["campaign", "show", "q4"]));
    }
    assert!(server.human(&["campaign", "list"]).contains("running"));
    assert!(server.human(&["campaign", "rollback", "q4"]).contains("rolled back"));
    let watched = server.human(&["campaign", "watch", "q4", "--every", "1s"]);
    assert!(watched.contains("1 rolled back") && watched.contains("WAVE"), "{watched}");
    assert_eq!(server.run(&["campaign", "cancel", "q4"]).status.code(), Some(1), "it is over");
    assert_eq!(server.run(&["campaign", "create", "q5", "--wave", "ten"]).status.code(), Some(2));
}
