//! One upstream with its connections, and what its answers mean for all mail.

use crate::alarms::{Alarms, Kind};
use crate::monitoring::Pulse;
use crate::queue::attempt::{
    Attempt, AttemptResult, Fallback, Prepared, SuppressedRecipient, UpstreamRefusal,
};
use crate::queue::ready_queue::ReadyQueue;
use crate::queue::retry::RetryPolicy;
use crate::queue::smtp_worker::{STORE_RETRY_INTERVAL, SmtpWorker};
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

/// An upstream, as a queue needs it.
pub struct UpstreamSpec {
    /// How it is reached.
    pub settings: Settings,
    /// When to try again.
    pub retry: RetryPolicy,
    /// How long an unknown end waits for an event before the message is sent again; nothing where no events come.
    pub unknown_wait: Duration,
    /// Whom we trust.
    pub tls: TlsConnector,
    /// The suppression lists that count for it.
    pub suppression_lists: ListScope,
}

/// What all upstreams have in common.
#[derive(Clone)]
pub(super) struct QueueDeps {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) hostname: String,
    pub(super) upstream_selection: Arc<UpstreamSelection>,
    pub(super) suppression: Arc<suppression::SuppressionSettings>,
    pub(super) alarms: Alarms,
    pub(super) activity: Pulse,
    pub(super) clock_watch: ClockWatch,
}

/// What the dispatcher and the workers of one upstream share.
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
    /// What it offered on its last connection, and since when it is that.
    offered_capabilities: Mutex<(Option<Capabilities>, Timestamp)>,
    suppression_filter: SuppressionFilter,
    alarms: Alarms,
    activity: Pulse,
    watch: ClockWatch,
    /// The sends that were handed out and have no outcome yet. One whose worker broke stays here: it may have been
    /// sent, which only a restart takes for unknown.
    in_flight: Mutex<HashMap<TrackingId, MessageLock>>,
    /// The send that was handed out last to find out whether the upstream is well again.
    half_open_probe: Mutex<Option<TrackingId>>,
    /// The sends whose answers are long in coming.
    stuck: Mutex<HashSet<TrackingId>>,
    /// The sends whose recipients were too many for one transaction, and how many it may have next. What is forgotten is
    /// found out again.
    smaller: Mutex<HashMap<TrackingId, usize>>,
    is_slow: AtomicBool,
    workers: TaskTracker,
    outcome_tasks: TaskTracker,
    /// Set when attempts have had all the time to end that they get.
    abort_token: CancellationToken,
}

/// Who gets no mail there.
#[derive(Clone)]
struct SuppressionFilter {
    settings: Arc<suppression::SuppressionSettings>,
    lists: Arc<ListScope>,
}

impl SuppressionFilter {
    /// Those of a send's waiting recipients that are to get no mail: two lookups each.
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
            let address = recipient.address.folded();
            let look = |list: &str| store.suppression_evidence(&address, list);
            let verdict = self.lists.evaluate(&self.settings, job.message.lane, now, look)?;
            suppressed.extend(verdict.map(|verdict| (place, verdict)));
        }
        Ok(suppressed)
    }
}

