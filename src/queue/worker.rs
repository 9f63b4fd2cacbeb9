//! One connection to the upstream and the messages that go over it.

use super::attempt::{Attempt, Findings, Prepared};
use super::courier::Courier;
use super::dispatch::Shared;
use crate::id::TrackingId;
use crate::ledger::{Begun, Outcome, Standing};
use crate::smtp::Response;
use crate::transport::{Connection, ContentFault, Fault};
use std::sync::Arc;
use std::time::Duration;

/// Carries messages over one connection until there is nothing to do for a while.
pub struct Worker {
    shared: Arc<Shared>,
    connection: Option<Link>,
}

/// A connection with what it has carried.
struct Link {
    connection: Connection,
    carried: u32,
}

/// How a message left the worker's hands.
enum Carried {
    /// With an outcome; the connection goes on, maybe with the next message's envelope already on it.
    Settled { outcome: Outcome, next: Option<Box<Attempt>> },
    /// A connection that had carried others was found dead before the message: no attempt was made.
    Stale,
    /// The upstream cannot be reached or does not serve us.
    Unreachable(Fault),
}

impl Worker {
    /// A worker without connection.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, connection: None }
    }

    /// Works until idle for too long, or until we stop; by a [`Courier`] where mail goes over HTTP.
    pub async fn run(self) {
        match self.shared.settings.api.clone() {
            Some(api) => Courier::new(self.shared, api).run().await,
            None => self.run_smtp().await,
        }
    }

    async fn run_smtp(mut self) {
        let mut chained = None;
        loop {
            let (attempt, said) = match chained.take() {
                Some(attempt) => (attempt, true),
                None => match self.shared.next(usize::MAX).await {
                    Some(attempt) => (attempt, false),
                    None => break,
                },
            };
            chained = self.carry_to_the_end(attempt, said).await;
            self.retire();
        }
        if let Some(link) = self.connection.take() {
            link.connection.quit().await;
        }
    }

    /// Carries one message; a stale connection is replaced without counting as an attempt.
    async fn carry_to_the_end(&mut self, attempt: Box<Attempt>, mut said: bool) -> Option<Box<Attempt>> {
        loop {
            match self.carry(&attempt, said).await {
                Carried::Settled { outcome, next } => {
                    self.shared.settle(outcome);
                    return next;
                }
                Carried::Stale => said = false,
                Carried::Unreachable(fault) => {
                    self.shared.unreachable(*attempt, &fault);
                    return None;
                }
            }
        }
    }

    async fn carry(&mut self, attempt: &Attempt, said: bool) -> Carried {
        let (mut link, reused) = match self.connection.take() {
            Some(link) => (link, true),
            None => match self.connect().await {
                Ok(link) => (link, false),
                Err(fault) => return Carried::Unreachable(fault),
            },
        };
        if let Some(obstacle) = attempt.obstacle(link.connection.capabilities()) {
            self.connection = Some(link);
            let mut findings = Findings::default();
            attempt.give(&mut findings, Standing::Failed, "capabilities", obstacle);
            return Carried::Settled { outcome: self.shared.conclude(attempt, findings), next: None };
        }
        // What was said went with the connection it was said on.
        let replies = if said && reused {
            link.connection.envelope_replies(&attempt.envelope).await
        } else {
            link.connection.envelope(&attempt.envelope, attempt.size()).await
        };
        let replies = match replies {
            Ok(replies) if reused && replies.mail.code == 421 => return Carried::Stale,
            Ok(replies) => replies,
            Err(_) if reused => return Carried::Stale,
            Err(fault) => return Carried::Unreachable(fault),
        };
        let settings = &self.shared.settings;
        let findings = attempt.weigh_envelope(&replies, settings.provider, self.shared.clock.now());
        if replies.go_ahead() {
            return self.send(attempt, findings, link).await;
        }
        let last = replies.data.as_ref().unwrap_or(&replies.mail);
        let closing = last.code == 421;
        self.weigh_upstream("the envelope", last, &findings);
        if !closing && link.connection.abandon(&replies).await.is_ok() {
            self.connection = Some(link);
        }
        Carried::Settled { outcome: self.shared.conclude(attempt, findings), next: None }
    }

    /// Sends the message itself. From here on a lost answer leaves the end unknown, so it is noted first.
    async fn send(&mut self, attempt: &Attempt, mut findings: Findings, mut link: Link) -> Carried {
        let shared = self.shared.clone();
        let begun = Begun { id: attempt.id, at: shared.clock.now(), upstream: shared.settings.name.clone() };
        if let Err(error) = shared.store.begin(begun).await {
            tracing::error!(id = %attempt.id, %error, "an attempt cannot be noted and is not made");
            attempt.give(&mut findings, Standing::Queued, "store", NOT_NOTED);
            return Carried::Settled { outcome: shared.conclude(attempt, findings), next: None };
        }
        let next = self.chained(&link).await;
        let following = next.as_ref().map(|next| (&next.envelope, next.size()));
        let started = tokio::time::Instant::now();
        match link.connection.content(attempt.pieces(), following).await {
            Ok(reply) => {
                metrics::histogram!("mailtrail_relay_seconds").record(started.elapsed());
                attempt.weigh_content(&mut findings, &reply, shared.settings.provider, shared.clock.now());
                self.weigh_upstream("the end of data", &reply, &findings);
                if reply.code != 421 {
                    link.carried += 1;
                    self.connection = Some(link);
                }
            }
            Err(ContentFault::Unreadable(error)) => {
                tracing::error!(id = %attempt.id, %error, "a message cannot be read to its end and is not sent");
                // The upstream did nothing wrong; the connection in the middle of a message is of no more use.
                shared.answered(&findings);
                attempt.give_unreadable(&mut findings, &error);
            }
            Err(ContentFault::Before(fault)) => {
                shared.failed(&fault);
                attempt.give(&mut findings, Standing::Queued, "connection", &fault.to_string());
            }
            Err(ContentFault::After(fault)) => {
                shared.failed(&fault);
                let text = format!("the message was sent and no answer came: {fault}");
                tracing::warn!(id = %attempt.id, upstream = shared.settings.name, %fault, "a message's end is unknown");
                attempt.give(&mut findings, Standing::Unknown, "end of data", &text);
            }
        }
        Carried::Settled { outcome: shared.conclude(attempt, findings), next }
    }

    /// What an answer says about the upstream itself: a goodbye (421) is no sign of health.
    fn weigh_upstream(&self, what: &'static str, response: &Response, findings: &Findings) {
        if response.code == 421 && findings.upstream.is_none() {
            self.shared.failed(&Fault::Refused { what, response: response.clone() });
        } else {
            self.shared.answered(findings);
        }
    }

    /// A message that waits already and can ride behind this one.
    async fn chained(&self, link: &Link) -> Option<Box<Attempt>> {
        let last = link.carried + 2 > self.shared.settings.messages_per_connection;
        if last || !link.connection.chains() || !self.shared.may_send() {
            return None;
        }
        let id = self.shared.work.try_next()?;
        let attempt = self.shared.prepare(id, usize::MAX).await?;
        let small = attempt.places.len() <= CHAINED_RECIPIENTS;
        if small && attempt.obstacle(link.connection.capabilities()).is_none() {
            return Some(attempt);
        }
        self.shared.work.put_back(id);
        None
    }

    async fn connect(&self) -> Result<Link, Fault> {
        let shared = &self.shared;
        let connection = Connection::open(&shared.settings, &shared.tls, &shared.hostname).await?;
        tracing::debug!(upstream = shared.settings.name, "connected");
        Ok(Link { connection, carried: 0 })
    }

    /// Closes a connection that carried enough.
    fn retire(&mut self) {
        let worn = |link: &Link| link.carried >= self.shared.settings.messages_per_connection;
        if self.connection.as_ref().is_some_and(worn)
            && let Some(link) = self.connection.take()
        {
            tokio::spawn(link.connection.quit());
        }
    }
}

