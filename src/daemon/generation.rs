//! What one configuration makes of the relay. The first start and every change go the same way: everything that can
//! fail is prepared while the generation before goes on, then the new one takes over its sockets.

use crate::config::{Config, Upstream};
use crate::daemon::StartError;
use crate::daemon::exclusive_task::Shift;
use crate::daemon::internal_mail::{own_mail, tester};
use crate::daemon::listeners::Hall;
use crate::daemon::provider_apis::{accounts, reconciler, syncer};
use crate::daemon::queue::{Relaying, Way, reports, ways};
use crate::daemon::sockets::{Sockets, Taken};
use crate::daemon::store_maintenance::keep;
use futures_util::future::join_all;
use mailtrail_mail::{Clock, ClockWatch, Mint};
use mailtrail_net::odoo::Place;
use mailtrail_net::provider_api::Account;
use mailtrail_net::tls::Server;
use mailtrail_net::{RefusalLog, tls};
use mailtrail_relay::admin::{Gate, Panel};
use mailtrail_relay::alarms::{Alarms, Herald, Kind, MACHINE, notifier};
use mailtrail_relay::inbound::Carrier;
use mailtrail_relay::monitoring::{Auditor, Census, Heartbeat, Monitor, Pulse};
use mailtrail_relay::reconcile::Reconciler;
use mailtrail_relay::sink::Feeder;
use mailtrail_relay::submission::{Crowd, Door, Memory};
use mailtrail_relay::suppression_sync::Syncer;
use mailtrail_relay::webhook::inbound::Intake;
use mailtrail_relay::webhook::{Inbox, Source};
use mailtrail_relay::{HandIn, Probe, Reporter, admin, sink, webhook};
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
pub struct Ground {
    pub store: Store,
    pub clock: Clock,
    pub metrics: Option<PrometheusHandle>,
    /// For whatever enters the store.
    pub mint: Arc<Mint>,
    /// The conversations, of former generations too.
    pub crowd: Crowd,
    pub memory: Memory,
    pub alarms: Alarms,
    /// What was told of them.
    pub told: notifier::Memory,
    /// What goes out and comes back.
    pub pulse: Pulse,
    /// What knows whether the clock was set.
    pub watch: ClockWatch,
    /// What knows whether a request comes to this process.
    pub probe: Probe,
    /// Set when mail is no longer taken and sent.
    pub stopping: CancellationToken,
    /// Set when HTTP is no longer answered.
    pub silent: CancellationToken,
    /// What takes and sends mail.
    pub mail: TaskTracker,
    /// What answers over HTTP.
    pub talk: TaskTracker,
}

/// A generation at work.
pub struct Generation {
    pub config: Config,
    pub sockets: Sockets,
    /// Where clients connect, in the order of the configuration.
    pub smtp: Vec<SocketAddr>,
    pub http: Option<SocketAddr>,
    hall: Hall,
    relaying: Relaying,
    leaving: Leaving,
    /// Upkeep, reports and what else is done now and then.
    chores: Shift,
}

/// What ends a generation, whether or not the relay goes on.
struct Leaving {
    /// Shuts its doors.
    shut: CancellationToken,
    /// Ends its chores.
    idle: CancellationToken,
    /// Ends its answers over HTTP.
    quiet: CancellationToken,
}

/// A generation at rest.
pub struct Prepared {
    config: Config,
    sockets: Sockets,
    /// Sockets of the generation before that this one has no use for.
    pub left: Sockets,
    hall: Hall,
    doors: Vec<Option<Door>>,
    smtp: Vec<SocketAddr>,
    relaying: Way,
    reconciler: Reconciler,
    /// Whose accounts mail from outside is fetched with.
    accounts: BTreeMap<String, Account>,
    panel: Panel,
    admin: Option<UnixListener>,
    page: Option<TcpListener>,
    http: Option<TcpListener>,
}

