//! The front doors of a configuration.

use crate::config::{CertificateFiles, Config, HttpTls};
use crate::daemon::StartError;
use crate::daemon::generation::Ground;
use crate::daemon::queue::lists;
use crate::daemon::sockets::{Sockets, Taken};
use mailtrail_net::tls::{Server, ServerFiles, TlsError};
use mailtrail_net::{RefusalLog, tls};
use mailtrail_relay::submission::{Accounts, Door, Duplicates, Front, Listener, ListenerTls, Quotas, Rates};
use mailtrail_relay::webhook;
use mailtrail_smtp::Rules;
use mailtrail_trail::Routing;
use mailtrail_trail::provider::Provider;
use mailtrail_trail::suppression::{Policy, Screen};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What the doors of a configuration have in common.
pub struct Hall {
    accounts: Arc<Accounts>,
    rates: Arc<Rates>,
    quotas: Arc<Quotas>,
    duplicates: Option<Arc<Duplicates>>,
    routing: Arc<Routing>,
    screen: Option<Arc<Screen>>,
    servers: BTreeMap<Option<PathBuf>, Arc<Server>>,
    http: Option<Arc<Server>>,
    refusals: RefusalLog,
}

impl Hall {
    /// As configured. Failed logins, rates and quotas used up and turns for duplicates are as in the one before.
    pub fn new(ground: &Ground, config: &Config, before: Option<(&Self, &Config)>) -> Result<Self, TlsError> {
        let (users, policy) = (config.users.clone(), &config.policy);
        let (accounts, rates) = match before {
            Some((before, _)) => (
                before.accounts.renewed(users, policy),
                before.rates.renewed(&config.users, policy.rate_per_ip),
            ),
            None => {
                let accounts = Accounts::new(users, policy, ground.clock);
                accounts.recall_logins(&ground.store);
                (accounts, Rates::new(&config.users, policy.rate_per_ip))
            }
        };
        let quotas = match before {
            Some((before, _)) => before.quotas.renewed(&config.users, &ground.store),
            None => Quotas::new(&config.users, &ground.store, ground.alarms.clone(), ground.clock),
        };
        let duplicates = match before {
            Some((before, known)) if known.duplicates == config.duplicates => before.duplicates.clone(),
            _ => config.duplicates.map(|window| Arc::new(Duplicates::new(window))),
        };
        let (servers, http) = (servers(config)?, http(config)?);
        let routing = Arc::new(config.routing.clone());
        let screen = screen(config).map(Arc::new);
        let (accounts, rates, quotas) = (Arc::new(accounts), Arc::new(rates), Arc::new(quotas));
        let refusals = before.map(|(before, _)| before.refusals.clone()).unwrap_or_default();
        Ok(Self { accounts, rates, quotas, duplicates, routing, screen, servers, http, refusals })
    }

    /// What accepts TLS.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.servers.values().chain(&self.http).cloned().collect()
    }

    /// What accepts it from those who report, if anything does.
    pub fn http(&self) -> Option<Arc<Server>> {
        self.http.clone()
    }

    /// The door of each listener, shut; none where its socket is missing.
    pub fn doors(
        &self,
        ground: &Ground,
        config: &Config,
        sockets: &mut Sockets,
        offered: &mut Sockets,
    ) -> Result<Vec<Option<Door>>, StartError> {
        let open = |listener: &Listener| {
            let taken = sockets.listen(offered, "the SMTP listener", listener.address)?;
            let door =
                |Taken { socket, lent }| Door { socket, front: self.front(ground, config, listener), lent };
            Ok(taken.map(door))
        };
        config.listeners.iter().map(open).collect()
    }

    /// What clients of a listener find.
    pub fn front(&self, ground: &Ground, config: &Config, listener: &Listener) -> Front {
        let mut providers: Vec<Provider> = config.upstreams.iter().map(|u| u.transport.provider).collect();
        providers.dedup();
        Front {
            rules: Arc::new(rules(config, listener)),
            limits: config.limits.clone(),
            listener: listener.clone(),
            accounts: self.accounts.clone(),
            tls: self.servers.get(&listener.client_ca).cloned(),
            rates: self.rates.clone(),
            quotas: self.quotas.clone(),
            store: ground.store.clone(),
            clock: ground.clock,
            mint: ground.mint.clone(),
            providers,
            routing: self.routing.clone(),
            screen: self.screen.clone(),
            reports: config.reports,
            duplicates: self.duplicates.clone(),
            memory: ground.memory.clone(),
            refusals: self.refusals.clone(),
            crowd: ground.crowd.clone(),
            stopping: ground.stopping.clone(),
        }
    }
}

/// Which recipients are refused, where any are.
fn screen(config: &Config) -> Option<Screen> {
    let settings = config.suppression.clone();
    let mut upstreams: Vec<_> = config.upstreams.iter().map(|upstream| lists(config, upstream)).collect();
    upstreams.dedup();
    (settings.policy == Policy::Reject).then_some(Screen { settings, upstreams })
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

/// Reads the certificates that a configuration needs, and makes the pair that it names none for.
pub fn read_certificates(config: &Config) -> Result<(), TlsError> {
    servers(config)?;
    http(config)?;
    Ok(())
}

/// One server for all listeners that trust the same clients: tickets of one are good for the others.
fn servers(config: &Config) -> Result<BTreeMap<Option<PathBuf>, Arc<Server>>, TlsError> {
    let mut servers = BTreeMap::new();
    for listener in config.listeners.iter().filter(|listener| listener.tls != ListenerTls::None) {
        if servers.contains_key(&listener.client_ca) {
            continue;
        }
        let files = files(config, config.certificate.as_ref())?;
        let server = Server::open(ServerFiles { client_ca: listener.client_ca.clone(), ..files })?;
        servers.insert(listener.client_ca.clone(), Arc::new(server));
    }
    Ok(servers)
}

/// The webhook listener's.
fn http(config: &Config) -> Result<Option<Arc<Server>>, TlsError> {
    let HttpTls::Implicit(own) = &config.http_tls else { return Ok(None) };
    let files = files(config, own.as_ref().or(config.certificate.as_ref()))?;
    Server::speaking(webhook::PROTOCOLS, files).map(|server| Some(Arc::new(server)))
}

/// Those that are given or, where none are, of the pair that we make.
fn files(config: &Config, given: Option<&CertificateFiles>) -> Result<ServerFiles, TlsError> {
    match given {
        Some(files) => Ok(ServerFiles {
            certificate: files.certificate.clone(),
            private_key: files.private_key.clone(),
            client_ca: None,
        }),
        None => tls::self_signed_files(&config.data_dir.join("tls"), &config.hostname),
    }
}
