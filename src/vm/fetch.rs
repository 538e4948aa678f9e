//! How the ring comes into the process: what the leader asks for, what came by push or with the
//! configuration, and what is written of it.

use std::cell::LazyCell;

use keywheel_keyring::merge::{Ending, Plan, Rejection};
use keywheel_keyring::{Generation, Millis, PublicKey};

use super::{Host, LOG_AGAIN, Role, VALID, Vm};
use crate::Now;
use crate::refresh::{self, Answer, Call, Reaction, Standing};
use crate::roster;
use crate::shared::ApplyError;
use crate::usage::{self, Delivery, Origin};

impl Vm {
    /// Takes the answer to a call. The next call goes out before the answer is applied, so that the
    /// control plane works while the proxy does.
    pub fn answer(&mut self, host: &impl Host, id: u32, answer: Answer<'_>, now: Now) {
        if !self.leads {
            return;
        }
        match self.courier.answer(&self.names, host, id, answer.status, now.mono) {
            Delivery::Other => {}
            Delivery::Arrived => return,
            Delivery::Refused(batches) => {
                self.metrics.usage_dropped = self.metrics.usage_dropped.saturating_add(batches);
                log::error!(
                    "keywheel: ring {}: the control plane cannot read a usage report ({}); it is dropped",
                    self.ring,
                    answer.status
                );
                return;
            }
            Delivery::Failed => {
                log::warn!(
                    "keywheel: ring {}: usage was answered with {}; trying again",
                    self.ring,
                    answer.status
                );
                return;
            }
        }
        self.look(host, now);
        match self.refresh.answer(id, answer, &self.ring, &self.trust, &self.held.generation, now) {
            Reaction::Apply { plan, bad } => {
                self.note_bad(&bad);
                let next = match &plan {
                    Plan::Heartbeat(next) => (**next).clone(),
                    Plan::Write(write) => write.next().clone(),
                };
                self.send(host, Some(&next), now);
                // What failed was logged, and is tried again.
                let _ = self.apply(host, plan, now);
            }
            Reaction::Rejected { reason, detail } => {
                log::warn!(
                    "keywheel: ring {}: a document was not taken ({}): {detail}",
                    self.ring,
                    reason.as_str()
                );
                self.count_rejected(reason.as_str());
                if reason == Rejection::UntrustedSigner {
                    // Another configuration of the same ring may trust who signs now.
                    self.lease.resign(&self.names, host, now.mono);
                    self.stop();
                }
            }
            Reaction::Failed(why) => self.failed(&why, now),
            Reaction::Nothing => {}
        }
    }

    /// Makes the calls that are due, to go on from what is held or is about to be.
    pub(super) fn send(&mut self, host: &impl Host, next: Option<&Generation>, now: Now) {
        let (held, names, me) = (&self.held.generation, &self.names, self.lease.me());
        let who: &str =
            self.who.get_or_insert_with(|| who(&self.node, roster::instance(names, host, me), &self.trust));
        let standing = LazyCell::new(|| Standing {
            who,
            stored: held,
            enforced: roster::enforced(names, host, now.mono),
        });
        for call in self.refresh.due(&self.ring, next.unwrap_or(held), &standing, now) {
            if !host.call(&call) {
                self.refresh.not_sent(call.id, now);
                self.failed("Envoy has no such cluster, or cannot reach it", now);
            }
        }
    }

    /// Leads no more.
    pub(super) fn stop(&mut self) {
        self.leads = false;
        self.refresh.stop();
        self.courier.stop();
    }

    /// Begins with the ring of the configuration, while there is no other. Whoever comes first does it.
    pub(super) fn plant(&mut self, host: &impl Host, now: Now) {
        let held = &self.held.generation;
        if self.seed.is_none() || held.complete.is_some() || held.sync.is_some() {
            return;
        }
        let Some(seed) = self.seed.take() else { return };
        let answer = Answer {
            status: 200,
            signer: Some(seed.signer.as_bytes()),
            signature: Some(seed.signature.as_bytes()),
            ahead: None,
            body: seed.document.as_bytes(),
        };
        // A seed is as old as it is: what it is worth is the configuration's to say, by `stale`.
        let moment = Now { wall: Millis(0), mono: now.mono };
        let planted = match refresh::read(answer, &self.ring, &self.trust, held, moment, Ending::LastPage) {
            Reaction::Apply { plan, .. } => {
                self.lease.claim(&self.names, host);
                self.apply(host, plan, now).is_ok()
            }
            _ => false,
        };
        if planted {
            log::info!("keywheel: ring {}: began with the configuration's seed", self.ring);
        } else {
            self.seed = Some(seed);
        }
    }

