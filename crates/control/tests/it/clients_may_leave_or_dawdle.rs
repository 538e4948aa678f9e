use std::time::{Duration, Instant};

use axum::http::StatusCode;
use keywheel_api::Problem;
use keywheel_control::app::MAX_BODY;
use keywheel_control::serve::Limits;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::serving::{Serving, connect, http, impatient, sample, until};
use crate::support::plane;

const WAITERS: &str = "keywheel_control_ring_waiters{ring=\"production\"}";

async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(15), stream.read_to_string(&mut answer));
    read.await.expect("an end").unwrap();
    answer
}

#[tokio::test]
async fn who_leaves_during_a_long_poll_waits_no_more() {
    let serving = Serving::plain(plane().await).await;
    let mut waiters = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(serving.ring).await;
        let head = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", serving.long_poll());
        stream.write_all(head.as_bytes()).await.unwrap();
        waiters.push(stream);
    }
    let h2 = http().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}{}", serving.ring, serving.long_poll());
    let over_h2 = tokio::spawn(h2.get(url).send());
    until("all wait", async || sample(&serving.metrics().await, WAITERS) == 21.0).await;

    waiters.truncate(5);
    over_h2.abort();
    until("those who left are gone", async || sample(&serving.metrics().await, WAITERS) == 5.0).await;
    drop(waiters);
    until("nobody waits", async || sample(&serving.metrics().await, WAITERS) == 0.0).await;
    drop(h2);
    serving.stop().await;
}

/// Asks on a connection that stays open, and takes the whole answer. `None`: none came, within a time.
async fn status(stream: &mut TcpStream, request: &str, wait: Duration) -> Option<u16> {
    let head = format!("{request}\r\nhost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    let whole = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length: usize = head.split_once("content-length: ")?.1.lines().next()?.parse().ok()?;
        (body.len() >= length).then(|| head.get(9..12)?.parse().ok()).flatten()
    };
    let read = async {
        loop {
            if let Some(status) = whole(&answer) {
                return Some(status);
            }
            let more = stream.read(&mut part).await.ok().filter(|more| *more > 0)?;
            answer.extend_from_slice(&part[..more]);
        }
    };
    tokio::time::timeout(wait, read).await.ok().flatten()
}

const LONG: Duration = Duration::from_secs(10);
const HEALTH: &str = "GET /healthz HTTP/1.1";

#[tokio::test]
async fn more_known_connections_than_there_may_be_wait_until_one_ends() {
    let limits = Limits { ring_connections: 1, ..Limits::default() };
    let serving = Serving::plain(impatient(plane().await, limits)).await;
    let mut open = vec![connect(serving.ring).await];
    // Who asks an open listener for a ring is known.
    let page = "GET /v1/rings/production/snapshot HTTP/1.1";
    assert_eq!(status(&mut open[0], page, LONG).await, Some(200));
    let mut next = connect(serving.ring).await;
    assert_eq!(status(&mut next, HEALTH, Duration::from_millis(300)).await, None, "no room");
    let admin = http().build().unwrap().get(format!("http://{}/healthz", serving.admin)).send().await;
    assert_eq!(admin.unwrap().status(), StatusCode::OK, "the other listener has its own");
    open.pop();
    let mut begin = [0; 12];
    tokio::time::timeout(LONG, next.read_exact(&mut begin)).await.unwrap().unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200", "what was asked before is answered now");
    drop((open, next));
    serving.stop().await;
}

/// Connections cost nothing; they must not keep anybody from revoking a key, nor a probe from its answer.
#[tokio::test]
async fn who_has_no_credential_keeps_nobody_out() {
    let limits =
        Limits { admin_connections: 4, ring_connections: 4, consumer_connections: 4, ..Limits::default() };
    let serving = Serving::plain(impatient(plane().await, limits)).await;
    let list = format!("GET /v1/clients HTTP/1.1\r\nauthorization: Bearer {}", serving.plane.token);
    let guess = "GET /v1/clients HTTP/1.1\r\nauthorization: Bearer kwt_guess";
    let mut operator = connect(serving.admin).await;
    assert_eq!(status(&mut operator, &list, LONG).await, Some(200));
    let mut strangers = Vec::new();
    for round in 0..20 {
        let mut stranger = connect(serving.admin).await;
        let (asked, answered) = if round % 2 == 0 { (HEALTH, 200) } else { (guess, 401) };
        // After ten guesses in a minute they are told to slow down.
        let status = status(&mut stranger, asked, LONG).await;
        assert!(status == Some(answered) || status == Some(429), "{round}: {status:?}");
        strangers.push(stranger);
    }
    assert_eq!(status(&mut strangers[0], HEALTH, LONG).await, None, "the first has given way");
    assert_eq!(status(&mut operator, &list, LONG).await, Some(200), "who is known stays");
    let mut another = connect(serving.admin).await;
    assert_eq!(status(&mut another, &list, LONG).await, Some(200));
    // Known here, and with no business here: every proxy has such a token. What it may do vouches for a quarter.
    let created = serving.plane.token_of(json!({ "role": "proxy", "name": "edge" })).await;
    let no_business = format!("GET /v1/clients HTTP/1.1\r\nauthorization: Bearer {created}");
    let scrape = format!("GET /metrics HTTP/1.1\r\nauthorization: Bearer {created}");
    for asked in [&no_business, &scrape] {
        let mut fill = Vec::new();
        for _ in 0..8 {
            let mut stream = connect(serving.admin).await;
            status(&mut stream, asked, LONG).await.expect("an answer");
            fill.push(stream);
        }
        let mut another = connect(serving.admin).await;
        assert_eq!(status(&mut another, &list, LONG).await, Some(200), "{asked}");
    }
    let out = "keywheel_control_connections_shown_out_total{listener=\"admin\"}";
    drop(strangers);
    assert!(sample(&serving.metrics().await, out) >= 17.0);
    drop((operator, another));
    serving.stop().await;
}

