//! The background tasks of a configuration: reports, checks, sinks, polls, maintenance.

use crate::config::Config;
use crate::daemon::context::DaemonContext;
use crate::daemon::exclusive_task::ExclusiveTask;
use crate::daemon::queue::{QUEUE_TASK, has_event_source, upstream_selection};
use crate::daemon::store_maintenance::run_maintenance;
use crate::daemon::supervisor::BackgroundTask;
use futures_util::future::join_all;
use mailtrail_net::tls::{self, Server};
use mailtrail_relay::alarms::{AlarmKind, AlarmNotifier, AlarmRegistry, MACHINE_SUBJECT};
use mailtrail_relay::inbound::InboundDelivery;
use mailtrail_relay::monitoring::{ConsistencyChecker, Heartbeat, QueueGauges, ThresholdMonitor};
use mailtrail_relay::reconcile::Reconciler;
use mailtrail_relay::sink::SinkWorker;
use mailtrail_relay::suppression_sync::SuppressionSync;
use mailtrail_relay::{DsnReporter, SubmitFn};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Parts of the background tasks that the generation has built.
pub struct BackgroundDeps {
    pub reconciler: Reconciler,
    pub suppression_sync: SuppressionSync,
    pub tls_servers: Vec<Arc<Server>>,
    /// Submits the heartbeat's messages.
    pub submit: SubmitFn,
}

/// Starts the background tasks after those of the generation before have ended, because two reporters would report
/// twice. Each task is supervised.
pub fn spawn_background_tasks(
    ground: &DaemonContext,
    config: &Config,
    deps: BackgroundDeps,
    stopping: CancellationToken,
    before: Option<&ExclusiveTask>,
) -> ExclusiveTask {
    let tasks = build_tasks(ground, config, deps, &stopping);
    let (supervisor, alarms, config) = (ground.supervisor.clone(), ground.alarms.clone(), config.clone());
    let until = stopping.clone();
    ExclusiveTask::spawn_after(&ground.mail_tasks, before, stopping, async move {
        clear_stale_alarms(&alarms, &config);
        let names: Vec<_> = tasks.iter().map(BackgroundTask::name).chain([QUEUE_TASK]).collect();
        supervisor.clear_unknown_tasks(&names);
        join_all(tasks.into_iter().map(|task| supervisor.run(task, &until))).await;
    })
}

fn build_tasks(
    ground: &DaemonContext,
    config: &Config,
    deps: BackgroundDeps,
    stopping: &CancellationToken,
) -> Vec<BackgroundTask> {
    let BackgroundDeps { reconciler, suppression_sync, tls_servers, submit } = deps;
    let (store, clock, alarms) = (&ground.store, ground.clock, &ground.alarms);
    let mut tasks = monitoring_tasks(ground, config, tls_servers.clone(), stopping);
    let reporter = DsnReporter {
        store: store.clone(),
        clock,
        id_generator: ground.id_generator.clone(),
        hostname: config.hostname.clone(),
    };
    tasks.push(BackgroundTask::new("dsn-reporter", reporter, stopping, DsnReporter::run));
    tasks.push(BackgroundTask::new("alarm-notifier", notifier(ground, config), stopping, AlarmNotifier::run));
    tasks.push(BackgroundTask::new(
        "reconciler",
        Arc::new(reconciler),
        stopping,
        |reconciler, stopping| async move {
            reconciler.run(stopping).await;
        },
    ));
    let (interval, sync_alarms) = (config.suppression_sync_interval, alarms.clone());
    tasks.push(BackgroundTask::new("suppression-sync", suppression_sync, stopping, move |sync, stopping| {
        sync.run(interval, sync_alarms.clone(), stopping)
    }));
    for settings in &config.sinks {
        let (store, alarms) = (store.clone(), alarms.clone());
        let run = move |settings, stopping| {
            SinkWorker::new(store.clone(), clock, alarms.clone(), settings).run(stopping)
        };
        tasks.push(BackgroundTask::new(format!("sink-{}", settings.name), settings.clone(), stopping, run));
    }
    let delivery = InboundDelivery {
        store: store.clone(),
        clock,
        alarms: alarms.clone(),
        hostname: config.hostname.clone(),
        targets: config.inbound_targets.clone(),
    };
    tasks.push(BackgroundTask::new("inbound-delivery", delivery, stopping, InboundDelivery::run));
    if let Some(settings) = config.heartbeat.clone() {
        let heartbeat = Heartbeat { store: store.clone(), submit, alarms: alarms.clone(), settings };
        tasks.push(BackgroundTask::new("heartbeat", heartbeat, stopping, Heartbeat::run));
    }
    let (retention, watch) = (config.retention, ground.clock_watch.clone());
    tasks.push(BackgroundTask::new("store-maintenance", store.clone(), stopping, move |store, stopping| {
        run_maintenance(store, retention, watch.clone(), clock, stopping)
    }));
    tasks.push(BackgroundTask::new(
        "certificates",
        tls_servers,
        stopping,
        move |servers, stopping| async move {
            stopping.run_until_cancelled(tls::watch_certificates(servers, clock)).await;
        },
    ));
    tasks
}