impl Ground {
    /// For a store.
    pub fn new(store: Store, clock: Clock, metrics: Option<PrometheusHandle>) -> Self {
        Self {
            store,
            clock,
            metrics,
            mint: Arc::default(),
            crowd: Crowd::default(),
            memory: Memory::default(),
            alarms: Alarms::new(clock),
            told: notifier::Memory::default(),
            pulse: Pulse::default(),
            watch: ClockWatch::new(clock),
            probe: Probe::default(),
            stopping: CancellationToken::new(),
            silent: CancellationToken::new(),
            mail: TaskTracker::new(),
            talk: TaskTracker::new(),
        }
    }
}

impl Prepared {
    /// Everything that `config` asks for, at rest; sockets that are in `offered` are used.
    pub fn new(
        ground: &Ground,
        config: Config,
        mut offered: Sockets,
        before: Option<&Generation>,
    ) -> Result<Self, StartError> {
        let hall = Hall::new(ground, &config, before.map(|before| (&before.hall, &before.config)))?;
        let relaying = Way::new(ground, &config, before.map(|before| &before.relaying))?;
        let reconciler = reconciler(ground, &config)?;
        let accounts = accounts(ground, &config)?;
        let mut sockets =
            before.map_or_else(Sockets::for_a_start, |before| Sockets::for_a_change(&before.sockets));
        let doors = hall.doors(ground, &config, &mut sockets, &mut offered)?;
        let addresses = doors.iter().zip(&config.listeners);
        let addresses = addresses.map(|(door, listener)| {
            let bound = door.as_ref().and_then(|door| door.socket.local_addr().ok());
            bound.unwrap_or(listener.address)
        });
        let smtp = addresses.collect();
        let panel = Panel {
            store: ground.store.clone(),
            clock: ground.clock,
            upstreams: relaying.health(),
            ways: Arc::new(ways(&config)),
            suppression: Arc::new(config.suppression.clone()),
            sync: syncer(ground, &config)?,
            alarms: ground.alarms.clone(),
            providers: Arc::new(providers(&config)),
            retention: config.retention,
            sinks: config.sinks.iter().map(|sink| sink.name.clone()).collect(),
            places: Arc::new(places(&config)),
            probe: ground.probe.clone(),
            tester: tester(ground, &config, &hall),
        };
        let admin = sockets.listen_at(&mut offered, &config.admin.socket)?;
        let mut listen = |what, address: Option<SocketAddr>| {
            let taken = address.map(|address| sockets.listen(&mut offered, what, address)).transpose()?;
            Ok::<_, StartError>(taken.flatten().map(|Taken { socket, .. }| socket))
        };
        let page = listen("the admin page", config.admin.address)?;
        let http = listen("the webhook listener", config.http)?;
        Ok(Self {
            config,
            sockets,
            left: offered,
            hall,
            doors,
            smtp,
            relaying,
            reconciler,
            accounts,
            panel,
            admin,
            page,
            http,
        })
    }

    /// Takes the place of the generation before.
    pub fn begin(self, ground: &Ground, before: Option<&Generation>) -> Generation {
        let leaving = Leaving::new(ground);
        let syncer = self.panel.sync.clone();
        tell_of_missing(&ground.alarms, &self.sockets);
        for door in self.doors.into_iter().flatten() {
            // It is waited for by nobody: to the very end it tells who comes that we stop.
            tokio::spawn(door.serve(leaving.shut.clone()));
        }
        if let Some(page) = self.page {
            let questions = gate(&self.config).map(|gate| (self.panel.clone(), gate));
            let (metrics, quiet) = (ground.metrics.clone(), leaving.quiet.clone());
            ground.talk.spawn(admin::serve_page(page, metrics, questions, quiet));
        }
        if let Some(admin) = self.admin {
            ground.talk.spawn(admin::serve_socket(admin, self.panel, leaving.quiet.clone()));
        }
        let http = self.http.as_ref().and_then(|http| http.local_addr().ok());
        if let Some(http) = self.http {
            let inbox = inbox(ground, &self.config, self.accounts);
            let (settings, tls) = (self.config.webhooks.clone(), self.hall.http());
            ground.talk.spawn(webhook::serve(http, inbox, settings, tls, leaving.quiet.clone()));
        }
        let servers = self.hall.servers();
        let watch = tls::watch(servers.clone(), ground.clock);
        ground.mail.spawn(leaving.idle.clone().run_until_cancelled_owned(watch));
        if let Some(before) = before {
            before.leaving.leave();
        }
        let relaying = match self.relaying {
            Way::Same(running) => running,
            Way::Other(prepared) => prepared.begin(ground, before.map(|before| &before.relaying)),
        };
        let (idle, chores) = (leaving.idle.clone(), before.map(|before| &before.chores));
        let hand_in = own_mail(ground, &self.config, &self.hall, "heartbeat");
        let chores =
            do_chores(ground, &self.config, (self.reconciler, syncer, servers, hand_in), idle, chores);
        Generation {
            config: self.config,
            sockets: self.sockets,
            smtp: self.smtp,
            http,
            hall: self.hall,
            relaying,
            leaving,
            chores,
        }
    }
}

