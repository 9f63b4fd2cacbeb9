//! From the store to the upstream: what is due is tried, what failed for now is tried again.

mod schedule;

pub use schedule::Retry;