impl Shared {
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

    async fn prepare(self: &Arc<Self>, id: TrackingId, most: usize) -> Option<Box<Attempt>> {
        let store = self.store.clone();
        let job = match tokio::task::spawn_blocking(move || store.job(id)).await {
            Ok(Ok(Some(job))) => job,
            Ok(Ok(None)) | Err(_) => {
                self.finished_later(id);
                return None;
            }
            Ok(Err(error)) => {
                tracing::error!(%id, %error, "a queued message cannot be read; it is tried again later");
                self.postpone(id);
                return None;
            }
        };
        let now = self.clock.now();
        match Attempt::prepare(job, self.settings.provider, &self.settings.name, most, now) {
            Prepared::Ready(attempt) => Some(attempt),
            Prepared::Over(outcome) => {
                self.settle(outcome);
                None
            }
        }
    }

    /// The message was not tried. It is charged an attempt only while the breaker was closed: a probe's message waits
    /// with all others.
    pub(super) fn unreachable(self: &Arc<Self>, attempt: Attempt, fault: &Fault) {
        let charged = self.failed(fault);
        if charged {
            let mut findings = Findings::default();
            attempt.give(&mut findings, Standing::Queued, "connection", &fault.to_string());
            self.settle(self.conclude(&attempt, findings));
        } else {
            self.finished(attempt.id);
        }
    }
}

/// What is said where the store does not take that an attempt begins.
pub const NOT_NOTED: &str = "the attempt could not be noted on disk";
/// Recipients of an envelope that may ride behind a final dot: its commands and answers fit any buffer between us.
const CHAINED_RECIPIENTS: usize = 50;
/// Pause before an outcome that could not be kept is tried to be kept again.
pub const SETTLE_AGAIN: Duration = Duration::from_secs(1);
