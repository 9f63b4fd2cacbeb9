//! Dispatches due messages to the workers: the higher lane first, to the first upstream of the route that
//! accepts mail.

use crate::alarms::AlarmRegistry;
use crate::monitoring::UpstreamActivity;
use crate::queue::attempt::local_diagnostic;
use crate::queue::retry::STORE_RETRY_INTERVAL;
use crate::queue::smtp_worker::SmtpWorker;
use crate::queue::upstream_pool::{QueueDeps, UpstreamPool, UpstreamSpec};
use mailtrail_mail::{Clock, ClockWatch, Timestamp, TrackingId};
use mailtrail_net::transport::{Capacity, UpstreamHealth, UpstreamSelection};
use mailtrail_store::{MessageLock, QueueId, ReadError, Store};
use mailtrail_trail::{
    AttemptOutcome, AttemptStarted, AttemptStatus, QueueKey, Recipient, RecipientResult, Trail, suppression,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Dependencies of a scheduler.
pub struct SchedulerDeps {
    /// The store.
    pub store: Store,
    /// Clock.
    pub clock: Clock,
    /// Our host name for EHLO.
    pub hostname: String,
    /// Upstreams in order of preference; at least one.
    pub upstreams: Vec<UpstreamSpec>,
    /// Selection of the upstream for a message.
    pub upstream_selection: UpstreamSelection,
    /// Suppression settings.
    pub suppression: suppression::SuppressionSettings,
    /// Registry of active alarms.
    pub alarms: AlarmRegistry,
    /// Activity of the upstreams, updated by relayed messages.
    pub activity: UpstreamActivity,
    /// Detector of clock steps.
    pub clock_watch: ClockWatch,
    /// Cancelled on shutdown.
    pub stopping: CancellationToken,
}

/// Scheduler of the queue.
pub struct Scheduler {
    store: Store,
    clock: Clock,
    pools: Vec<Arc<UpstreamPool>>,
    upstream_selection: UpstreamSelection,
    /// Queues that held messages at the last refresh.
    queues: Arc<[QueueId]>,
    refreshed_at: Timestamp,
    /// Turn in which each queue was served last.
    last_served: HashMap<QueueId, u64>,
    round_robin: u64,
    next_expiry: Timestamp,
    metrics_exported_at: Timestamp,
    clock_watch: ClockWatch,
    /// Clock steps handled so far.
    clock_steps: (u64, i64),
    /// Whether messages may wait since a time that is still in the future.
    may_hold_future_messages: bool,
    next_future_check: Timestamp,
    /// Whether the attempts of the process before have been recovered.
    has_recovered: bool,
    stopping: CancellationToken,
}

fn run_worker(pool: Arc<UpstreamPool>) -> futures_util::future::BoxFuture<'static, ()> {
    Box::pin(SmtpWorker::new(pool).run())
}

impl Scheduler {
    /// Creates a scheduler that has not started.
    pub fn new(parts: SchedulerDeps) -> Self {
        let SchedulerDeps {
            store,
            clock,
            hostname,
            upstreams,
            upstream_selection,
            suppression,
            alarms,
            activity,
            clock_watch,
            stopping,
        } = parts;
        let deps = QueueDeps {
            store: store.clone(),
            clock,
            hostname,
            upstream_selection: Arc::new(upstream_selection.clone()),
            suppression: Arc::new(suppression),
            alarms,
            activity,
            clock_watch: clock_watch.clone(),
        };
        let pool = |spec| Arc::new(UpstreamPool::new(spec, deps.clone(), stopping.clone(), run_worker));
        Self {
            pools: upstreams.into_iter().map(pool).collect(),
            store,
            clock,
            upstream_selection,
            queues: Arc::default(),
            refreshed_at: Timestamp::default(),
            last_served: HashMap::new(),
            round_robin: 0,
            next_expiry: Timestamp::default(),
            metrics_exported_at: Timestamp::default(),
            clock_steps: clock_watch.step_totals(),
            clock_watch,
            may_hold_future_messages: true,
            next_future_check: Timestamp::default(),
            has_recovered: false,
            stopping,
        }
    }

