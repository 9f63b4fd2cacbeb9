//! One upstream with its connections, and what its answers mean for all mail.

use crate::alarms::{Alarms, Kind};
use crate::monitoring::Pulse;
use crate::queue::attempt::{Attempt, Fallback, Findings, Prepared, Suppressed, UpstreamRefusal};
use crate::queue::ready_queue::Work;
use crate::queue::retry::Retry;
use crate::queue::smtp_worker::{SETTLE_AGAIN, Worker};
use mailtrail_mail::{Clock, ClockWatch, Lane, Mailbox, Timestamp, TrackingId};
use mailtrail_net::transport::{Certainty, Fault, Health, Load, Quota, Room, Settings, State, Ways};
use mailtrail_smtp::Capabilities;
use mailtrail_store::{CommitError, Grip, Job, ReadError, Store};
use mailtrail_trail::suppression::{Change, Listing, Lists, Mark, Policy, Reason, Source};
use mailtrail_trail::{Outcome, Standing, Waits, Words, suppression};
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
pub struct Outward {
    /// How it is reached.
    pub settings: Settings,
    /// When to try again.
    pub retry: Retry,
    /// How long an unknown end waits for an event before the message is sent again; nothing where no events come.
    pub unknown_wait: Duration,
    /// Whom we trust.
    pub tls: TlsConnector,
    /// The suppression lists that count for it.
    pub lists: Lists,
}

/// What all upstreams have in common.
#[derive(Clone)]
pub(super) struct Office {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) hostname: String,
    pub(super) ways: Arc<Ways>,
    pub(super) suppression: Arc<suppression::Settings>,
    pub(super) alarms: Alarms,
    pub(super) pulse: Pulse,
    pub(super) watch: ClockWatch,
}

/// What the dispatcher and the workers of one upstream share.
pub(super) struct Outlet {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) hostname: String,
    pub(super) settings: Settings,
    pub(super) tls: TlsConnector,
    pub(super) work: Work,
    pub(super) retry: Retry,
    pub(super) unknown_wait: Duration,
    pub(super) health: Arc<Health>,
    ways: Arc<Ways>,
    /// What it offered on its last connection, and since when it is that.
    offered: Mutex<(Option<Capabilities>, Timestamp)>,
    screening: Screening,
    alarms: Alarms,
    pulse: Pulse,
    watch: ClockWatch,
    /// The sends that were handed out and have no outcome yet. One whose worker broke stays here: it may have been
    /// sent, which only a restart takes for unknown.
    under_way: Mutex<HashMap<TrackingId, Grip>>,
    /// The send that was handed out last to find out whether the upstream is well again.
    probe: Mutex<Option<TrackingId>>,
    /// The sends whose answers are long in coming.
    stuck: Mutex<HashSet<TrackingId>>,
    /// The sends whose recipients were too many for one transaction, and how many it may have next. What is forgotten is
    /// found out again.
    smaller: Mutex<HashMap<TrackingId, usize>>,
    is_slow: AtomicBool,
    workers: TaskTracker,
    settling: TaskTracker,
    /// Set when attempts have had all the time to end that they get.
    over: CancellationToken,
}

/// Who gets no mail there.
#[derive(Clone)]
struct Screening {
    settings: Arc<suppression::Settings>,
    lists: Arc<Lists>,
}

impl Screening {
    /// Those of a send's waiting recipients that are to get no mail: two lookups each.
    fn suppressed(&self, store: &Store, job: &Job, now: Timestamp) -> Result<Vec<Suppressed>, ReadError> {
        if self.settings.policy == Policy::Off {
            return Ok(Vec::new());
        }
        let mut suppressed = Vec::new();
        for (place, recipient) in (0u16..).zip(&job.recipients).filter(|(_, recipient)| recipient.waits()) {
            let address = recipient.address.folded();
            let look = |list: &str| store.dossier(&address, list);
            let verdict = self.lists.judge(&self.settings, job.send.lane, now, look)?;
            suppressed.extend(verdict.map(|verdict| (place, verdict)));
        }
        Ok(suppressed)
    }
}

