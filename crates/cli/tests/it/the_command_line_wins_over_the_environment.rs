use std::fs;

use crate::support::{Server, keywheel};

/// Whether the control plane took the token.
fn passes(server: &Server, environment: &[(&str, &str)], args: &[&str]) -> bool {
    let output = keywheel()
        .env("KEYWHEEL_URL", server.ready["admin_url"].as_str().unwrap())
        .envs(environment.iter().copied())
        .args(["key", "list"])
        .args(args)
        .output()
        .unwrap();
    let code = output.status.code().unwrap();
    assert!(code == 0 || code == 4, "{}", String::from_utf8_lossy(&output.stderr));
    code == 0
}

#[test]
fn a_token_of_the_command_line_wins_over_any_of_the_environment() {
    let server = Server::start();
    let file = |name: &str, text: &str| {
        let path = server.dir.path().join(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = server.token.as_str();
    let (good_file, bad_file) = (file("good", good), file("bad", "kwt_wrong"));
    let (token, in_file) = ("KEYWHEEL_TOKEN", "KEYWHEEL_TOKEN_FILE");

    for environment in
        [&[(token, "kwt_wrong")][..], &[(in_file, bad_file.as_str())], &[(in_file, "/nowhere")]]
    {
        assert!(passes(&server, environment, &["--token-file", &good_file]), "{environment:?}");
        assert!(passes(&server, environment, &["--token", good]), "{environment:?}");
        assert!(!passes(&server, environment, &[]), "{environment:?}");
    }
    for environment in [[(token, good)], [(in_file, good_file.as_str())]] {
        assert!(passes(&server, &environment, &[]), "{environment:?}");
        assert!(!passes(&server, &environment, &["--token-file", &bad_file]), "{environment:?}");
        assert!(!passes(&server, &environment, &["--token", "kwt_wrong"]), "{environment:?}");
    }
    // In the environment, the text before the file; one that is empty is not there.
    assert!(passes(&server, &[(token, good), (in_file, &bad_file)], &[]));
    assert!(!passes(&server, &[(token, "kwt_wrong"), (in_file, &good_file)], &[]));
    assert!(passes(&server, &[(token, ""), (in_file, &good_file)], &[]));
    let both = server.run(&["key", "list", "--token", good, "--token-file", &good_file]);
    assert_eq!(both.status.code(), Some(2));
}