impl Generation {
    /// Shuts its doors, whose sockets stay open as long as somebody has them.
    pub fn shut(&self) {
        self.leaving.shut.cancel();
    }
}

impl Leaving {
    fn new(ground: &Ground) -> Self {
        let (idle, quiet) = (ground.stopping.child_token(), ground.silent.child_token());
        Self { shut: CancellationToken::new(), idle, quiet }
    }

    fn leave(&self) {
        self.shut.cancel();
        self.idle.cancel();
        self.quiet.cancel();
    }
}

/// What is done now and then, after the generation before has ended its own: two reporters would report twice.
fn do_chores(
    ground: &Ground,
    config: &Config,
    (reconciler, syncer, servers, hand_in): (Reconciler, Syncer, Vec<Arc<Server>>, HandIn),
    stopping: CancellationToken,
    before: Option<&Shift>,
) -> Shift {
    let (store, clock, retention) = (ground.store.clone(), ground.clock, config.retention);
    let sync = config.sync;
    let (mint, hostname) = (ground.mint.clone(), config.hostname.clone());
    let heartbeat = config.heartbeat.clone().map(|settings| Heartbeat {
        store: store.clone(),
        hand_in,
        alarms: ground.alarms.clone(),
        settings,
    });
    let give_up_after = config.upstreams.iter().map(|upstream| upstream.retry.give_up_after).max();
    let auditor = Auditor {
        store: store.clone(),
        clock,
        alarms: ground.alarms.clone(),
        give_up_after: give_up_after.unwrap_or_default(),
    };
    let upstreams = config.upstreams.iter();
    let monitor = Monitor {
        store: store.clone(),
        clock,
        alarms: ground.alarms.clone(),
        pulse: ground.pulse.clone(),
        watch: ground.watch.clone(),
        upstreams: upstreams
            .map(|upstream| (upstream.transport.name.clone(), reports(upstream, config)))
            .collect(),
        servers,
        thresholds: config.thresholds.clone(),
    };
    let herald = Herald {
        store: store.clone(),
        clock,
        mint: mint.clone(),
        hostname: hostname.clone(),
        alarms: ground.alarms.clone(),
        pulse: ground.pulse.clone(),
        memory: ground.told.clone(),
        upstreams: config.upstreams.iter().map(|upstream| upstream.transport.name.clone()).collect(),
        settings: config.herald.clone(),
    };
    let feeder = |settings: &sink::Settings| {
        Feeder::new(store.clone(), clock, ground.alarms.clone(), settings.clone())
    };
    let feeders: Vec<_> = config.sinks.iter().map(feeder).collect();
    let carrier = Carrier {
        store: store.clone(),
        clock,
        alarms: ground.alarms.clone(),
        hostname: hostname.clone(),
        targets: config.targets.clone(),
    };
    let census = Census {
        store: store.clone(),
        clock,
        ways: Arc::new(ways(config)),
        upstreams: config.upstreams.iter().map(|upstream| upstream.transport.name.clone()).collect(),
    };
    let reporter = Reporter { store: store.clone(), clock, mint, hostname };
    let (told, watch) = (stopping.clone(), ground.watch.clone());
    let (alarms, there) = (ground.alarms.clone(), config.clone());
    Shift::begin(&ground.mail, before, stopping, async move {
        forget(&alarms, &there);
        let beats = async {
            if let Some(heartbeat) = heartbeat {
                heartbeat.run(told.clone()).await;
            }
        };
        tokio::join!(
            reporter.run(told.clone()),
            auditor.run(told.clone()),
            monitor.run(told.clone()),
            census.run(told.clone()),
            join_all(feeders.into_iter().map(|feeder| feeder.run(told.clone()))),
            reconciler.run(told.clone()),
            syncer.run(sync, alarms, told.clone()),
            herald.run(told.clone()),
            carrier.run(told.clone()),
            beats,
            keep(store, retention, watch, clock, told.clone())
        );
    })
}