impl Outlet {
    pub(super) fn new(outward: Outward, office: Office, stopping: CancellationToken) -> Self {
        let Office { store, clock, hostname, ways, suppression, alarms, pulse, watch } = office;
        let Outward { settings, retry, unknown_wait, tls, lists } = outward;
        let screening = Screening { settings: suppression, lists: Arc::new(lists) };
        Self {
            health: Arc::new(Health::new(&settings)),
            store,
            clock,
            hostname,
            settings,
            tls,
            work: Work::new(stopping),
            retry,
            unknown_wait,
            ways,
            offered: Mutex::default(),
            screening,
            alarms,
            pulse,
            watch,
            under_way: Mutex::default(),
            probe: Mutex::default(),
            stuck: Mutex::default(),
            smaller: Mutex::default(),
            is_slow: AtomicBool::default(),
            workers: TaskTracker::new(),
            settling: TaskTracker::new(),
            over: CancellationToken::new(),
        }
    }

    /// What was decided and counted before this process.
    pub(super) fn remember(&self) {
        let (name, now) = (&self.settings.name, self.clock.now());
        let forced = self.store.forced_open(name).unwrap_or_else(|error| {
            tracing::error!(upstream = name, %error, "whether its breaker is to be kept open cannot be read");
            None
        });
        if let Some(reason) = forced {
            self.health.breaker().force_open(&reason);
        }
        let used = |period: Range<Timestamp>| {
            let days = period.start.day()..=period.end.day() - 1;
            self.store.taken(name, days).unwrap_or_else(|error| {
                tracing::error!(upstream = name, %error, "what is used of its quota cannot be read");
                0
            })
        };
        *self.health.quota() = self.settings.plan.map(|plan| Quota::new(plan, now, used));
        self.count(0);
    }

    /// What may be handed out now. From one that is away, or becomes slow, everything is taken back that no worker has
    /// begun.
    pub(super) fn room(self: &Arc<Self>, now: Timestamp) -> Room {
        if self.work.is_unattended() {
            self.hire();
        }
        let load = {
            let (under_way, probe, stuck) = (self.under_way(), self.probe(), self.stuck());
            let probing = probe.is_some_and(|id| under_way.contains_key(&id) && !stuck.contains(&id));
            Load { under_way: under_way.len(), probing, stuck: stuck.len() }
        };
        let becomes_slow = self.note_slow(load.stuck);
        let room = self.health.room(now, load, PER_CONNECTION);
        let is_away = matches!(room, Room::Away(_)) && self.health.state() != State::HalfOpen;
        if becomes_slow || is_away && !self.health.is_slow(load.stuck) {
            let unbegun = self.work.clear();
            let mut under_way = self.under_way();
            unbegun.iter().for_each(|id| drop(under_way.remove(id)));
        }
        room
    }

    /// Notes whether the upstream is slow; true when it becomes so.
    fn note_slow(&self, stuck: usize) -> bool {
        let (is_slow, name) = (self.health.is_slow(stuck), &self.settings.name);
        let was_slow = self.is_slow.swap(is_slow, Ordering::AcqRel);
        if is_slow && !was_slow {
            let (all, patience) = (self.health.connections(), self.settings.timeouts.patience.as_secs());
            let text = format!(
                "{stuck} of {all} connections wait longer than {patience} s for an answer; mail takes another upstream, \
                 or waits"
            );
            self.health.set_slow(Some(&text));
            self.alarms.set(Kind::Stuck, name, Some(text));
        } else if was_slow && !is_slow {
            self.health.set_slow(None);
            self.alarms.clear(Kind::Stuck, name);
        }
        is_slow && !was_slow
    }

    /// The work's result; while that is long in coming the upstream counts as stuck with this send.
    pub(super) async fn watch<T>(&self, id: TrackingId, work: impl Future<Output = T>) -> T {
        self.watch_moving(id, &AtomicU64::default(), work).await
    }

    /// The same; it is long in coming only while `moved` stays the same.
    pub(super) async fn watch_moving<T>(
        &self,
        id: TrackingId,
        moved: &AtomicU64,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        loop {
            let before = moved.load(Ordering::Relaxed);
            if let Ok(done) = timeout(self.settings.timeouts.patience, &mut work).await {
                return done;
            }
            if moved.load(Ordering::Relaxed) == before {
                return self.watch_stuck(id, work).await;
            }
        }
    }

    /// The result of a work that was long in coming already.
    pub(super) async fn watch_stuck<T>(&self, id: TrackingId, work: impl Future<Output = T>) -> T {
        let _stuck = Stuck::new(self, id);
        work.await
    }