    /// Returns the health of the upstreams.
    pub fn upstream_health(&self) -> Vec<Arc<UpstreamHealth>> {
        self.pools.iter().map(|pool| pool.health.clone()).collect()
    }

    /// Runs until shutdown; then drains the attempts in progress. After a panic it may be called again: workers and
    /// their attempts have continued, so only the first run recovers interrupted attempts.
    pub async fn run(&mut self) {
        self.stopping.run_until_cancelled(self.store.wait_ledger_open()).await;
        if !self.has_recovered {
            self.pools.iter().for_each(|pool| pool.restore_state());
            self.recover_interrupted().await;
            self.has_recovered = true;
        }
        while !self.stopping.is_cancelled() {
            self.store.wait_idle().await;
            let pause = self.tick().unwrap_or_else(|error| {
                tracing::error!(%error, "cannot read the queue");
                STORE_RETRY_INTERVAL
            });
            tokio::select! {
                () = self.stopping.cancelled() => break,
                () = self.store.queue_wakeup().wait_timeout(pause) => {}
            }
        }
        // An upstream that hangs does not delay shutdown. Its attempts are unknown to the next queue, which
        // must find no worker in progress.
        let workers = || futures_util::future::join_all(self.pools.iter().map(|pool| pool.drain()));
        if timeout(DRAIN_TIMEOUT, workers()).await.is_err() {
            self.pools.iter().for_each(|pool| pool.abort());
            workers().await;
        }
        for pool in &self.pools {
            pool.wait_for_outcomes().await;
        }
    }

    /// Recovers attempts cut off by the end of the process; their result is unknown.
    async fn recover_interrupted(&self) {
        let Some(interrupted) = self.read_with_retry(|| self.store.interrupted_attempts()).await else {
            return;
        };
        for AttemptStarted { id, upstream, .. } in interrupted {
            let Some(lock) = self.lock_message(id).await else { return };
            let Some(trail) = self.read_with_retry(|| self.store.load_trail(id)).await else { return };
            let Some(trail) = trail else { continue };
            let now = self.clock.now();
            let pool = self.pools.iter().find(|pool| pool.settings.name == upstream);
            let Some(pool) = pool.or(self.pools.first()) else { continue };
            let settled = [
                recipient_results(
                    &trail,
                    |one| one.is_pending() && one.has_provider_events(),
                    AttemptStatus::Relayed,
                    REPORTED_MEANWHILE,
                ),
                recipient_results(
                    &trail,
                    |one| one.is_pending() && !one.has_provider_events(),
                    AttemptStatus::Unknown,
                    INTERRUPTED,
                ),
            ];
            let results = settled.into_iter().filter(|settled| !settled.recipients.is_empty()).collect();
            tracing::warn!(%id, upstream, "attempt was interrupted");
            pool.commit_outcome_locked(
                lock,
                AttemptOutcome {
                    id,
                    at: now,
                    upstream,
                    results,
                    next_attempt: Some(now.saturating_add(pool.unknown_wait)),
                },
            );
            pool.wait_for_outcomes().await;
        }
    }

    /// Locks a message. Other holders keep the lock for a moment only; `None` on shutdown.
    async fn lock_message(&self, id: TrackingId) -> Option<MessageLock> {
        loop {
            if let Some(lock) = self.store.try_lock(id) {
                return Some(lock);
            }
            self.stopping.run_until_cancelled(tokio::time::sleep(LOCK_RETRY_INTERVAL)).await?;
        }
    }

    /// Retries a read until it succeeds, however long that takes: a cut-off attempt that was skipped would be
    /// repeated. `None` on shutdown.
    async fn read_with_retry<T>(&self, look: impl Fn() -> Result<T, ReadError>) -> Option<T> {
        loop {
            match look() {
                Ok(found) => return Some(found),
                Err(error) => {
                    tracing::error!(%error, "cannot read interrupted attempts; nothing is sent")
                }
            }
            self.stopping.run_until_cancelled(tokio::time::sleep(STORE_RETRY_INTERVAL)).await?;
        }
    }

