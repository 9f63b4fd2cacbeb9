//! One upstream with its connections, and the effect of its replies on all mail.

use crate::alarms::{AlarmKind, AlarmRegistry};
use crate::monitoring::UpstreamActivity;
use crate::queue::attempt::{
    Attempt, AttemptResult, Fallback, Prepared, SuppressedRecipient, UpstreamRefusal,
};
use crate::queue::ready_queue::ReadyQueue;
use crate::queue::retry::{RetryPolicy, STORE_RETRY_INTERVAL};
use futures_util::future::BoxFuture;
use mailtrail_mail::{Clock, ClockWatch, Lane, Mailbox, Timestamp, TrackingId};
use mailtrail_net::transport::{
    BreakerState, Capacity, Certainty, Load, Quota, Settings, TransportError, UpstreamHealth,
    UpstreamSelection,
};
use mailtrail_smtp::Capabilities;
use mailtrail_store::{CommitError, DeliveryJob, MessageLock, ReadError, Store};
use mailtrail_trail::suppression::{
    EvidenceItem, EvidenceSource, ListScope, Reason, SuppressionChange, SuppressionChangeKind,
    SuppressionMode,
};
use mailtrail_trail::{AttemptOutcome, AttemptStatus, Diagnostic, QueueKey, suppression};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Specification of an upstream for a queue.
pub struct UpstreamSpec {
    /// Connection settings.
    pub settings: Settings,
    /// Retry policy.
    pub retry: RetryPolicy,
    /// Time that an unknown delivery waits for an event before the message is sent again; zero if no events
    /// come.
    pub unknown_wait: Duration,
    /// TLS connector with the trusted roots.
    pub tls: TlsConnector,
    /// Suppression lists that apply to the upstream.
    pub suppression_lists: ListScope,
}

/// Dependencies shared by all upstreams.
#[derive(Clone)]
pub(super) struct QueueDeps {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) hostname: String,
    pub(super) upstream_selection: Arc<UpstreamSelection>,
    pub(super) suppression: Arc<suppression::SuppressionSettings>,
    pub(super) alarms: AlarmRegistry,
    pub(super) activity: UpstreamActivity,
    pub(super) clock_watch: ClockWatch,
}

/// Runs a worker of the pool until it has been idle for a while. Passed in, because workers depend on their pool.
pub(super) type RunWorkerFn = fn(Arc<UpstreamPool>) -> BoxFuture<'static, ()>;

/// State shared by the scheduler and the workers of one upstream.
pub(super) struct UpstreamPool {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) hostname: String,
    pub(super) settings: Settings,
    pub(super) tls: TlsConnector,
    pub(super) ready_queue: ReadyQueue,
    pub(super) retry: RetryPolicy,
    pub(super) unknown_wait: Duration,
    pub(super) health: Arc<UpstreamHealth>,
    upstream_selection: Arc<UpstreamSelection>,
    /// Capabilities offered on the last connection, and the time since which they are unchanged.
    offered_capabilities: Mutex<(Option<Capabilities>, Timestamp)>,
    suppression_filter: SuppressionFilter,
    alarms: AlarmRegistry,
    activity: UpstreamActivity,
    watch: ClockWatch,
    /// Dispatched messages without an outcome. A message stays here if its worker panicked: it may have
    /// been sent, and only a restart treats it as unknown.
    in_flight: Mutex<HashMap<TrackingId, MessageLock>>,
    /// Message dispatched last as the breaker's half-open probe.
    half_open_probe: Mutex<Option<TrackingId>>,
    /// Messages with a slow reply.
    stuck: Mutex<HashSet<TrackingId>>,
    /// Messages whose recipients were too many for one transaction, with the limit of the next one. A
    /// forgotten limit is discovered again.
    smaller: Mutex<HashMap<TrackingId, usize>>,
    is_slow: AtomicBool,
    workers: TaskTracker,
    outcome_tasks: TaskTracker,
    /// Cancelled when attempts have used up their drain timeout.
    abort_token: CancellationToken,
    run_worker: RunWorkerFn,
}