fn monitoring_tasks(
    ground: &DaemonContext,
    config: &Config,
    tls_servers: Vec<Arc<Server>>,
    stopping: &CancellationToken,
) -> Vec<BackgroundTask> {
    let (store, clock, alarms) = (&ground.store, ground.clock, &ground.alarms);
    let give_up_after = config.upstreams.iter().map(|upstream| upstream.retry.give_up_after).max();
    let checker = ConsistencyChecker {
        store: store.clone(),
        clock,
        alarms: alarms.clone(),
        max_message_age: give_up_after.unwrap_or_default(),
    };
    let upstreams = config.upstreams.iter();
    let monitor = ThresholdMonitor {
        store: store.clone(),
        clock,
        alarms: alarms.clone(),
        upstream_activity: ground.upstream_activity.clone(),
        clock_watch: ground.clock_watch.clone(),
        upstreams: upstreams
            .map(|upstream| (upstream.transport.name.clone(), has_event_source(upstream, config)))
            .collect(),
        tls_servers,
        thresholds: config.alarm_thresholds.clone(),
    };
    let gauges = QueueGauges {
        store: store.clone(),
        clock,
        routes: Arc::new(upstream_selection(config)),
        upstreams: upstream_names(config),
    };
    vec![
        BackgroundTask::new("consistency-checker", checker, stopping, ConsistencyChecker::run),
        BackgroundTask::new("threshold-monitor", monitor, stopping, ThresholdMonitor::run),
        BackgroundTask::new("queue-gauges", gauges, stopping, QueueGauges::run),
    ]
}

fn notifier(ground: &DaemonContext, config: &Config) -> AlarmNotifier {
    AlarmNotifier {
        store: ground.store.clone(),
        clock: ground.clock,
        id_generator: ground.id_generator.clone(),
        hostname: config.hostname.clone(),
        alarms: ground.alarms.clone(),
        upstream_activity: ground.upstream_activity.clone(),
        state: ground.notifier_state.clone(),
        upstreams: upstream_names(config),
        settings: config.alarm_notifications.clone(),
    }
}

fn upstream_names(config: &Config) -> Vec<String> {
    config.upstreams.iter().map(|upstream| upstream.transport.name.clone()).collect()
}

/// Ends alarms about objects that the configuration no longer has, because no task would end them.
fn clear_stale_alarms(alarms: &AlarmRegistry, config: &Config) {
    let upstream = |name: &str| config.upstreams.iter().any(|upstream| upstream.transport.name == name);
    for kind in [
        AlarmKind::MissingEvents,
        AlarmKind::Signature,
        AlarmKind::RelayLatency,
        AlarmKind::UpstreamStuck,
        AlarmKind::SuppressionSync,
        AlarmKind::EventPolls,
        AlarmKind::SuppressedRecipients,
    ] {
        alarms.clear_unknown_subjects(kind, upstream);
    }
    alarms
        .clear_unknown_subjects(AlarmKind::Clock, |subject| subject == MACHINE_SUBJECT || upstream(subject));
    alarms.clear_unknown_subjects(AlarmKind::Sink, |name| config.sinks.iter().any(|sink| sink.name == name));
    alarms.clear_unknown_subjects(AlarmKind::Inbound, |name| {
        config.inbound_targets.iter().any(|target| target.name == name)
    });
    alarms.clear_unknown_subjects(AlarmKind::Heartbeat, |to| {
        config.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.recipient.as_str() == to)
    });
}