#[tokio::test]
async fn a_body_of_ten_megabytes_is_refused_by_its_bound() {
    let serving = Serving::plain(plane().await).await;
    let body = vec![b' '; 10 * 1024 * 1024];
    let request = |listener, path: &str| {
        let client = http().build().unwrap();
        client.post(format!("http://{listener}{path}")).bearer_auth(&serving.plane.token)
    };
    let usage = "/v1/rings/production/usage";
    let whole = request(serving.admin, "/v1/clients").body(body.clone()).send().await.unwrap();
    let report = request(serving.ring, usage).body(body.clone()).send().await.unwrap();
    for (answer, bound) in [(whole, MAX_BODY), (report, keywheel_keyring::usage::MAX_REPORT)] {
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Problem = answer.json().await.unwrap();
        assert!(problem.detail.contains(&format!("at most {bound} bytes")), "{}", problem.detail);
    }

    // Its length unsaid, and one that waits for leave to send it.
    let mut stream = connect(serving.admin).await;
    let head = |more: &str| {
        let token = &serving.plane.token;
        format!(
            "POST /v1/clients HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n{more}\r\n\r\n"
        )
    };
    stream.write_all(head("transfer-encoding: chunked").as_bytes()).await.unwrap();
    for _ in 0..10 {
        stream.write_all(b"100000\r\n").await.unwrap();
        stream.write_all(&body[..1024 * 1024]).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 413 "));
    let mut stream = connect(serving.admin).await;
    stream.write_all(head("content-length: 10000000\r\nexpect: 100-continue").as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 413 "), "and not 100");
    serving.stop().await;
}

#[tokio::test]
async fn a_body_that_dribbles_in_times_out() {
    let limits = Limits { body: Duration::from_millis(500), ..Limits::default() };
    let serving = Serving::plain(impatient(plane().await, limits)).await;
    for (listener, path) in [(serving.admin, "/v1/clients"), (serving.ring, "/v1/rings/production/usage")] {
        let stream = connect(listener).await;
        let (mut read, mut write) = stream.into_split();
        let token = &serving.plane.token;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 60\r\n\r\n"
        );
        write.write_all(head.as_bytes()).await.unwrap();
        // A byte now and then, and never all of them.
        let dribble = tokio::spawn(async move {
            while write.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let mut begin = vec![0; 12];
        let read = tokio::time::timeout(Duration::from_secs(10), read.read_exact(&mut begin));
        read.await.expect("an answer").unwrap();
        assert_eq!(begin, b"HTTP/1.1 408");
        dribble.abort();
    }
    serving.stop().await;
}

#[tokio::test]
async fn a_head_that_dribbles_in_ends_its_connection_and_delays_nobody() {
    let limits = Limits { first_head: Duration::from_secs(2), ..Limits::default() };
    let serving = Serving::plain(impatient(plane().await, limits)).await;
    let mut slow = Vec::new();
    for begin in [&b""[..], b"G", b"GET /healthz HTTP/1.1\r\nx: ", b"PRI * HT"] {
        let mut stream = connect(serving.ring).await;
        stream.write_all(begin).await.unwrap();
        slow.push(stream);
    }
    let start = Instant::now();
    let client = http().build().unwrap();
    let good = client.get(format!("http://{}/healthz", serving.ring)).send().await.unwrap();
    assert_eq!(good.status(), StatusCode::OK);
    assert!(start.elapsed() < limits.first_head, "{:?}", start.elapsed());
    for mut stream in slow {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
        let _ = read.await.expect("the server ends it");
        assert_eq!(rest, b"", "nothing was answered");
    }
    drop(client);
    serving.stop().await;
}
