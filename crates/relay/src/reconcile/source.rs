//! A polled provider: settings and errors.

use mailtrail_net::provider_api::{ApiError, ProviderApi};
use mailtrail_store::{CommitError, ReadError};
use mailtrail_trail::provider::Provider;
use std::time::Duration;

/// Settings of polling a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollSettings {
    /// Interval between polls. Default: 10 min; range 1 min..=1 day.
    pub interval: Duration,
    /// Time span of the first poll, and the maximum of any poll: the retention of the provider's plan.
    /// Default: 3 days; range 1 h..=30 days.
    pub lookback: Duration,
}

impl Default for PollSettings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(600), lookback: Duration::from_secs(3 * 86_400) }
    }
}

/// A polled provider.
#[derive(Debug)]
pub struct PollSource {
    /// API client.
    pub api: ProviderApi,
    /// Provider of the events.
    pub provider: Provider,
    /// Poll settings.
    pub settings: PollSettings,
}

/// Error that interrupts a poll. Events ingested before stay recorded.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A torn page; it may be complete when it is requested again.
    #[error("upstream {0}: events: a page cannot be read: its brackets or quotes do not fit together")]
    Torn(String),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}
