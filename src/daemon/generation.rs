//! What one configuration makes of the relay. The first start and every change go the same way: everything that can
//! fail is prepared while the generation before goes on, then the new one takes over its sockets.

use crate::config::{Config, Upstream};
use crate::daemon::background::{BackgroundDeps, spawn_background_tasks};
use crate::daemon::context::DaemonContext;
use crate::daemon::exclusive_task::ExclusiveTask;
use crate::daemon::internal_mail::{internal_submit_fn, test_mailer};
use crate::daemon::listeners::SubmissionSetup;
use crate::daemon::provider_apis::{build_reconciler, build_suppression_sync, connect_provider_apis};
use crate::daemon::queue::{QueuePlan, RunningQueue, upstream_selection};
use crate::daemon::sockets::{BoundSocket, Sockets};
use crate::daemon::start_error::StartError;
use mailtrail_net::RefusalLog;
use mailtrail_net::odoo::OdooInstance;
use mailtrail_net::provider_api::ProviderApi;
use mailtrail_relay::admin::{AccessPolicy, ApiState};
use mailtrail_relay::alarms::{AlarmKind, AlarmRegistry};
use mailtrail_relay::reconcile::Reconciler;
use mailtrail_relay::submission::BoundListener;
use mailtrail_relay::webhook::inbound::InboundReceiver;
use mailtrail_relay::webhook::{WebhookService, WebhookSource};
use mailtrail_relay::{admin, sink, webhook};
use mailtrail_trail::provider::Provider;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

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
            BackgroundDeps {
                reconciler: self.reconciler,
                suppression_sync,
                tls_servers: servers,
                submit: hand_in,
            },
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
