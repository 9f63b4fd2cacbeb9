//! How many in a time, as configurations say it.

use std::time::Duration;

/// So many messages in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least one.
    pub count: u64,
    /// More than none.
    pub per: Duration,
}
