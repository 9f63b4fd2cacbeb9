//! One connection to the upstream and the messages that go over it.

use crate::queue::api_worker::Courier;
use crate::queue::attempt::{Attempt, Findings, Weights};
use crate::queue::upstream_pool::Outlet;
use futures_util::StreamExt;
use mailtrail_net::transport::{Connection, ContentFault, Dialect, EnvelopeReplies, Fault, Pipelining, Step};
use mailtrail_smtp::Response;
use mailtrail_trail::{Begun, END_OF_DATA, Outcome, Standing};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Carries messages over one connection until there is nothing to do for a while.
pub struct Worker {
    outlet: Arc<Outlet>,
    connection: Option<Link>,
}

/// A connection with what it has carried.
struct Link {
    connection: Connection,
    carried: u32,
    since: Instant,
    /// Whether another message may follow.
    is_sound: bool,
}

impl Link {
    /// Says the envelope, unless it rode behind the last dot, and hears the answers. Where no message is to follow, the
    /// transaction is ended, which also shows answers that were none to this envelope.
    async fn ask(&mut self, attempt: &Attempt, said: bool) -> Result<EnvelopeReplies, Fault> {
        let connection = &mut self.connection;
        let replies = if said {
            connection.envelope_replies(&attempt.envelope).await?
        } else if attempt.is_doubtful() {
            connection.envelope_one_by_one(&attempt.envelope, attempt.size()).await?
        } else {
            connection.envelope(&attempt.envelope, attempt.size()).await?
        };
        let last = replies.data.as_ref().unwrap_or(&replies.mail);
        if replies.broken.is_some() || last.code == 421 {
            self.is_sound = false;
        } else if !replies.go_ahead() {
            match connection.abandon(&replies).await {
                Err(fault @ Fault::OutOfStep(_)) => return Err(fault),
                ended => self.is_sound = ended.is_ok(),
            }
        }
        Ok(replies)
    }
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
    pub fn new(outlet: Arc<Outlet>) -> Self {
        Self { outlet, connection: None }
    }

    /// Works until idle for too long, or until we stop; by a [`Courier`] where mail goes over HTTP.
    pub async fn run(self) {
        match self.outlet.settings.api.clone() {
            Some(api) => Courier::new(self.outlet, api).run().await,
            None => self.run_smtp().await,
        }
    }

    async fn run_smtp(mut self) {
        let mut chained = None;
        loop {
            let (attempt, said) = match chained.take() {
                Some(attempt) => (attempt, true),
                None => match self.outlet.next(usize::MAX).await {
                    Some(attempt) => {
                        self.retire();
                        (attempt, false)
                    }
                    None => break,
                },
            };
            chained = self.carry_to_the_end(attempt, said).await;
            if chained.is_none() {
                self.retire();
            }
        }
        if let Some(link) = self.connection.take() {
            link.connection.quit().await;
        }
    }

    /// Carries one message; a stale connection is replaced without counting as an attempt.
    async fn carry_to_the_end(&mut self, mut attempt: Box<Attempt>, mut said: bool) -> Option<Box<Attempt>> {
        loop {
            match self.carry(&mut attempt, said).await {
                Carried::Settled { outcome, next } => {
                    self.outlet.settle(outcome);
                    return next;
                }
                Carried::Stale => said = false,
                Carried::Unreachable(fault) => {
                    self.outlet.unreachable(*attempt, &fault);
                    return None;
                }
            }
        }
    }

    async fn carry(&mut self, attempt: &mut Attempt, said: bool) -> Carried {
        let outlet = self.outlet.clone();
        if attempt.afresh
            && !said
            && let Some(link) = self.connection.take()
        {
            tokio::spawn(link.connection.quit());
        }
        let (mut link, reused) = match self.connection.take() {
            Some(link) => (link, true),
            None => match outlet.watch(attempt.id, self.connect()).await {
                Ok(link) => (link, false),
                Err(fault) => return Carried::Unreachable(fault),
            },
        };
        attempt.fit(link.connection.capabilities());
        if attempt.places.is_empty() {
            self.connection = Some(link);
            return Carried::Settled {
                outcome: self.outlet.conclude(attempt, Findings::default()),
                next: None,
            };
        }
        // What was said went with the connection it was said on.
        let chained = said && reused;
        let replies = outlet.watch(attempt.id, link.ask(attempt, chained)).await;
        self.learn(attempt, &link, chained, reused, &replies);
        let replies = match replies {
            Ok(replies) if reused && replies.is_of_the_connection() => return Carried::Stale,
            Ok(replies) => replies,
            Err(_) if reused => return Carried::Stale,
            // The upstream was there: what happened then is an attempt of this message, whatever the breaker's state.
            Err(fault) => {
                let mut findings = Findings::default();
                outlet.broke(attempt.id, &fault);
                attempt.give(&mut findings, Standing::Queued, "connection", &fault.to_string());
                return Carried::Settled { outcome: outlet.conclude(attempt, findings), next: None };
            }
        };
        let mut findings = attempt.weigh_envelope(&replies, self.weights(attempt));
        if replies.go_ahead() {
            return self.send(attempt, findings, link).await;
        }
        if let Some(fault) = &replies.broken {
            outlet.broke(attempt.id, fault);
            attempt.give_broken(&mut findings, &replies, fault);
        } else {
            let last = replies.data.as_ref().unwrap_or(&replies.mail);
            self.weigh_upstream(attempt, "the envelope", last, &findings);
        }
        if link.is_sound {
            self.connection = Some(link);
        }
        Carried::Settled { outcome: outlet.conclude(attempt, findings), next: None }
    }