/// Says which places cannot be listened on, and of the others that they can be.
fn tell_of_missing(alarms: &Alarms, sockets: &Sockets) {
    let missing = sockets.missing();
    alarms.retain(Kind::Listener, |place| missing.iter().any(|missing| missing.place() == place));
    for one in missing {
        let text = format!("{}. It is tried again every second; everything else works", one.fault);
        alarms.set(Kind::Listener, &one.place(), Some(text));
    }
}

/// Who may ask over TCP, if anybody may.
fn gate(config: &Config) -> Option<Gate> {
    let (hosts, refusals) = (config.admin.hosts.clone(), RefusalLog::default());
    config.admin.token.clone().map(|token| Gate { token, hosts, refusals })
}

/// Ends the alarms about what a configuration has no more: nobody else would.
fn forget(alarms: &Alarms, config: &Config) {
    let upstream = |name: &str| config.upstreams.iter().any(|upstream| upstream.transport.name == name);
    for kind in
        [Kind::Silence, Kind::Signature, Kind::Slow, Kind::Stuck, Kind::Sync, Kind::Polls, Kind::Withheld]
    {
        alarms.retain(kind, upstream);
    }
    alarms.retain(Kind::Clock, |subject| subject == MACHINE || upstream(subject));
    alarms.retain(Kind::Sink, |name| config.sinks.iter().any(|sink| sink.name == name));
    alarms.retain(Kind::Inbound, |name| config.targets.iter().any(|target| target.name == name));
    alarms.retain(Kind::Heartbeat, |to| {
        config.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.to.as_str() == to)
    });
}

/// Where the records of the Odoos are shown that are told.
fn places(config: &Config) -> Vec<Place> {
    let place = |settings: &sink::Settings| match &settings.kind {
        sink::Kind::Odoo(odoo) => Some(odoo.place.clone()),
        sink::Kind::File(_) | sink::Kind::Http(_) => None,
    };
    config.sinks.iter().filter_map(place).collect()
}

/// Whose words the reports of each upstream are.
fn providers(config: &Config) -> BTreeMap<String, Provider> {
    let transports = config.upstreams.iter().map(|upstream| &upstream.transport);
    transports.map(|transport| (transport.name.clone(), transport.provider)).collect()
}

/// The upstreams whose providers report by themselves, and who else reports.
fn inbox(ground: &Ground, config: &Config, accounts: BTreeMap<String, Account>) -> Inbox {
    let of_upstream = |upstream: &Upstream| {
        let kind = match upstream.transport.provider {
            Provider::Mailgun => webhook::Kind::Mailgun { keys: upstream.signing_keys.clone() },
            Provider::Brevo => webhook::Kind::Brevo(upstream.credentials.clone()),
            Provider::Plain => return None,
        };
        Some(Source { name: upstream.transport.name.clone(), kind })
    };
    let sources = config.upstreams.iter().filter_map(of_upstream).chain(config.sources.iter().cloned());
    let (store, pulse) = (ground.store.clone(), ground.pulse.clone());
    let inbox = Inbox::new(sources.collect(), config.webhooks.proxies.clone(), store, ground.clock, pulse)
        .with_probe(ground.probe.clone())
        .with_watch(ground.watch.clone());
    if config.targets.is_empty() {
        return inbox;
    }
    inbox.with_mail(Intake::new(config.mail_rules, accounts, ground.mint.clone()))
}
