//! Builds the SMTP listeners of a configuration.

use crate::config::{CertificateFiles, Config, HttpTls};
use crate::daemon::context::DaemonContext;
use crate::daemon::queue::list_scope;
use crate::daemon::sockets::{BoundSocket, Sockets};
use crate::daemon::start_error::StartError;
use mailtrail_net::tls::{Server, ServerFiles, TlsError};
use mailtrail_net::{RefusalLog, tls};
use mailtrail_relay::submission::{
    Authenticator, BoundListener, Deduplicator, Listener, ListenerTls, RateLimiter, SubmissionService,
    UserQuotas,
};
use mailtrail_relay::webhook;
use mailtrail_smtp::SessionPolicy;
use mailtrail_trail::Routing;
use mailtrail_trail::provider::Provider;
use mailtrail_trail::suppression::{RecipientFilter, SuppressionMode};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// State that all listeners of a configuration share.
pub struct SubmissionSetup {
    authenticator: Arc<Authenticator>,
    rate_limiter: Arc<RateLimiter>,
    quotas: Arc<UserQuotas>,
    deduplicator: Option<Arc<Deduplicator>>,
    routing: Arc<Routing>,
    recipient_filter: Option<Arc<RecipientFilter>>,
    tls_servers: BTreeMap<Option<PathBuf>, Arc<Server>>,
    http_tls_server: Option<Arc<Server>>,
    rejection_log: RefusalLog,
}

impl SubmissionSetup {
    /// Sets up the submission of a configuration. Failed logins, used rates and quotas, and locks of the deduplicator
    /// are taken from the previous one.
    pub fn new(
        ground: &DaemonContext,
        config: &Config,
        before: Option<(&Self, &Config)>,
    ) -> Result<Self, TlsError> {
        let (users, policy) = (config.users.clone(), &config.login_policy);
        let (accounts, rates) = match before {
            Some((before, _)) => (
                before.authenticator.reconfigured(users, policy),
                before.rate_limiter.reconfigured(&config.users, policy.rate_per_ip),
            ),
            None => {
                let accounts = Authenticator::new(users, policy, ground.clock);
                accounts.recall_logins(&ground.store);
                (accounts, RateLimiter::new(&config.users, policy.rate_per_ip))
            }
        };
        let quotas = match before {
            Some((before, _)) => before.quotas.reconfigured(&config.users, &ground.store),
            None => UserQuotas::new(&config.users, &ground.store, ground.alarms.clone(), ground.clock),
        };
        let deduplicator = match before {
            Some((before, known)) if known.dedup_window == config.dedup_window => before.deduplicator.clone(),
            _ => config.dedup_window.map(|window| Arc::new(Deduplicator::new(window))),
        };
        let (tls_servers, http_tls_server) = (open_tls_servers(config)?, open_http_tls_server(config)?);
        let routing = Arc::new(config.routing.clone());
        let screen = recipient_filter(config).map(Arc::new);
        let (authenticator, rate_limiter, quotas) = (Arc::new(accounts), Arc::new(rates), Arc::new(quotas));
        let rejection_log = before.map(|(before, _)| before.rejection_log.clone()).unwrap_or_default();
        Ok(Self {
            authenticator,
            rate_limiter,
            quotas,
            deduplicator,
            routing,
            recipient_filter: screen,
            tls_servers,
            http_tls_server,
            rejection_log,
        })
    }

    /// Returns the TLS servers of all listeners, for the expiry of their certificates.
    pub fn tls_servers(&self) -> Vec<Arc<Server>> {
        self.tls_servers.values().chain(&self.http_tls_server).cloned().collect()
    }

    /// Returns the TLS server of the webhook listener, if it has one.
    pub fn http_tls_server(&self) -> Option<Arc<Server>> {
        self.http_tls_server.clone()
    }

    /// Binds each listener without serving it. Listeners with a missing socket are left out.
    pub fn bind_listeners(
        &self,
        ground: &DaemonContext,
        config: &Config,
        sockets: &mut Sockets,
        offered: &mut Sockets,
    ) -> Result<Vec<Option<BoundListener>>, StartError> {
        let open = |listener: &Listener| {
            let taken = sockets.listen_tcp(offered, "the SMTP listener", listener.address)?;
            let door = |BoundSocket { socket, inherited }| BoundListener {
                socket,
                service: self.submission_service(ground, config, listener),
                inherited,
            };
            Ok(taken.map(door))
        };
        config.listeners.iter().map(open).collect()
    }

