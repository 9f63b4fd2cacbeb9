//! Brings what is due to the workers, and lets nothing through that the breaker holds back.

use super::Retry;
use super::attempt::{Attempt, Findings, UpstreamRefusal, said};
use super::work::Work;
use super::worker::{SETTLE_AGAIN, Worker};
use crate::clock::{Clock, Timestamp};
use crate::id::TrackingId;
use crate::ledger::{Outcome, Settled, Standing};
use crate::store::{CommitError, ReadError, Store};
use crate::transport::breaker::State;
use crate::transport::{Fault, Health, Settings};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a queue needs.
pub struct Parts {
    /// Where the mail is.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Our name for EHLO.
    pub hostname: String,
    /// The upstream.
    pub settings: Settings,
    /// When to try again.
    pub retry: Retry,
    /// How long an unknown end waits for an event before the message is sent again; nothing where no events come.
    pub unknown_wait: Duration,
    /// Whom we trust.
    pub tls: TlsConnector,
    /// Set when we stop.
    pub stopping: CancellationToken,
}

/// The queue of one upstream.
pub struct Queue {
    shared: Arc<Shared>,
    finished: mpsc::UnboundedReceiver<TrackingId>,
    in_flight: HashSet<TrackingId>,
    next_expiry: Timestamp,
    workers: TaskTracker,
    stopping: CancellationToken,
}

/// What dispatcher and workers share.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) hostname: String,
    pub(super) settings: Settings,
    pub(super) tls: TlsConnector,
    pub(super) work: Work,
    retry: Retry,
    unknown_wait: Duration,
    health: Arc<Health>,
    finished: mpsc::UnboundedSender<TrackingId>,
    settling: TaskTracker,
    /// Set when attempts have had all the time to end that they get.
    over: CancellationToken,
}

impl Queue {
    /// A queue at rest.
    pub fn new(parts: Parts) -> Self {
        let (finished_sender, finished) = mpsc::unbounded_channel();
        let shared = Shared {
            health: Arc::new(Health::new(&parts.settings)),
            store: parts.store,
            clock: parts.clock,
            hostname: parts.hostname,
            settings: parts.settings,
            tls: parts.tls,
            work: Work::new(parts.stopping.clone()),
            retry: parts.retry,
            unknown_wait: parts.unknown_wait,
            finished: finished_sender,
            settling: TaskTracker::new(),
            over: CancellationToken::new(),
        };
        Self {
            shared: Arc::new(shared),
            finished,
            in_flight: HashSet::new(),
            next_expiry: Timestamp::default(),
            workers: TaskTracker::new(),
            stopping: parts.stopping,
        }
    }

    /// For looking at the upstream.
    pub fn health(&self) -> Arc<Health> {
        self.shared.health.clone()
    }

