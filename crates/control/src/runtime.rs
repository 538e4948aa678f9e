//! What a running control plane keeps in memory alone, beside its rings.

use std::sync::Arc;

use crate::api::auth::{LastScraper, Uses};
use crate::api::figures::Scrapes;
use crate::api::health::Looks;
use crate::failed_logins::FailedLogins;
use crate::metrics::Metrics;
use crate::serve::Limits;

#[derive(Debug, Default)]
pub(crate) struct Runtime {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    pub(crate) failed_logins: FailedLogins,
    /// Of the consumer listener, where others ask than operators and proxies.
    pub(crate) failed_keys: FailedLogins,
    pub(crate) scrapes: Scrapes,
    pub(crate) last_scraper: LastScraper,
    pub(crate) uses: Uses,
    pub(crate) looks: Looks,
}
