//! State that outlives a configuration.

use crate::daemon::supervisor::Supervisor;
use mailtrail_mail::{Clock, ClockWatch, TrackingIdGenerator};
use mailtrail_relay::LoopbackProbe;
use mailtrail_relay::alarms::{AlarmRegistry, notifier};
use mailtrail_relay::monitoring::UpstreamActivity;
use mailtrail_relay::submission::{ConnectionLimiter, MemoryBudget};
use mailtrail_store::Store;
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// State shared by all configuration generations of the process.
pub struct DaemonContext {
    pub store: Store,
    pub clock: Clock,
    pub metrics: Option<PrometheusHandle>,
    pub id_generator: Arc<TrackingIdGenerator>,
    /// SMTP sessions of all generations.
    pub connections: ConnectionLimiter,
    pub spool_memory: MemoryBudget,
    pub alarms: AlarmRegistry,
    /// Notifications sent so far.
    pub notifier_state: notifier::NotifierState,
    pub upstream_activity: UpstreamActivity,
    /// Detects clock steps.
    pub clock_watch: ClockWatch,
    /// Recognizes requests that this process sent to itself.
    pub loopback_probe: LoopbackProbe,
    pub supervisor: Supervisor,
    /// Cancelled when mail is no longer accepted and sent.
    pub mail_shutdown: CancellationToken,
    /// Cancelled when HTTP requests are no longer answered.
    pub http_shutdown: CancellationToken,
    /// Tasks that accept and send mail.
    pub mail_tasks: TaskTracker,
    /// Tasks that answer HTTP requests.
    pub http_tasks: TaskTracker,
}

impl DaemonContext {
    pub fn new(store: Store, clock: Clock, metrics: Option<PrometheusHandle>) -> Self {
        let alarms = AlarmRegistry::new(clock);
        Self {
            supervisor: Supervisor::new(alarms.clone()),
            store,
            clock,
            metrics,
            id_generator: Arc::default(),
            connections: ConnectionLimiter::default(),
            spool_memory: MemoryBudget::default(),
            alarms,
            notifier_state: notifier::NotifierState::default(),
            upstream_activity: UpstreamActivity::default(),
            clock_watch: ClockWatch::new(clock),
            loopback_probe: LoopbackProbe::default(),
            mail_shutdown: CancellationToken::new(),
            http_shutdown: CancellationToken::new(),
            mail_tasks: TaskTracker::new(),
            http_tasks: TaskTracker::new(),
        }
    }
}
