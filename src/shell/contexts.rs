//! Which contexts the host has, without being told when one is gone.
//!
//! A VM serves all plugins of its `vm_id`, each with a root context; usually there is one. A request then
//! needs no look-up: its root is the only one there is. While there are several, each new context's root
//! is noted until its request's headers come, and what never comes is found out by asking the host.

use std::collections::BTreeMap;

use super::hostcalls::{self, Map};
use super::http::{self, Push};
use super::root::Root;
use crate::config::{Config, Mode};
use crate::receive;
use crate::reply::{Notice, Reply};
use crate::request::{Verdict, unexplained};

/// Notes are checked against the host when there are so many more than at the last check.
const CHECK: usize = 1024;
/// Answers that may be under way with a notice to add; the oldest give way.
const MAX_NOTICES: usize = 4096;

pub(super) struct Contexts {
    roots: BTreeMap<u32, Option<Root>>,
    /// The root of each request that was not noted: the one that was alone when it began.
    alone: u32,
    /// The roots of requests whose headers have not come yet.
    noted: BTreeMap<u32, u32>,
    /// How many notes are too many.
    check_at: usize,
    notices: BTreeMap<u32, Notice>,
    /// Requests to the receiving listener, and their root, until their body is there.
    pushes: BTreeMap<u32, (u32, Push)>,
}

/// What becomes of a request for now.
pub(super) enum Step {
    Continue,
    /// More of it is to come.
    Stop,
    Answer(Reply),
}

impl Contexts {
    pub(super) const fn new() -> Self {
        Self {
            roots: BTreeMap::new(),
            alone: 0,
            noted: BTreeMap::new(),
            check_at: CHECK,
            notices: BTreeMap::new(),
            pushes: BTreeMap::new(),
        }
    }

    pub(super) fn create(&mut self, id: u32, parent: u32) {
        if parent == 0 {
            if self.roots.len() < 2 {
                self.alone = self.roots.first_key_value().map_or(id, |(alone, _)| *alone);
            }
            self.roots.insert(id, None);
        } else if self.roots.len() > 1 {
            self.noted.insert(id, parent);
        }
    }

    pub(super) fn configure(&mut self, id: u32, root: Option<Root>) {
        self.roots.insert(id, root);
    }

    pub(super) fn root(&mut self, id: u32) -> Option<&mut Root> {
        self.roots.get_mut(&id)?.as_mut()
    }

    /// A request's headers are there.
    pub(super) fn request(&mut self, id: u32, end: bool) -> Step {
        // The host's numbers come round again.
        self.take_notice(id);
        let root_id = self.root_of(id);
        let Some(root) = self.root(root_id) else {
            return Step::Answer(unexplained());
        };
        if root.config.mode == Mode::Receive {
            return match http::receive(root, end) {
                Ok(push) => {
                    self.pushes.insert(id, (root_id, push));
                    Step::Stop
                }
                Err(reply) => Step::Answer(reply),
            };
        }
        match http::decide(root) {
            Verdict::Pass(notice) => {
                if let Some(notice) = notice {
                    self.notify(id, notice);
                }
                Step::Continue
            }
            Verdict::Answer(reply) => Step::Answer(reply),
        }
    }

    /// More of a request's body is there: taken once all of it is, or it is too long.
    pub(super) fn body(&mut self, id: u32, size: usize, end: bool) -> Step {
        if !self.pushes.contains_key(&id) {
            return Step::Continue;
        }
        let too_long = receive::is_too_long(size);
        if !end && !too_long {
            return Step::Stop;
        }
        let pushed = self.pushes.remove(&id).filter(|_| !too_long);
        let reply = match pushed {
            None => receive::too_long(),
            Some((root, push)) => self.root(root).map_or_else(unexplained, |root| root.receive(&push, size)),
        };
        Step::Answer(reply)
    }

    /// The root of a request, asked once for each.
    fn root_of(&mut self, id: u32) -> u32 {
        match self.roots.first_key_value() {
            Some((root, _)) if self.roots.len() == 1 => *root,
            _ => self.noted.remove(&id).unwrap_or(self.alone),
        }
    }

    /// Drops what belongs to contexts that the host has ended. `current` is the root whose callback this is.
    pub(super) fn forget_the_gone(&mut self, current: u32) {
        if self.roots.len() <= 1 && self.noted.is_empty() && self.pushes.is_empty() {
            return;
        }
        if self.roots.len() > 1 {
            self.roots.retain(|id, _| hostcalls::set_effective_context(*id));
            if self.roots.len() == 1 {
                self.noted.clear();
            }
        }
        if self.noted.len() > self.check_at {
            self.noted.retain(|id, _| hostcalls::set_effective_context(*id));
            self.check_at = self.noted.len().saturating_add(CHECK);
        }
        if !self.pushes.is_empty() {
            self.pushes.retain(|id, _| hostcalls::set_effective_context(*id));
        }
        hostcalls::set_effective_context(current);
    }

    /// Takes out of a request's trailers what stands for a credential or an identity to any plugin of this
    /// VM. False if the host refused.
    pub(super) fn clear_trailers(&self) -> bool {
        let configs = self.roots.values().flatten().map(|root| &root.config);
        configs
            .flat_map(Config::guarded_headers)
            .all(|name| hostcalls::remove_header(Map::RequestTrailers, name))
    }

    /// Keeps a notice until the request's answer comes. Of a request that ends without one it stays until
    /// it is the oldest.
    fn notify(&mut self, id: u32, notice: Notice) {
        self.notices.insert(id, notice);
        if self.notices.len() > MAX_NOTICES {
            self.notices.pop_first();
        }
    }

    pub(super) fn take_notice(&mut self, id: u32) -> Option<Notice> {
        if self.notices.is_empty() { None } else { self.notices.remove(&id) }
    }
}