    fn weights(&self, attempt: &Attempt) -> Weights {
        let outlet = &self.outlet;
        Weights {
            provider: outlet.settings.provider,
            is_refuted: outlet.health.breaker().is_refuted(attempt.id),
            now: outlet.clock.now(),
        }
    }

    /// Sends the message itself. Behind its dot a lost answer leaves the end unknown, so that is noted before.
    async fn send(&mut self, attempt: &Attempt, mut findings: Findings, mut link: Link) -> Carried {
        let outlet = self.outlet.clone();
        let started = Instant::now();
        let (mut next, mut is_said) = (None, false);
        let moved = AtomicU64::new(0);
        let pieces = attempt.pieces().inspect(|_| {
            moved.fetch_add(1, Ordering::Relaxed);
        });
        let body = outlet.watch_moving(attempt.id, &moved, link.connection.body(pieces)).await;
        let sent = match body {
            Ok(()) => {
                let upstream = outlet.settings.name.clone();
                let begun = Begun { id: attempt.id, at: outlet.clock.now(), upstream };
                if let Err(error) = outlet.store.begin(begun).await {
                    tracing::error!(id = %attempt.id, %error, "an attempt cannot be noted and is not made");
                    attempt.give(&mut findings, Standing::Queued, "store", NOT_NOTED);
                    return Carried::Settled { outcome: outlet.conclude(attempt, findings), next: None };
                }
                next = self.chained(&link).await;
                is_said = next.is_some();
                self.end(attempt, &mut link, &mut next).await
            }
            Err(fault) => Err(fault),
        };
        // An envelope that was said and is in no hands any more leaves the connection in its middle.
        let is_sound = is_said == next.is_some();
        match sent {
            Ok(reply) => {
                metrics::histogram!("mailtrail_relay_seconds").record(started.elapsed());
                attempt.weigh_content(&mut findings, Step::EndOfData, &reply, self.weights(attempt));
                self.weigh_upstream(attempt, "the end of data", &reply, &findings);
                if reply.code != 421 && is_sound {
                    link.carried += 1;
                    self.connection = Some(link);
                }
            }
            Err(ContentFault::Unreadable(error)) => {
                tracing::error!(id = %attempt.id, %error, "a message cannot be read to its end and is not sent");
                // The upstream did nothing wrong; the connection in the middle of a message is of no more use.
                outlet.answered(attempt.id, &findings);
                attempt.give_unreadable(&mut findings, &error);
            }
            Err(ContentFault::Refused(reply)) => {
                attempt.weigh_content(&mut findings, Step::Message, &reply, self.weights(attempt));
                self.weigh_upstream(attempt, "the message", &reply, &findings);
            }
            Err(ContentFault::Before(fault)) => {
                outlet.broke(attempt.id, &fault);
                attempt.give(&mut findings, Standing::Queued, "connection", &fault.to_string());
            }
            Err(ContentFault::After(fault)) => {
                outlet.broke(attempt.id, &fault);
                if is_said {
                    self.grouping_broke(Pipelining::Full);
                }
                let text = format!("the message was sent and no answer came: {fault}");
                tracing::warn!(id = %attempt.id, upstream = outlet.settings.name, %fault, "a message's end is unknown");
                attempt.give(&mut findings, Standing::Unknown, END_OF_DATA, &text);
            }
        }
        Carried::Settled { outcome: outlet.conclude(attempt, findings), next }
    }

