//! One connection to the upstream and the messages sent over it.

use crate::queue::api_worker::ApiWorker;
use crate::queue::attempt::{ATTEMPT_NOT_RECORDED, Attempt, AttemptResult, ReplyContext};
use crate::queue::upstream_pool::UpstreamPool;
use futures_util::StreamExt;
use mailtrail_net::transport::{
    Connection, DataError, EnvelopeReplies, Pipelining, Protocol, Step, TransportError,
};
use mailtrail_smtp::Response;
use mailtrail_trail::{AttemptOutcome, AttemptStarted, AttemptStatus, END_OF_DATA};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::{Instant, timeout};

/// Worker that sends messages over one connection until it has been idle for a while.
pub struct SmtpWorker {
    pool: Arc<UpstreamPool>,
    connection: Option<PooledConnection>,
}

/// A connection with its usage.
struct PooledConnection {
    connection: Connection,
    messages_sent: u32,
    opened_at: Instant,
    /// Whether another message may follow.
    is_reusable: bool,
}

impl PooledConnection {
    /// Sends the envelope, unless it was pipelined after the last dot, and reads the replies. If no message
    /// is to follow, the transaction is reset, which also reveals replies that did not belong to this
    /// envelope.
    async fn exchange_envelope(
        &mut self,
        attempt: &Attempt,
        already_sent: bool,
    ) -> Result<EnvelopeReplies, TransportError> {
        let connection = &mut self.connection;
        let replies = if already_sent {
            connection.read_envelope_replies(&attempt.envelope).await?
        } else if attempt.is_suspect() {
            connection.send_envelope_sequentially(&attempt.envelope, attempt.size()).await?
        } else {
            connection.send_envelope(&attempt.envelope, attempt.size()).await?
        };
        let last = replies.data.as_ref().unwrap_or(&replies.mail);
        if replies.error.is_some() || last.code == 421 {
            self.is_reusable = false;
        } else if !replies.may_send_data() {
            match connection.abort_transaction(&replies).await {
                Err(fault @ TransportError::Desynchronized(_)) => return Err(fault),
                ended => self.is_reusable = ended.is_ok(),
            }
        }
        Ok(replies)
    }
}

/// End of a worker's attempt.
enum AttemptEnd {
    /// Ended with an outcome. The connection continues, possibly with the next message's envelope already
    /// sent.
    Done { outcome: AttemptOutcome, next: Option<Box<Attempt>> },
    /// A reused connection was found dead before the message: no attempt was made.
    StaleConnection,
    /// The upstream cannot be reached or refuses service.
    Unreachable(TransportError),
}

impl SmtpWorker {
    /// Creates a worker without a connection.
    pub fn new(pool: Arc<UpstreamPool>) -> Self {
        Self { pool, connection: None }
    }

    /// Runs until the idle timeout or shutdown; delegates to an [`ApiWorker`] for an HTTP API.
    pub async fn run(self) {
        match self.pool.settings.api.clone() {
            Some(api) => ApiWorker::new(self.pool, api).run().await,
            None => self.run_smtp().await,
        }
    }

    async fn run_smtp(mut self) {
        let mut chained = None;
        loop {
            let (attempt, already_sent) = match chained.take() {
                Some(attempt) => (attempt, true),
                None => match self.pool.next_attempt(usize::MAX).await {
                    Some(attempt) => {
                        self.close_if_used_up();
                        (attempt, false)
                    }
                    None => break,
                },
            };
            chained = self.deliver(attempt, already_sent).await;
            if chained.is_none() {
                self.close_if_used_up();
            }
        }
        if let Some(link) = self.connection.take() {
            link.connection.quit().await;
        }
    }

    /// Sends one message; a stale connection is replaced without counting as an attempt.
    async fn deliver(&mut self, mut attempt: Box<Attempt>, mut already_sent: bool) -> Option<Box<Attempt>> {
        loop {
            match self.try_deliver(&mut attempt, already_sent).await {
                AttemptEnd::Done { outcome, next } => {
                    self.pool.commit_outcome(outcome);
                    return next;
                }
                AttemptEnd::StaleConnection => already_sent = false,
                AttemptEnd::Unreachable(fault) => {
                    self.pool.on_unreachable(*attempt, &fault);
                    return None;
                }
            }
        }
    }