/// Filter of suppressed recipients for one upstream.
#[derive(Clone)]
struct SuppressionFilter {
    settings: Arc<suppression::SuppressionSettings>,
    lists: Arc<ListScope>,
}

impl SuppressionFilter {
    /// Returns the suppressed ones among a message's waiting recipients; costs two lookups each.
    fn find_suppressed(
        &self,
        store: &Store,
        job: &DeliveryJob,
        now: Timestamp,
    ) -> Result<Vec<SuppressedRecipient>, ReadError> {
        if self.settings.mode == SuppressionMode::Off {
            return Ok(Vec::new());
        }
        let mut suppressed = Vec::new();
        for (place, recipient) in
            (0u16..).zip(&job.recipients).filter(|(_, recipient)| recipient.is_pending())
        {
            let address = recipient.address.to_folded();
            let look = |list: &str| store.suppression_evidence(&address, list);
            let verdict = self.lists.evaluate(&self.settings, job.message.lane, now, look)?;
            suppressed.extend(verdict.map(|verdict| (place, verdict)));
        }
        Ok(suppressed)
    }
}

impl UpstreamPool {
    pub(super) fn new(
        spec: UpstreamSpec,
        deps: QueueDeps,
        stopping: CancellationToken,
        run_worker: RunWorkerFn,
    ) -> Self {
        let QueueDeps {
            store,
            clock,
            hostname,
            upstream_selection,
            suppression,
            alarms,
            activity,
            clock_watch,
        } = deps;
        let UpstreamSpec { settings, retry, unknown_wait, tls, suppression_lists } = spec;
        let suppression_filter =
            SuppressionFilter { settings: suppression, lists: Arc::new(suppression_lists) };
        Self {
            health: Arc::new(UpstreamHealth::new(&settings)),
            store,
            clock,
            hostname,
            settings,
            tls,
            ready_queue: ReadyQueue::new(stopping),
            retry,
            unknown_wait,
            upstream_selection,
            offered_capabilities: Mutex::default(),
            suppression_filter,
            alarms,
            activity,
            watch: clock_watch,
            in_flight: Mutex::default(),
            half_open_probe: Mutex::default(),
            stuck: Mutex::default(),
            smaller: Mutex::default(),
            is_slow: AtomicBool::default(),
            workers: TaskTracker::new(),
            outcome_tasks: TaskTracker::new(),
            abort_token: CancellationToken::new(),
            run_worker,
        }
    }

    /// Restores breaker overrides and quota counts from before this process.
    pub(super) fn restore_state(&self) {
        let (name, now) = (&self.settings.name, self.clock.now());
        let forced = self.store.breaker_override(name).unwrap_or_else(|error| {
            tracing::error!(upstream = name, %error, "cannot read breaker override; assuming closed");
            None
        });
        if let Some(reason) = forced {
            self.health.breaker().force_open(&reason);
        }
        let used = |period: Range<Timestamp>| {
            let days = period.start.day_number()..=period.end.day_number() - 1;
            self.store.relayed_count(name, days).unwrap_or_else(|error| {
                tracing::error!(upstream = name, %error, "cannot read quota usage");
                0
            })
        };
        *self.health.quota() = self.settings.quota_limit.map(|plan| Quota::new(plan, now, used));
        self.count_quota(0);
    }

    /// Returns the capacity for dispatching now. If the upstream is unavailable or becomes slow, all
    /// messages that no worker has begun are taken back.
    pub(super) fn capacity(self: &Arc<Self>, now: Timestamp) -> Capacity {
        if self.ready_queue.has_unclaimed() {
            self.spawn_worker();
        }
        let load = {
            let (under_way, probe, stuck) = (self.in_flight(), self.half_open_probe(), self.stuck());
            let is_probing = probe.is_some_and(|id| under_way.contains_key(&id) && !stuck.contains(&id));
            Load { in_flight: under_way.len(), is_probing, stuck: stuck.len() }
        };
        let becomes_slow = self.update_slow(load.stuck);
        let capacity = self.health.capacity(now, load, IN_FLIGHT_PER_CONNECTION);
        let is_away = matches!(capacity, Capacity::Unavailable(_))
            && self.health.breaker_state() != BreakerState::HalfOpen;
        if becomes_slow || is_away && !self.health.is_slow(load.stuck) {
            let unbegun = self.ready_queue.drain();
            let mut under_way = self.in_flight();
            unbegun.iter().for_each(|id| drop(under_way.remove(id)));
        }
        capacity
    }