    /// Says the dot and hears the answer. Where that is long in coming the message that rides behind goes another way:
    /// `next` is taken out then.
    async fn end(
        &self,
        attempt: &Attempt,
        link: &mut Link,
        next: &mut Option<Box<Attempt>>,
    ) -> Result<Response, ContentFault> {
        let outlet = &self.outlet;
        let rides = next.take();
        let ended = {
            let following = rides.as_ref().map(|rides| (&rides.envelope, rides.size()));
            let mut ended = pin!(link.connection.end_of_data(following));
            match timeout(outlet.settings.timeouts.patience, &mut ended).await {
                Ok(ended) => ended,
                Err(_) => {
                    rides.as_ref().inspect(|rides| outlet.finished(rides.id));
                    return outlet.watch_stuck(attempt.id, ended).await;
                }
            }
        };
        *next = rides;
        ended
    }

    /// What an answer says about the upstream itself: a goodbye (421) is no sign of health.
    fn weigh_upstream(
        &self,
        attempt: &Attempt,
        what: &'static str,
        response: &Response,
        findings: &Findings,
    ) {
        if response.code == 421 && findings.upstream.is_none() && findings.throttled.is_none() {
            self.outlet.broke(attempt.id, &Fault::Refused { what, response: response.clone() });
        } else {
            self.outlet.answered(attempt.id, findings);
        }
    }

    /// A message that waits already and can ride behind this one.
    async fn chained(&self, link: &Link) -> Option<Box<Attempt>> {
        let settings = &self.outlet.settings;
        let last = link.carried + 2 > settings.messages_per_connection
            || link.since.elapsed() >= settings.connection_age;
        if last || link.connection.pipelining() != Pipelining::Full || !self.outlet.may_send() {
            return None;
        }
        let id = self.outlet.work.try_next()?;
        let mut attempt = self.outlet.prepare(id, usize::MAX).await?;
        attempt.fit(link.connection.capabilities());
        let small = attempt.places.len() <= CHAINED_RECIPIENTS;
        if small && !attempt.is_doubtful() && attempt.fits() {
            return Some(attempt);
        }
        self.outlet.work.put_back(id);
        None
    }

    async fn connect(&self) -> Result<Link, Fault> {
        let outlet = &self.outlet;
        let addresses = outlet.health.addresses();
        let (settings, tls, hostname) = (&outlet.settings, &outlet.tls, &outlet.hostname);
        let mut connection = Connection::open_as(Dialect::Smtp, addresses, settings, tls, hostname).await?;
        connection.limit(outlet.health.grouping().level(outlet.clock.now()));
        outlet.connected();
        outlet.learn(connection.capabilities());
        Ok(Link { connection, carried: 0, since: Instant::now(), is_sound: true })
    }

    /// Learns how the upstream takes commands that come together. A connection that broke while it rested, or a
    /// farewell to an envelope of its own, says nothing about that.
    fn learn(
        &self,
        attempt: &Attempt,
        link: &Link,
        chained: bool,
        reused: bool,
        replies: &Result<EnvelopeReplies, Fault>,
    ) {
        if attempt.is_doubtful() {
            return;
        }
        let how =
            if chained { Pipelining::Full } else { link.connection.pipelining().max(Pipelining::Group) };
        let broken = match replies {
            Err(Fault::OutOfStep(_)) => true,
            Ok(replies) if replies.is_confused() => true,
            Ok(EnvelopeReplies { mail, broken: None, .. }) if !chained || mail.code != 421 => {
                self.outlet.health.grouping().worked(how);
                false
            }
            Ok(_) | Err(_) => chained || !reused,
        };
        if broken {
            self.grouping_broke(how);
        }
    }

    fn grouping_broke(&self, how: Pipelining) {
        let now = self.outlet.clock.now();
        let left = self.outlet.health.grouping().broke(how, now);
        if let Some(left) = left {
            tracing::warn!(
                upstream = self.outlet.settings.name,
                pipelining = ?left,
                "the upstream does not take commands well that come together; fewer do for an hour"
            );
        }
    }

    /// Closes a connection that carried enough or is old.
    fn retire(&mut self) {
        let settings = &self.outlet.settings;
        let worn = |link: &Link| {
            link.carried >= settings.messages_per_connection
                || link.since.elapsed() >= settings.connection_age
        };
        if self.connection.as_ref().is_some_and(worn)
            && let Some(link) = self.connection.take()
        {
            tokio::spawn(link.connection.quit());
        }
    }
}

/// What is said where the store does not take that an attempt begins.
pub const NOT_NOTED: &str = "the attempt could not be noted on disk";
/// Recipients of an envelope that may ride behind a final dot: its commands and answers fit any buffer between us.
const CHAINED_RECIPIENTS: usize = 50;
/// Pause before an outcome that could not be kept is tried to be kept again.
pub const SETTLE_AGAIN: Duration = Duration::from_secs(1);
