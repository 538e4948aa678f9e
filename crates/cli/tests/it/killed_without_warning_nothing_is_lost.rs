use crate::support::Server;

#[test]
fn what_was_answered_survives_a_kill() {
    let mut server = Server::start();
    server.human(&["client", "create", "acme"]);
    let key = server.json(&["key", "create", "--client", "acme"]);
    let id = key["id"].as_str().unwrap();
    server.human(&["key", "revoke", id]);
    let (epoch, trust) = (server.ready["epoch"].clone(), server.ready["trust"].clone());
    server.kill();

    server.start_again();
    assert_eq!((&server.ready["epoch"], &server.ready["trust"]), (&epoch, &trust));
    assert_eq!(server.json(&["key", "show", id])["versions"][0]["state"], "revoked");
    assert_eq!(server.json(&["ring", "show"])["revision"], 2);
}