    /// Records whether the upstream is slow; returns true when it becomes so.
    fn update_slow(&self, stuck: usize) -> bool {
        let (is_slow, name) = (self.health.is_slow(stuck), &self.settings.name);
        let was_slow = self.is_slow.swap(is_slow, Ordering::AcqRel);
        if is_slow && !was_slow {
            let (all, patience) = (self.health.connections(), self.settings.timeouts.stuck_after.as_secs());
            let text = format!(
                "{stuck} of {all} connections wait longer than {patience} s for an answer; mail takes another upstream, \
                 or waits"
            );
            self.health.set_slow_reason(Some(&text));
            self.alarms.set(AlarmKind::UpstreamStuck, name, Some(text));
        } else if was_slow && !is_slow {
            self.health.set_slow_reason(None);
            self.alarms.clear(AlarmKind::UpstreamStuck, name);
        }
        is_slow && !was_slow
    }

    /// Returns the result of `work`. While it is slow, the upstream counts as stuck with this message.
    pub(super) async fn watch<T>(&self, id: TrackingId, work: impl Future<Output = T>) -> T {
        self.watch_progress(id, &AtomicU64::default(), work).await
    }

    /// Like [`watch`](Self::watch), but `work` is slow only while `moved` does not change.
    pub(super) async fn watch_progress<T>(
        &self,
        id: TrackingId,
        moved: &AtomicU64,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        loop {
            let before = moved.load(Ordering::Relaxed);
            if let Ok(done) = timeout(self.settings.timeouts.stuck_after, &mut work).await {
                return done;
            }
            if moved.load(Ordering::Relaxed) == before {
                return self.watch_stuck(id, work).await;
            }
        }
    }

    /// Returns the result of work that is slow already.
    pub(super) async fn watch_stuck<T>(&self, id: TrackingId, work: impl Future<Output = T>) -> T {
        let _stuck = StuckGuard::new(self, id);
        work.await
    }

    /// Exports the upstream's state to the metrics.
    pub(super) fn export_metrics(&self) {
        let upstream = || self.settings.name.clone();
        let state = match self.health.breaker_state() {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open { .. } | BreakerState::ForcedOpen => 2.0,
        };
        metrics::gauge!("mailtrail_breaker_state", "upstream" => upstream()).set(state);
        let (open, idle) = (self.health.connections(), self.ready_queue.idle_workers());
        let stuck = self.stuck().len();
        for (word, connections) in
            [("busy", open.saturating_sub(idle + stuck)), ("idle", idle), ("stuck", stuck)]
        {
            metrics::gauge!("mailtrail_relay_connections", "upstream" => upstream(), "state" => word)
                .set(connections as f64);
        }
    }

    /// Dispatches messages.
    pub(super) fn dispatch(self: &Arc<Self>, locks: Vec<MessageLock>, now: Timestamp) {
        self.health.throttle().consume(locks.len(), now);
        self.health.breaker().try_early_probe(now);
        if self.health.breaker_state() == BreakerState::HalfOpen {
            *self.half_open_probe() = locks.first().map(MessageLock::id);
        }
        for lock in locks {
            let id = lock.id();
            self.in_flight().insert(id, lock);
            if self.ready_queue.push(id) {
                self.spawn_worker();
            }
        }
    }

