use std::fs;

use crate::support::{Server, keywheel};

#[test]
fn serve_says_in_one_sentence_why_it_cannot_start() {
    let server = Server::start();
    let url = server.ready["admin_url"].as_str().unwrap();
    let taken = url.strip_prefix("http://").unwrap();
    let check = |data: &str, admin: &str, says: &str| {
        let data = server.dir.path().join(data);
        let args = ["serve", "--admin-listen", admin, "--ring-listen", "127.0.0.1:0", "--data"];
        let output = keywheel().args(args).arg(data).env("KEYWHEEL_LOG", "off").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(says), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    check("data", "127.0.0.1:0", "another keywheel serves the data directory");
    check("other", taken, "choose another address with --admin-listen");
    assert!(!server.dir.path().join("other").exists(), "a first start that failed left nothing");
    fs::write(server.dir.path().join("file"), "").unwrap();
    check("file", "127.0.0.1:0", "cannot use the data directory");
    check("file/below", "127.0.0.1:0", "give --data a directory that this user may write");
}

#[test]
fn the_first_token_goes_to_a_file_when_asked() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let mut process = keywheel()
        .args(["serve", "--admin-listen", "127.0.0.1:0", "--ring-listen", "127.0.0.1:0", "--data"])
        .arg(dir.path().join("data"))
        .arg("--admin-token-file")
        .arg(&file)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(process.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert_eq!(line, "keywheel is ready.\n");
    assert!(fs::read_to_string(&file).unwrap().starts_with("kwt_"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    process.kill().unwrap();
    process.wait().unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut rest).unwrap();
    assert!(!rest.contains("kwt_"), "{rest}");
}
