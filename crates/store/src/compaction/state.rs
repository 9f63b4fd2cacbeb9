//! State of maintenance between its steps.

use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::HashSet;

/// State of maintenance between its steps.
#[derive(Debug, Default)]
pub struct CompactionState {
    /// Message from which the search for expired messages continues.
    pub expiry_cursor: Option<TrackingId>,
    /// Time of the next full pass.
    pub next_pass: Timestamp,
    /// Damaged segments, which are left as they are.
    pub corrupt_segments: HashSet<u32>,
    /// Size of the ledger, in bytes, at which its rows are counted again.
    pub measure_at_bytes: u64,
    /// Time at which the rows are counted again in any case.
    pub next_measure: Timestamp,
    /// File bytes of a new ledger per byte of its rows.
    pub overhead: f64,
}