    async fn try_deliver(&mut self, attempt: &mut Attempt, already_sent: bool) -> AttemptEnd {
        let pool = self.pool.clone();
        if attempt.needs_new_connection
            && !already_sent
            && let Some(link) = self.connection.take()
        {
            tokio::spawn(link.connection.quit());
        }
        let (mut link, reused) = match self.connection.take() {
            Some(link) => (link, true),
            None => match pool.watch(attempt.id, self.connect()).await {
                Ok(link) => (link, false),
                Err(fault) => return AttemptEnd::Unreachable(fault),
            },
        };
        attempt.adapt_to(link.connection.capabilities());
        if attempt.recipient_indices.is_empty() {
            self.connection = Some(link);
            return AttemptEnd::Done {
                outcome: self.pool.finish_attempt(attempt, AttemptResult::default()),
                next: None,
            };
        }
        // An envelope sent earlier is lost with its connection.
        let chained = already_sent && reused;
        let replies = pool.watch(attempt.id, link.exchange_envelope(attempt, chained)).await;
        self.adapt_pipelining(attempt, &link, chained, reused, &replies);
        let replies = match replies {
            Ok(replies) if reused && replies.is_stale_connection() => return AttemptEnd::StaleConnection,
            Ok(replies) => replies,
            Err(_) if reused => return AttemptEnd::StaleConnection,
            // The upstream was reachable: a failure from here on counts as an attempt, whatever the
            // breaker's state.
            Err(fault) => {
                let mut result = AttemptResult::default();
                pool.on_connection_lost(attempt.id, &fault);
                attempt.fail_open(&mut result, AttemptStatus::Queued, "connection", &fault.to_string());
                return AttemptEnd::Done { outcome: pool.finish_attempt(attempt, result), next: None };
            }
        };
        let mut result = attempt.classify_envelope(&replies, self.reply_context(attempt));
        if replies.may_send_data() {
            return self.send_message(attempt, result, link).await;
        }
        if let Some(fault) = &replies.error {
            pool.on_connection_lost(attempt.id, fault);
            attempt.fail_disconnected(&mut result, &replies, fault);
        } else {
            let last = replies.data.as_ref().unwrap_or(&replies.mail);
            self.record_upstream_health(attempt, "the envelope", last, &result);
        }
        if link.is_reusable {
            self.connection = Some(link);
        }
        AttemptEnd::Done { outcome: pool.finish_attempt(attempt, result), next: None }
    }

    fn reply_context(&self, attempt: &Attempt) -> ReplyContext {
        let pool = &self.pool;
        ReplyContext {
            provider: pool.settings.provider,
            is_refuted: pool.health.breaker().is_refuted(attempt.id),
            now: pool.clock.now(),
        }
    }

    /// Sends the message itself. After its dot a lost reply leaves the delivery status unknown, so the
    /// attempt is recorded before.
    async fn send_message(
        &mut self,
        attempt: &Attempt,
        mut result: AttemptResult,
        mut link: PooledConnection,
    ) -> AttemptEnd {
        let pool = self.pool.clone();
        let started = Instant::now();
        let (mut next, mut is_said) = (None, false);
        let moved = AtomicU64::new(0);
        let pieces = attempt.pieces().inspect(|_| {
            moved.fetch_add(1, Ordering::Relaxed);
        });
        let body = pool.watch_progress(attempt.id, &moved, link.connection.send_body(pieces)).await;
        let sent = match body {
            Ok(()) => {
                let upstream = pool.settings.name.clone();
                let begun = AttemptStarted { id: attempt.id, at: pool.clock.now(), upstream };
                if let Err(error) = pool.store.record_attempt_start(begun).await {
                    tracing::error!(id = %attempt.id, %error, "cannot record attempt; message not sent");
                    attempt.fail_open(&mut result, AttemptStatus::Queued, "store", ATTEMPT_NOT_RECORDED);
                    return AttemptEnd::Done { outcome: pool.finish_attempt(attempt, result), next: None };
                }
                next = self.pipelined_next(&link).await;
                is_said = next.is_some();
                self.finish_data(attempt, &mut link, &mut next).await
            }
            Err(fault) => Err(fault),
        };
        // An envelope sent for a message that is no longer held leaves the connection in mid-transaction.
        let is_sound = is_said == next.is_some();
        match sent {
            Ok(reply) => {
                metrics::histogram!("mailtrail_relay_seconds").record(started.elapsed());
                attempt.classify_data_reply(
                    &mut result,
                    Step::EndOfData,
                    &reply,
                    self.reply_context(attempt),
                );
                self.record_upstream_health(attempt, "the end of data", &reply, &result);
                if reply.code != 421 && is_sound {
                    link.messages_sent += 1;
                    self.connection = Some(link);
                }
            }
            Err(DataError::BodyUnreadable(error)) => {
                tracing::error!(id = %attempt.id, %error, "cannot read message; not sent");
                // The upstream is not at fault; the connection in mid-message is unusable.
                pool.on_reply(attempt.id, &result);
                attempt.fail_unreadable(&mut result, &error);
            }
            Err(DataError::Rejected(reply)) => {
                attempt.classify_data_reply(&mut result, Step::Body, &reply, self.reply_context(attempt));
                self.record_upstream_health(attempt, "the message", &reply, &result);
            }
            Err(DataError::BeforeEnd(fault)) => {
                pool.on_connection_lost(attempt.id, &fault);
                attempt.fail_open(&mut result, AttemptStatus::Queued, "connection", &fault.to_string());
            }
            Err(DataError::AfterEnd(fault)) => {
                pool.on_connection_lost(attempt.id, &fault);
                if is_said {
                    self.on_pipelining_failure(Pipelining::Full);
                }
                let text = format!("the message was sent and no answer came: {fault}");
                tracing::warn!(id = %attempt.id, upstream = pool.settings.name, %fault, "a message's end is unknown");
                attempt.fail_open(&mut result, AttemptStatus::Unknown, END_OF_DATA, &text);
            }
        }
        AttemptEnd::Done { outcome: pool.finish_attempt(attempt, result), next }
    }

