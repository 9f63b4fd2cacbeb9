//! Position in the journal.

use serde::{Deserialize, Serialize};

/// Position in the journal: segment and byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Number of the segment, from 1.
    pub segment: u32,
    /// Byte offset in the segment as it was first written.
    pub offset: u64,
}
