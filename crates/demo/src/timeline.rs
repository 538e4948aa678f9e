//! What is seen of the scenario while it happens: a line a second, and events between them.

use std::pin::pin;
use std::time::{Duration, Instant};

use keywheel_testkit::load::{Credential, Load};
use keywheel_testkit::{EnvoyAdmin, Sample};
use tokio::time::sleep_until;

use crate::screen::{Paint, Screen};

const GLANCE: Duration = Duration::from_millis(250);
const LINE: Duration = Duration::from_secs(1);

/// Traffic, and the picture of it.
pub(crate) struct Timeline<'s> {
    screen: &'s mut Screen,
    load: Load,
    envoy: EnvoyAdmin,
    begin: Instant,
    /// When to look next. It goes on from one wait to the next, so that lines come at an even pace.
    next: Instant,
    /// When the current line began, and how many samples came before it.
    line: (Instant, usize),
    samples: Vec<Sample>,
}

impl<'s> Timeline<'s> {
    pub(crate) fn start(load: Load, envoy: EnvoyAdmin, screen: &'s mut Screen) -> Self {
        let head = format!(
            "\n{:>7}  {:>9} {:>9}  {:>7} {:>5} {:>6}  {:>5}",
            "time", "v1 req/s", "v2 req/s", "served", "401", "failed", "ring"
        );
        screen.line(&head);
        let now = Instant::now();
        Self { screen, load, envoy, begin: now, next: now + GLANCE, line: (now, 0), samples: Vec::new() }
    }

    /// Waits for something, and shows what happens meanwhile.
    pub(crate) async fn during<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        loop {
            // What is waited for comes first: a moment that is measured must not stand in a queue.
            tokio::select! {
                biased;
                done = &mut wait => return done,
                () = sleep_until(self.next.into()) => {
                    let revision = self.envoy.metric("keywheel_ring_revision").await.ok();
                    self.glance(revision);
                    self.next = (self.next + GLANCE).max(Instant::now());
                }
            }
        }
    }

    pub(crate) fn event(&mut self, what: &str) {
        let time = format!("{:>6.1} s", self.begin.elapsed().as_secs_f64());
        let what = self.screen.paint(Paint::Event, &format!("── {what}"));
        self.screen.line(&format!("{time}  {what}"));
    }

    pub(crate) fn switch(&self, credential: Credential) {
        self.load.switch(credential);
    }

    /// Takes in what was recorded so far.
    pub(crate) fn catch_up(&mut self) {
        self.samples.extend(self.load.drain());
    }

    pub(crate) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Ends the traffic and gives all of it.
    pub(crate) async fn stop(mut self) -> Vec<Sample> {
        self.samples.extend(self.load.stop().await);
        self.samples
    }

    fn glance(&mut self, revision: Option<u64>) {
        self.catch_up();
        let (since, from) = self.line;
        let text = self.describe(since.elapsed(), &self.samples[from..], revision);
        if self.next >= since + LINE {
            self.screen.line(&text);
            self.line = (self.next, self.samples.len());
        } else {
            self.screen.live(&text);
        }
    }

    fn describe(&self, time: Duration, samples: &[Sample], revision: Option<u64>) -> String {
        let count = |wanted: &dyn Fn(&Sample) -> bool| samples.iter().filter(|sample| wanted(sample)).count();
        let per_second = |label| {
            let requests = count(&|sample| sample.label == label);
            format!("{:.0}", requests as f64 / time.as_secs_f64().max(0.001))
        };
        let refused = count(&|sample| sample.status == Some(401));
        let served = count(&Sample::served);
        let failed = samples.len() - served - refused;
        let alarm = |number: usize, width: usize| {
            let text = format!("{number:>width$}");
            if number > 0 { self.screen.paint(Paint::Bad, &text) } else { text }
        };
        format!(
            "{:>6.1} s  {:>9} {:>9}  {served:>7} {} {}  {:>5}",
            self.begin.elapsed().as_secs_f64(),
            per_second("v1"),
            per_second("v2"),
            alarm(refused, 5),
            alarm(failed, 6),
            revision.map_or_else(|| "?".into(), |revision| revision.to_string()),
        )
    }
}