    /// Sends the dot and reads the reply. If the reply is slow, the pipelined message is released to take
    /// another connection: `next` is cleared then.
    async fn finish_data(
        &self,
        attempt: &Attempt,
        link: &mut PooledConnection,
        next: &mut Option<Box<Attempt>>,
    ) -> Result<Response, DataError> {
        let pool = &self.pool;
        let rides = next.take();
        let ended = {
            let following = rides.as_ref().map(|rides| (&rides.envelope, rides.size()));
            let mut ended = pin!(link.connection.finish_data(following));
            match timeout(pool.settings.timeouts.stuck_after, &mut ended).await {
                Ok(ended) => ended,
                Err(_) => {
                    rides.as_ref().inspect(|rides| pool.release(rides.id));
                    return pool.watch_stuck(attempt.id, ended).await;
                }
            }
        };
        *next = rides;
        ended
    }

    /// Records the effect of a reply on the upstream's health: a closing reply (421) is no sign of health.
    fn record_upstream_health(
        &self,
        attempt: &Attempt,
        step: &'static str,
        response: &Response,
        result: &AttemptResult,
    ) {
        if response.code == 421 && result.upstream_refusal.is_none() && result.throttle_refusal.is_none() {
            self.pool.on_connection_lost(
                attempt.id,
                &TransportError::Refused { step, response: response.clone() },
            );
        } else {
            self.pool.on_reply(attempt.id, result);
        }
    }

    /// Returns a queued message that can be pipelined after this one.
    async fn pipelined_next(&self, link: &PooledConnection) -> Option<Box<Attempt>> {
        let settings = &self.pool.settings;
        let last = link.messages_sent + 2 > settings.messages_per_connection
            || link.opened_at.elapsed() >= settings.connection_age;
        if last || link.connection.pipelining() != Pipelining::Full || !self.pool.is_breaker_closed() {
            return None;
        }
        let id = self.pool.ready_queue.try_pop()?;
        let mut attempt = self.pool.prepare_attempt(id, usize::MAX).await?;
        attempt.adapt_to(link.connection.capabilities());
        let small = attempt.recipient_indices.len() <= MAX_PIPELINED_RECIPIENTS;
        if small && !attempt.is_suspect() && attempt.is_fully_supported() {
            return Some(attempt);
        }
        self.pool.ready_queue.push_front(id);
        None
    }

    async fn connect(&self) -> Result<PooledConnection, TransportError> {
        let pool = &self.pool;
        let addresses = pool.health.addresses();
        let (settings, tls, hostname) = (&pool.settings, &pool.tls, &pool.hostname);
        let mut connection =
            Connection::open_with(Protocol::Smtp, addresses, settings, tls, hostname).await?;
        connection.cap_pipelining(pool.health.pipelining().current(pool.clock.now()));
        pool.on_connected();
        pool.record_capabilities(connection.capabilities());
        Ok(PooledConnection { connection, messages_sent: 0, opened_at: Instant::now(), is_reusable: true })
    }

    /// Adapts the pipelining level to the upstream's behaviour. A connection that broke while idle, or a
    /// closing reply to an envelope sent alone, is no evidence.
    fn adapt_pipelining(
        &self,
        attempt: &Attempt,
        link: &PooledConnection,
        chained: bool,
        reused: bool,
        replies: &Result<EnvelopeReplies, TransportError>,
    ) {
        if attempt.is_suspect() {
            return;
        }
        let how =
            if chained { Pipelining::Full } else { link.connection.pipelining().max(Pipelining::Group) };
        let broken = match replies {
            Err(TransportError::Desynchronized(_)) => true,
            Ok(replies) if replies.has_command_errors() => true,
            Ok(EnvelopeReplies { mail, error: None, .. }) if !chained || mail.code != 421 => {
                self.pool.health.pipelining().on_success(how);
                false
            }
            Ok(_) | Err(_) => chained || !reused,
        };
        if broken {
            self.on_pipelining_failure(how);
        }
    }

    fn on_pipelining_failure(&self, how: Pipelining) {
        let now = self.pool.clock.now();
        let left = self.pool.health.pipelining().on_failure(how, now);
        if let Some(left) = left {
            tracing::warn!(
                upstream = self.pool.settings.name,
                pipelining = ?left,
                "the upstream does not take commands well that come together; fewer do for an hour"
            );
        }
    }

    /// Closes a connection that has reached its message limit or its age limit.
    fn close_if_used_up(&mut self) {
        let settings = &self.pool.settings;
        let worn = |link: &PooledConnection| {
            link.messages_sent >= settings.messages_per_connection
                || link.opened_at.elapsed() >= settings.connection_age
        };
        if self.connection.as_ref().is_some_and(worn)
            && let Some(link) = self.connection.take()
        {
            tokio::spawn(link.connection.quit());
        }
    }
}

/// Recipients of an envelope that may be pipelined after a final dot: its commands and replies fit into any
/// buffer on the path.
const MAX_PIPELINED_RECIPIENTS: usize = 50;
