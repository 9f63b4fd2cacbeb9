//! Rates as configured: a number per duration.

use std::time::Duration;

/// Number of messages per duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Number of messages, at least one.
    pub count: u64,
    /// Duration, longer than zero.
    pub per: Duration,
}