    /// Works until we stop; then lets the attempts under way end.
    pub async fn run(mut self) {
        self.recover().await;
        // Recovery's own words about sends that were never handed out.
        while self.finished.try_recv().is_ok() {}
        while !self.stopping.is_cancelled() {
            let pause = match self.dispatch() {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::error!(%error, "the queue cannot be read");
                    SETTLE_AGAIN
                }
            };
            tokio::select! {
                () = self.stopping.cancelled() => break,
                () = self.shared.store.due_bell().heard(pause) => {}
                Some(id) = self.finished.recv() => {
                    self.in_flight.remove(&id);
                }
            }
            while let Ok(id) = self.finished.try_recv() {
                self.in_flight.remove(&id);
            }
        }
        self.workers.close();
        // An upstream that hangs does not hold us: what is left is unknown to the next queue, which must find nobody
        // at work.
        if timeout(FAREWELL, self.workers.wait()).await.is_err() {
            self.shared.over.cancel();
            self.workers.wait().await;
        }
        self.shared.settling.close();
        self.shared.settling.wait().await;
    }

    /// Attempts that the end of the process cut off: nobody knows what became of them.
    async fn recover(&self) {
        let interrupted = match self.shared.store.interrupted() {
            Ok(interrupted) => interrupted,
            Err(error) => {
                tracing::error!(%error, "interrupted attempts cannot be read");
                return;
            }
        };
        for id in interrupted {
            let Ok(Some(trail)) = self.shared.store.trail(id) else { continue };
            let now = self.shared.clock.now();
            let waiting = (0u16..).zip(&trail.recipients).filter(|(_, recipient)| recipient.waits());
            let (reported, unheard): (Vec<_>, Vec<_>) =
                waiting.partition(|(_, recipient)| recipient.is_reported());
            let taken =
                said("restart", "mailtrail ended meanwhile; the provider's event says that it was taken");
            let lost = said(
                "restart",
                "mailtrail ended while the message was being sent: nobody knows whether it arrived",
            );
            let settled = [(reported, Standing::Relayed, taken), (unheard, Standing::Unknown, lost)];
            let settled = settled.into_iter().filter(|(recipients, ..)| !recipients.is_empty());
            let settled = settled.map(|(recipients, standing, words)| Settled {
                recipients: recipients.into_iter().map(|(place, _)| place).collect(),
                standing,
                words,
            });
            tracing::warn!(%id, "an attempt was cut off");
            self.shared.settle(Outcome {
                id,
                at: now,
                upstream: self.shared.settings.name.clone(),
                settled: settled.collect(),
                due: Some(now.after(self.shared.unknown_wait)),
            });
            self.shared.settling.close();
            self.shared.settling.wait().await;
            self.shared.settling.reopen();
        }
    }

    /// Hands out what is due and returns how long to wait for more.
    fn dispatch(&mut self) -> Result<Duration, ReadError> {
        let now = self.shared.clock.now();
        let capacity = match self.shared.health.state() {
            State::Closed => self.shared.settings.connections * PER_CONNECTION,
            State::Open { until } if now < until => {
                self.take_back();
                if now >= self.next_expiry {
                    self.expire(now)?;
                    self.next_expiry = now.after(LONGEST_PAUSE);
                }
                return Ok(until.since(now).min(LONGEST_PAUSE));
            }
            // One message finds out.
            State::Open { .. } | State::HalfOpen => 1,
        };
        if self.shared.work.is_unattended() {
            self.hire();
        }
        let room = capacity.saturating_sub(self.in_flight.len());
        if room == 0 {
            return Ok(LONGEST_PAUSE);
        }
        let (due, next) = self.shared.store.due(now, room, &self.in_flight)?;
        if !due.is_empty() && !self.shared.health.breaker().admit(now) {
            return Ok(LONGEST_PAUSE);
        }
        for id in due {
            self.in_flight.insert(id);
            if self.shared.work.add(id) {
                self.hire();
            }
        }
        Ok(next.map_or(LONGEST_PAUSE, |next| next.since(now).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)))
    }

    /// One more connection, if there may be one.
    fn hire(&self) {
        if self.shared.health.connections() >= self.shared.settings.connections {
            return;
        }
        self.shared.health.connecting();
        let shared = self.shared.clone();
        self.workers.spawn(async move {
            let work = shared.over.clone().run_until_cancelled_owned(Worker::new(shared.clone()).run());
            let worker = tokio::spawn(work).await;
            shared.health.disconnected();
            // Mail that came while it was closing found no room for another.
            shared.store.due_bell().ring();
            if let Err(panic) = worker {
                tracing::error!(%panic, "a connection's worker broke; its message is tried again after a restart");
            }
        });
    }

    /// What no worker has begun goes back into the store's queue.
    fn take_back(&mut self) {
        for id in self.shared.work.clear() {
            self.in_flight.remove(&id);
        }
    }

    /// The deadline holds wherever a message waits, also behind an open breaker.
    fn expire(&mut self, now: Timestamp) -> Result<(), ReadError> {
        let age = self.shared.retry.give_up_after;
        let overdue =
            self.shared.store.queued_since(|accepted| now.since(accepted) >= age, EXPIRE_AT_ONCE)?;
        for id in overdue {
            let Some(trail) = self.shared.store.trail(id)? else { continue };
            if !self.in_flight.insert(id) {
                continue;
            }
            let waiting = (0u16..).zip(&trail.recipients).filter(|(_, recipient)| recipient.waits());
            let words = said("breaker", "the upstream could not be reached in time");
            let recipients = waiting.map(|(place, _)| place).collect();
            let settled = vec![Settled { recipients, standing: Standing::Expired, words }];
            let upstream = self.shared.settings.name.clone();
            self.shared.settle(Outcome { id, at: now, upstream, settled, due: None });
        }
        Ok(())
    }
}