    /// Returns the service for the clients of a listener.
    pub fn submission_service(
        &self,
        ground: &DaemonContext,
        config: &Config,
        listener: &Listener,
    ) -> SubmissionService {
        let mut providers: Vec<Provider> = config.upstreams.iter().map(|u| u.transport.provider).collect();
        providers.dedup();
        SubmissionService {
            policy: Arc::new(session_policy(config, listener)),
            limits: config.limits.clone(),
            listener: listener.clone(),
            authenticator: self.authenticator.clone(),
            tls: self.tls_servers.get(&listener.client_ca).cloned(),
            rate_limiter: self.rate_limiter.clone(),
            quotas: self.quotas.clone(),
            store: ground.store.clone(),
            clock: ground.clock,
            id_generator: ground.id_generator.clone(),
            providers,
            routing: self.routing.clone(),
            recipient_filter: self.recipient_filter.clone(),
            dsn_enabled: config.send_dsns,
            deduplicator: self.deduplicator.clone(),
            memory_budget: ground.spool_memory.clone(),
            refusals: self.rejection_log.clone(),
            connections: ground.connections.clone(),
            stopping: ground.mail_shutdown.clone(),
        }
    }
}

/// Returns the filter of refused recipients, if the configuration has one.
fn recipient_filter(config: &Config) -> Option<RecipientFilter> {
    let settings = config.suppression.clone();
    let mut list_scopes: Vec<_> =
        config.upstreams.iter().map(|upstream| list_scope(config, upstream)).collect();
    list_scopes.dedup();
    (settings.mode == SuppressionMode::Reject).then_some(RecipientFilter { settings, list_scopes })
}

fn session_policy(config: &Config, listener: &Listener) -> SessionPolicy {
    SessionPolicy {
        hostname: config.hostname.clone(),
        offer_starttls: listener.tls == ListenerTls::StartTls,
        require_tls: listener.require_tls,
        authentication: listener.authentication,
        max_message_bytes: config.limits.max_message_bytes,
        max_recipients: config.limits.max_recipients,
    }
}

/// Reads the certificates of a configuration. Creates the self-signed pair if the configuration names none.
pub fn read_certificates(config: &Config) -> Result<(), TlsError> {
    open_tls_servers(config)?;
    open_http_tls_server(config)?;
    Ok(())
}

/// Creates one server per set of client authorities: its session tickets are valid at all listeners that share it.
fn open_tls_servers(config: &Config) -> Result<BTreeMap<Option<PathBuf>, Arc<Server>>, TlsError> {
    let mut servers = BTreeMap::new();
    for listener in config.listeners.iter().filter(|listener| listener.tls != ListenerTls::None) {
        if servers.contains_key(&listener.client_ca) {
            continue;
        }
        let files = server_files(config, config.certificate.as_ref())?;
        let server = Server::open(ServerFiles { client_ca: listener.client_ca.clone(), ..files })?;
        servers.insert(listener.client_ca.clone(), Arc::new(server));
    }
    Ok(servers)
}

fn open_http_tls_server(config: &Config) -> Result<Option<Arc<Server>>, TlsError> {
    let HttpTls::Implicit(own) = &config.http_tls else { return Ok(None) };
    let files = server_files(config, own.as_ref().or(config.certificate.as_ref()))?;
    Server::open_with_alpn(webhook::ALPN_PROTOCOLS, files).map(|server| Some(Arc::new(server)))
}

/// Returns the given files, or those of the self-signed pair.
fn server_files(config: &Config, given: Option<&CertificateFiles>) -> Result<ServerFiles, TlsError> {
    match given {
        Some(files) => Ok(ServerFiles {
            certificate: files.certificate.clone(),
            private_key: files.private_key.clone(),
            client_ca: None,
        }),
        None => tls::self_signed_files(&config.data_dir.join("tls"), &config.hostname),
    }
}