    /// Starts one more connection if the limits allow it.
    fn spawn_worker(self: &Arc<Self>) {
        if self.health.connections() >= self.settings.connections {
            return;
        }
        self.health.add_connection();
        self.ready_queue.reserve_worker();
        let pool = self.clone();
        self.workers.spawn(async move {
            pool.ready_queue.worker_started();
            let work = pool.abort_token.clone().run_until_cancelled_owned((pool.run_worker)(pool.clone()));
            let worker = tokio::spawn(work).await;
            pool.health.remove_connection();
            // Messages that arrived while it was closing found no capacity for another.
            pool.store.queue_wakeup().notify();
            if let Err(panic) = worker {
                tracing::error!(%panic, "connection worker panicked; its message is retried after a restart");
            }
        });
    }

    /// Waits until the workers have ended, which they do on shutdown.
    pub(super) async fn drain(&self) {
        self.workers.close();
        self.workers.wait().await;
    }

    /// Aborts the workers at once; their attempts stay without an outcome.
    pub(super) fn abort(&self) {
        self.abort_token.cancel();
    }

    /// Waits until all outcomes known now are stored.
    pub(super) async fn wait_for_outcomes(&self) {
        self.outcome_tasks.close();
        self.outcome_tasks.wait().await;
        self.outcome_tasks.reopen();
    }

    pub(super) fn is_breaker_closed(&self) -> bool {
        self.health.breaker_state() == BreakerState::Closed
    }

    pub(super) fn is_breaker_open(&self) -> bool {
        matches!(self.health.breaker_state(), BreakerState::Open { .. } | BreakerState::ForcedOpen)
    }

    /// Converts an attempt's result into an outcome.
    pub(super) fn finish_attempt(&self, attempt: &Attempt, result: AttemptResult) -> AttemptOutcome {
        let now = self.clock.now();
        let until = now.saturating_add(self.unknown_wait);
        // While the clock is not reliable, no message is too old.
        let lenient = (!self.watch.is_steady())
            .then(|| RetryPolicy { give_up_after: Duration::MAX, ..self.retry.clone() });
        let retry = lenient.as_ref().unwrap_or(&self.retry);
        let too_many = result.too_many;
        let outcome = attempt.build_outcome(result, &self.settings.name, retry, now, until);
        self.note_too_many(too_many, &outcome);
        self.alarm_on_withheld(attempt.lane, &outcome);
        if self.suppression_filter.settings.mode != SuppressionMode::Off {
            attempt
                .bounced_recipients(&outcome)
                .for_each(|(address, words)| self.record_bounce_evidence(address, words, now));
        }
        outcome
    }

    /// Halves the recipient limit of a message's next transaction if its recipients were too many for one.
    fn note_too_many(&self, too_many: Option<usize>, outcome: &AttemptOutcome) {
        let mut smaller = self.smaller();
        if outcome.next_attempt.is_none() {
            smaller.remove(&outcome.id);
        } else if let Some(recipients) = too_many {
            if smaller.len() >= SMALLER
                && let Some(other) = smaller.keys().next().copied()
            {
                smaller.remove(&other);
            }
            smaller.insert(outcome.id, recipients.div_ceil(2));
        }
    }

    /// Raises an alarm if transactional mail is suppressed: an invoice that is not sent must be noticed.
    fn alarm_on_withheld(&self, lane: Lane, outcome: &AttemptOutcome) {
        let withheld = outcome.results.iter().filter(|settled| settled.status == AttemptStatus::Suppressed);
        let count: u64 = withheld.map(|settled| settled.recipients.len() as u64).sum();
        if lane == Lane::Bulk || count == 0 {
            return;
        }
        let text = |count| {
            format!("{count} transactional mails were not sent: their recipients are on the suppression list")
        };
        self.alarms.count_occurrences(
            AlarmKind::SuppressedRecipients,
            &self.settings.name,
            count,
            text,
            WITHHELD_ALARM_DURATION,
        );
    }