    /// Dispatches due messages, ends overdue ones, and returns the time until the next tick.
    fn tick(&mut self) -> Result<Duration, ReadError> {
        let now = self.clock.now();
        self.handle_clock_step(now)?;
        let mut capacities: Vec<_> = self.pools.iter().map(|pool| pool.capacity(now)).collect();
        let mut wake = now.saturating_add(MAX_TICK_INTERVAL);
        let fresh = now.duration_since(self.refreshed_at) >= MIN_REFRESH_INTERVAL || self.queues.is_empty();
        if fresh {
            self.refresh_queues(now)?;
        }
        self.dispatch_all(now, &mut capacities, &mut wake)?;
        if !fresh
            && capacities
                .iter()
                .any(|capacity| matches!(capacity, Capacity::Available(_) | Capacity::LastResort(_)))
        {
            let before = self.queues.clone();
            self.refresh_queues(now)?;
            if self.queues.iter().any(|queue| !before.contains(queue)) {
                self.dispatch_all(now, &mut capacities, &mut wake)?;
            }
        }
        if now.duration_since(self.metrics_exported_at) >= METRICS_INTERVAL {
            self.pools.iter().for_each(|pool| pool.export_metrics());
            self.metrics_exported_at = now;
        }
        if now >= self.next_expiry && self.clock_watch.is_steady() {
            self.expire_overdue(now)?;
            self.next_expiry = now.saturating_add(EXPIRY_INTERVAL);
        }
        Ok(wake.duration_since(now).clamp(MIN_TICK_INTERVAL, MAX_TICK_INTERVAL))
    }

    /// Prevents longer waits of queued messages after the clock was set back, or if it was ahead before the
    /// start.
    fn handle_clock_step(&mut self, now: Timestamp) -> Result<(), ReadError> {
        let (steps, moved) = self.clock_watch.step_totals();
        if steps != self.clock_steps.0 {
            let back = Duration::from_millis(u64::try_from(self.clock_steps.1 - moved).unwrap_or_default());
            self.pools.iter().for_each(|pool| pool.health.on_clock_set_back(back));
            (self.refreshed_at, self.metrics_exported_at, self.next_expiry, self.next_future_check) =
                Default::default();
            self.clock_steps = (steps, moved);
        }
        // An attempt that ended before the step may be recorded after it.
        if now >= self.next_future_check && (self.may_hold_future_messages || !self.clock_watch.is_steady()) {
            self.may_hold_future_messages = self.reschedule_future_messages(now)?;
            self.next_future_check =
                if self.may_hold_future_messages { now } else { now.saturating_add(EXPIRY_INTERVAL) };
        }
        Ok(())
    }

    /// Reschedules to now the messages that wait since a time in the future; returns true if there may be
    /// more.
    fn reschedule_future_messages(&self, now: Timestamp) -> Result<bool, ReadError> {
        let mut may_be_more = false;
        for queue in self.store.queue_ids()?.into_iter().filter(|queue| queue.key != QueueKey::Held) {
            let pool = self
                .upstream_selection
                .candidates(&queue.key)
                .first()
                .and_then(|index| self.pools.get(*index));
            let Some(pool) = pool.or(self.pools.first()) else { continue };
            let ahead = self.store.queued_in_future(&queue, now, RESCHEDULE_BATCH)?;
            if let Some((first, _)) = ahead.first() {
                tracing::warn!(%first, mails = ahead.len(), "rescheduled mail dated ahead by a wrong clock");
            }
            may_be_more |= ahead.len() == RESCHEDULE_BATCH;
            for (id, wait) in ahead {
                let Some(lock) = self.store.try_lock(id) else { continue };
                let (upstream, next_attempt) = (pool.settings.name.clone(), Some(now.saturating_add(wait)));
                pool.commit_outcome_locked(
                    lock,
                    AttemptOutcome { id, at: now, upstream, results: Vec::new(), next_attempt },
                );
            }
        }
        Ok(may_be_more)
    }

    /// Refreshes the list of queues. Within a lane the least recently served queue comes first.
    fn refresh_queues(&mut self, now: Timestamp) -> Result<(), ReadError> {
        let mut known = self.store.queue_ids()?;
        self.refreshed_at = now;
        known.sort_by_key(|queue| (queue.lane, self.last_served.get(queue).copied()));
        self.queues = known.into();
        Ok(())
    }

