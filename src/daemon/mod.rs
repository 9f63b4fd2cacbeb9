//! The running relay: everything composed, started, changed and stopped.
//!
//! What a configuration asks for is a generation. SIGHUP begins a new one on the sockets of the one before;
//! conversations go on under the settings they began with. A stop ends within `SHUTDOWN_TIMEOUT` whatever clients
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
use crate::daemon::generation::{DaemonContext, Generation, StagedGeneration};
use crate::daemon::sockets::UnboundAddress;
use crate::daemon::storage_full::Refusing;
use mailtrail_mail::Clock;
use mailtrail_net::provider_api::ApiError;
use mailtrail_net::tls::TlsError;
use mailtrail_store::{OpenError, OpenReport, Store, is_shortage};
use metrics_exporter_prometheus::PrometheusHandle;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// A relay that runs in this process.
pub struct Daemon {
    context: DaemonContext,
    generation: Generation,
    open_report: OpenReport,
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
    ProviderApi(#[from] ApiError),
    /// A socket.
    #[error(
        "{listener} cannot listen on {address}: {source}; is another program there, or is the port below 1024?"
    )]
    Bind {
        /// Whose socket.
        listener: &'static str,
        /// Where.
        address: String,
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
            Self::Tls(_) | Self::ProviderApi(_) | Self::Bind { .. } => return false,
        };
        is_shortage(cause) && cause.kind() != io::ErrorKind::PermissionDenied
    }
}

/// What a new configuration changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// The sections that are another.
    pub changed_sections: Vec<&'static str>,
    /// Keys that are another and wait for a restart.
    pub needs_restart: Vec<&'static str>,
    /// Places that are listened on from now on.
    pub opened: Vec<String>,
    /// Places that are not any more.
    pub closed: Vec<String>,
}

impl Daemon {
    /// A stop takes no longer, whatever clients and upstreams do. The queue alone takes up to 20 s for attempts under
    /// way.
    pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(28);

    /// How long sessions are waited for before a successor takes over: some Odoo queue runs take minutes.
    pub const SESSION_DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

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
        let (store, open_report) =
            store_maintenance::open_store(&config.data_dir, clock, &mut refusing).await?;
        let context = DaemonContext::new(store, clock, metrics);
        match context.store.newest_acceptance() {
            Ok(newest) => {
                newest.into_iter().for_each(|newest| context.clock_watch.compare_with_stored(newest))
            }
            Err(error) => tracing::warn!(%error, "the clock cannot be compared with what is stored"),
        }
        // The pair that listeners make where the configuration names none needs room on the disk.
        while let Err(error) = listeners::read_certificates(config) {
            refusing.wait(error.into()).await?;
        }
        let prepared = StagedGeneration::new(&context, config.clone(), refusing.into_sockets(), None)?;
        for place in prepared.unused_sockets.addresses() {
            tracing::warn!(
                place,
                "a socket that was passed on is closed: no `address` in the configuration names it"
            );
        }
        let generation = prepared.activate(&context, None);
        Ok(Self { context, generation, open_report })
    }

    /// Goes on with another configuration. On an error everything stays as it was.
    pub fn reload(&mut self, config: Config) -> Result<ReloadReport, StartError> {
        let (config, needs_restart) = config.limit_to_reloadable(&self.generation.config);
        let changed_sections = config.changed_sections(&self.generation.config);
        let before: Vec<_> = self.generation.sockets.addresses().collect();
        let offered = self.generation.sockets.clone();
        let prepared = StagedGeneration::new(&self.context, config, offered, Some(&self.generation))?;
        let closed = prepared.unused_sockets.addresses().collect();
        self.generation = prepared.activate(&self.context, Some(&self.generation));
        let opened = self.generation.sockets.addresses().filter(|place| !before.contains(place)).collect();
        Ok(ReloadReport { changed_sections, needs_restart, opened, closed })
    }

    /// The places that cannot be listened on so far; [`Self::bind_missing`] tries again.
    pub fn unbound_addresses(&self) -> Vec<String> {
        self.generation.sockets.unbound().iter().map(UnboundAddress::address).collect()
    }

    /// Listens on the places that were missing, where one of them can be listened on now; says which are not missing any
    /// more.
    pub fn bind_missing(&mut self) -> Result<Vec<String>, StartError> {
        if !self.generation.sockets.unbound().iter().any(UnboundAddress::can_bind) {
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
        &self.generation.smtp_addresses
    }

    /// Where providers report.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.generation.http_address
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.context.store
    }

    /// What opening the store found.
    pub fn open_report(&self) -> &OpenReport {
        &self.open_report
    }

    /// Returns, with the reason, when the relay cannot go on.
    pub async fn wait_failed(&self) -> String {
        self.context.store.wait_failed().await
    }

    /// Takes no new clients, lets transactions and attempts under way end, and makes everything durable. Who comes
    /// meanwhile is told to come again, or waits where the socket was lent.
    pub async fn stop(self) {
        self.shut_down().await.remove_socket_files();
    }

    /// Returns when the sessions that are there now have ended by themselves, after [`Self::SESSION_DRAIN_TIMEOUT`] at the
    /// latest. Meanwhile the relay does all that it does.
    pub fn wait_for_sessions(&self) -> impl Future<Output = ()> + use<> {
        let connections = self.context.connections.clone();
        async move { connections.wait_for_current(Self::SESSION_DRAIN_TIMEOUT).await }
    }

    /// The same, but the sockets stay open: who comes meanwhile waits for whoever gets them.
    pub async fn stop_for_handover(self) -> Sockets {
        self.generation.close_listeners();
        self.shut_down().await
    }

    async fn shut_down(self) -> Sockets {
        let Self { context, generation, .. } = self;
        let end = Instant::now() + Self::SHUTDOWN_TIMEOUT;
        context.mail_shutdown.cancel();
        context.mail_tasks.close();
        let mail = async { tokio::join!(context.connections.drain(), context.mail_tasks.wait()) };
        if timeout(MAIL_DRAIN_TIMEOUT, mail).await.is_err() {
            tracing::warn!("what is still under way is left as it is; the next start settles it");
        }
        context.http_shutdown.cancel();
        context.http_tasks.close();
        // A client that holds its connection open does not hold us.
        let _ = timeout(HTTP_DRAIN_TIMEOUT, context.http_tasks.wait()).await;
        // Everything is on disk already; without this the next start takes longer.
        let _ = timeout_at(end, context.store.checkpoint()).await;
        generation.close_listeners();
        generation.sockets
    }
}

/// For attempts and conversations under way, and what they leave to be kept.
const MAIL_DRAIN_TIMEOUT: Duration = Duration::from_secs(24);
const HTTP_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