    /// Records a refusal of an address as suppression evidence. It needs its own record: the outcome holds
    /// indices into an envelope that may be forgotten before the address. If lost with the process, it
    /// recurs with the next mail.
    fn record_bounce_evidence(&self, address: &Mailbox, words: &Diagnostic, at: Timestamp) {
        let reason = Reason::HardBounce;
        let mark = EvidenceItem {
            at,
            scope: reason.default_scope(),
            source: EvidenceSource::Attempt,
            expires_at: None,
            diagnostic: words.to_line().unwrap_or_default(),
        };
        let listing = SuppressionChange {
            address: address.clone(),
            list: Some(self.settings.name.clone()),
            at,
            operator: String::new(),
            kind: SuppressionChangeKind::Add { reason, items: vec![mark] },
        };
        let store = self.store.clone();
        self.outcome_tasks.spawn(async move {
            if let Err(error) = store.change_suppression(listing).await {
                tracing::warn!(%error, "cannot add refused address to suppression list");
            }
        });
    }

    /// Commits the outcome of a dispatched message, however long that takes: losing it would send the
    /// message again.
    pub(super) fn commit_outcome(self: &Arc<Self>, outcome: AttemptOutcome) {
        for settled in &outcome.results {
            let (upstream, word) = (self.settings.name.clone(), settled.status.as_str());
            let recipients = settled.recipients.len() as u64;
            metrics::counter!("mailtrail_relay_attempts_total", "upstream" => upstream, "outcome" => word)
                .increment(recipients);
            if settled.status == AttemptStatus::Relayed {
                self.health.breaker().record_accepted();
                self.count_quota(recipients);
                self.activity.record_relayed(&self.settings.name, outcome.id, outcome.at);
            }
        }
        let pool = self.clone();
        self.outcome_tasks.spawn(async move {
            while let Err(error) = pool.store.record_attempt_outcome(outcome.clone()).await {
                tracing::error!(id = %outcome.id, %error, "cannot store attempt outcome");
                if matches!(error, CommitError::ReadOnly) {
                    // The store is unavailable until a restart, which treats the attempt as unknown.
                    return;
                }
                tokio::time::sleep(STORE_RETRY_INTERVAL).await;
            }
            pool.release(outcome.id);
        });
    }

    /// Like [`commit_outcome`](Self::commit_outcome), for a message that was not dispatched.
    pub(super) fn commit_outcome_locked(self: &Arc<Self>, lock: MessageLock, outcome: AttemptOutcome) {
        self.in_flight().insert(lock.id(), lock);
        self.commit_outcome(outcome);
    }

    /// Releases a message from the workers.
    pub(super) fn release(&self, id: TrackingId) {
        self.in_flight().remove(&id);
        self.store.queue_wakeup().notify();
    }

