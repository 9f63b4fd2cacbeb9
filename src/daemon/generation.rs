//! What one configuration makes of the relay. The first start and every change go the same way: everything that can
//! fail is prepared while the generation before goes on, then the new one takes over its sockets.

use crate::config::{Config, Upstream};
use crate::daemon::StartError;
use crate::daemon::exclusive_task::ExclusiveTask;
use crate::daemon::internal_mail::{internal_submit_fn, test_mailer};
use crate::daemon::listeners::SubmissionSetup;
use crate::daemon::provider_apis::{build_reconciler, build_suppression_sync, connect_provider_apis};
use crate::daemon::queue::{QueuePlan, RunningQueue, has_event_source, upstream_selection};
use crate::daemon::sockets::{BoundSocket, Sockets};
use crate::daemon::store_maintenance::run_maintenance;
use futures_util::future::join_all;
use mailtrail_mail::{Clock, ClockWatch, TrackingIdGenerator};
use mailtrail_net::odoo::OdooInstance;
use mailtrail_net::provider_api::ProviderApi;
use mailtrail_net::tls::Server;
use mailtrail_net::{RefusalLog, tls};
use mailtrail_relay::admin::{AccessPolicy, ApiState};
use mailtrail_relay::alarms::{AlarmKind, AlarmNotifier, AlarmRegistry, MACHINE_SUBJECT, notifier};
use mailtrail_relay::inbound::InboundDelivery;
use mailtrail_relay::monitoring::{
    ConsistencyChecker, Heartbeat, QueueGauges, ThresholdMonitor, UpstreamActivity,
};
use mailtrail_relay::reconcile::Reconciler;
use mailtrail_relay::sink::SinkWorker;
use mailtrail_relay::submission::{BoundListener, ConnectionLimiter, MemoryBudget};
use mailtrail_relay::suppression_sync::SuppressionSync;
use mailtrail_relay::webhook::inbound::InboundReceiver;
use mailtrail_relay::webhook::{WebhookService, WebhookSource};
use mailtrail_relay::{DsnReporter, LoopbackProbe, SubmitFn, admin, sink, webhook};
use mailtrail_store::Store;
use mailtrail_trail::provider::Provider;
use metrics_exporter_prometheus::PrometheusHandle;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all generations stand on.
pub struct DaemonContext {
    pub store: Store,
    pub clock: Clock,
    pub metrics: Option<PrometheusHandle>,
    /// For whatever enters the store.
    pub id_generator: Arc<TrackingIdGenerator>,
    /// The conversations, of former generations too.
    pub connections: ConnectionLimiter,
    pub spool_memory: MemoryBudget,
    pub alarms: AlarmRegistry,
    /// What was told of them.
    pub notifier_state: notifier::NotifierState,
    /// What goes out and comes back.
    pub upstream_activity: UpstreamActivity,
    /// What knows whether the clock was set.
    pub clock_watch: ClockWatch,
    /// What knows whether a request comes to this process.
    pub loopback_probe: LoopbackProbe,
    /// Set when mail is no longer taken and sent.
    pub mail_shutdown: CancellationToken,
    /// Set when HTTP is no longer answered.
    pub http_shutdown: CancellationToken,
    /// What takes and sends mail.
    pub mail_tasks: TaskTracker,
    /// What answers over HTTP.
    pub http_tasks: TaskTracker,
}

/// A generation at work.
pub struct Generation {
    pub config: Config,
    pub sockets: Sockets,
    /// Where clients connect, in the order of the configuration.
    pub smtp_addresses: Vec<SocketAddr>,
    pub http_address: Option<SocketAddr>,
    submission: SubmissionSetup,
    running_queue: RunningQueue,
    shutdown: ShutdownTokens,
    /// Upkeep, reports and what else is done now and then.
    background: ExclusiveTask,
}

/// What ends a generation, whether or not the relay goes on.
struct ShutdownTokens {
    /// Stops the listeners.
    listeners: CancellationToken,
    /// Stops the background tasks.
    background: CancellationToken,
    /// Stops the HTTP services.
    http: CancellationToken,
}

