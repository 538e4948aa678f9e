//! What the control plane does by itself.

pub mod canary;
pub mod checkpoints;
pub mod fold;
pub mod proxies;
pub mod purge;
pub mod scheduler;
