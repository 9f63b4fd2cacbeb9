//! Relaying from the store to the upstreams: due messages are attempted, and temporary failures are retried.
//!
//! The scheduler queries the store for due messages and dispatches ids, never more than the connections can
//! take. The rest of the queue is in the store only. An attempt that may have succeeded without a reply is
//! `unknown`.

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
