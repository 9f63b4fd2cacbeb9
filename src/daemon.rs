//! The running relay: everything composed, started and stopped.

use crate::admin::{self, Panel};
use crate::alarm::Alarms;
use crate::clock::Clock;
use crate::config::{Config, Upstream};
use crate::id::Mint;
use crate::logging::Progress;
use crate::provider::Provider;
use crate::queue::{Outward, Parts, Queue};
use crate::report::Reporter;
use crate::smtp::Rules;
use crate::store::{OpenError, OpenReport, Retention, Store};
use crate::submission::{Accounts, Crowd, Door, Duplicates, Front, Listener, ListenerTls, Memory, Rates};
use crate::tls::{self, Server, ServerFiles, TlsError};
use crate::transport::Ways;
use crate::webhook::{self, Inbox, Source};
use axum::serve::ListenerExt;
use metrics_exporter_prometheus::PrometheusHandle;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A relay that runs in this process.
pub struct Daemon {
    store: Store,
    report: OpenReport,
    smtp: Vec<SocketAddr>,
    http: Option<SocketAddr>,
    /// Stops taking and sending mail.
    stopping: CancellationToken,
    /// Stops answering over HTTP, afterwards.
    silent: CancellationToken,
    mail: TaskTracker,
    talk: TaskTracker,
    socket: PathBuf,
    certificates: Vec<Arc<Server>>,
    /// For whatever enters the store.
    mint: Arc<Mint>,
}

/// Why the relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A socket.
    #[error(
        "{what} cannot listen on {place}: {source}; is another program there, or is the port below 1024?"
    )]
    Bind {
        /// Whose socket.
        what: &'static str,
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
}

impl Daemon {
    /// Starts everything; clients can connect when it returns.
    pub async fn start(
        config: &Config,
        clock: Clock,
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, StartError> {
        let (store, report) = open_store(&config.data_dir, clock).await?;
        let mut daemon = Self {
            store,
            report,
            smtp: Vec::new(),
            http: None,
            stopping: CancellationToken::new(),
            silent: CancellationToken::new(),
            mail: TaskTracker::new(),
            talk: TaskTracker::new(),
            socket: config.admin.socket.clone(),
            certificates: Vec::new(),
            mint: Arc::default(),
        };
        let doors = daemon.open_doors(config, clock)?;
        let (alarms, ways) = (Alarms::new(clock), ways(config));
        let queue = daemon.queue(config, clock, ways.clone(), alarms.clone())?;
        let (store, upstreams) = (daemon.store.clone(), queue.health());
        let panel = Panel { store, clock, upstreams, ways: Arc::new(ways), alarms };
        daemon.serve_admin(config, panel, metrics).await?;
        daemon.serve_http(config, clock).await?;
        daemon.mail.spawn(queue.run());
        for door in doors {
            daemon.mail.spawn(door.serve());
        }
        let (store, mint, hostname) = (daemon.store.clone(), daemon.mint.clone(), config.hostname.clone());
        let reporter = Reporter { store, clock, mint, hostname };
        daemon.mail.spawn(reporter.run(daemon.stopping.clone()));
        let keeper = keep(daemon.store.clone(), config.retention, clock, daemon.stopping.clone());
        daemon.mail.spawn(keeper);
        let watch = tls::watch(daemon.certificates.clone(), clock);
        daemon.mail.spawn(daemon.stopping.clone().run_until_cancelled_owned(watch));
        Ok(daemon)
    }

    /// Where clients connect, in the order of the configuration.
    pub fn smtp_addresses(&self) -> &[SocketAddr] {
        &self.smtp
    }

    /// Where providers report.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What opening the store found.
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// Reads the certificates anew for the connections to come.
    pub fn renew_certificates(&self) {
        self.certificates.iter().for_each(|server| server.renew());
    }

    /// Returns, with the reason, when the relay cannot go on.
    pub async fn failed(&self) -> String {
        self.store.failed().await
    }

    /// Takes no new clients, lets transactions and attempts under way end, and makes everything durable.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.mail.close();
        self.mail.wait().await;
        self.silent.cancel();
        self.talk.close();
        // A client that holds its connection open does not hold us.
        let _ = tokio::time::timeout(FAREWELL, self.talk.wait()).await;
        self.store.settle_down().await;
        // It is made anew at the next start anyway.
        let _ = std::fs::remove_file(&self.socket);
    }

