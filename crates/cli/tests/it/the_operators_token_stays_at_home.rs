//! What answers at a `--ring-url` may be a relay that somebody has taken over.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::tempdir;

use crate::support::{Server, keywheel};

const RING_TOKEN: &str = "kwt_of_a_proxy_and_of_nobody_else";

/// A listener that keeps what it is sent, and answers as it was told to.
struct Recorder {
    url: String,
    sent: Arc<Mutex<String>>,
}

impl Recorder {
    fn answering(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let sent = Arc::new(Mutex::new(String::new()));
        let all = sent.clone();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(mut connection) = connection else { continue };
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match connection.read(&mut buffer) {
                        Ok(read @ 1..) => head.extend_from_slice(&buffer[..read]),
                        _ => break,
                    }
                }
                all.lock().unwrap().push_str(&String::from_utf8_lossy(&head));
                let _ = connection.write_all(answer.as_bytes());
            }
        });
        Self { url, sent }
    }

    /// As a ring listener answers that asks for a token.
    fn start() -> Self {
        let body = r#"{"type":"unauthorized","title":"No token","status":401,"detail":"a token is needed"}"#;
        Self::answering(format!(
            "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        ))
    }

    fn sent(&self) -> String {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

fn run(server: &Server, environment: &[(&str, &str)], args: &[&str]) -> (Option<i32>, String) {
    let mut command = keywheel();
    command.env("KEYWHEEL_URL", server.ready["admin_url"].as_str().unwrap());
    command.env("KEYWHEEL_TOKEN", &server.token);
    let Output { status, stdout, stderr } =
        command.envs(environment.iter().copied()).args(args).output().unwrap();
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code(), said)
}

const COMMANDS: [&[&str]; 4] = [
    &["doctor"],
    &["ring", "export", "--seed"],
    &["ring", "push", "--to", "http://127.0.0.1:1"],
    &["ring", "push", "--to", "http://127.0.0.1:1", "--follow"],
];

#[test]
fn a_ring_url_is_sent_no_token_that_was_not_given_for_it() {
    let (server, recorder) = (Server::start(), Recorder::start());
    let file = server.dir.path().join("ring-token");
    fs::write(&file, format!("{RING_TOKEN}\n")).unwrap();
    let file = file.to_str().unwrap();
    let url = ("KEYWHEEL_RING_URL", recorder.url.as_str());

    for command in COMMANDS {
        for (environment, args) in [(&[][..], &["--ring-url", &recorder.url][..]), (&[url], &[])] {
            let (code, said) = run(&server, environment, &[command, args].concat());
            let sent = recorder.sent();
            assert!(sent.starts_with("GET /v1/rings/production/"), "{command:?}: {sent:?} {said}");
            assert!(!sent.to_lowercase().contains("authorization"), "{command:?}: {sent}");
            assert!(!sent.contains(&server.token), "{command:?}");
            assert!(
                said.contains("was sent none") && said.contains("--ring-token-file"),
                "{command:?}: {said}"
            );
            let expected = if command[0] == "doctor" { 1 } else { 4 };
            assert_eq!(code, Some(expected), "{command:?}: {said}");
        }
        for (environment, args) in [
            (&[url][..], &["--ring-token-file", file][..]),
            (&[url, ("KEYWHEEL_RING_TOKEN", RING_TOKEN)], &[]),
            (&[url, ("KEYWHEEL_RING_TOKEN_FILE", file)], &[]),
            (&[url, ("KEYWHEEL_RING_TOKEN", "wrong")], &["--ring-token-file", file]),
        ] {
            let (_, said) = run(&server, environment, &[command, args].concat());
            let sent = recorder.sent();
            assert!(sent.contains(&format!("Bearer {RING_TOKEN}")), "{command:?}: {sent}");
            assert!(!sent.contains(&server.token), "{command:?}");
            assert!(said.contains("does not take the one that it was sent"), "{command:?}: {said}");
        }
    }
}

#[test]
fn a_doctor_that_is_not_let_in_does_not_say_that_proxies_are_not() {
    let (server, recorder) = (Server::start(), Recorder::start());
    let (_, said) = run(&server, &[], &["doctor", "--ring-url", &recorder.url]);
    assert!(said.contains("doctor is not let in"), "{said}");
    assert!(!said.contains("proxies cannot fetch"), "{said}");
}

#[test]
fn no_token_follows_a_redirect() {
    let (server, recorder) = (Server::start(), Recorder::start());
    let away = Recorder::answering(format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        recorder.url
    ));
    let (ring_token, command) = ([("KEYWHEEL_RING_TOKEN", RING_TOKEN)], ["ring", "export", "--seed"]);
    let (code, said) = run(&server, &ring_token, &[&command[..], &["--ring-url", &away.url]].concat());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("HTTP 307") && away.sent().contains(RING_TOKEN), "{said}");
    let (code, said) = run(&server, &[], &["--url", &away.url, "key", "list"]);
    assert_eq!(code, Some(1), "{said}");
    let key = [("KEYWHEEL_API_KEY", "kw_live_5HbNq0ZtWc3Rk8Lm")];
    run(&server, &key, &["self", "show", "--consumer-url", &away.url]);
    assert_eq!(recorder.sent(), "", "nobody followed");
}

#[test]
fn the_control_planes_own_ring_listener_is_found_beside_it_and_takes_the_operators_token() {
    // An address of its own, so that the port that is looked for is free there.
    let id = std::process::id();
    let address = format!("127.{}.{}.{}", 16 + id % 200, (id >> 8) % 256, 2 + (id >> 16) % 250);
    let (admin, ring) = (format!("{address}:0"), format!("{address}:7071"));
    let options = ["--admin-listen", &admin, "--ring-listen", &ring, "--ring-auth", "token"];
    let server = Server::start_in(tempdir().unwrap(), &options);
    let seed = run(&server, &[], &["ring", "export", "--seed"]);
    assert_eq!(seed.0, Some(0), "{}", seed.1);
    let (_, said) = run(&server, &[], &["doctor"]);
    assert!(said.contains("serves a signed page"), "{said}");

    // Given by hand, it is one address among others.
    let url = format!("http://{address}:7071");
    let (code, said) = run(&server, &[], &["ring", "export", "--seed", "--ring-url", &url]);
    assert_eq!(code, Some(4), "{said}");
    let proxy = server.json(&["token", "create", "--role", "proxy"]);
    let ring_token = [("KEYWHEEL_RING_TOKEN", proxy["token"].as_str().unwrap())];
    let (code, said) = run(&server, &ring_token, &["ring", "export", "--seed", "--ring-url", &url]);
    assert_eq!(code, Some(0), "{said}");
    server.human(&["ring", "create", "staging"]);
    let other = server.json(&["token", "create", "--role", "proxy", "--ring", "staging"]);
    let other = [("KEYWHEEL_RING_TOKEN", other["token"].as_str().unwrap())];
    let (code, said) = run(&server, &other, &["doctor"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("doctor is not let in") && !said.contains("proxies cannot fetch"), "{said}");
    let wrong = [("KEYWHEEL_RING_TOKEN", RING_TOKEN)];
    let (code, said) = run(&server, &wrong, &["ring", "export", "--seed"]);
    assert_eq!(code, Some(4), "what is given for the ring goes before the operator's: {said}");
}
