//! Sends messages over an upstream's HTTP API, one request at a time.

use crate::queue::attempt::{ATTEMPT_NOT_RECORDED, Attempt, AttemptResult, local_diagnostic};
use crate::queue::upstream_pool::UpstreamPool;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use mailtrail_net::transport::{Api, ApiResponse, MailgunClient, RequestError, TransportError};
use mailtrail_store::CommitError;
use mailtrail_trail::{AttemptStarted, AttemptStatus, MESSAGES_MIME};
use std::io;
use std::sync::Arc;
use tokio::time::Instant;

/// Worker that sends messages through one HTTP API until it has been idle for a while.
pub struct ApiWorker {
    pool: Arc<UpstreamPool>,
    api: Api,
    client: Option<MailgunClient>,
}

impl ApiWorker {
    /// Creates a worker without a connection.
    pub fn new(pool: Arc<UpstreamPool>, api: Api) -> Self {
        Self { pool, api, client: None }
    }

    /// Runs until the idle timeout or shutdown.
    pub async fn run(mut self) {
        while let Some(mut attempt) = self.pool.next_attempt(MailgunClient::MAX_RECIPIENTS).await {
            attempt.adapt_to(&MailgunClient::capabilities());
            let mut result = AttemptResult::default();
            match self.deliver(&attempt, &mut result).await {
                Ok(()) => self.pool.commit_outcome(self.pool.finish_attempt(&attempt, result)),
                Err(fault) => self.pool.on_unreachable(*attempt, &fault),
            }
        }
    }

    /// Sends a message in one request. Splits it into several only where an address is at fault and has to
    /// be found. Returns an error if the upstream could not be reached before any byte was sent.
    async fn deliver(&mut self, attempt: &Attempt, result: &mut AttemptResult) -> Result<(), TransportError> {
        if attempt.recipient_indices.is_empty() {
            return Ok(());
        }
        let parameters = match attempt.api_parameters().await {
            Ok(parameters) => parameters,
            Err(error) => {
                attempt.fail_unreadable(result, &error);
                return Ok(());
            }
        };
        let (mut groups, mut begun) = (vec![attempt.recipient_indices.clone()], false);
        while attempt.has_open_recipients(result)
            && let Some(group) = groups.pop()
        {
            match self.send_request(attempt, &group, &parameters).await {
                Ok(answer) => {
                    if attempt.classify_api_response(result, &group, &answer, self.pool.clock.now()) {
                        groups.extend(group.chunks(group.len().div_ceil(2)).map(<[u16]>::to_vec));
                    }
                    self.record_upstream_health(attempt, &answer, result);
                }
                Err(RequestError::Unreachable(fault)) if !begun => return Err(fault),
                Err(unanswered) => self.record_failure(attempt, result, &group, unanswered),
            }
            begun = true;
        }
        Ok(())
    }

    async fn send_request(
        &mut self,
        attempt: &Attempt,
        group: &[u16],
        parameters: &[(String, String)],
    ) -> Result<ApiResponse, RequestError> {
        let (client, pool) = (self.client.take(), &self.pool);
        let client = match client {
            Some(client) => client,
            None => {
                let addresses = pool.health.addresses();
                MailgunClient::new(&pool.settings, &self.api, &pool.tls, addresses)
                    .map_err(RequestError::Unreachable)?
            }
        };
        let started = Instant::now();
        let pieces = self.body_stream(attempt);
        let answer = client.send(&attempt.recipients_at(group), parameters, attempt.size(), pieces).await;
        if answer.is_ok() {
            metrics::histogram!("mailtrail_relay_seconds").record(started.elapsed());
        }
        self.client = Some(client);
        answer
    }

    /// Returns the message as a body stream. After its last byte a lost answer leaves the delivery status
    /// unknown. So the attempt is recorded before the first byte, and only on an established connection: an
    /// unreachable upstream leaves nothing unknown.
    fn body_stream(&self, attempt: &Attempt) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let (store, upstream) = (self.pool.store.clone(), self.pool.settings.name.clone());
        let begun = AttemptStarted { id: attempt.id, at: self.pool.clock.now(), upstream };
        let pieces = attempt.pieces();
        let noted =
            async move { store.record_attempt_start(begun).await.map(|()| pieces).map_err(io::Error::other) };
        stream::once(noted).try_flatten()
    }

    /// Records the effect of an answer on the upstream's health.
    fn record_upstream_health(&self, attempt: &Attempt, answer: &ApiResponse, result: &AttemptResult) {
        match answer.upstream_failure() {
            Some(fault) => self.pool.on_connection_lost(attempt.id, &fault),
            None => self.pool.on_reply(attempt.id, result),
        }
    }

    /// Records that no answer came for the recipients in `group`; no other recipient was tried.
    fn record_failure(
        &self,
        attempt: &Attempt,
        result: &mut AttemptResult,
        group: &[u16],
        unanswered: RequestError,
    ) {
        let pool = &self.pool;
        match unanswered {
            RequestError::BodyUnreadable(error) => {
                tracing::error!(id = %attempt.id, %error, "cannot read message; not sent");
                // The upstream is not at fault.
                pool.on_reply(attempt.id, result);
                if error.get_ref().is_some_and(|cause| cause.is::<CommitError>()) {
                    attempt.fail_open(result, AttemptStatus::Queued, "store", ATTEMPT_NOT_RECORDED);
                } else {
                    attempt.fail_unreadable(result, &error);
                }
            }
            RequestError::Unreachable(fault) | RequestError::BeforeEnd(fault) => {
                pool.on_connection_lost(attempt.id, &fault);
                attempt.fail_open(result, AttemptStatus::Queued, "connection", &fault.to_string());
            }
            RequestError::AfterEnd(fault) => {
                pool.on_connection_lost(attempt.id, &fault);
                tracing::warn!(id = %attempt.id, upstream = pool.settings.name, %fault, "a message's end is unknown");
                let text = format!("the message was sent and no answer came: {fault}");
                result.set_status(group, AttemptStatus::Unknown, &local_diagnostic(MESSAGES_MIME, &text));
                attempt.fail_open(result, AttemptStatus::Queued, "connection", &fault.to_string());
            }
        }
    }
}
