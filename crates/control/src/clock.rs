//! The one place where the control plane reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use keywheel_keyring::Millis;

/// Now; a clock before 1970 counts as 1970.
#[must_use]
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