/// A generation at rest.
pub struct StagedGeneration {
    config: Config,
    sockets: Sockets,
    /// Sockets of the generation before that this one has no use for.
    pub unused_sockets: Sockets,
    submission: SubmissionSetup,
    listeners: Vec<Option<BoundListener>>,
    smtp_addresses: Vec<SocketAddr>,
    queue_plan: QueuePlan,
    reconciler: Reconciler,
    /// Whose accounts mail from outside is fetched with.
    provider_apis: BTreeMap<String, ProviderApi>,
    api_state: ApiState,
    admin_socket: Option<UnixListener>,
    admin_listener: Option<TcpListener>,
    http_listener: Option<TcpListener>,
}

impl DaemonContext {
    /// For a store.
    pub fn new(store: Store, clock: Clock, metrics: Option<PrometheusHandle>) -> Self {
        Self {
            store,
            clock,
            metrics,
            id_generator: Arc::default(),
            connections: ConnectionLimiter::default(),
            spool_memory: MemoryBudget::default(),
            alarms: AlarmRegistry::new(clock),
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

impl StagedGeneration {
    /// Everything that `config` asks for, at rest; sockets that are in `offered` are used.
    pub fn new(
        ground: &DaemonContext,
        config: Config,
        mut offered: Sockets,
        before: Option<&Generation>,
    ) -> Result<Self, StartError> {
        let submission =
            SubmissionSetup::new(ground, &config, before.map(|before| (&before.submission, &before.config)))?;
        let queue_plan = QueuePlan::new(ground, &config, before.map(|before| &before.running_queue))?;
        let reconciler = build_reconciler(ground, &config)?;
        let provider_apis = connect_provider_apis(ground, &config)?;
        let mut sockets =
            before.map_or_else(Sockets::for_startup, |before| Sockets::for_reload(&before.sockets));
        let listeners = submission.bind_listeners(ground, &config, &mut sockets, &mut offered)?;
        let addresses = listeners.iter().zip(&config.listeners);
        let addresses = addresses.map(|(door, listener)| {
            let bound = door.as_ref().and_then(|door| door.socket.local_addr().ok());
            bound.unwrap_or(listener.address)
        });
        let smtp_addresses = addresses.collect();
        let api_state = ApiState {
            store: ground.store.clone(),
            clock: ground.clock,
            upstream_health: queue_plan.health(),
            upstream_selection: Arc::new(upstream_selection(&config)),
            suppression_settings: Arc::new(config.suppression.clone()),
            suppression_sync: build_suppression_sync(ground, &config)?,
            alarms: ground.alarms.clone(),
            providers: Arc::new(upstream_providers(&config)),
            retention: config.retention,
            sink_names: config.sinks.iter().map(|sink| sink.name.clone()).collect(),
            odoo_instances: Arc::new(odoo_instances(&config)),
            loopback_probe: ground.loopback_probe.clone(),
            test_mailer: test_mailer(ground, &config, &submission),
        };
        let admin_socket = sockets.listen_unix(&mut offered, &config.admin.socket)?;
        let mut listen = |what, address: Option<SocketAddr>| {
            let taken = address.map(|address| sockets.listen_tcp(&mut offered, what, address)).transpose()?;
            Ok::<_, StartError>(taken.flatten().map(|BoundSocket { socket, .. }| socket))
        };
        let admin_listener = listen("the admin page", config.admin.address)?;
        let http_listener = listen("the webhook listener", config.http_address)?;
        Ok(Self {
            config,
            sockets,
            unused_sockets: offered,
            submission,
            listeners,
            smtp_addresses,
            queue_plan,
            reconciler,
            provider_apis,
            api_state,
            admin_socket,
            admin_listener,
            http_listener,
        })
    }

    /// Takes the place of the generation before.
    pub fn activate(self, ground: &DaemonContext, before: Option<&Generation>) -> Generation {
        let shutdown = ShutdownTokens::new(ground);
        let suppression_sync = self.api_state.suppression_sync.clone();
        update_listener_alarms(&ground.alarms, &self.sockets);
        for door in self.listeners.into_iter().flatten() {
            // It is waited for by nobody: to the very end it tells who comes that we stop.
            tokio::spawn(door.serve(shutdown.listeners.clone()));
        }
        if let Some(page) = self.admin_listener {
            let questions = access_policy(&self.config).map(|gate| (self.api_state.clone(), gate));
            let (metrics, quiet) = (ground.metrics.clone(), shutdown.http.clone());
            ground.http_tasks.spawn(admin::serve_tcp(page, metrics, questions, quiet));
        }
        if let Some(admin) = self.admin_socket {
            ground.http_tasks.spawn(admin::serve_socket(admin, self.api_state, shutdown.http.clone()));
        }
        let http_address = self.http_listener.as_ref().and_then(|http| http.local_addr().ok());
        if let Some(http) = self.http_listener {
            let inbox = webhook_service(ground, &self.config, self.provider_apis);
            let (settings, tls) = (self.config.webhook_settings.clone(), self.submission.http_tls_server());
            ground.http_tasks.spawn(webhook::serve(http, inbox, settings, tls, shutdown.http.clone()));
        }
        let servers = self.submission.tls_servers();
        let watch = tls::watch_certificates(servers.clone(), ground.clock);
        ground.mail_tasks.spawn(shutdown.background.clone().run_until_cancelled_owned(watch));
        if let Some(before) = before {
            before.shutdown.cancel_all();
        }
        let running_queue = match self.queue_plan {
            QueuePlan::Reuse(running) => running,
            QueuePlan::Replace(prepared) => {
                prepared.activate(ground, before.map(|before| &before.running_queue))
            }
        };
        let (idle, tasks) = (shutdown.background.clone(), before.map(|before| &before.background));
        let hand_in = internal_submit_fn(ground, &self.config, &self.submission, "heartbeat");
        let background = spawn_background_tasks(
            ground,
            &self.config,
            (self.reconciler, suppression_sync, servers, hand_in),
            idle,
            tasks,
        );
        Generation {
            config: self.config,
            sockets: self.sockets,
            smtp_addresses: self.smtp_addresses,
            http_address,
            submission: self.submission,
            running_queue,
            shutdown,
            background,
        }
    }
}

impl Generation {
    /// Shuts its doors, whose sockets stay open as long as somebody has them.
    pub fn close_listeners(&self) {
        self.shutdown.listeners.cancel();
    }
}

impl ShutdownTokens {
    fn new(ground: &DaemonContext) -> Self {
        let (background, http) = (ground.mail_shutdown.child_token(), ground.http_shutdown.child_token());
        Self { listeners: CancellationToken::new(), background, http }
    }

    fn cancel_all(&self) {
        self.listeners.cancel();
        self.background.cancel();
        self.http.cancel();
    }
}

/// What is done now and then, after the generation before has ended its own: two reporters would report twice.
fn spawn_background_tasks(
    ground: &DaemonContext,
    config: &Config,
    (reconciler, suppression_sync, tls_servers, submit): (
        Reconciler,
        SuppressionSync,
        Vec<Arc<Server>>,
        SubmitFn,
    ),
    stopping: CancellationToken,
    before: Option<&ExclusiveTask>,
) -> ExclusiveTask {
    let (store, clock, retention) = (ground.store.clone(), ground.clock, config.retention);
    let sync = config.suppression_sync_interval;
    let (id_generator, hostname) = (ground.id_generator.clone(), config.hostname.clone());
    let heartbeat = config.heartbeat.clone().map(|settings| Heartbeat {
        store: store.clone(),
        submit,
        alarms: ground.alarms.clone(),
        settings,
    });
    let give_up_after = config.upstreams.iter().map(|upstream| upstream.retry.give_up_after).max();
    let auditor = ConsistencyChecker {
        store: store.clone(),
        clock,
        alarms: ground.alarms.clone(),
        max_message_age: give_up_after.unwrap_or_default(),
    };
    let upstreams = config.upstreams.iter();
    let monitor = ThresholdMonitor {
        store: store.clone(),
        clock,
        alarms: ground.alarms.clone(),
        upstream_activity: ground.upstream_activity.clone(),
        clock_watch: ground.clock_watch.clone(),
        upstreams: upstreams
            .map(|upstream| (upstream.transport.name.clone(), has_event_source(upstream, config)))
            .collect(),
        tls_servers,
        thresholds: config.alarm_thresholds.clone(),
    };
    let notifier = AlarmNotifier {
        store: store.clone(),
        clock,
        id_generator: id_generator.clone(),
        hostname: hostname.clone(),
        alarms: ground.alarms.clone(),
        upstream_activity: ground.upstream_activity.clone(),
        state: ground.notifier_state.clone(),
        upstreams: config.upstreams.iter().map(|upstream| upstream.transport.name.clone()).collect(),
        settings: config.alarm_notifications.clone(),
    };
    let feeder = |settings: &sink::SinkSettings| {
        SinkWorker::new(store.clone(), clock, ground.alarms.clone(), settings.clone())
    };
    let feeders: Vec<_> = config.sinks.iter().map(feeder).collect();
    let carrier = InboundDelivery {
        store: store.clone(),
        clock,
        alarms: ground.alarms.clone(),
        hostname: hostname.clone(),
        targets: config.inbound_targets.clone(),
    };
    let gauges = QueueGauges {
        store: store.clone(),
        clock,
        routes: Arc::new(upstream_selection(config)),
        upstreams: config.upstreams.iter().map(|upstream| upstream.transport.name.clone()).collect(),
    };
    let reporter = DsnReporter { store: store.clone(), clock, id_generator, hostname };
    let (told, watch) = (stopping.clone(), ground.clock_watch.clone());
    let (alarms, there) = (ground.alarms.clone(), config.clone());
    ExclusiveTask::spawn_after(&ground.mail_tasks, before, stopping, async move {
        clear_stale_alarms(&alarms, &there);
        let beats = async {
            if let Some(heartbeat) = heartbeat {
                heartbeat.run(told.clone()).await;
            }
        };
        tokio::join!(
            reporter.run(told.clone()),
            auditor.run(told.clone()),
            monitor.run(told.clone()),
            gauges.run(told.clone()),
            join_all(feeders.into_iter().map(|feeder| feeder.run(told.clone()))),
            reconciler.run(told.clone()),
            suppression_sync.run(sync, alarms, told.clone()),
            notifier.run(told.clone()),
            carrier.run(told.clone()),
            beats,
            run_maintenance(store, retention, watch, clock, told.clone())
        );
    })
}

/// Says which places cannot be listened on, and of the others that they can be.
fn update_listener_alarms(alarms: &AlarmRegistry, sockets: &Sockets) {
    let missing = sockets.unbound();
    alarms.clear_unknown_subjects(AlarmKind::Listener, |place| {
        missing.iter().any(|missing| missing.address() == place)
    });
    for one in missing {
        let text = format!("{}. It is tried again every second; everything else works", one.error);
        alarms.set(AlarmKind::Listener, &one.address(), Some(text));
    }
}

/// Who may ask over TCP, if anybody may.
fn access_policy(config: &Config) -> Option<AccessPolicy> {
    let (hosts, refusals) = (config.admin.hosts.clone(), RefusalLog::default());
    config.admin.token.clone().map(|token| AccessPolicy { token, hosts, refusals })
}

/// Ends the alarms about what a configuration has no more: nobody else would.
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

/// Where the records of the Odoos are shown that are told.
fn odoo_instances(config: &Config) -> Vec<OdooInstance> {
    let place = |settings: &sink::SinkSettings| match &settings.kind {
        sink::SinkKind::Odoo(odoo) => Some(odoo.instance.clone()),
        sink::SinkKind::File(_) | sink::SinkKind::Http(_) => None,
    };
    config.sinks.iter().filter_map(place).collect()
}

/// Whose words the reports of each upstream are.
fn upstream_providers(config: &Config) -> BTreeMap<String, Provider> {
    let transports = config.upstreams.iter().map(|upstream| &upstream.transport);
    transports.map(|transport| (transport.name.clone(), transport.provider)).collect()
}

/// The upstreams whose providers report by themselves, and who else reports.
fn webhook_service(
    ground: &DaemonContext,
    config: &Config,
    accounts: BTreeMap<String, ProviderApi>,
) -> WebhookService {
    let of_upstream = |upstream: &Upstream| {
        let kind = match upstream.transport.provider {
            Provider::Mailgun => webhook::SourceKind::Mailgun { keys: upstream.webhook_signing_keys.clone() },
            Provider::Brevo => webhook::SourceKind::Brevo(upstream.webhook_auth.clone()),
            Provider::Plain => return None,
        };
        Some(WebhookSource { name: upstream.transport.name.clone(), kind })
    };
    let sources = config.upstreams.iter().filter_map(of_upstream).chain(config.sources.iter().cloned());
    let (store, activity) = (ground.store.clone(), ground.upstream_activity.clone());
    let inbox = WebhookService::new(
        sources.collect(),
        config.webhook_settings.proxies.clone(),
        store,
        ground.clock,
        activity,
    )
    .with_loopback_probe(ground.loopback_probe.clone())
    .with_clock_watch(ground.clock_watch.clone());
    if config.inbound_targets.is_empty() {
        return inbox;
    }
    inbox.with_inbound(InboundReceiver::new(config.inbound_rules, accounts, ground.id_generator.clone()))
}