impl Shared {
    pub(super) fn may_send(&self) -> bool {
        self.health.state() == State::Closed
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.health.state(), State::Open { .. })
    }

    /// Turns findings into an outcome.
    pub(super) fn conclude(&self, attempt: &Attempt, findings: Findings) -> Outcome {
        let now = self.clock.now();
        attempt.conclude(findings, &self.settings.name, &self.retry, now, now.after(self.unknown_wait))
    }

    /// Keeps an outcome, however long that takes: a lost one would send the message again.
    pub(super) fn settle(self: &Arc<Self>, outcome: Outcome) {
        for settled in &outcome.settled {
            let (upstream, word) = (self.settings.name.clone(), settled.standing.word());
            metrics::counter!("mailtrail_relay_attempts_total", "upstream" => upstream, "outcome" => word)
                .increment(settled.recipients.len() as u64);
        }
        let shared = self.clone();
        self.settling.spawn(async move {
            while let Err(error) = shared.store.settle(outcome.clone()).await {
                tracing::error!(id = %outcome.id, %error, "an attempt's outcome cannot be kept");
                if matches!(error, CommitError::ReadOnly) {
                    // The store is gone until a restart, which takes the attempt for unknown.
                    return;
                }
                tokio::time::sleep(SETTLE_AGAIN).await;
            }
            shared.finished(outcome.id);
        });
    }

    /// A send left the workers' hands.
    pub(super) fn finished(&self, id: TrackingId) {
        // The dispatcher ends after the workers; without it nobody needs to know.
        let _ = self.finished.send(id);
    }

    /// The same, after a pause.
    pub(super) fn finished_later(self: &Arc<Self>, id: TrackingId) {
        let shared = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SETTLE_AGAIN).await;
            shared.finished(id);
        });
    }

    /// A send that cannot be read now makes room for others.
    pub(super) fn postpone(self: &Arc<Self>, id: TrackingId) {
        let now = self.clock.now();
        let (upstream, due) = (self.settings.name.clone(), Some(now.after(self.retry.max)));
        self.settle(Outcome { id, at: now, upstream, settled: Vec::new(), due });
    }

    /// The upstream decided about a message.
    pub(super) fn answered(&self, findings: &Findings) {
        match &findings.upstream {
            Some(refusal) => self.refused(refusal),
            None => {
                if self.health.breaker().succeeded() {
                    tracing::info!(
                        upstream = self.settings.name,
                        "the breaker closed: the upstream takes mail again"
                    );
                }
            }
        }
    }

    /// The upstream refuses the account, not the mail.
    fn refused(&self, refusal: &UpstreamRefusal) {
        let now = self.clock.now();
        let until = refusal.until.unwrap_or_else(|| now.after(self.settings.breaker.longest_pause));
        if self.health.breaker().pause_until(now, until) {
            tracing::error!(upstream = self.settings.name, said = refusal.words, %until, "the upstream refuses the account; mail waits");
        }
    }

    /// The upstream cannot be reached, or the connection broke; true when the message's attempt counts.
    pub(super) fn failed(&self, fault: &Fault) -> bool {
        let (mut breaker, now) = (self.health.breaker(), self.clock.now());
        let counts = breaker.state() == State::Closed;
        let opened = match fault {
            // The password does not get better by trying, and providers lock accounts.
            Fault::Login(_) => breaker.pause_until(now, now.after(self.settings.breaker.longest_pause)),
            _ => breaker.failed(now),
        };
        drop(breaker);
        if opened {
            tracing::error!(upstream = self.settings.name, %fault, "the breaker opened: the upstream is left alone for a while, mail waits");
        } else {
            tracing::warn!(upstream = self.settings.name, %fault, "the upstream cannot be used");
        }
        counts
    }
}

/// Messages in the workers' hands for each connection: the one on its way and the one that rides behind it.
const PER_CONNECTION: usize = 3;
/// Longest time without a look into the store: a lost wake-up costs no more.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long attempts under way may take to end when we stop.
const FAREWELL: Duration = Duration::from_secs(20);
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// Messages that expire in one go.
const EXPIRE_AT_ONCE: usize = 500;
