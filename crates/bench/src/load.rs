//! Requests over HTTP/1.1, from one thread that does as little for each as it can, so that Envoy and not
//! its caller is what is measured: bytes written beforehand, answers read no further than needed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use crate::keys::{Draw, Traffic};

/// Each has at most one request under way.
pub(crate) const CONNECTIONS: usize = 16;
/// An answer that takes longer will not come.
const LOST: Duration = Duration::from_secs(20);

/// What to send.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    pub(crate) traffic: Traffic,
    /// What every answer must be.
    pub(crate) status: u16,
    /// Requests per second, each due at its own time whether or not those before it were answered; as
    /// fast as they go when absent.
    pub(crate) rate: Option<f64>,
    pub(crate) requests: u64,
    pub(crate) seed: u64,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) took: Duration,
    /// At a rate: one for each request, in the order of the answers.
    pub(crate) samples: Vec<Sample>,
}

pub(crate) struct Sample {
    pub(crate) due: Instant,
    /// From when the request was due, not from when a connection was free to send it: a server that
    /// stalls does not get away with the requests that it kept from being sent.
    pub(crate) latency: Duration,
}

/// Sends all requests of a plan over connections of its own.
pub(crate) async fn run(plan: Plan) -> anyhow::Result<Outcome> {
    run_until(plan, Arc::default()).await
}

/// Sends the requests of a plan until there are no more, or somebody says stop.
pub(crate) async fn run_until(plan: Plan, stop: Arc<AtomicBool>) -> anyhow::Result<Outcome> {
    tokio::task::spawn_blocking(move || Caller::connect(plan.target)?.run(&plan, &stop)).await?
}

/// Connections to one server, which stay open from one plan to the next.
pub(crate) struct Caller {
    head: Vec<u8>,
    epoll: OwnedFd,
    lanes: Vec<Lane>,
    idle: Vec<usize>,
}

/// A connection.
struct Lane {
    stream: TcpStream,
    /// When the request under way was due.
    due: Instant,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Caller {
    pub(crate) fn connect(target: SocketAddr) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut lanes = Vec::with_capacity(CONNECTIONS);
        for number in 0..CONNECTIONS {
            let stream = TcpStream::connect(target)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll::add(&epoll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
            lanes.push(Lane { stream, due: Instant::now(), request: Vec::new(), answer: Vec::new() });
        }
        let head = format!("GET / HTTP/1.1\r\nhost: {target}\r\n").into_bytes();
        let idle = (0..lanes.len()).collect();
        Ok(Self { head, epoll, lanes, idle })
    }

    /// Sends the requests of a plan, and blocks the thread until all are answered. After an error the
    /// connections are of no more use.
    pub(crate) fn run(&mut self, plan: &Plan, stop: &AtomicBool) -> anyhow::Result<Outcome> {
        // By default Linux wakes a thread up to 50 µs late, to wake several at once.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        let interval = plan.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
        let mut draw = Draw::new(plan.seed);
        let mut samples = Vec::new();
        let mut events = Vec::with_capacity(CONNECTIONS);
        let start = Instant::now();
        let (mut next_due, mut sent, mut answered) = (start, 0, 0);
        while answered < sent || (sent < plan.requests && !stop.load(Ordering::Relaxed)) {
            let more = sent < plan.requests && !stop.load(Ordering::Relaxed);
            let mut now = Instant::now();
            while sent < plan.requests && next_due <= now {
                let Some(lane) = self.idle.pop() else { break };
                self.send(lane, next_due, plan.traffic.next(&mut draw))?;
                sent += 1;
                next_due += interval;
                now = Instant::now();
            }
            let due =
                if more && !self.idle.is_empty() { next_due.saturating_duration_since(now) } else { LOST };
            self.wait(due, &mut events)?;
            ensure!(!events.is_empty() || due < LOST, "no answer for {} s", LOST.as_secs());
            for number in events.drain(..) {
                if let Some(due) = self.receive(number, plan.status)? {
                    answered += 1;
                    self.idle.push(number);
                    if plan.rate.is_some() {
                        samples.push(Sample { due, latency: due.elapsed() });
                    }
                }
            }
        }
        Ok(Outcome { took: start.elapsed(), samples })
    }

    fn send(&mut self, number: usize, due: Instant, key: Option<&str>) -> anyhow::Result<()> {
        let lane = &mut self.lanes[number];
        lane.due = due;
        lane.answer.clear();
        lane.request.clear();
        lane.request.extend_from_slice(&self.head);
        if let Some(key) = key {
            lane.request.extend_from_slice(b"x-api-key: ");
            lane.request.extend_from_slice(key.as_bytes());
            lane.request.extend_from_slice(b"\r\n");
        }
        lane.request.extend_from_slice(b"\r\n");
        // The last answer is in, so the socket's buffer is empty and takes a request whole.
        lane.stream.write_all(&lane.request).context("Envoy closed a connection")
    }

    /// Waits for answers and names the connections that have some.
    fn wait(&self, at_most: Duration, ready: &mut Vec<usize>) -> anyhow::Result<()> {
        let timeout =
            Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
                CONNECTIONS];
        let count = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        ready.extend(events[..count].iter().map(|event| event.data.u64() as usize));
        Ok(())
    }

    /// Reads what came. Gives when the request was due, once its answer is whole.
    fn receive(&mut self, number: usize, expected: u16) -> anyhow::Result<Option<Instant>> {
        let lane = &mut self.lanes[number];
        let mut buffer = [0; 4096];
        match lane.stream.read(&mut buffer) {
            Ok(0) => bail!("Envoy closed a connection"),
            Ok(count) => lane.answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let Some(status) = whole(&lane.answer) else { return Ok(None) };
        ensure!(status == expected, "answered with {status} instead of {expected}");
        Ok(Some(lane.due))
    }
}

/// The status of an answer, once all of it is there. Its length must be given, as it is by Envoy where
/// it answers by itself.
fn whole(answer: &[u8]) -> Option<u16> {
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&answer[..head]).ok()?;
    let length =
        text.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
    (answer.len() >= head + 4 + length).then(|| text.get(9..12)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nserver: envoy\r\n\r\nno";
        assert_eq!(whole(answer), Some(401));
        for cut in 0..answer.len() {
            assert_eq!(whole(&answer[..cut]), None);
        }
    }
}
