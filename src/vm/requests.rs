//! What a VM decides about requests, from what is in memory.

use keywheel_keyring::bucket::Corrupt;
use keywheel_keyring::{Digest, Entry, Generation, Shape, key_text};

use super::{LOOK, Refusal, Ring, Role, VALID, Vm};
use crate::Now;
use crate::decide::{Decision, Outcome, Reason, decide};
use crate::policy::Access;
use crate::shared::SharedData;

impl Vm {
    /// Whether there is a ring to enforce. Asked before a key is looked at.
    pub fn ring(&mut self, host: &impl SharedData, now: Now) -> Ring {
        self.lease.served();
        let long_past = self.looked_at.is_none_or(|at| now.mono.abs_diff(at) > LOOK);
        // Another VM may serve already.
        if long_past || self.held.generation.complete.is_none() {
            self.look(host, now);
        }
        let age = now.wall.saturating_since(self.held.generation.issued_at);
        match self.held.generation.complete {
            None => Ring::Absent,
            Some(_) if self.refuse_after.is_some_and(|limit| age >= limit) => Ring::Stale,
            Some(_) => Ring::Fresh,
        }
    }

    /// Decides on a credential, from memory or from one look at a bucket. Ask [`Self::ring`] first.
    ///
    /// # Errors
    ///
    /// The [`Refusal`] to send.
    pub fn check(
        &mut self,
        host: &impl SharedData,
        credential: &[u8],
        needs: &Access,
        now: Now,
    ) -> Result<&Entry, Refusal<'_>> {
        // A clock that was set back does not revive what the ring's own time has ended.
        let wall = now.wall.max(self.held.generation.issued_at);
        let digest = Digest::of(credential);
        let refuse = |reason| Err(Refusal { reason, entry: None });
        let at = match self.cache.find(&digest, self.adoption) {
            Some(at) => at,
            None => match self.names.find(host, &digest) {
                Ok(Some(entry)) => {
                    let (at, before) = self.cache.put(self.adoption, entry);
                    if let Some((entry, count)) = before {
                        self.usage.add(entry.version, VALID, count.into());
                    }
                    at
                }
                Ok(None) => {
                    // Only a key that is not there is worth the look at its check: good ones pay nothing.
                    let prefix = &self.held.generation.key_prefix;
                    let typo = !prefix.is_empty() && key_text::shape(prefix, credential) == Shape::Malformed;
                    return refuse(if typo { Reason::MalformedKey } else { Reason::UnknownKey });
                }
                Err(Corrupt) => {
                    self.ask_for_repair(host);
                    return refuse(Reason::RingUnavailable);
                }
            },
        };
        let lot = self.draw();
        let decided = self.cache.entry(at).map(|entry| match decide(entry, wall, lot) {
            Decision::Allow => needs.permits(entry),
            Decision::Deny(reason) => Err(reason),
        });
        // Where nobody forwards what was counted, it would only pile up.
        let counts = self.role == Role::Fetch;
        if counts && decided == Some(Ok(())) {
            self.cache.count(at);
        }
        match (self.cache.entry(at), decided) {
            (Some(entry), Some(Ok(()))) => Ok(entry),
            (Some(entry), Some(Err(reason))) => {
                // A bad key that is known says whose it is.
                if counts {
                    self.usage.add(entry.version.clone(), reason.code(), 1);
                }
                Err(Refusal { reason, entry: Some(entry) })
            }
            _ => refuse(Reason::RingUnavailable),
        }
    }

    /// A number from 0 up to 1, another each time.
    fn draw(&mut self) -> f64 {
        // xorshift64: whoever could foresee it would gain nothing.
        self.lots ^= self.lots << 13;
        self.lots ^= self.lots >> 7;
        self.lots ^= self.lots << 17;
        (self.lots >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Counts a request.
    pub fn count(&mut self, outcome: Outcome) {
        if let Some(count) = self.metrics.requests.get_mut(outcome.index()) {
            *count = count.saturating_add(1);
        }
    }

    /// Marks the ring, so that the leader fetches a snapshot.
    pub(super) fn ask_for_repair(&self, host: &impl SharedData) {
        let held = self.names.generation(host);
        // Pages that are still to come may mend it.
        let is_paging = held.generation.sync.as_ref().is_some_and(|sync| !sync.is_paged());
        if !held.generation.repair && !is_paging {
            log::error!("keywheel: ring {}: a stored bucket is damaged; fetching the ring anew", self.ring);
            let repair = Generation { repair: true, sync: None, ..held.generation.clone() };
            // Whoever wrote first asked for the same, or brought something newer.
            let _ = self.names.write_generation(host, &held, &repair);
        }
    }
}
