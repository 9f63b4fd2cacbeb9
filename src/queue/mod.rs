//! From the store to the upstream: what is due is tried, what failed for now is tried again.
//!
//! The dispatcher asks the store what is due and hands out ids, never more than the connections can take; the rest
//! of the queue lies in the store only. An attempt that may have succeeded without our hearing of it is `unknown`.

mod attempt;
mod courier;
mod dispatch;
mod outlet;
mod schedule;
mod work;
mod worker;

pub use dispatch::{Parts, Queue};
pub use outlet::Outward;
pub use schedule::Retry;