    /// Like [`release`](Self::release), after a delay.
    pub(super) fn release_after_delay(self: &Arc<Self>, id: TrackingId) {
        let pool = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(STORE_RETRY_INTERVAL).await;
            pool.release(id);
        });
    }

    /// Defers a message that cannot be read now, to make way for others.
    pub(super) fn defer(self: &Arc<Self>, id: TrackingId, pause: Duration) {
        let now = self.clock.now();
        let (upstream, next_attempt) = (self.settings.name.clone(), Some(now.saturating_add(pause)));
        self.commit_outcome(AttemptOutcome { id, at: now, upstream, results: Vec::new(), next_attempt });
    }

    /// Returns the next message that is ready, for at most `most` recipients; `None` after the idle timeout
    /// or on shutdown.
    pub(super) async fn next_attempt(self: &Arc<Self>, most: usize) -> Option<Box<Attempt>> {
        loop {
            let id = self.ready_queue.next_ready(self.settings.idle_timeout).await?;
            if self.is_breaker_open() {
                self.release(id);
                continue;
            }
            if let Some(attempt) = self.prepare_attempt(id, most).await {
                return Some(attempt);
            }
        }
    }

    /// Prepares a message for at most `most` recipients; `None` if it is finished or cannot be read.
    pub(super) async fn prepare_attempt(
        self: &Arc<Self>,
        id: TrackingId,
        most: usize,
    ) -> Option<Box<Attempt>> {
        let now = self.clock.now();
        let (job, suppressed) = match self.load_job(id, now).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.release_after_delay(id);
                return None;
            }
            Err(error) if error.is_shortage() => {
                tracing::debug!(%id, %error, "cannot read queued message now");
                self.release_after_delay(id);
                return None;
            }
            Err(error) => {
                tracing::error!(%id, %error, "cannot read queued message; retrying later");
                // A failing ledger is rebuilt soon, and the message is intact.
                let pause = match error {
                    ReadError::Ledger(_) | ReadError::LedgerClosed(_) => self.retry.initial_backoff,
                    ReadError::Journal(_) => self.retry.max_backoff,
                };
                self.defer(id, pause);
                return None;
            }
        };
        let most = self.smaller().get(&id).map_or(most, |smaller| most.min(*smaller));
        let (provider, upstream) = (self.settings.provider, &self.settings.name);
        let lane = job.message.lane;
        let fallback = self.fallback_for(job.queue_key.as_ref());
        let unable = |waits: &QueueKey| match waits {
            QueueKey::RouteExcept { excluded, .. } => {
                excluded.iter().any(|name| **name == *self.settings.name)
            }
            _ => false,
        };
        let afresh = job.queue_key.as_ref().is_some_and(unable);
        match Attempt::prepare(job, &suppressed, provider, upstream, most, fallback, now) {
            Prepared::Ready(mut attempt) => {
                attempt.needs_new_connection = afresh;
                Some(attempt)
            }
            Prepared::Finished(outcome) => {
                self.alarm_on_withheld(lane, &outcome);
                self.commit_outcome(outcome);
                None
            }
        }
    }

    /// Returns the handling of recipients that this upstream does not support.
    fn fallback_for(&self, waits: Option<&QueueKey>) -> Fallback {
        match waits {
            Some(QueueKey::Upstream { .. }) => Fallback::SameUpstream,
            Some(waits) if self.upstream_selection.has_alternative(waits, &self.settings.name) => {
                Fallback::OtherUpstream
            }
            _ => Fallback::Fail,
        }
    }

    /// Records the capabilities that the upstream offers on a new connection.
    pub(super) fn record_capabilities(&self, offers: &Capabilities) {
        let mut offered = self.offered_capabilities();
        if offered.0 != Some(*offers) {
            *offered = (Some(*offers), self.clock.now());
            drop(offered);
            self.store.queue_wakeup().notify();
        }
    }

    /// Returns the cutoff for offering unsupported messages again. Messages that have waited for another
    /// upstream since then or longer are offered to this one: its capabilities may have grown.
    pub(super) fn reoffer_cutoff(&self, now: Timestamp) -> Timestamp {
        let pause = now.as_millis().saturating_sub(self.retry.max_backoff.as_millis() as u64);
        Timestamp::from_millis(pause.max(self.offered_capabilities().1.as_millis().saturating_sub(1)))
    }

    fn offered_capabilities(&self) -> MutexGuard<'_, (Option<Capabilities>, Timestamp)> {
        self.offered_capabilities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads an attempt's message and its suppressed recipients; `None` also if it cannot be read now. A
    /// recently accepted message is in memory, so reading it needs neither disk nor a blocking thread.
    async fn load_job(
        &self,
        id: TrackingId,
        now: Timestamp,
    ) -> Result<Option<(DeliveryJob, Vec<SuppressedRecipient>)>, ReadError> {
        let (store, screening) = (self.store.clone(), self.suppression_filter.clone());
        let look = move || {
            let Some(job) = store.load_job(id)? else { return Ok(None) };
            let suppressed = screening.find_suppressed(&store, &job, now)?;
            Ok(Some((job, suppressed)))
        };
        if now.duration_since(id.timestamp()) < PAGE_CACHE_WINDOW {
            return look();
        }
        tokio::task::spawn_blocking(look).await.unwrap_or(Ok(None))
    }

    /// Records that the message was not attempted. It is charged an attempt only while the breaker was
    /// closed: a probe's message waits with all others, until its deadline.
    pub(super) fn on_unreachable(self: &Arc<Self>, attempt: Attempt, fault: &TransportError) {
        let charged = self.on_error(fault);
        let age = self.clock.now().duration_since(attempt.id.timestamp());
        if charged || age >= self.retry.give_up_after {
            let mut result = AttemptResult::default();
            attempt.fail_open(&mut result, AttemptStatus::Queued, "connection", &fault.to_string());
            self.commit_outcome(self.finish_attempt(&attempt, result));
        } else {
            self.release(attempt.id);
        }
    }

    /// Records that the upstream decided about a message.
    pub(super) fn on_reply(&self, id: TrackingId, result: &AttemptResult) {
        let now = self.clock.now();
        if let Some(refusal) = &result.upstream_refusal {
            self.on_refused(id, refusal, now);
            return;
        }
        if let Some(refusal) = &result.throttle_refusal {
            self.on_throttled(id, refusal, now);
            return;
        }
        self.health.throttle().accepted(now);
        if self.health.breaker().record_success(now) {
            self.alarms.clear(AlarmKind::Breaker, &self.settings.name);
            self.alarms.clear(AlarmKind::UpstreamAccount, &self.settings.name);
            tracing::info!(
                upstream = self.settings.name,
                "the breaker closed: the upstream takes mail again"
            );
        }
    }

    /// Records a successful connection.
    pub(super) fn on_connected(&self) {
        self.alarms.clear(AlarmKind::Tls, &self.settings.name);
    }

    /// Throttles the upstream. A delay that it asks for is honoured if short; otherwise the upstream is
    /// unavailable for it, and mail takes another.
    fn on_throttled(&self, id: TrackingId, refusal: &UpstreamRefusal, now: Timestamp) {
        let long =
            refusal.until.filter(|until| until.duration_since(now) > self.settings.breaker.initial_pause);
        let mut pace = self.health.throttle();
        let before = pace.reduced_rate();
        pace.on_throttled(now, refusal.until.filter(|_| long.is_none()));
        let slowed_to = pace.reduced_rate();
        drop(pace);
        if slowed_to != before {
            let a_minute = slowed_to.unwrap_or_default() * 60.0;
            tracing::warn!(
                upstream = self.settings.name,
                a_minute,
                "the upstream says that it is too much; it is sent less"
            );
        }
        let Some(until) = long else { return self.health.breaker().record_throttled(id) };
        if self.health.breaker().record_suspected(now, id, refusal.certainty, until, &refusal.text) {
            let text =
                format!("the upstream wants no mail until {until}, mail waits; it said: {}", refusal.text);
            self.alarms.raise(AlarmKind::Breaker, &self.settings.name, text);
        }
    }

    /// Handles a reply that refuses the account, not the message, or appears to.
    fn on_refused(&self, id: TrackingId, refusal: &UpstreamRefusal, now: Timestamp) {
        let UpstreamRefusal { text: words, certainty, .. } = refusal;
        let until = refusal.until.unwrap_or_else(|| now.saturating_add(self.settings.breaker.max_pause));
        let mut breaker = self.health.breaker();
        match certainty {
            Certainty::Certain => _ = breaker.open_until(now, until, words),
            Certainty::Likely | Certainty::Possible => {
                breaker.record_suspected(now, id, *certainty, until, words);
            }
        }
        let is_away = matches!(breaker.state(), BreakerState::Open { .. });
        drop(breaker);
        if is_away {
            let text = format!("the upstream refuses the account, mail waits; it said: {words}");
            self.alarms.raise(AlarmKind::UpstreamAccount, &self.settings.name, text);
        }
    }

    /// Records that the connection broke during a message.
    pub(super) fn on_connection_lost(&self, id: TrackingId, fault: &TransportError) {
        let reason = fault.to_string();
        let opened = self.health.breaker().connection_lost_on(self.clock.now(), id, &reason);
        self.alarm_on_error(fault, opened, &reason);
    }

    /// Handles an upstream that cannot be reached or refuses service; returns true if the message's attempt
    /// counts.
    fn on_error(&self, fault: &TransportError) -> bool {
        let (mut breaker, now) = (self.health.breaker(), self.clock.now());
        let (counts, reason) = (breaker.state() == BreakerState::Closed, fault.to_string());
        let opened = match fault {
            // A wrong password is not cured by retrying, and providers lock accounts; nor is a wrong
            // certificate.
            fault if fault.needs_operator() => {
                breaker.open_until(now, now.saturating_add(self.settings.breaker.max_pause), &reason)
            }
            _ => breaker.record_failure(now, &reason),
        };
        drop(breaker);
        self.alarm_on_error(fault, opened, &reason);
        counts
    }

    fn alarm_on_error(&self, fault: &TransportError, opened: bool, reason: &str) {
        let kind = match fault {
            TransportError::LoginRefused { .. } | TransportError::NoAuthMechanism => {
                Some(AlarmKind::UpstreamAccount)
            }
            TransportError::NoStartTls
            | TransportError::Certificate(_)
            | TransportError::InvalidHostName(_) => Some(AlarmKind::Tls),
            _ => opened.then_some(AlarmKind::Breaker),
        };
        match kind {
            Some(kind) => {
                let text = format!("the breaker opened, mail waits: {reason}");
                self.alarms.raise(kind, &self.settings.name, text);
            }
            None => tracing::warn!(upstream = self.settings.name, %fault, "the upstream cannot be used"),
        }
    }

    /// Counts accepted recipients against the quota.
    fn count_quota(&self, recipients: u64) {
        let now = self.clock.now();
        let mut quota = self.health.quota();
        let Some(quota) = quota.as_mut() else { return };
        quota.consume(recipients, now);
        let percent = quota.percent_used(now);
        let text = match percent {
            100.. => "the quota is used up; mail waits for the next period, or takes another upstream",
            95.. => "the quota is nearly used up: more than 95 %",
            80.. => "most of the quota is used: more than 80 %",
            _ => return self.alarms.clear(AlarmKind::Quota, &self.settings.name),
        };
        self.alarms.raise(AlarmKind::Quota, &self.settings.name, text);
    }

    /// Returns the message of the last half-open probe; others are used next.
    pub(super) fn last_probe(&self) -> Option<TrackingId> {
        let probing = self.health.breaker_state() == BreakerState::HalfOpen
            || self.health.breaker().early_probe_at().is_some();
        self.half_open_probe().filter(|_| probing)
    }

    fn smaller(&self) -> MutexGuard<'_, HashMap<TrackingId, usize>> {
        self.smaller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stuck(&self) -> MutexGuard<'_, HashSet<TrackingId>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn half_open_probe(&self) -> MutexGuard<'_, Option<TrackingId>> {
        self.half_open_probe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<TrackingId, MessageLock>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard that marks a message as slow until its reply arrives.
struct StuckGuard<'a> {
    pool: &'a UpstreamPool,
    id: TrackingId,
}

impl<'a> StuckGuard<'a> {
    fn new(pool: &'a UpstreamPool, id: TrackingId) -> Self {
        pool.stuck().insert(id);
        pool.store.queue_wakeup().notify();
        Self { pool, id }
    }
}

impl Drop for StuckGuard<'_> {
    fn drop(&mut self) {
        self.pool.stuck().remove(&self.id);
        self.pool.store.queue_wakeup().notify();
    }
}

/// Dispatched messages per connection, including the one being sent and the pipelined one.
const IN_FLIGHT_PER_CONNECTION: usize = 3;
/// Messages for which a smaller recipient limit is remembered.
const SMALLER: usize = 10_000;
/// Time after the last withheld transactional message at which the alarm ends.
const WITHHELD_ALARM_DURATION: Duration = Duration::from_secs(86_400);
/// Time for which an accepted message is certainly in memory.
const PAGE_CACHE_WINDOW: Duration = Duration::from_secs(5);
