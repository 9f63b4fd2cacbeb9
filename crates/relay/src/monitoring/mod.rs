//! Monitoring: consistency of the ledger, thresholds, heartbeat, queue gauges and activity of the upstreams.

mod consistency;
pub mod heartbeat;
mod queue_gauges;
pub mod thresholds;
mod upstream_activity;

pub use consistency::ConsistencyChecker;
pub use heartbeat::Heartbeat;
pub use queue_gauges::QueueGauges;
pub use thresholds::{ThresholdMonitor, Thresholds};
pub use upstream_activity::UpstreamActivity;
