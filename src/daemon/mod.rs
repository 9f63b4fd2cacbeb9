//! The running relay: everything composed, started, changed and stopped.
//!
//! What a configuration asks for is a generation. SIGHUP begins a new one on the sockets of the one before;
//! conversations go on under the settings they began with. A stop ends within [`Daemon::LONGEST_STOP`] whatever clients
//! and upstreams do: what is under way then is as safe as after `kill -9`.

mod exclusive_task;
mod generation;
mod internal_mail;
mod listeners;
mod provider_apis;
mod queue;
mod socket_activation;
mod sockets;
mod storage_full;
mod store_maintenance;

pub(crate) use sockets::Sockets;

use crate::config::Config;
use crate::daemon::generation::{Generation, Ground, Prepared};
use crate::daemon::sockets::Missing;
use crate::daemon::storage_full::Refusing;
use mailtrail_mail::Clock;
use mailtrail_net::provider_api::Fault;
use mailtrail_net::tls::TlsError;
use mailtrail_store::{OpenError, OpenReport, Store, is_shortage};
use metrics_exporter_prometheus::PrometheusHandle;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// A relay that runs in this process.
pub struct Daemon {
    ground: Ground,
    generation: Generation,
    report: OpenReport,
}

/// Why the relay does not start, or not with another configuration.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An account's client.
    #[error(transparent)]
    Account(#[from] Fault),
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

impl StartError {
    /// Whether the start may succeed later: not where the directory is somebody else's, which is a fault of the
    /// configuration.
    fn passes_by_itself(&self) -> bool {
        let cause = match self {
            Self::Store(OpenError::Io { source, .. }) | Self::Tls(TlsError::File { source, .. }) => source,
            Self::Store(error) => return error.is_shortage(),
            Self::Tls(_) | Self::Account(_) | Self::Bind { .. } => return false,
        };
        is_shortage(cause) && cause.kind() != io::ErrorKind::PermissionDenied
    }
}

/// What a new configuration changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The sections that are another.
    pub sections: Vec<&'static str>,
    /// Keys that are another and wait for a restart.
    pub waiting: Vec<&'static str>,
    /// Places that are listened on from now on.
    pub opened: Vec<String>,
    /// Places that are not any more.
    pub closed: Vec<String>,
}

impl Daemon {
    /// A stop takes no longer, whatever clients and upstreams do. The queue alone takes up to 20 s for attempts under
    /// way.
    pub const LONGEST_STOP: Duration = Duration::from_secs(28);

    /// How long sessions are waited for before a successor takes over: some Odoo queue runs take minutes.
    pub const LONGEST_OUTLASTING: Duration = Duration::from_secs(300);

    /// Starts everything; clients can connect when it returns.
    pub async fn start(
        config: &Config,
        clock: Clock,
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, StartError> {
        Self::start_on(Sockets::default(), config, clock, metrics).await
    }

    /// The same on sockets that are open already; what has no use is said and closed.
    pub async fn start_on(
        sockets: Sockets,
        config: &Config,
        clock: Clock,
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, StartError> {
        let mut refusing = Refusing::new(config, sockets);
        let (store, report) = store_maintenance::open_store(&config.data_dir, clock, &mut refusing).await?;
        let ground = Ground::new(store, clock, metrics);
        match ground.store.newest() {
            Ok(newest) => newest.into_iter().for_each(|newest| ground.watch.compare_stored(newest)),
            Err(error) => tracing::warn!(%error, "the clock cannot be compared with what is stored"),
        }
        // The pair that listeners make where the configuration names none needs room on the disk.
        while let Err(error) = listeners::read_certificates(config) {
            refusing.wait(error.into()).await?;
        }
        let prepared = Prepared::new(&ground, config.clone(), refusing.into_sockets(), None)?;
        for place in prepared.left.places() {
            tracing::warn!(
                place,
                "a socket that was passed on is closed: no `address` in the configuration names it"
            );
        }
        let generation = prepared.begin(&ground, None);
        Ok(Self { ground, generation, report })
    }

    /// Goes on with another configuration. On an error everything stays as it was.
    pub fn reload(&mut self, config: Config) -> Result<Changes, StartError> {
        let (config, waiting) = config.within(&self.generation.config);
        let sections = config.changes(&self.generation.config);
        let before: Vec<_> = self.generation.sockets.places().collect();
        let offered = self.generation.sockets.clone();
        let prepared = Prepared::new(&self.ground, config, offered, Some(&self.generation))?;
        let closed = prepared.left.places().collect();
        self.generation = prepared.begin(&self.ground, Some(&self.generation));
        let opened = self.generation.sockets.places().filter(|place| !before.contains(place)).collect();
        Ok(Changes { sections, waiting, opened, closed })
    }

    /// The places that cannot be listened on so far; [`Self::open_missing`] tries again.
    pub fn missing(&self) -> Vec<String> {
        self.generation.sockets.missing().iter().map(Missing::place).collect()
    }

    /// Listens on the places that were missing, where one of them can be listened on now; says which are not missing any
    /// more.
    pub fn open_missing(&mut self) -> Result<Vec<String>, StartError> {
        if !self.generation.sockets.missing().iter().any(Missing::can_be_opened) {
            return Ok(Vec::new());
        }
        let config = self.generation.config.clone();
        Ok(self.reload(config)?.opened)
    }

    /// The configuration that it runs with.
    pub fn config(&self) -> &Config {
        &self.generation.config
    }

    /// Where clients connect, in the order of the configuration.
    pub fn smtp_addresses(&self) -> &[SocketAddr] {
        &self.generation.smtp
    }

    /// Where providers report.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.generation.http
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.ground.store
    }

    /// What opening the store found.
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// Returns, with the reason, when the relay cannot go on.
    pub async fn failed(&self) -> String {
        self.ground.store.failed().await
    }

    /// Takes no new clients, lets transactions and attempts under way end, and makes everything durable. Who comes
    /// meanwhile is told to come again, or waits where the socket was lent.
    pub async fn stop(self) {
        self.end().await.remove_files();
    }

    /// Returns when the sessions that are there now have ended by themselves, after [`Self::LONGEST_OUTLASTING`] at the
    /// latest. Meanwhile the relay does all that it does.
    pub fn outlast_sessions(&self) -> impl Future<Output = ()> + use<> {
        let crowd = self.ground.crowd.clone();
        async move { crowd.outlast(Self::LONGEST_OUTLASTING).await }
    }

    /// The same, but the sockets stay open: who comes meanwhile waits for whoever gets them.
    pub async fn hand_over(self) -> Sockets {
        self.generation.shut();
        self.end().await
    }

    async fn end(self) -> Sockets {
        let Self { ground, generation, .. } = self;
        let end = Instant::now() + Self::LONGEST_STOP;
        ground.stopping.cancel();
        ground.mail.close();
        let mail = async { tokio::join!(ground.crowd.leave(), ground.mail.wait()) };
        if timeout(FOR_MAIL, mail).await.is_err() {
            tracing::warn!("what is still under way is left as it is; the next start settles it");
        }
        ground.silent.cancel();
        ground.talk.close();
        // A client that holds its connection open does not hold us.
        let _ = timeout(FAREWELL, ground.talk.wait()).await;
        // Everything is on disk already; without this the next start takes longer.
        let _ = timeout_at(end, ground.store.settle_down()).await;
        generation.shut();
        generation.sockets
    }
}

/// For attempts and conversations under way, and what they leave to be kept.
const FOR_MAIL: Duration = Duration::from_secs(24);
const FAREWELL: Duration = Duration::from_secs(2);