    /// Takes a document that was pushed.
    pub fn receive(&mut self, host: &impl Host, document: Answer<'_>, now: Now) -> Reaction {
        self.look(host, now);
        let held = &self.held.generation;
        let reaction = refresh::read(document, &self.ring, &self.trust, held, now, Ending::LastPage);
        match reaction {
            Reaction::Apply { plan, bad } => {
                self.note_bad(&bad);
                self.lease.claim(&self.names, host);
                match self.apply(host, plan, now) {
                    Ok(()) => Reaction::Nothing,
                    Err(ApplyError::LeaseLost | ApplyError::Contended) => {
                        Reaction::Failed("another VM of this proxy writes just now".into())
                    }
                    Err(ApplyError::Damaged) => Reaction::Failed(
                        "a stored bucket is damaged; begin with a snapshot, which mends it".into(),
                    ),
                }
            }
            Reaction::Rejected { reason, detail } => {
                self.count_rejected(reason.as_str());
                Reaction::Rejected { reason, detail }
            }
            other => other,
        }
    }

    fn note_bad(&mut self, bad: &[(String, String)]) {
        for (version, error) in bad {
            log::error!("keywheel: ring {}: {version} is denied: {error}", self.ring);
            self.count_rejected("bad_entry");
        }
    }

    pub(super) fn seal(&mut self, host: &impl Host, now: Now) {
        if !self.usage.is_due(self.cache.has_counts(), now) {
            return;
        }
        let usage = &mut self.usage;
        self.cache.take_counts(|entry, count| usage.add(entry.version.clone(), VALID, count.into()));
        let instance = roster::instance(&self.names, host, self.lease.me());
        self.usage.seal(&self.names, host, Origin { node: &self.node, instance }, now);
        self.metrics.usage_dropped = self.metrics.usage_dropped.saturating_add(self.usage.take_dropped());
    }

    pub(super) fn forward_usage(&mut self, host: &impl Host, now: Now) {
        let (id, cluster) = self.refresh.next_call();
        let Some(body) = self.courier.due(&self.names, host, id, now.mono) else {
            return;
        };
        let call = Call {
            id,
            cluster,
            path: format!("/v1/rings/{}/usage", self.ring),
            proxy: self.who.clone().unwrap_or_default(),
            body: Some(body),
            timeout_ms: usage::TIMEOUT,
        };
        if !host.call(&call) {
            self.courier.answer(&self.names, host, id, 0, now.mono);
        }
    }

    fn apply(&mut self, host: &impl Host, plan: Plan, now: Now) -> Result<(), ApplyError> {
        let leads = || self.lease.leads(&self.names, host);
        let comes_again = matches!(&plan, Plan::Write(write) if write.comes_again());
        let applied = self.names.apply(host, &self.held, plan, leads);
        match &applied {
            Ok(_) => {
                self.refresh.applied();
                if self.failing_since.take().is_some() {
                    log::info!("keywheel: ring {}: the control plane answers again", self.ring);
                }
                self.look(host, now);
                if self.role != Role::Receive {
                    self.report(host, now);
                }
            }
            Err(ApplyError::LeaseLost) => self.stop(),
            // Another VM writes just now; what it did not bring is fetched again.
            Err(ApplyError::Contended) => self.refresh.not_applied(comes_again, now),
            Err(ApplyError::Damaged) => {
                log::error!(
                    "keywheel: ring {}: a document could not be stored: a bucket is damaged",
                    self.ring
                );
                self.count_rejected(Rejection::Bucket.as_str());
                self.refresh.not_applied(comes_again, now);
                self.ask_for_repair(host);
            }
        }
        applied.map(drop)
    }

    fn failed(&mut self, why: &str, now: Now) {
        self.metrics.refresh_failures = self.metrics.refresh_failures.saturating_add(1);
        let since = *self.failing_since.get_or_insert(now.mono);
        if since == now.mono || now.mono.saturating_sub(self.logged_at) >= LOG_AGAIN {
            self.logged_at = now.mono;
            log::warn!("keywheel: ring {}: cannot refresh: {why}; trying again", self.ring);
        }
    }

    fn count_rejected(&mut self, reason: &'static str) {
        let count = self.metrics.rejected.entry(reason).or_default();
        *count = count.saturating_add(1);
    }
}

/// Who a process is, for every call that it makes.
fn who(node: &str, instance: u64, trust: &[PublicKey]) -> String {
    let trust: Vec<String> = trust.iter().map(|key| key.id().to_string()).collect();
    let (node, filter) = (percent_encode(node), env!("CARGO_PKG_VERSION"));
    format!("node={node}&instance={instance:016x}&filter={filter}&trust={}", trust.join(","))
}

/// Percent-encodes all but unreserved characters.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