    fn open_doors(&mut self, config: &Config, clock: Clock) -> Result<Vec<Door>, StartError> {
        let servers = servers(config)?;
        self.certificates = servers.values().cloned().collect();
        let accounts = Arc::new(Accounts::new(config.users.clone(), &config.policy, clock));
        let rates = Arc::new(Rates::new(&config.users, config.policy.rate_per_ip));
        let mut providers: Vec<Provider> = config.upstreams.iter().map(|u| u.transport.provider).collect();
        providers.dedup();
        let (crowd, mint, memory) = (Crowd::default(), self.mint.clone(), Memory::default());
        let routing = Arc::new(config.routing.clone());
        let duplicates = config.duplicates.map(|window| Arc::new(Duplicates::new(window)));
        let mut doors = Vec::new();
        for listener in &config.listeners {
            let front = Front {
                rules: Arc::new(rules(config, listener)),
                limits: config.limits.clone(),
                listener: listener.clone(),
                accounts: accounts.clone(),
                tls: servers.get(&listener.client_ca).cloned(),
                rates: rates.clone(),
                store: self.store.clone(),
                clock,
                mint: mint.clone(),
                providers: providers.clone(),
                routing: routing.clone(),
                reports: config.reports,
                duplicates: duplicates.clone(),
                memory: memory.clone(),
                stopping: self.stopping.clone(),
            };
            let bind = |source| bind_error("the SMTP listener", listener.address)(source);
            let door = Door::open(front, crowd.clone()).map_err(bind)?;
            self.smtp.push(door.address().map_err(bind)?);
            doors.push(door);
        }
        Ok(doors)
    }

    fn queue(&self, config: &Config, clock: Clock, ways: Ways, alarms: Alarms) -> Result<Queue, StartError> {
        let outward = |upstream: &Upstream| {
            Ok(Outward {
                settings: upstream.transport.clone(),
                retry: upstream.retry.clone(),
                unknown_wait: if reports(upstream) { upstream.retry.unknown_wait } else { Duration::ZERO },
                tls: tls::connector(upstream.transport.ca_file.as_deref())?,
            })
        };
        Ok(Queue::new(Parts {
            store: self.store.clone(),
            clock,
            hostname: config.hostname.clone(),
            upstreams: config.upstreams.iter().map(outward).collect::<Result<_, StartError>>()?,
            ways,
            alarms,
            stopping: self.stopping.clone(),
        }))
    }

    async fn serve_admin(
        &self,
        config: &Config,
        panel: Panel,
        metrics: Option<PrometheusHandle>,
    ) -> Result<(), StartError> {
        let path = &config.admin.socket;
        let bind = |source| bind_error("the admin socket", path.display())(source);
        // A socket that is still there and that nobody answers on is a dead process's.
        if is_dead_socket(path) {
            std::fs::remove_file(path).map_err(bind)?;
        }
        let socket = UnixListener::bind(path).map_err(bind)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(bind)?;
        let served = axum::serve(socket, admin::service(panel));
        self.talk.spawn(served.with_graceful_shutdown(self.silent.clone().cancelled_owned()).into_future());
        if let (Some(address), Some(metrics)) = (config.admin.address, metrics) {
            let socket = TcpListener::bind(address).await.map_err(bind_error("the admin page", address))?;
            let served = axum::serve(socket.tap_io(at_once), admin::metrics_router(metrics));
            self.talk
                .spawn(served.with_graceful_shutdown(self.silent.clone().cancelled_owned()).into_future());
        }
        Ok(())
    }

    async fn serve_http(&mut self, config: &Config, clock: Clock) -> Result<(), StartError> {
        let Some(address) = config.http else { return Ok(()) };
        let bind = bind_error("the webhook listener", address);
        let socket = TcpListener::bind(address).await.map_err(bind)?;
        self.http = socket.local_addr().ok();
        let sources = config.upstreams.iter().map(|upstream| Source {
            upstream: upstream.transport.name.clone(),
            provider: upstream.transport.provider,
            keys: upstream.signing_keys.clone(),
        });
        let inbox = Inbox { sources: sources.collect(), store: self.store.clone(), clock };
        let served = axum::serve(socket.tap_io(at_once), webhook::router(inbox));
        self.talk.spawn(served.with_graceful_shutdown(self.silent.clone().cancelled_owned()).into_future());
        Ok(())
    }
}

