//! Which contexts the host has, without being told when one is gone.
//!
//! A VM serves all plugins of its `vm_id`, each with a root context; usually there is one. A request then
//! needs no look-up: its root is the only one there is. While there are several, each new context's root
//! is noted until its request's headers come, and what never comes is found out by asking the host.

use std::collections::BTreeMap;

use super::hostcalls::{self, Map};
use super::http::Push;
use super::root::Root;
use crate::config::Config;
use crate::reply::{Notice, Reply};

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
    /// Requests to the receiving listener, until their body is there.
    pushes: BTreeMap<u32, (u32, Push)>,
    push_root: u32,
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
            push_root: 0,
        }
    }

    pub(super) fn create(&mut self, id: u32, parent: u32) {
        if parent == 0 {
            if self.roots.is_empty() {
                self.alone = id;
            } else if self.roots.len() == 1 {
                self.alone = self.roots.keys().copied().next().unwrap_or(id);
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

    /// The root of a request, asked once for each.
    pub(super) fn root_of(&mut self, id: u32) -> Option<&mut Root> {
        let root = if self.roots.len() == 1 {
            self.roots.keys().copied().next()?
        } else {
            self.noted.remove(&id).unwrap_or(self.alone)
        };
        self.push_root = root;
        self.root(root)
    }

    /// Drops what belongs to contexts that the host has ended. `current` is the root whose callback this is.
    pub(super) fn forget_the_gone(&mut self, current: u32) {
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
    pub(super) fn notify(&mut self, id: u32, notice: Notice) {
        self.notices.insert(id, notice);
        if self.notices.len() > MAX_NOTICES {
            self.notices.pop_first();
        }
    }

    pub(super) fn take_notice(&mut self, id: u32) -> Option<Notice> {
        if self.notices.is_empty() { None } else { self.notices.remove(&id) }
    }

    pub(super) fn await_body(&mut self, id: u32, push: Push) {
        self.pushes.insert(id, (self.push_root, push));
    }

    pub(super) fn awaits_body(&self, id: u32) -> bool {
        !self.pushes.is_empty() && self.pushes.contains_key(&id)
    }

    /// Takes a body, once all of it is there or it is too long.
    pub(super) fn body(&mut self, id: u32, size: usize, end: bool) -> Option<Reply> {
        if crate::receive::is_too_long(size) {
            self.pushes.remove(&id);
            return Some(crate::receive::too_long());
        }
        if !end {
            return None;
        }
        let (root, push) = self.pushes.remove(&id)?;
        let root = self.root(root)?;
        Some(root.receive(&push, size))
    }
}