    fn dispatch_all(
        &mut self,
        now: Timestamp,
        capacities: &mut [Capacity],
        wake: &mut Timestamp,
    ) -> Result<(), ReadError> {
        let mut again = Vec::new();
        for queue in &*self.queues.clone() {
            let mut reluctant = None;
            for index in self.upstream_selection.candidates(&queue.key) {
                match capacities[index] {
                    Capacity::Unavailable(until) => *wake = until.map_or(*wake, |until| until.min(*wake)),
                    Capacity::Busy(at) => {
                        *wake = at.map_or(*wake, |at| at.min(*wake));
                        reluctant = None;
                        break;
                    }
                    Capacity::LastResort(_) => reluctant = reluctant.or(Some(index)),
                    Capacity::Available(_) => {
                        let found = self.dispatch_to(index, queue, now, capacities, wake)?;
                        again.extend(found.probe_is_due.then(|| (index, queue.clone())));
                        if found.took_all_due
                            || !matches!(
                                capacities[index],
                                Capacity::Unavailable(_) | Capacity::LastResort(_)
                            )
                        {
                            reluctant = None;
                            break;
                        }
                    }
                }
            }
            if let Some(index) = reluctant {
                let found = self.dispatch_to(index, queue, now, capacities, wake)?;
                again.extend(found.probe_is_due.then(|| (index, queue.clone())));
            }
            self.dispatch_to_unable(queue, now, capacities, wake)?;
        }
        // Nothing else was due: the message of the last probe is sent again.
        for (index, queue) in again {
            if matches!(capacities[index], Capacity::Available(_) | Capacity::LastResort(_)) {
                let (taken, _) = self.store.lock_due(&queue, now, 1)?;
                self.assign_to_pool(index, &queue, taken, now, capacities);
            }
        }
        Ok(())
    }

    /// Dispatches messages to upstreams that did not support them, once these may do so.
    fn dispatch_to_unable(
        &mut self,
        queue: &QueueId,
        now: Timestamp,
        capacities: &mut [Capacity],
        wake: &mut Timestamp,
    ) -> Result<(), ReadError> {
        for index in self.upstream_selection.unable_candidates(&queue.key) {
            let Capacity::Available(capacity) = capacities[index] else { continue };
            let pool = &self.pools[index];
            let (taken, next) = self.store.lock_due(queue, pool.reoffer_cutoff(now), capacity)?;
            *wake = next.map_or(*wake, |next| next.saturating_add(pool.retry.max_backoff).min(*wake));
            if !taken.is_empty() {
                self.assign_to_pool(index, queue, taken, now, capacities);
            }
        }
        Ok(())
    }

    /// Dispatches from a queue up to an upstream's capacity. The message of its last probe waits until
    /// others had a turn.
    fn dispatch_to(
        &mut self,
        index: usize,
        queue: &QueueId,
        now: Timestamp,
        capacities: &mut [Capacity],
        wake: &mut Timestamp,
    ) -> Result<DispatchResult, ReadError> {
        let (Capacity::Available(capacity) | Capacity::LastResort(capacity)) = capacities[index] else {
            return Ok(DispatchResult::default());
        };
        let last = self.pools[index].last_probe();
        let (mut taken, next) =
            self.store.lock_due(queue, now, capacity.saturating_add(usize::from(last.is_some())))?;
        let before = taken.len();
        taken.retain(|lock| Some(lock.id()) != last);
        let probe_is_due = taken.len() < before;
        taken.truncate(capacity);
        let took_all_due = taken.len() < capacity;
        self.assign_to_pool(index, queue, taken, now, capacities);
        *wake = next.map_or(*wake, |next| next.min(*wake));
        Ok(DispatchResult { took_all_due, probe_is_due })
    }

    fn assign_to_pool(
        &mut self,
        index: usize,
        queue: &QueueId,
        taken: Vec<MessageLock>,
        now: Timestamp,
        capacities: &mut [Capacity],
    ) {
        if !taken.is_empty() {
            self.round_robin += 1;
            self.last_served.insert(queue.clone(), self.round_robin);
            self.pools[index].dispatch(taken, now);
            capacities[index] = self.pools[index].capacity(now);
        }
    }

