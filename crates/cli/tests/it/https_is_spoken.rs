use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::pki::{Authority, Pair};
use crate::support::{Server, keywheel};

/// Writes what both sides need, and returns a path in the directory.
fn write(dir: &Path, authority: &Authority) -> impl Fn(&str) -> String + use<> {
    authority.server().save(dir);
    let Pair { cert, key } = authority.client();
    fs::write(dir.join("ca.pem"), &authority.pem).unwrap();
    fs::write(dir.join("client.pem"), cert).unwrap();
    fs::write(dir.join("client-key.pem"), key).unwrap();
    let dir = dir.to_owned();
    move |name| dir.join(name).to_str().unwrap().to_owned()
}

fn serve(dir: TempDir, at: &impl Fn(&str) -> String) -> Server {
    let (cert, key, ca) = (at("cert.pem"), at("key.pem"), at("ca.pem"));
    let admin = ["--admin-tls-cert", &cert, "--admin-tls-key", &key, "--admin-client-ca", &ca];
    let ring = ["--ring-tls-cert", &cert, "--ring-tls-key", &key, "--ring-client-ca", &ca];
    Server::start_in(dir, &[admin, ring].concat())
}

#[test]
fn the_command_line_shows_its_certificate_and_trusts_whom_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let at = write(dir.path(), &Authority::new());
    let server = serve(dir, &at);
    assert!(server.ready["admin_url"].as_str().unwrap().starts_with("https://127.0.0.1:"));
    assert!(server.ready["ring_url"].as_str().unwrap().starts_with("https://127.0.0.1:"));
    let code = |args: &[&str]| server.run(args).status.code();

    let says = |args: &[&str], what: &str| {
        let error = String::from_utf8(server.run(args).stderr).unwrap();
        assert!(error.contains(what), "{error}");
    };

    let list = ["client", "list"];
    let (ca, cert, key) = (at("ca.pem"), at("client.pem"), at("client-key.pem"));
    let with_ca = [&list[..], &["--ca", &ca]].concat();
    assert_eq!(code(&list), Some(3), "a certificate that nobody of this system signed");
    says(&list, "who signed its certificate with --ca");
    assert_eq!(code(&with_ca), Some(3), "no client certificate");
    says(&with_ca, "with --client-cert and --client-key");
    assert_eq!(code(&[&with_ca[..], &["--client-cert", &cert]].concat()), Some(2));
    assert_eq!(code(&[&with_ca[..], &["--client-cert", &key, "--client-key", &key]].concat()), Some(1));
    let all = [&with_ca[..], &["--client-cert", &cert, "--client-key", &key]].concat();
    assert_eq!(code(&all), Some(0));

    let plain = server.ready["admin_url"].as_str().unwrap().replace("https", "http");
    says(&["client", "list", "--url", &plain], "this listener speaks TLS: use https://");

    // By the environment, and to both listeners.
    let mut export = server.command(&["ring", "export", "--seed"]);
    export.env("KEYWHEEL_CA", &ca).env("KEYWHEEL_CLIENT_CERT", &cert).env("KEYWHEEL_CLIENT_KEY", &key);
    let export = export.output().unwrap();
    assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
}

#[test]
fn plain_http_needs_no_certificates_of_the_system() {
    let server = Server::start();
    // A target that is not there is found out about only once both clients are made.
    for (args, code) in [
        (&["client", "list"][..], 0),
        (&["ring", "push", "--to", "http://127.0.0.1:1", "--timeout", "0s"], 1),
    ] {
        let mut command = server.command(args);
        command.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(!error.contains("CA certificates"), "{error}");
    }
}

#[test]
fn a_hangup_has_certificates_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = write(dir.path(), &Authority::new());
    let mut server = serve(dir, &at);
    let path = server.dir.path().to_owned();
    let log = || fs::read_to_string(server.log()).unwrap();

    fs::write(path.join("cert.pem"), "broken").unwrap();
    server.hang_up();
    wait("the fault is in the log", || log().contains("keeps its old certificates"));
    let again = write(&path, &Authority::new());
    server.hang_up();
    let (ca, cert, key) = (again("ca.pem"), again("client.pem"), again("client-key.pem"));
    let args = ["client", "list", "--ca", &ca, "--client-cert", &cert, "--client-key", &key];
    wait("the new certificates are shown", || server.run(&args).status.success());
    assert!(log().contains("The admin listener has new certificates"));
    server.stop();
}

#[test]
fn a_hangup_ends_no_control_plane_that_has_no_certificates() {
    let mut server = Server::start();
    server.hang_up();
    std::thread::sleep(Duration::from_millis(200));
    server.human(&["client", "list"]);
    server.stop();
}

#[test]
fn certificates_that_cannot_be_used_are_named_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let at = write(dir.path(), &Authority::new());
    let check = |options: &[&str], code: i32, says: &str| {
        let output = keywheel().args(["serve", "--data", &at("data")]).args(options).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(says), "{error}");
        assert!(!Path::new(&at("data")).exists(), "nothing was made");
    };
    let (cert, key, none) = (at("cert.pem"), at("key.pem"), at("none.pem"));
    check(&["--admin-tls-cert", &cert, "--admin-tls-key", &none], 1, "none.pem");
    check(&["--ring-tls-cert", &key, "--ring-tls-key", &key], 1, "key.pem holds no certificate");
    check(&["--ring-tls-cert", &cert], 2, "--ring-tls-key");
    check(&["--ring-tls-key", &key], 2, "--ring-tls-cert");
    check(&["--admin-client-ca", &cert], 2, "--admin-tls-cert");
}

#[track_caller]
fn wait(what: &str, holds: impl Fn() -> bool) {
    let held = (0..150).any(|_| {
        let held = holds();
        if !held {
            std::thread::sleep(Duration::from_millis(100));
        }
        held
    });
    assert!(held, "{what}: not within 15 seconds");
}
