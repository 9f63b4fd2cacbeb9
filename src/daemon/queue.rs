//! The queue, which goes on unchanged as long as nothing about the upstreams changes.

use crate::config::{Config, Upstream};
use crate::daemon::context::DaemonContext;
use crate::daemon::exclusive_task::ExclusiveTask;
use crate::daemon::supervisor::BackgroundTask;
use mailtrail_mail::fold_domain;
use mailtrail_net::tls;
use mailtrail_net::tls::TlsError;
use mailtrail_net::transport::{UpstreamHealth, UpstreamSelection};
use mailtrail_relay::alarms::AlarmKind;
use mailtrail_relay::queue::{Scheduler, SchedulerDeps, UpstreamSpec};
use mailtrail_trail::provider::Provider;
use mailtrail_trail::suppression::ListScope;
use mailtrail_trail::{Route, suppression};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Name of the queue's task.
pub const QUEUE_TASK: &str = "queue";

/// A queue at work.
#[derive(Clone)]
pub struct RunningQueue {
    settings: Arc<QueueSettings>,
    health: Vec<Arc<UpstreamHealth>>,
    task: ExclusiveTask,
}

/// How mail goes on its way under a configuration.
pub enum QueuePlan {
    /// As before.
    Reuse(RunningQueue),
    /// By another queue.
    Replace(Box<StagedQueue>),
}

/// A queue at rest.
pub struct StagedQueue {
    settings: QueueSettings,
    queue: Scheduler,
    stopping: CancellationToken,
}

/// What a queue is made of.
#[derive(PartialEq)]
struct QueueSettings {
    hostname: String,
    upstreams: Vec<Upstream>,
    routes: Vec<Route>,
    suppression: suppression::SuppressionSettings,
    /// What the trust anchors' files hold.
    trust_anchors: Vec<Option<Vec<u8>>>,
}

impl QueuePlan {
    /// The queue of a configuration.
    pub fn new(
        ground: &DaemonContext,
        config: &Config,
        running: Option<&RunningQueue>,
    ) -> Result<Self, TlsError> {
        let settings = QueueSettings::from_config(config);
        if let Some(running) = running.filter(|running| *running.settings == settings) {
            return Ok(Self::Reuse(running.clone()));
        }
        let stopping = ground.mail_shutdown.child_token();
        let queue = build_scheduler(ground, config, &stopping)?;
        Ok(Self::Replace(Box::new(StagedQueue { settings, queue, stopping })))
    }

    /// How its upstreams do.
    pub fn health(&self) -> Vec<Arc<UpstreamHealth>> {
        match self {
            Self::Reuse(running) => running.health.clone(),
            Self::Replace(prepared) => prepared.health(),
        }
    }
}

impl StagedQueue {
    fn health(&self) -> Vec<Arc<UpstreamHealth>> {
        self.queue.upstream_health()
    }

    /// Puts it to work as soon as the attempts of the one before have ended: two queues would send everything twice.
    pub fn activate(self, ground: &DaemonContext, before: Option<&RunningQueue>) -> RunningQueue {
        let health = self.health();
        let Self { settings, queue, stopping } = self;
        let (alarms, supervisor, until) =
            (ground.alarms.clone(), ground.supervisor.clone(), stopping.clone());
        // A restart continues with the same workers, so the scheduler is kept.
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        let task = BackgroundTask::new(QUEUE_TASK, queue, &stopping, |queue, _| async move {
            queue.lock().await.run().await;
        });
        let work = async move {
            // Alarms of the queue before may not apply to these settings.
            for kind in [AlarmKind::Breaker, AlarmKind::UpstreamAccount, AlarmKind::Tls, AlarmKind::Quota] {
                alarms.clear_unknown_subjects(kind, |_| false);
            }
            supervisor.run(task, &until).await;
        };
        let task =
            ExclusiveTask::spawn_after(&ground.mail_tasks, before.map(|before| &before.task), stopping, work);
        RunningQueue { settings: Arc::new(settings), health, task }
    }
}

impl QueueSettings {
    fn from_config(config: &Config) -> Self {
        let anchor = |upstream: &Upstream| std::fs::read(upstream.transport.ca_file.as_deref()?).ok();
        Self {
            hostname: config.hostname.clone(),
            upstreams: config.upstreams.clone(),
            routes: config.routing.routes.clone(),
            suppression: config.suppression.clone(),
            trust_anchors: config.upstreams.iter().map(anchor).collect(),
        }
    }
}

fn build_scheduler(
    ground: &DaemonContext,
    config: &Config,
    stopping: &CancellationToken,
) -> Result<Scheduler, TlsError> {
    let spec = |upstream: &Upstream| {
        Ok(UpstreamSpec {
            settings: upstream.transport.clone(),
            retry: upstream.retry.clone(),
            unknown_wait: if has_event_source(upstream, config) {
                upstream.retry.unknown_wait
            } else {
                Duration::ZERO
            },
            tls: tls::build_connector(upstream.transport.ca_file.as_deref())?,
            suppression_lists: list_scope(config, upstream),
        })
    };
    Ok(Scheduler::new(SchedulerDeps {
        store: ground.store.clone(),
        clock: ground.clock,
        hostname: config.hostname.clone(),
        upstreams: config.upstreams.iter().map(spec).collect::<Result<_, TlsError>>()?,
        upstream_selection: upstream_selection(config),
        suppression: config.suppression.clone(),
        alarms: ground.alarms.clone(),
        activity: ground.upstream_activity.clone(),
        clock_watch: ground.clock_watch.clone(),
        stopping: stopping.clone(),
    }))
}

/// Which upstreams take which mail.
pub fn upstream_selection(config: &Config) -> UpstreamSelection {
    let upstream =
        |upstream: &Upstream| (upstream.transport.name.clone(), upstream.retry.retry_unknown_elsewhere);
    UpstreamSelection::new(config.upstreams.iter().map(upstream).collect(), &config.routing.routes)
}

/// The suppression lists that count for an upstream: those of all that send for the same domain at the same provider.
pub fn list_scope(config: &Config, upstream: &Upstream) -> ListScope {
    let own = &upstream.transport;
    let same = |other: &&Upstream| {
        let other = &other.transport;
        let domain = |name: &Option<String>| name.as_deref().map(fold_domain);
        let shared = own.domain.is_some() && domain(&own.domain) == domain(&other.domain);
        other.name == own.name || (shared && other.provider == own.provider)
    };
    ListScope::new(config.upstreams.iter().filter(same).map(|one| one.transport.name.clone()).collect())
}

/// Whether events will come back from there.
pub fn has_event_source(upstream: &Upstream, config: &Config) -> bool {
    let own = match upstream.transport.provider {
        Provider::Mailgun => !upstream.webhook_signing_keys.is_empty(),
        Provider::Brevo => !upstream.webhook_auth.is_empty(),
        Provider::Plain => false,
    };
    own || config.sources.iter().any(|source| source.upstream() == upstream.transport.name)
}