impl UpstreamPool {
    pub(super) fn new(outward: UpstreamSpec, office: QueueDeps, stopping: CancellationToken) -> Self {
        let QueueDeps {
            store,
            clock,
            hostname,
            upstream_selection,
            suppression,
            alarms,
            activity,
            clock_watch,
        } = office;
        let UpstreamSpec { settings, retry, unknown_wait, tls, suppression_lists } = outward;
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
        }
    }

    /// What was decided and counted before this process.
    pub(super) fn restore_state(&self) {
        let (name, now) = (&self.settings.name, self.clock.now());
        let forced = self.store.breaker_override(name).unwrap_or_else(|error| {
            tracing::error!(upstream = name, %error, "whether its breaker is to be kept open cannot be read");
            None
        });
        if let Some(reason) = forced {
            self.health.breaker().force_open(&reason);
        }
        let used = |period: Range<Timestamp>| {
            let days = period.start.day_number()..=period.end.day_number() - 1;
            self.store.relayed_count(name, days).unwrap_or_else(|error| {
                tracing::error!(upstream = name, %error, "what is used of its quota cannot be read");
                0
            })
        };
        *self.health.quota() = self.settings.quota_limit.map(|plan| Quota::new(plan, now, used));
        self.count_quota(0);
    }

    /// What may be handed out now. From one that is away, or becomes slow, everything is taken back that no worker has
    /// begun.
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
        let room = self.health.capacity(now, load, IN_FLIGHT_PER_CONNECTION);
        let is_away =
            matches!(room, Capacity::Unavailable(_)) && self.health.breaker_state() != BreakerState::HalfOpen;
        if becomes_slow || is_away && !self.health.is_slow(load.stuck) {
            let unbegun = self.ready_queue.drain();
            let mut under_way = self.in_flight();
            unbegun.iter().for_each(|id| drop(under_way.remove(id)));
        }
        room
    }

    /// Notes whether the upstream is slow; true when it becomes so.
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
            self.alarms.set(Kind::Stuck, name, Some(text));
        } else if was_slow && !is_slow {
            self.health.set_slow_reason(None);
            self.alarms.clear(Kind::Stuck, name);
        }
        is_slow && !was_slow
    }

    /// The work's result; while that is long in coming the upstream counts as stuck with this send.
    pub(super) async fn watch<T>(&self, id: TrackingId, work: impl Future<Output = T>) -> T {
        self.watch_progress(id, &AtomicU64::default(), work).await
    }

    /// The same; it is long in coming only while `moved` stays the same.
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

    /// The result of a work that was long in coming already.
    pub(super) async fn watch_stuck<T>(&self, id: TrackingId, work: impl Future<Output = T>) -> T {
        let _stuck = StuckGuard::new(self, id);
        work.await
    }

    /// Tells the metrics how the upstream does.
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

    /// Hands sends out.
    pub(super) fn dispatch(self: &Arc<Self>, grips: Vec<MessageLock>, now: Timestamp) {
        self.health.throttle().consume(grips.len(), now);
        self.health.breaker().try_early_probe(now);
        if self.health.breaker_state() == BreakerState::HalfOpen {
            *self.half_open_probe() = grips.first().map(MessageLock::id);
        }
        for grip in grips {
            let id = grip.id();
            self.in_flight().insert(id, grip);
            if self.ready_queue.push(id) {
                self.spawn_worker();
            }
        }
    }

    /// One more connection, if there may be one.
    fn spawn_worker(self: &Arc<Self>) {
        if self.health.connections() >= self.settings.connections {
            return;
        }
        self.health.add_connection();
        self.ready_queue.reserve_worker();
        let outlet = self.clone();
        self.workers.spawn(async move {
            outlet.ready_queue.worker_started();
            let work = outlet.abort_token.clone().run_until_cancelled_owned(SmtpWorker::new(outlet.clone()).run());
            let worker = tokio::spawn(work).await;
            outlet.health.remove_connection();
            // Mail that came while it was closing found no room for another.
            outlet.store.queue_wakeup().notify();
            if let Err(panic) = worker {
                tracing::error!(%panic, "a connection's worker broke; its message is tried again after a restart");
            }
        });
    }

    /// Waits until the workers have ended; they do when we stop.
    pub(super) async fn drain(&self) {
        self.workers.close();
        self.workers.wait().await;
    }

    /// Ends the workers at once; what they are at stays without an outcome.
    pub(super) fn abort(&self) {
        self.abort_token.cancel();
    }

    /// Waits until every outcome is kept that is known now.
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

    /// Turns findings into an outcome.
    pub(super) fn finish_attempt(&self, attempt: &Attempt, findings: AttemptResult) -> AttemptOutcome {
        let now = self.clock.now();
        let until = now.saturating_add(self.unknown_wait);
        // While the clock is not to be trusted nothing is too old.
        let lenient = (!self.watch.is_steady())
            .then(|| RetryPolicy { give_up_after: Duration::MAX, ..self.retry.clone() });
        let retry = lenient.as_ref().unwrap_or(&self.retry);
        let too_many = findings.too_many;
        let outcome = attempt.build_outcome(findings, &self.settings.name, retry, now, until);
        self.note_too_many(too_many, &outcome);
        self.alarm_on_withheld(attempt.lane, &outcome);
        if self.suppression_filter.settings.mode != SuppressionMode::Off {
            attempt
                .bounced_recipients(&outcome)
                .for_each(|(address, words)| self.record_bounce_evidence(address, words, now));
        }
        outcome
    }

    /// Halves what the next transaction of a send may have where its recipients were too many for one.
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

    /// Raises an alarm where transactional mail is not sent because of the suppression list: an invoice that does not go
    /// out is to be seen.
    fn alarm_on_withheld(&self, lane: Lane, outcome: &AttemptOutcome) {
        let withheld = outcome.results.iter().filter(|settled| settled.status == AttemptStatus::Suppressed);
        let count: u64 = withheld.map(|settled| settled.recipients.len() as u64).sum();
        if lane == Lane::Bulk || count == 0 {
            return;
        }
        let text = |count| {
            format!("{count} transactional mails were not sent: their recipients are on the suppression list")
        };
        self.alarms.count(Kind::Withheld, &self.settings.name, count, text, WITHHELD_ALARM_DURATION);
    }

    /// What an upstream says about an address itself is evidence in a record of its own: the outcome names places in an
    /// envelope that is forgotten before the address may be. Lost with the process, it comes again with the next mail.
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
                tracing::warn!(%error, "a refused address could not be put on the suppression list");
            }
        });
    }

    /// Keeps the outcome of a send that was handed out, however long that takes: a lost one would send the message
    /// again.
    pub(super) fn commit_outcome(self: &Arc<Self>, outcome: AttemptOutcome) {
        for settled in &outcome.results {
            let (upstream, word) = (self.settings.name.clone(), settled.status.as_str());
            let recipients = settled.recipients.len() as u64;
            metrics::counter!("mailtrail_relay_attempts_total", "upstream" => upstream, "outcome" => word)
                .increment(recipients);
            if settled.status == AttemptStatus::Relayed {
                self.health.breaker().record_accepted();
                self.count_quota(recipients);
                self.activity.relayed(&self.settings.name, outcome.id, outcome.at);
            }
        }
        let outlet = self.clone();
        self.outcome_tasks.spawn(async move {
            while let Err(error) = outlet.store.record_attempt_outcome(outcome.clone()).await {
                tracing::error!(id = %outcome.id, %error, "an attempt's outcome cannot be kept");
                if matches!(error, CommitError::ReadOnly) {
                    // The store is gone until a restart, which takes the attempt for unknown.
                    return;
                }
                tokio::time::sleep(STORE_RETRY_INTERVAL).await;
            }
            outlet.release(outcome.id);
        });
    }

    /// The same for one that was not handed out.
    pub(super) fn commit_outcome_locked(self: &Arc<Self>, grip: MessageLock, outcome: AttemptOutcome) {
        self.in_flight().insert(grip.id(), grip);
        self.commit_outcome(outcome);
    }

    /// A send left the workers' hands.
    pub(super) fn release(&self, id: TrackingId) {
        self.in_flight().remove(&id);
        self.store.queue_wakeup().notify();
    }

    /// The same, after a pause.
    pub(super) fn release_after_delay(self: &Arc<Self>, id: TrackingId) {
        let outlet = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(STORE_RETRY_INTERVAL).await;
            outlet.release(id);
        });
    }

    /// A send that cannot be read now makes room for others.
    pub(super) fn defer(self: &Arc<Self>, id: TrackingId, pause: Duration) {
        let now = self.clock.now();
        let (upstream, next_attempt) = (self.settings.name.clone(), Some(now.saturating_add(pause)));
        self.commit_outcome(AttemptOutcome { id, at: now, upstream, results: Vec::new(), next_attempt });
    }

    /// The next message that can go, for at most so many recipients; `None` after the idle timeout or when we stop.
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

    /// A message for at most so many recipients, unless it is over or cannot be read.
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
                tracing::debug!(%id, %error, "a queued message cannot be read now");
                self.release_after_delay(id);
                return None;
            }
            Err(error) => {
                tracing::error!(%id, %error, "a queued message cannot be read; it is tried again later");
                // A ledger that fails is made anew soon, and the message is whole.
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

    /// What becomes of those whom this upstream is not able to take.
    fn fallback_for(&self, waits: Option<&QueueKey>) -> Fallback {
        match waits {
            Some(QueueKey::Upstream { .. }) => Fallback::SameUpstream,
            Some(waits) if self.upstream_selection.has_alternative(waits, &self.settings.name) => {
                Fallback::OtherUpstream
            }
            _ => Fallback::Fail,
        }
    }

    /// What the upstream offers on a new connection.
    pub(super) fn record_capabilities(&self, offers: &Capabilities) {
        let mut offered = self.offered_capabilities();
        if offered.0 != Some(*offers) {
            *offered = (Some(*offers), self.clock.now());
            drop(offered);
            self.store.queue_wakeup().notify();
        }
    }

    /// Mail that this upstream was not able to take, and that waits for another since then or longer, is offered to it
    /// again: it may offer more by now.
    pub(super) fn reoffer_cutoff(&self, now: Timestamp) -> Timestamp {
        let pause = now.as_millis().saturating_sub(self.retry.max_backoff.as_millis() as u64);
        Timestamp::from_millis(pause.max(self.offered_capabilities().1.as_millis().saturating_sub(1)))
    }

    fn offered_capabilities(&self) -> MutexGuard<'_, (Option<Capabilities>, Timestamp)> {
        self.offered_capabilities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an attempt needs, and who of them is to get no mail; `None` also where it cannot be had now. What was taken a
    /// moment ago is in memory, so nobody waits for the disk and no thread has to be woken up for it.
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

    /// The message was not tried. It is charged an attempt only while the breaker was closed: a probe's message waits
    /// with all others, until its deadline.
    pub(super) fn on_unreachable(self: &Arc<Self>, attempt: Attempt, fault: &TransportError) {
        let charged = self.on_error(fault);
        let age = self.clock.now().duration_since(attempt.id.timestamp());
        if charged || age >= self.retry.give_up_after {
            let mut findings = AttemptResult::default();
            attempt.fail_open(&mut findings, AttemptStatus::Queued, "connection", &fault.to_string());
            self.commit_outcome(self.finish_attempt(&attempt, findings));
        } else {
            self.release(attempt.id);
        }
    }

    /// The upstream decided about a message.
    pub(super) fn on_reply(&self, id: TrackingId, findings: &AttemptResult) {
        let now = self.clock.now();
        if let Some(refusal) = &findings.upstream_refusal {
            self.on_refused(id, refusal, now);
            return;
        }
        if let Some(refusal) = &findings.throttle_refusal {
            self.on_throttled(id, refusal, now);
            return;
        }
        self.health.throttle().accepted(now);
        if self.health.breaker().record_success(now) {
            self.alarms.clear(Kind::Breaker, &self.settings.name);
            self.alarms.clear(Kind::Account, &self.settings.name);
            tracing::info!(
                upstream = self.settings.name,
                "the breaker closed: the upstream takes mail again"
            );
        }
    }

    /// A connection was made as it should be.
    pub(super) fn on_connected(&self) {
        self.alarms.clear(Kind::Tls, &self.settings.name);
    }

    /// The upstream wants less mail. A wait that it asks for is short, or the upstream is away for it: mail takes another.
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
            self.alarms.raise(Kind::Breaker, &self.settings.name, text);
        }
    }

    /// The upstream refuses the account, not the mail; or so it seems.
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
            self.alarms.raise(Kind::Account, &self.settings.name, text);
        }
    }

    /// The connection broke over a message.
    pub(super) fn on_connection_lost(&self, id: TrackingId, fault: &TransportError) {
        let reason = fault.to_string();
        let opened = self.health.breaker().connection_lost_on(self.clock.now(), id, &reason);
        self.alarm_on_error(fault, opened, &reason);
    }

    /// The upstream cannot be reached, or does not serve us; true when the message's attempt counts.
    fn on_error(&self, fault: &TransportError) -> bool {
        let (mut breaker, now) = (self.health.breaker(), self.clock.now());
        let (counts, reason) = (breaker.state() == BreakerState::Closed, fault.to_string());
        let opened = match fault {
            // A password does not get better by trying, and providers lock accounts; neither does a certificate.
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
            TransportError::LoginRefused { .. } | TransportError::NoAuthMechanism => Some(Kind::Account),
            TransportError::NoStartTls
            | TransportError::Certificate(_)
            | TransportError::InvalidHostName(_) => Some(Kind::Tls),
            _ => opened.then_some(Kind::Breaker),
        };
        match kind {
            Some(kind) => {
                let text = format!("the breaker opened, mail waits: {reason}");
                self.alarms.raise(kind, &self.settings.name, text);
            }
            None => tracing::warn!(upstream = self.settings.name, %fault, "the upstream cannot be used"),
        }
    }

    /// The upstream took so many recipients: what that leaves of the plan.
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
            _ => return self.alarms.clear(Kind::Quota, &self.settings.name),
        };
        self.alarms.raise(Kind::Quota, &self.settings.name, text);
    }

    /// The message that found out last whether the upstream is well again: others do next.
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

/// A send whose answer is long in coming, until it came.
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

/// Messages in the workers' hands for each connection: the one on its way and the one that rides behind it.
const IN_FLIGHT_PER_CONNECTION: usize = 3;
/// Sends whose next transaction is remembered to be a smaller one.
const SMALLER: usize = 10_000;
/// How long after the last such mail the alarm about withheld mail is over.
const WITHHELD_ALARM_DURATION: Duration = Duration::from_secs(86_400);
/// How long what was taken is surely in memory.
const PAGE_CACHE_WINDOW: Duration = Duration::from_secs(5);