/// No answer waits for the acknowledgement of the one before.
fn at_once(stream: &mut TcpStream) {
    // A socket that refuses is closed already.
    let _ = stream.set_nodelay(true);
}

/// Keeps the store small until we stop.
async fn keep(store: Store, retention: Retention, clock: Clock, stopping: CancellationToken) {
    let mut pause = Duration::ZERO;
    while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let (store, now) = (store.clone(), clock.now());
        pause = match tokio::task::spawn_blocking(move || store.maintain(&retention, now)).await {
            Ok(Ok(true)) => BETWEEN_STEPS,
            Ok(Ok(false)) => BETWEEN_ROUNDS,
            Ok(Err(error)) => {
                tracing::error!(%error, "the store could not be kept small; it is tried again");
                BETWEEN_ROUNDS
            }
            Err(panic) => {
                tracing::error!(%panic, "keeping the store small broke off; it is tried again");
                BETWEEN_ROUNDS
            }
        };
    }
}

fn is_dead_socket(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket && std::os::unix::net::UnixStream::connect(path).is_err()
}

/// Whether events will come back from there.
fn reports(upstream: &Upstream) -> bool {
    upstream.transport.provider == Provider::Mailgun && !upstream.signing_keys.is_empty()
}

fn ways(config: &Config) -> Ways {
    let upstream = |upstream: &Upstream| (upstream.transport.name.clone(), upstream.retry.unknown_elsewhere);
    Ways::new(config.upstreams.iter().map(upstream).collect(), &config.routing.routes)
}

fn rules(config: &Config, listener: &Listener) -> Rules {
    Rules {
        hostname: config.hostname.clone(),
        starttls: listener.tls == ListenerTls::StartTls,
        require_tls: listener.require_tls,
        authentication: listener.authentication,
        message_size: config.limits.message_size,
        recipients: config.limits.recipients,
    }
}

/// One server for all listeners that trust the same clients: tickets of one are good for the others.
fn servers(config: &Config) -> Result<BTreeMap<Option<PathBuf>, Arc<Server>>, TlsError> {
    let mut servers = BTreeMap::new();
    for listener in config.listeners.iter().filter(|listener| listener.tls != ListenerTls::None) {
        if servers.contains_key(&listener.client_ca) {
            continue;
        }
        let files = match &config.certificate {
            Some(files) => ServerFiles {
                certificate: files.certificate.clone(),
                private_key: files.private_key.clone(),
                client_ca: None,
            },
            None => tls::self_signed_files(&config.data_dir.join("tls"), &config.hostname)?,
        };
        let server = Server::open(ServerFiles { client_ca: listener.client_ca.clone(), ..files })?;
        servers.insert(listener.client_ca.clone(), Arc::new(server));
    }
    Ok(servers)
}

/// Opens the store; a process that is just leaving it is waited for.
async fn open_store(data_dir: &Path, clock: Clock) -> Result<(Store, OpenReport), StartError> {
    std::fs::create_dir_all(data_dir)
        .map_err(|source| OpenError::Io { path: data_dir.to_owned(), source })?;
    let mut left = LOCK_LOOKS;
    loop {
        let path = data_dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let mut progress = Progress::new("replaying the journal");
            Store::open_watched(&path, clock, &mut |step| progress.show(step.done, step.total))
        })
        .await;
        match opened {
            Ok(Err(OpenError::Locked(_))) if left > 0 => left -= 1,
            Ok(opened) => return Ok(opened?),
            Err(panic) => {
                let source = io::Error::other(panic);
                return Err(OpenError::Io { path: data_dir.to_owned(), source }.into());
            }
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

fn bind_error(what: &'static str, place: impl ToString) -> impl FnOnce(io::Error) -> StartError {
    let place = place.to_string();
    move |source| StartError::Bind { what, place, source }
}

const FAREWELL: Duration = Duration::from_secs(3);
/// Pause between two steps of upkeep, so that it takes no more than a part of the machine.
const BETWEEN_STEPS: Duration = Duration::from_millis(50);
const BETWEEN_ROUNDS: Duration = Duration::from_secs(60);
const LOCK_PAUSE: Duration = Duration::from_millis(100);
const LOCK_LOOKS: u32 = 30;