    /// Tells the metrics how the upstream does.
    pub(super) fn show(&self) {
        let upstream = || self.settings.name.clone();
        let state = match self.health.state() {
            State::Closed => 0.0,
            State::HalfOpen => 1.0,
            State::Open { .. } | State::Forced => 2.0,
        };
        metrics::gauge!("mailtrail_breaker_state", "upstream" => upstream()).set(state);
        let (open, idle) = (self.health.connections(), self.work.idle());
        let stuck = self.stuck().len();
        for (word, connections) in
            [("busy", open.saturating_sub(idle + stuck)), ("idle", idle), ("stuck", stuck)]
        {
            metrics::gauge!("mailtrail_relay_connections", "upstream" => upstream(), "state" => word)
                .set(connections as f64);
        }
    }

    /// Hands sends out.
    pub(super) fn start(self: &Arc<Self>, grips: Vec<Grip>, now: Timestamp) {
        self.health.pace().start(grips.len(), now);
        self.health.breaker().check(now);
        if self.health.state() == State::HalfOpen {
            *self.probe() = grips.first().map(Grip::id);
        }
        for grip in grips {
            let id = grip.id();
            self.under_way().insert(id, grip);
            if self.work.add(id) {
                self.hire();
            }
        }
    }

    /// One more connection, if there may be one.
    fn hire(self: &Arc<Self>) {
        if self.health.connections() >= self.settings.connections {
            return;
        }
        self.health.connecting();
        self.work.expect();
        let outlet = self.clone();
        self.workers.spawn(async move {
            outlet.work.arrive();
            let work = outlet.over.clone().run_until_cancelled_owned(Worker::new(outlet.clone()).run());
            let worker = tokio::spawn(work).await;
            outlet.health.disconnected();
            // Mail that came while it was closing found no room for another.
            outlet.store.due_bell().ring();
            if let Err(panic) = worker {
                tracing::error!(%panic, "a connection's worker broke; its message is tried again after a restart");
            }
        });
    }

    /// Waits until the workers have ended; they do when we stop.
    pub(super) async fn retire(&self) {
        self.workers.close();
        self.workers.wait().await;
    }

    /// Ends the workers at once; what they are at stays without an outcome.
    pub(super) fn send_away(&self) {
        self.over.cancel();
    }

    /// Waits until every outcome is kept that is known now.
    pub(super) async fn settled(&self) {
        self.settling.close();
        self.settling.wait().await;
        self.settling.reopen();
    }