    /// Expires overdue messages. The deadline holds wherever a message waits: for an unavailable upstream
    /// or for an operator.
    fn expire_overdue(&self, now: Timestamp) -> Result<(), ReadError> {
        for queue in self.store.queue_ids()? {
            let pool = self.upstream_selection.candidates(&queue.key).first().map_or(0, |index| *index);
            let Some(pool) = self.pools.get(pool) else { continue };
            let age = pool.retry.give_up_after;
            let overdue = self.store.queued_by_acceptance(
                &queue,
                |accepted| now.duration_since(accepted) >= age,
                EXPIRY_BATCH,
            )?;
            for id in overdue {
                let Some(lock) = self.store.try_lock(id) else { continue };
                let Some(trail) = self.store.load_trail(id)? else { continue };
                let why = if queue.key == QueueKey::Held {
                    "it was held until then"
                } else {
                    "no upstream took it"
                };
                let text = format!("given up at its age of {} s: {why}", age.as_secs());
                let expired = recipient_results(
                    &trail,
                    Recipient::is_open,
                    AttemptStatus::Expired,
                    ("deadline", &text),
                );
                if expired.recipients.is_empty() {
                    continue;
                }
                let results = vec![expired];
                let upstream = pool.settings.name.clone();
                pool.commit_outcome_locked(
                    lock,
                    AttemptOutcome { id, at: now, upstream, results, next_attempt: None },
                );
            }
        }
        Ok(())
    }
}

/// Result of dispatching a queue to an upstream.
#[derive(Debug, Default)]
struct DispatchResult {
    /// Whether all due messages were dispatched.
    took_all_due: bool,
    /// Whether the message of the last probe is due.
    probe_is_due: bool,
}

/// Returns the results of the recipients of a message that `which` selects.
fn recipient_results(
    trail: &Trail,
    which: impl Fn(&Recipient) -> bool,
    status: AttemptStatus,
    (name, text): (&str, &str),
) -> RecipientResult {
    let recipients = (0u16..).zip(&trail.recipients).filter(|(_, recipient)| which(recipient));
    RecipientResult {
        recipients: recipients.map(|(index, _)| index).collect(),
        status,
        diagnostic: local_diagnostic(name, text),
    }
}

const REPORTED_MEANWHILE: (&str, &str) =
    ("restart", "mailtrail ended meanwhile; the provider's event says that it was taken");
const INTERRUPTED: (&str, &str) =
    ("restart", "mailtrail ended while the message was being sent: nobody knows whether it arrived");
