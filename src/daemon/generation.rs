//! What one configuration makes of the relay. The first start and every change go the same way: everything that can
//! fail is prepared while the generation before goes on, then the new one takes over its sockets.

use super::StartError;
use super::doors::Hall;
use super::keeper::keep;
use super::relaying::{Relaying, Way, ways};
use super::shift::Shift;
use super::sockets::{Sockets, Taken};
use crate::admin::{self, Panel};
use crate::alarm::Alarms;
use crate::audit::Auditor;
use crate::clock::Clock;
use crate::config::Config;
use crate::heartbeat::Heartbeat;
use crate::id::Mint;
use crate::report::Reporter;
use crate::store::Store;
use crate::submission::{Crowd, Door, Memory};
use crate::tls;
use crate::webhook::{self, Inbox, Source};
use axum::serve::ListenerExt;
use metrics_exporter_prometheus::PrometheusHandle;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
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
    /// Upkeep and reports.
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
    doors: Vec<Door>,
    smtp: Vec<SocketAddr>,
    relaying: Way,
    panel: Panel,
    admin: UnixListener,
    page: Option<(TcpListener, PrometheusHandle)>,
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
        let mut sockets = Sockets::default();
        let doors = hall.doors(ground, &config, &mut sockets, &mut offered)?;
        let addresses = doors.iter().zip(&config.listeners);
        let addresses =
            addresses.map(|(door, listener)| door.socket.local_addr().unwrap_or(listener.address));
        let smtp = addresses.collect();
        let panel = Panel {
            store: ground.store.clone(),
            clock: ground.clock,
            upstreams: relaying.health(),
            ways: Arc::new(ways(&config)),
            suppression: Arc::new(config.suppression.clone()),
            alarms: ground.alarms.clone(),
        };
        let admin = sockets.listen_at(&mut offered, &config.admin.socket)?;
        let mut listen = |what, address: Option<SocketAddr>| {
            let taken = address.map(|address| sockets.listen(&mut offered, what, address)).transpose()?;
            Ok::<_, StartError>(taken.map(|Taken { socket, .. }| socket))
        };
        let page = match &ground.metrics {
            Some(metrics) => {
                listen("the admin page", config.admin.address)?.map(|page| (page, metrics.clone()))
            }
            None => None,
        };
        let http = listen("the webhook listener", config.http)?;
        Ok(Self { config, sockets, left: offered, hall, doors, smtp, relaying, panel, admin, page, http })
    }

    /// Takes the place of the generation before.
    pub fn begin(self, ground: &Ground, before: Option<&Generation>) -> Generation {
        let leaving = Leaving::new(ground);
        for door in self.doors {
            // It is waited for by nobody: to the very end it tells who comes that we stop.
            tokio::spawn(door.serve(leaving.shut.clone()));
        }
        leaving.answer(ground, |quiet| {
            axum::serve(self.admin, admin::service(self.panel)).with_graceful_shutdown(quiet).into_future()
        });
        if let Some((page, metrics)) = self.page {
            let (page, router) = (page.tap_io(at_once), admin::metrics_router(metrics));
            leaving.answer(ground, |quiet| {
                axum::serve(page, router).with_graceful_shutdown(quiet).into_future()
            });
        }
        let http = self.http.as_ref().and_then(|http| http.local_addr().ok());
        if let Some(http) = self.http {
            let (http, router) = (http.tap_io(at_once), webhook::router(inbox(ground, &self.config)));
            leaving.answer(ground, |quiet| {
                axum::serve(http, router).with_graceful_shutdown(quiet).into_future()
            });
        }
        let watch = tls::watch(self.hall.servers(), ground.clock);
        ground.mail.spawn(leaving.idle.clone().run_until_cancelled_owned(watch));
        if let Some(before) = before {
            before.leaving.leave();
        }
        let relaying = match self.relaying {
            Way::Same(running) => running,
            Way::Other(prepared) => prepared.begin(ground, before.map(|before| &before.relaying)),
        };
        let chores =
            do_chores(ground, &self.config, leaving.idle.clone(), before.map(|before| &before.chores));
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

    /// Answers requests until the generation leaves; those under way are answered to their end.
    fn answer<S>(&self, ground: &Ground, serve: impl FnOnce(WaitForCancellationFutureOwned) -> S)
    where
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        ground.talk.spawn(serve(self.quiet.clone().cancelled_owned()));
    }
}

/// What is done now and then, after the generation before has ended its own: two reporters would report twice.
fn do_chores(ground: &Ground, config: &Config, stopping: CancellationToken, before: Option<&Shift>) -> Shift {
    let (store, clock, retention) = (ground.store.clone(), ground.clock, config.retention);
    let (mint, hostname) = (ground.mint.clone(), config.hostname.clone());
    let heartbeat = config.heartbeat.clone().map(|settings| Heartbeat {
        store: store.clone(),
        clock,
        mint: mint.clone(),
        hostname: hostname.clone(),
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
    let reporter = Reporter { store: store.clone(), clock, mint, hostname };
    let told = stopping.clone();
    Shift::begin(&ground.mail, before, stopping, async move {
        let beats = async {
            if let Some(heartbeat) = heartbeat {
                heartbeat.run(told.clone()).await;
            }
        };
        tokio::join!(
            reporter.run(told.clone()),
            auditor.run(told.clone()),
            beats,
            keep(store, retention, clock, told.clone())
        );
    })
}

fn inbox(ground: &Ground, config: &Config) -> Inbox {
    let sources = config.upstreams.iter().map(|upstream| Source {
        upstream: upstream.transport.name.clone(),
        provider: upstream.transport.provider,
        keys: upstream.signing_keys.clone(),
    });
    Inbox { sources: sources.collect(), store: ground.store.clone(), clock: ground.clock }
}

/// No answer waits for the acknowledgement of the one before.
fn at_once(stream: &mut TcpStream) {
    // A socket that refuses is closed already.
    let _ = stream.set_nodelay(true);
}
