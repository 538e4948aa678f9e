use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::support::plane;

#[tokio::test]
async fn waiters_are_answered_and_do_not_hold_up_a_stop() {
    let plane = plane().await;
    let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ring = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = ring.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = plane.control.clone().serve(admin, ring, None, async { drop(stopped.await) });
    let server = tokio::spawn(serve);

    let mut waiter = TcpStream::connect(address).await.unwrap();
    let ask = format!("/v1/rings/production/changes?epoch={}&since=0&wait=60", plane.epoch());
    waiter.write_all(format!("GET {ask} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;

    let start = Instant::now();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let mut answer = String::new();
    waiter.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn the_scheduler_retires_on_time() {
    let plane = plane().await;
    let key = plane.key().await;
    let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ring = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(plane.control.clone().serve(admin, ring, None, async { drop(stopped.await) }));
    tokio::time::sleep(Duration::from_millis(100)).await;

    let start = Instant::now();
    plane.rotate(&key, 1).await;
    let ask = format!("changes?epoch={}&since={}&wait=30", plane.epoch(), plane.head());
    let document = plane.ring(&ask).await.document(&plane.trust().await);
    assert_eq!(document.entries[0].state, keywheel_api::State::Retired);
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_secs(1) && elapsed < Duration::from_secs(3), "{elapsed:?}");
    drop(stop);
    server.await.unwrap().unwrap();
}
