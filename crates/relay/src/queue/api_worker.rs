//! Messages over an upstream's HTTP API, one request at a time.

use crate::queue::attempt::{Attempt, Findings, said};
use crate::queue::smtp_worker::NOT_NOTED;
use crate::queue::upstream_pool::Outlet;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use mailtrail_net::transport::{Answer, Api, Client, Fault, Unanswered};
use mailtrail_store::CommitError;
use mailtrail_trail::{Begun, MESSAGES, Standing};
use std::io;
use std::sync::Arc;
use tokio::time::Instant;

/// Carries messages until there is nothing to do for a while.
pub struct Courier {
    outlet: Arc<Outlet>,
    api: Api,
    client: Option<Client>,
}

impl Courier {
    /// A courier without connection.
    pub fn new(outlet: Arc<Outlet>, api: Api) -> Self {
        Self { outlet, api, client: None }
    }

    /// Works until idle for too long, or until we stop.
    pub async fn run(mut self) {
        while let Some(mut attempt) = self.outlet.next(Client::RECIPIENTS).await {
            attempt.fit(&Client::capabilities());
            let mut findings = Findings::default();
            match self.carry(&attempt, &mut findings).await {
                Ok(()) => self.outlet.settle(self.outlet.conclude(&attempt, findings)),
                Err(fault) => self.outlet.unreachable(*attempt, &fault),
            }
        }
    }

    /// Carries a message in one request; in several only where an address is at fault and has to be found. The error is
    /// an upstream that could not be reached, before anything was said.
    async fn carry(&mut self, attempt: &Attempt, findings: &mut Findings) -> Result<(), Fault> {
        if attempt.places.is_empty() {
            return Ok(());
        }
        let parameters = match attempt.parameters().await {
            Ok(parameters) => parameters,
            Err(error) => {
                attempt.give_unreadable(findings, &error);
                return Ok(());
            }
        };
        let (mut groups, mut begun) = (vec![attempt.places.clone()], false);
        while attempt.is_open(findings)
            && let Some(group) = groups.pop()
        {
            match self.request(attempt, &group, &parameters).await {
                Ok(answer) => {
                    if attempt.weigh_answer(findings, &group, &answer, self.outlet.clock.now()) {
                        groups.extend(group.chunks(group.len().div_ceil(2)).map(<[u16]>::to_vec));
                    }
                    self.weigh_upstream(attempt, &answer, findings);
                }
                Err(Unanswered::Unreachable(fault)) if !begun => return Err(fault),
                Err(unanswered) => self.give(attempt, findings, &group, unanswered),
            }
            begun = true;
        }
        Ok(())
    }

    async fn request(
        &mut self,
        attempt: &Attempt,
        group: &[u16],
        parameters: &[(String, String)],
    ) -> Result<Answer, Unanswered> {
        let (client, outlet) = (self.client.take(), &self.outlet);
        let client = match client {
            Some(client) => client,
            None => {
                let addresses = outlet.health.addresses();
                Client::new(&outlet.settings, &self.api, &outlet.tls, addresses)
                    .map_err(Unanswered::Unreachable)?
            }
        };
        let started = Instant::now();
        let pieces = self.pieces(attempt);
        let answer = client.send(&attempt.recipients(group), parameters, attempt.size(), pieces).await;
        if answer.is_ok() {
            metrics::histogram!("mailtrail_relay_seconds").record(started.elapsed());
        }
        self.client = Some(client);
        answer
    }

    /// The message. Behind its last byte a lost answer leaves the end unknown, so that it goes out is noted before its
    /// first one, and on a connection that stands: who cannot be reached leaves nothing unknown.
    fn pieces(&self, attempt: &Attempt) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let (store, upstream) = (self.outlet.store.clone(), self.outlet.settings.name.clone());
        let begun = Begun { id: attempt.id, at: self.outlet.clock.now(), upstream };
        let pieces = attempt.pieces();
        let noted = async move { store.begin(begun).await.map(|()| pieces).map_err(io::Error::other) };
        stream::once(noted).try_flatten()
    }

    /// What an answer says about the upstream itself.
    fn weigh_upstream(&self, attempt: &Attempt, answer: &Answer, findings: &Findings) {
        match answer.failure() {
            Some(fault) => self.outlet.broke(attempt.id, &fault),
            None => self.outlet.answered(attempt.id, findings),
        }
    }

    /// No answer came about those in `group`; nobody else was tried.
    fn give(&self, attempt: &Attempt, findings: &mut Findings, group: &[u16], unanswered: Unanswered) {
        let outlet = &self.outlet;
        match unanswered {
            Unanswered::Unreadable(error) => {
                tracing::error!(id = %attempt.id, %error, "a message cannot be sent to its end");
                // The upstream did nothing wrong.
                outlet.answered(attempt.id, findings);
                if error.get_ref().is_some_and(|cause| cause.is::<CommitError>()) {
                    attempt.give(findings, Standing::Queued, "store", NOT_NOTED);
                } else {
                    attempt.give_unreadable(findings, &error);
                }
            }
            Unanswered::Unreachable(fault) | Unanswered::Before(fault) => {
                outlet.broke(attempt.id, &fault);
                attempt.give(findings, Standing::Queued, "connection", &fault.to_string());
            }
            Unanswered::After(fault) => {
                outlet.broke(attempt.id, &fault);
                tracing::warn!(id = %attempt.id, upstream = outlet.settings.name, %fault, "a message's end is unknown");
                let text = format!("the message was sent and no answer came: {fault}");
                findings.note(group, Standing::Unknown, &said(MESSAGES, &text));
                attempt.give(findings, Standing::Queued, "connection", &fault.to_string());
            }
        }
    }
}
