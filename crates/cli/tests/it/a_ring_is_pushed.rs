use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Output, Stdio};
use std::time::{Duration, Instant};

use keywheel_keyring::{Kind, PublicKey};
use serde_json::Value;

use crate::fake_proxy::FakeProxy;
use crate::support::Server;

fn trust(server: &Server) -> PublicKey {
    server.ready["trust"][0].as_str().unwrap().parse().unwrap()
}

/// Runs a command while the fake proxies of this test answer.
async fn run(server: &Server, args: &[&str]) -> Output {
    let mut command = server.command(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn push(server: &Server, to: &[&str], more: &[&str]) -> (i32, Value, String) {
    let mut args = vec!["ring", "push", "--output", "json"];
    to.iter().for_each(|url| args.extend(["--to", url]));
    args.extend(more);
    let output = run(server, &args).await;
    let reports = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), reports, String::from_utf8(output.stderr).unwrap())
}

fn pages(proxy: &FakeProxy) -> usize {
    proxy.held().documents.iter().filter(|(kind, _)| matches!(kind, Kind::Snapshot { .. })).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_proxy_gets_every_page_and_a_known_one_only_what_changed() {
    let mut server = Server::start();
    server.human(&["client", "create", "acme"]);
    server.import(1200).await;
    let proxy = FakeProxy::start(trust(&server)).await;
    proxy.held().next.extend(["busy"]);

    let (code, reports, error) = push(&server, &[&proxy.url], &[]).await;
    assert_eq!(code, 0, "{error}");
    let report = &reports["targets"][0];
    assert_eq!(
        (&report["revision"], &report["enforced"], &report["vms"]),
        (&1200.into(), &1200.into(), &3.into())
    );
    assert!(report["milliseconds"].is_u64() && report["error"].is_null(), "{report}");
    assert_eq!((proxy.count(), pages(&proxy)), (1200, 4), "three pages, one of them twice");

    server.human(&["key", "create", "--client", "acme"]);
    proxy.held().documents.clear();
    let url = format!("{}/", proxy.url);
    let human = run(&server, &["ring", "push", "production", "--to", &url]).await;
    let human = String::from_utf8(human.stdout).unwrap();
    assert!(human.contains("TARGET") && human.contains("1201") && human.contains("enforced"), "{human}");
    assert_eq!((proxy.count(), pages(&proxy)), (1201, 0));
    assert!(!proxy.held().authorized, "the control plane's token goes nowhere else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_cut_off_goes_on_where_it_stopped() {
    let mut server = Server::start();
    server.human(&["client", "create", "acme"]);
    server.import(1200).await;
    let proxy = FakeProxy::start(trust(&server)).await;
    proxy.held().next.extend(["take", "bucket"]);
    let (code, reports, _) = push(&server, &[&proxy.url], &[]).await;
    assert_eq!((code, &reports["targets"][0]["error"]["reason"]), (1, &"bucket".into()));
    assert!(proxy.held().generation.sync.is_some(), "the first page was taken");
    proxy.held().documents.clear();
    assert_eq!(push(&server, &[&proxy.url], &[]).await.0, 0);
    assert_eq!((proxy.count(), proxy.revision(), pages(&proxy)), (1200, 1200, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_named_and_a_gap_is_mended_once() {
    let server = Server::start();
    server.human(&["client", "create", "acme"]);
    server.human(&["key", "create", "--client", "acme"]);
    let (proxy, other) = (FakeProxy::start(trust(&server)).await, FakeProxy::start(trust(&server)).await);
    proxy.held().next.extend(["bad_signature"]);
    let (code, reports, error) = push(&server, &[&proxy.url, &other.url], &[]).await;
    assert_eq!(code, 1);
    assert_eq!(reports["targets"][0]["error"]["reason"], "bad_signature");
    assert_eq!(reports["targets"][1]["error"], Value::Null);
    assert!(
        error.contains("1 of 2 targets do not enforce")
            && error.contains("bad_signature: the document was refused"),
        "{error}"
    );
    assert_eq!((proxy.revision(), other.revision()), (0, 1));

    server.human(&["key", "create", "--client", "acme"]);
    other.held().next.extend(["gap"]);
    other.held().documents.clear();
    assert_eq!(push(&server, &[&other.url], &[]).await.0, 0);
    assert_eq!((other.revision(), pages(&other)), (2, 1), "a snapshot mended it");
    server.human(&["key", "create", "--client", "acme"]);
    other.held().next.extend(["gap", "gap"]);
    let (code, reports, _) = push(&server, &[&other.url], &[]).await;
    assert_eq!((code, &reports["targets"][0]["error"]["reason"]), (1, &"gap".into()));
    assert_eq!(reports["targets"][0]["revision"], 2, "it says where the proxy is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_target_holds_up_no_other_and_one_that_stands_still_is_named() {
    let server = Server::start();
    let (proxy, stopped) = (FakeProxy::start(trust(&server)).await, FakeProxy::start(trust(&server)).await);
    server.human(&["client", "create", "acme"]);
    server.human(&["key", "create", "--client", "acme"]);
    stopped.held().stopped = true;
    let start = Instant::now();
    let to = ["http://127.0.0.1:1", &proxy.url, &stopped.url];
    let (code, reports, error) = push(&server, &to, &["--timeout", "2s"]).await;
    assert_eq!(code, 1);
    assert!(start.elapsed() < Duration::from_secs(20));
    let reasons: Vec<_> = (0..3).map(|at| reports["targets"][at]["error"]["reason"].clone()).collect();
    assert_eq!(reasons, [Value::from("unreachable"), Value::Null, "not_enforced".into()]);
    assert!(reports["targets"][1]["milliseconds"].as_u64().unwrap() < 1900, "{reports}");
    assert!(
        error.contains("does its listener run?") && error.contains("its 3 VMs enforce only 0"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_ahead_of_its_control_plane_is_an_error_and_so_is_what_is_no_proxy() {
    let (server, older) = (Server::start(), Server::start());
    for server in [&server, &older] {
        server.human(&["client", "create", "acme"]);
        server.human(&["key", "create", "--client", "acme"]);
    }
    let proxy = FakeProxy::start(trust(&server)).await;
    assert_eq!(push(&server, &[&proxy.url], &[]).await.0, 0);
    // As if a year had passed: everything from here on is older than what the proxy has.
    if let Some(complete) = &mut proxy.held().generation.complete {
        complete.revision = 9;
    }
    let (code, reports, error) = push(&server, &[&proxy.url], &[]).await;
    assert_eq!((code, &reports["targets"][0]["error"]["reason"]), (1, &"no_progress".into()));
    assert!(error.contains("stays at revision 9"), "{error}");
    let ring_url = server.ready["ring_url"].as_str().unwrap();
    assert!(error.contains(&format!("what {ring_url} serves. A relay there")), "{error}");

    let admin = server.ready["admin_url"].as_str().unwrap().to_owned();
    let (code, reports, _) = push(&server, &[&admin], &[]).await;
    assert_eq!(code, 1);
    assert_eq!(reports["targets"][0]["error"]["reason"], "not_found", "{reports}");
    let foreign = FakeProxy::start(trust(&older)).await;
    let (_, reports, _) = push(&server, &[&foreign.url], &[]).await;
    assert_eq!(reports["targets"][0]["error"]["reason"], "bad_signature");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_fault_of_a_target_ends_the_command() {
    let server = Server::start();
    let check = async |args: &[&str], code: i32, says: &str| {
        let output = run(&server, &[&["ring", "push", "--to", "http://127.0.0.1:1"], args].concat()).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(says), "{error}");
    };
    check(&["staging"], 1, "there is no ring `staging`").await;
    check(&["--ring-url", "http://127.0.0.1:1"], 3, "--ring-url or KEYWHEEL_RING_URL").await;
    check(&["--ring-url", "ftp://127.0.0.1:1"], 2, "cannot be the ring listener's URL").await;
    check(&["--to", "proxy:80"], 2, "cannot be a target's URL").await;
}

struct Follower {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn start(server: &Server, to: &[&str]) -> Self {
        let mut args = vec!["ring", "push", "--follow", "--output", "json"];
        to.iter().for_each(|url| args.extend(["--to", url]));
        let mut process = server.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// The next line about a target.
    fn next(&mut self, target: &str, event: &str) -> Value {
        loop {
            let line: Value = serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap();
            if line["target"] == target && line["event"] == event {
                return line;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_gets_a_revocation_at_once_and_a_late_target_catches_up() {
    let mut server = Server::start();
    server.human(&["client", "create", "acme"]);
    let key = server.json(&["key", "create", "--client", "acme"]);
    let key = key["id"].as_str().unwrap();
    let proxy = FakeProxy::start(trust(&server)).await;
    // An address that nobody listens at yet.
    let late = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let late_url = format!("http://{late}");
    let mut follower = Follower::start(&server, &[&proxy.url, &late_url]);
    let mut next = |target: &str, event: &str| tokio::task::block_in_place(|| follower.next(target, event));

    assert_eq!(next(&proxy.url, "enforced")["revision"], 1);
    let start = Instant::now();
    server.human(&["key", "revoke", key]);
    assert_eq!(next(&proxy.url, "enforced")["enforced"], 2);
    assert!(start.elapsed() < Duration::from_secs(5), "nobody waited for the end of the wait");
    assert!(proxy.held().entries.values().all(|entry| entry.state.is_denied()));
    let latest = proxy.held().generation.issued_at;

    let late = FakeProxy::listen(late, trust(&server)).await;
    assert_eq!(next(&late_url, "enforced")["revision"], 2);
    assert_eq!(late.revision(), 2);

    // Trouble is told once; what refuses today may take it tomorrow.
    proxy.held().next.extend(["expired", "expired"]);
    server.human(&["key", "create", "--client", "acme"]);
    assert_eq!(next(&proxy.url, "failed")["error"]["reason"], "expired");
    let until = Instant::now() + Duration::from_secs(20);
    while proxy.revision() < 3 || late.revision() < 3 {
        assert!(Instant::now() < until, "{:?}", proxy.held().documents);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(proxy.held().generation.issued_at > latest);
    server.kill();
    assert_eq!(next(&proxy.url, "failed")["error"]["reason"], "control_plane");
}