/// Longest time between two ticks; a lost wake-up costs no more.
const MAX_TICK_INTERVAL: Duration = Duration::from_secs(5);
/// Time that attempts in progress may take to end on shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval between two attempts to lock a message.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(50);
const MIN_TICK_INTERVAL: Duration = Duration::from_millis(5);
/// Shortest interval between two refreshes of the queues while there is more to do than upstreams accept.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(50);
/// Interval between two checks for overdue messages.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum age of the upstreams' metrics, in addition to `MAX_TICK_INTERVAL`.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);
/// Messages of a queue that expire in one batch.
const EXPIRY_BATCH: usize = 500;
/// Messages of a queue rescheduled in one batch after the clock was set back.
const RESCHEDULE_BATCH: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::retry::RetryPolicy;
    use bytes::Bytes;
    use mailtrail_mail::{ManualClock, Rate};
    use mailtrail_net::tls;
    use mailtrail_net::transport::{Pipelining, Security, Settings, circuit_breaker};
    use mailtrail_trail::provider::Provider;
    use mailtrail_trail::{AcceptedMessage, AttemptStarted, Message, TrailEventKind};

    /// An upstream whose address no server listens on.
    fn unreachable_upstream(rate: Option<Rate>) -> UpstreamSpec {
        let settings = Settings {
            name: "up".into(),
            provider: Provider::Plain,
            domain: None,
            host: "127.0.0.1".into(),
            port: 1,
            security: Security::None,
            ca_file: None,
            login: None,
            api: None,
            connections: 20,
            pipelining: Pipelining::Full,
            idle_timeout: Duration::from_secs(60),
            connection_age: Duration::from_secs(600),
            messages_per_connection: 1000,
            rate,
            quota_limit: None,
            breaker: circuit_breaker::BreakerSettings::default(),
            timeouts: Default::default(),
        };
        let tls = tls::build_connector(None).unwrap();
        let suppression_lists = suppression::ListScope::default();
        UpstreamSpec {
            settings,
            retry: RetryPolicy::default(),
            unknown_wait: Duration::ZERO,
            tls,
            suppression_lists,
        }
    }

    fn test_scheduler(store: &Store, clock: Clock, spec: UpstreamSpec) -> Scheduler {
        let upstream_selection = UpstreamSelection::new(vec![(spec.settings.name.clone(), false)], &[]);
        Scheduler::new(SchedulerDeps {
            store: store.clone(),
            clock,
            hostname: "relay.example.com".into(),
            upstreams: vec![spec],
            upstream_selection,
            suppression: suppression::SuppressionSettings::default(),
            alarms: AlarmRegistry::new(clock),
            activity: UpstreamActivity::default(),
            clock_watch: ClockWatch::new(clock),
            stopping: CancellationToken::new(),
        })
    }

    async fn put_message(store: &Store, clock: Clock, route: Option<&str>) -> TrackingId {
        let id = TrackingId::new(clock.now(), fastrand::u128(..));
        let message = Message { route: route.map(Into::into), ..Message::new(id, "test") };
        let accepted = AcceptedMessage { message, recipients: vec!["a@example.net".parse().unwrap()] };
        store.put_message_applied(accepted, Bytes::from_static(b"A: b\r\n\r\n")).await.unwrap();
        id
    }

    /// One token comes every second; other wake-ups arrive in between.
    #[tokio::test]
    async fn serves_queues_of_a_lane_round_robin() {
        let directory = tempfile::tempdir().unwrap();
        for looks in 1..5 {
            let moment: &ManualClock = Box::leak(Box::default());
            let (clock, begun) = (Clock::Manual(moment), Timestamp::from_secs(1_789_387_200));
            moment.advance_to(begun);
            let folder = directory.path().join(looks.to_string());
            std::fs::create_dir(&folder).unwrap();
            let (store, _) = Store::open(&folder, clock).unwrap();
            let mut sends = [Vec::new(), Vec::new(), Vec::new()];
            for (number, sends) in sends.iter_mut().enumerate() {
                for _ in 0..9 {
                    sends.push(put_message(&store, clock, [None, Some("news"), Some("shop")][number]).await);
                }
            }
            let rate = Rate { count: 1, per: Duration::from_secs(1) };
            let mut queue = test_scheduler(&store, clock, unreachable_upstream(Some(rate)));
            for second in 0..9 {
                for look in 0..looks {
                    moment
                        .advance_to(begun.saturating_add(Duration::from_millis(second * 1000 + look * 200)));
                    queue.tick().unwrap();
                }
            }
            let begun = sends.map(|ids| ids.iter().filter(|id| store.try_lock(**id).is_none()).count());
            assert_eq!(begun, [3; 3], "{looks} looks a second");
        }
    }

    #[tokio::test]
    async fn interrupted_attempt_becomes_unknown_once_unlocked() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::System;
        let (store, _) = Store::open(directory.path(), clock).unwrap();
        let id = put_message(&store, clock, None).await;
        store
            .record_attempt_start(AttemptStarted { id, at: clock.now(), upstream: "up".into() })
            .await
            .unwrap();
        store.checkpoint().await;
        let lock = store.try_lock(id).unwrap();
        let mut queue = test_scheduler(&store, clock, unreachable_upstream(None));
        let stopping = queue.stopping.clone();
        let work = tokio::spawn(async move { queue.run().await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(lock);
        let trail = loop {
            store.queue_wakeup().notify();
            let trail = store.load_trail(id).unwrap().unwrap();
            if trail.events.len() > 1 {
                break trail;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        stopping.cancel();
        work.await.unwrap();
        assert_eq!(trail.events[1].kind, TrailEventKind::Attempted(AttemptStatus::Unknown));
    }
}
