//! What the control plane does by itself.

pub mod purge;
pub mod scheduler;
