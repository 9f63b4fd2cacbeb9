//! Keeps the store small: removes rows past retention, rewrites segments that hold much garbage, and rebuilds
//! the ledger when it has grown.
//!
//! The journal is the source of truth and the ledger is not, so a missing row alone never justifies dropping
//! data. A body is dropped only if a row marks the message as finished. A record without a row is dropped
//! only if it is past retention by its own time.

mod retain;
mod state;
mod step;

pub(crate) use state::CompactionState;
