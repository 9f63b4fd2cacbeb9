//! The queue, which goes on unchanged as long as nothing about the upstreams changes.

use crate::config::{Config, Upstream};
use crate::daemon::exclusive_task::Shift;
use crate::daemon::generation::Ground;
use mailtrail_mail::fold_domain;
use mailtrail_net::tls;
use mailtrail_net::tls::TlsError;
use mailtrail_net::transport::{Health, Ways};
use mailtrail_relay::alarms::Kind;
use mailtrail_relay::queue::{Outward, Parts, Queue};
use mailtrail_trail::provider::Provider;
use mailtrail_trail::suppression::Lists;
use mailtrail_trail::{Route, suppression};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A queue at work.
#[derive(Clone)]
pub struct Relaying {
    settings: Arc<Settings>,
    health: Vec<Arc<Health>>,
    shift: Shift,
}

/// How mail goes on its way under a configuration.
pub enum Way {
    /// As before.
    Same(Relaying),
    /// By another queue.
    Other(Box<Prepared>),
}

/// A queue at rest.
pub struct Prepared {
    settings: Settings,
    queue: Queue,
    stopping: CancellationToken,
}

/// What a queue is made of.
#[derive(PartialEq)]
struct Settings {
    hostname: String,
    upstreams: Vec<Upstream>,
    routes: Vec<Route>,
    suppression: suppression::Settings,
    /// What the trust anchors' files hold.
    anchors: Vec<Option<Vec<u8>>>,
}

impl Way {
    /// The queue of a configuration.
    pub fn new(ground: &Ground, config: &Config, running: Option<&Relaying>) -> Result<Self, TlsError> {
        let settings = Settings::of(config);
        if let Some(running) = running.filter(|running| *running.settings == settings) {
            return Ok(Self::Same(running.clone()));
        }
        let stopping = ground.stopping.child_token();
        let queue = queue(ground, config, &stopping)?;
        Ok(Self::Other(Box::new(Prepared { settings, queue, stopping })))
    }

    /// How its upstreams do.
    pub fn health(&self) -> Vec<Arc<Health>> {
        match self {
            Self::Same(running) => running.health.clone(),
            Self::Other(prepared) => prepared.health(),
        }
    }
}

impl Prepared {
    fn health(&self) -> Vec<Arc<Health>> {
        self.queue.health()
    }

    /// Puts it to work as soon as the attempts of the one before have ended: two queues would send everything twice.
    pub fn begin(self, ground: &Ground, before: Option<&Relaying>) -> Relaying {
        let health = self.health();
        let Self { settings, queue, stopping } = self;
        let alarms = ground.alarms.clone();
        let work = async move {
            // What the queue before found out is not known of these settings.
            for kind in [Kind::Breaker, Kind::Account, Kind::Tls, Kind::Quota] {
                alarms.retain(kind, |_| false);
            }
            queue.run().await;
        };
        let shift = Shift::begin(&ground.mail, before.map(|before| &before.shift), stopping, work);
        Relaying { settings: Arc::new(settings), health, shift }
    }
}

impl Settings {
    fn of(config: &Config) -> Self {
        let anchor = |upstream: &Upstream| std::fs::read(upstream.transport.ca_file.as_deref()?).ok();
        Self {
            hostname: config.hostname.clone(),
            upstreams: config.upstreams.clone(),
            routes: config.routing.routes.clone(),
            suppression: config.suppression.clone(),
            anchors: config.upstreams.iter().map(anchor).collect(),
        }
    }
}

fn queue(ground: &Ground, config: &Config, stopping: &CancellationToken) -> Result<Queue, TlsError> {
    let outward = |upstream: &Upstream| {
        Ok(Outward {
            settings: upstream.transport.clone(),
            retry: upstream.retry.clone(),
            unknown_wait: if reports(upstream, config) {
                upstream.retry.unknown_wait
            } else {
                Duration::ZERO
            },
            tls: tls::connector(upstream.transport.ca_file.as_deref())?,
            lists: lists(config, upstream),
        })
    };
    Ok(Queue::new(Parts {
        store: ground.store.clone(),
        clock: ground.clock,
        hostname: config.hostname.clone(),
        upstreams: config.upstreams.iter().map(outward).collect::<Result<_, TlsError>>()?,
        ways: ways(config),
        suppression: config.suppression.clone(),
        alarms: ground.alarms.clone(),
        pulse: ground.pulse.clone(),
        watch: ground.watch.clone(),
        stopping: stopping.clone(),
    }))
}

/// Which upstreams take which mail.
pub fn ways(config: &Config) -> Ways {
    let upstream = |upstream: &Upstream| (upstream.transport.name.clone(), upstream.retry.unknown_elsewhere);
    Ways::new(config.upstreams.iter().map(upstream).collect(), &config.routing.routes)
}

/// The suppression lists that count for an upstream: those of all that send for the same domain at the same provider.
pub fn lists(config: &Config, upstream: &Upstream) -> Lists {
    let own = &upstream.transport;
    let same = |other: &&Upstream| {
        let other = &other.transport;
        let domain = |name: &Option<String>| name.as_deref().map(fold_domain);
        let shared = own.domain.is_some() && domain(&own.domain) == domain(&other.domain);
        other.name == own.name || (shared && other.provider == own.provider)
    };
    Lists::new(config.upstreams.iter().filter(same).map(|one| one.transport.name.clone()).collect())
}

/// Whether events will come back from there.
pub fn reports(upstream: &Upstream, config: &Config) -> bool {
    let own = match upstream.transport.provider {
        Provider::Mailgun => !upstream.signing_keys.is_empty(),
        Provider::Brevo => !upstream.credentials.is_empty(),
        Provider::Plain => false,
    };
    own || config.sources.iter().any(|source| source.upstream() == upstream.transport.name)
}
