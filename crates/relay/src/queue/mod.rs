//! From the store to the upstream: what is due is tried, what failed for now is tried again.
//!
//! The dispatcher asks the store what is due and hands out ids, never more than the connections can take; the rest
//! of the queue lies in the store only. An attempt that may have succeeded without our hearing of it is `unknown`.

mod api_worker;
mod attempt;
mod ready_queue;
mod retry;
mod scheduler;
mod smtp_worker;
mod upstream_pool;

pub use retry::RetryPolicy;
pub use scheduler::{Scheduler, SchedulerDeps};
pub use upstream_pool::UpstreamSpec;