    pub(super) fn may_send(&self) -> bool {
        self.health.state() == State::Closed
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.health.state(), State::Open { .. } | State::Forced)
    }

    /// Turns findings into an outcome.
    pub(super) fn conclude(&self, attempt: &Attempt, findings: Findings) -> Outcome {
        let now = self.clock.now();
        let until = now.after(self.unknown_wait);
        // While the clock is not to be trusted nothing is too old.
        let lenient =
            (!self.watch.is_steady()).then(|| Retry { give_up_after: Duration::MAX, ..self.retry.clone() });
        let retry = lenient.as_ref().unwrap_or(&self.retry);
        let too_many = findings.too_many;
        let outcome = attempt.conclude(findings, &self.settings.name, retry, now, until);
        self.note_too_many(too_many, &outcome);
        self.note_withheld(attempt.lane, &outcome);
        if self.screening.settings.policy != Policy::Off {
            attempt.refused(&outcome).for_each(|(address, words)| self.remember_refusal(address, words, now));
        }
        outcome
    }

    /// Halves what the next transaction of a send may have where its recipients were too many for one.
    fn note_too_many(&self, too_many: Option<usize>, outcome: &Outcome) {
        let mut smaller = self.smaller();
        if outcome.due.is_none() {
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
    fn note_withheld(&self, lane: Lane, outcome: &Outcome) {
        let withheld = outcome.settled.iter().filter(|settled| settled.standing == Standing::Suppressed);
        let count: u64 = withheld.map(|settled| settled.recipients.len() as u64).sum();
        if lane == Lane::Bulk || count == 0 {
            return;
        }
        let text = |count| {
            format!("{count} transactional mails were not sent: their recipients are on the suppression list")
        };
        self.alarms.count(Kind::Withheld, &self.settings.name, count, text, WITHHELD_LASTS);
    }

    /// What an upstream says about an address itself is evidence in a record of its own: the outcome names places in an
    /// envelope that is forgotten before the address may be. Lost with the process, it comes again with the next mail.
    fn remember_refusal(&self, address: &Mailbox, words: &Words, at: Timestamp) {
        let reason = Reason::HardBounce;
        let mark = Mark {
            at,
            scope: reason.usual_scope(),
            source: Source::Attempt,
            expires: None,
            words: words.in_one_line().unwrap_or_default(),
        };
        let listing = Listing {
            address: address.clone(),
            list: Some(self.settings.name.clone()),
            at,
            operator: String::new(),
            change: Change::Add { reason, marks: vec![mark] },
        };
        let store = self.store.clone();
        self.settling.spawn(async move {
            if let Err(error) = store.list(listing).await {
                tracing::warn!(%error, "a refused address could not be put on the suppression list");
            }
        });
    }

    /// Keeps the outcome of a send that was handed out, however long that takes: a lost one would send the message
    /// again.
    pub(super) fn settle(self: &Arc<Self>, outcome: Outcome) {
        for settled in &outcome.settled {
            let (upstream, word) = (self.settings.name.clone(), settled.standing.word());
            let recipients = settled.recipients.len() as u64;
            metrics::counter!("mailtrail_relay_attempts_total", "upstream" => upstream, "outcome" => word)
                .increment(recipients);
            if settled.standing == Standing::Relayed {
                self.health.breaker().took();
                self.count(recipients);
                self.pulse.relayed(&self.settings.name, outcome.id, outcome.at);
            }
        }
        let outlet = self.clone();
        self.settling.spawn(async move {
            while let Err(error) = outlet.store.settle(outcome.clone()).await {
                tracing::error!(id = %outcome.id, %error, "an attempt's outcome cannot be kept");
                if matches!(error, CommitError::ReadOnly) {
                    // The store is gone until a restart, which takes the attempt for unknown.
                    return;
                }
                tokio::time::sleep(SETTLE_AGAIN).await;
            }
            outlet.finished(outcome.id);
        });
    }

    /// The same for one that was not handed out.
    pub(super) fn settle_held(self: &Arc<Self>, grip: Grip, outcome: Outcome) {
        self.under_way().insert(grip.id(), grip);
        self.settle(outcome);
    }

    /// A send left the workers' hands.
    pub(super) fn finished(&self, id: TrackingId) {
        self.under_way().remove(&id);
        self.store.due_bell().ring();
    }

    /// The same, after a pause.
    pub(super) fn finished_later(self: &Arc<Self>, id: TrackingId) {
        let outlet = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SETTLE_AGAIN).await;
            outlet.finished(id);
        });
    }

    /// A send that cannot be read now makes room for others.
    pub(super) fn postpone(self: &Arc<Self>, id: TrackingId, pause: Duration) {
        let now = self.clock.now();
        let (upstream, due) = (self.settings.name.clone(), Some(now.after(pause)));
        self.settle(Outcome { id, at: now, upstream, settled: Vec::new(), due });
    }

    /// The next message that can go, for at most so many recipients; `None` after the idle timeout or when we stop.
    pub(super) async fn next(self: &Arc<Self>, most: usize) -> Option<Box<Attempt>> {
        loop {
            let id = self.work.next(self.settings.idle_timeout).await?;
            if self.is_open() {
                self.finished(id);
                continue;
            }
            if let Some(attempt) = self.prepare(id, most).await {
                return Some(attempt);
            }
        }
    }

    /// A message for at most so many recipients, unless it is over or cannot be read.
    pub(super) async fn prepare(self: &Arc<Self>, id: TrackingId, most: usize) -> Option<Box<Attempt>> {
        let now = self.clock.now();
        let (job, suppressed) = match self.look(id, now).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.finished_later(id);
                return None;
            }
            Err(error) if error.is_shortage() => {
                tracing::debug!(%id, %error, "a queued message cannot be read now");
                self.finished_later(id);
                return None;
            }
            Err(error) => {
                tracing::error!(%id, %error, "a queued message cannot be read; it is tried again later");
                // A ledger that fails is made anew soon, and the message is whole.
                let pause = match error {
                    ReadError::Projection(_) | ReadError::Closed(_) => self.retry.first,
                    ReadError::Journal(_) => self.retry.max,
                };
                self.postpone(id, pause);
                return None;
            }
        };
        let most = self.smaller().get(&id).map_or(most, |smaller| most.min(*smaller));
        let (provider, upstream) = (self.settings.provider, &self.settings.name);
        let lane = job.send.lane;
        let fallback = self.fallback(job.waits.as_ref());
        let unable = |waits: &Waits| match waits {
            Waits::ForOthers { unable, .. } => unable.iter().any(|name| **name == *self.settings.name),
            _ => false,
        };
        let afresh = job.waits.as_ref().is_some_and(unable);
        match Attempt::prepare(job, &suppressed, provider, upstream, most, fallback, now) {
            Prepared::Ready(mut attempt) => {
                attempt.afresh = afresh;
                Some(attempt)
            }
            Prepared::Over(outcome) => {
                self.note_withheld(lane, &outcome);
                self.settle(outcome);
                None
            }
        }
    }

    /// What becomes of those whom this upstream is not able to take.
    fn fallback(&self, waits: Option<&Waits>) -> Fallback {
        match waits {
            Some(Waits::ForUpstream { .. }) => Fallback::Wait,
            Some(waits) if self.ways.has_other(waits, &self.settings.name) => Fallback::Another,
            _ => Fallback::Fail,
        }
    }

    /// What the upstream offers on a new connection.
    pub(super) fn learn(&self, offers: &Capabilities) {
        let mut offered = self.offered();
        if offered.0 != Some(*offers) {
            *offered = (Some(*offers), self.clock.now());
            drop(offered);
            self.store.due_bell().ring();
        }
    }

    /// Mail that this upstream was not able to take, and that waits for another since then or longer, is offered to it
    /// again: it may offer more by now.
    pub(super) fn offers_again(&self, now: Timestamp) -> Timestamp {
        let pause = now.millis().saturating_sub(self.retry.max.as_millis() as u64);
        Timestamp::from_millis(pause.max(self.offered().1.millis().saturating_sub(1)))
    }

    fn offered(&self) -> MutexGuard<'_, (Option<Capabilities>, Timestamp)> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an attempt needs, and who of them is to get no mail; `None` also where it cannot be had now. What was taken a
    /// moment ago is in memory, so nobody waits for the disk and no thread has to be woken up for it.
    async fn look(
        &self,
        id: TrackingId,
        now: Timestamp,
    ) -> Result<Option<(Job, Vec<Suppressed>)>, ReadError> {
        let (store, screening) = (self.store.clone(), self.screening.clone());
        let look = move || {
            let Some(job) = store.job(id)? else { return Ok(None) };
            let suppressed = screening.suppressed(&store, &job, now)?;
            Ok(Some((job, suppressed)))
        };
        if now.since(id.timestamp()) < FRESH {
            return look();
        }
        tokio::task::spawn_blocking(look).await.unwrap_or(Ok(None))
    }

    /// The message was not tried. It is charged an attempt only while the breaker was closed: a probe's message waits
    /// with all others, until its deadline.
    pub(super) fn unreachable(self: &Arc<Self>, attempt: Attempt, fault: &Fault) {
        let charged = self.failed(fault);
        let age = self.clock.now().since(attempt.id.timestamp());
        if charged || age >= self.retry.give_up_after {
            let mut findings = Findings::default();
            attempt.give(&mut findings, Standing::Queued, "connection", &fault.to_string());
            self.settle(self.conclude(&attempt, findings));
        } else {
            self.finished(attempt.id);
        }
    }

    /// The upstream decided about a message.
    pub(super) fn answered(&self, id: TrackingId, findings: &Findings) {
        let now = self.clock.now();
        if let Some(refusal) = &findings.upstream {
            self.refused(id, refusal, now);
            return;
        }
        if let Some(refusal) = &findings.throttled {
            self.throttled(id, refusal, now);
            return;
        }
        self.health.pace().taken(now);
        if self.health.breaker().succeeded(now) {
            self.alarms.clear(Kind::Breaker, &self.settings.name);
            self.alarms.clear(Kind::Account, &self.settings.name);
            tracing::info!(
                upstream = self.settings.name,
                "the breaker closed: the upstream takes mail again"
            );
        }
    }

    /// A connection was made as it should be.
    pub(super) fn connected(&self) {
        self.alarms.clear(Kind::Tls, &self.settings.name);
    }

    /// The upstream wants less mail. A wait that it asks for is short, or the upstream is away for it: mail takes another.
    fn throttled(&self, id: TrackingId, refusal: &UpstreamRefusal, now: Timestamp) {
        let long = refusal.until.filter(|until| until.since(now) > self.settings.breaker.pause);
        let mut pace = self.health.pace();
        let before = pace.slowed_to();
        pace.throttled(now, refusal.until.filter(|_| long.is_none()));
        let slowed_to = pace.slowed_to();
        drop(pace);
        if slowed_to != before {
            let a_minute = slowed_to.unwrap_or_default() * 60.0;
            tracing::warn!(
                upstream = self.settings.name,
                a_minute,
                "the upstream says that it is too much; it is sent less"
            );
        }
        let Some(until) = long else { return self.health.breaker().slowed_by(id) };
        if self.health.breaker().suspected(now, id, refusal.certainty, until, &refusal.words) {
            let text =
                format!("the upstream wants no mail until {until}, mail waits; it said: {}", refusal.words);
            self.alarms.raise(Kind::Breaker, &self.settings.name, text);
        }
    }

    /// The upstream refuses the account, not the mail; or so it seems.
    fn refused(&self, id: TrackingId, refusal: &UpstreamRefusal, now: Timestamp) {
        let UpstreamRefusal { words, certainty, .. } = refusal;
        let until = refusal.until.unwrap_or_else(|| now.after(self.settings.breaker.longest_pause));
        let mut breaker = self.health.breaker();
        match certainty {
            Certainty::Certain => _ = breaker.pause_until(now, until, words),
            Certainty::Likely | Certainty::Possible => {
                breaker.suspected(now, id, *certainty, until, words);
            }
        }
        let is_away = matches!(breaker.state(), State::Open { .. });
        drop(breaker);
        if is_away {
            let text = format!("the upstream refuses the account, mail waits; it said: {words}");
            self.alarms.raise(Kind::Account, &self.settings.name, text);
        }
    }

    /// The connection broke over a message.
    pub(super) fn broke(&self, id: TrackingId, fault: &Fault) {
        let reason = fault.to_string();
        let opened = self.health.breaker().broke_over(self.clock.now(), id, &reason);
        self.report(fault, opened, &reason);
    }

    /// The upstream cannot be reached, or does not serve us; true when the message's attempt counts.
    fn failed(&self, fault: &Fault) -> bool {
        let (mut breaker, now) = (self.health.breaker(), self.clock.now());
        let (counts, reason) = (breaker.state() == State::Closed, fault.to_string());
        let opened = match fault {
            // A password does not get better by trying, and providers lock accounts; neither does a certificate.
            fault if fault.is_for_operator() => {
                breaker.pause_until(now, now.after(self.settings.breaker.longest_pause), &reason)
            }
            _ => breaker.failed(now, &reason),
        };
        drop(breaker);
        self.report(fault, opened, &reason);
        counts
    }

    fn report(&self, fault: &Fault, opened: bool, reason: &str) {
        let kind = match fault {
            Fault::Login { .. } | Fault::NoAuth => Some(Kind::Account),
            Fault::NoStartTls | Fault::Certificate(_) | Fault::HostName(_) => Some(Kind::Tls),
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
    fn count(&self, recipients: u64) {
        let now = self.clock.now();
        let mut quota = self.health.quota();
        let Some(quota) = quota.as_mut() else { return };
        quota.count(recipients, now);
        let percent = quota.percent(now);
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
        let probing = self.health.state() == State::HalfOpen || self.health.breaker().check_at().is_some();
        self.probe().filter(|_| probing)
    }

    fn smaller(&self) -> MutexGuard<'_, HashMap<TrackingId, usize>> {
        self.smaller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stuck(&self) -> MutexGuard<'_, HashSet<TrackingId>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn probe(&self) -> MutexGuard<'_, Option<TrackingId>> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<TrackingId, Grip>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A send whose answer is long in coming, until it came.
struct Stuck<'a> {
    outlet: &'a Outlet,
    id: TrackingId,
}

impl<'a> Stuck<'a> {
    fn new(outlet: &'a Outlet, id: TrackingId) -> Self {
        outlet.stuck().insert(id);
        outlet.store.due_bell().ring();
        Self { outlet, id }
    }
}

impl Drop for Stuck<'_> {
    fn drop(&mut self) {
        self.outlet.stuck().remove(&self.id);
        self.outlet.store.due_bell().ring();
    }
}

/// Messages in the workers' hands for each connection: the one on its way and the one that rides behind it.
const PER_CONNECTION: usize = 3;
/// Sends whose next transaction is remembered to be a smaller one.
const SMALLER: usize = 10_000;
/// How long after the last such mail the alarm about withheld mail is over.
const WITHHELD_LASTS: Duration = Duration::from_secs(86_400);
/// How long what was taken is surely in memory.
const FRESH: Duration = Duration::from_secs(5);
