//! Where a whole message is kept, and the `250` is earned.

use super::acceptance::{self, Circumstances, HEADROOM};
use super::duplicates::NotKept;
use super::listener::Front;
use crate::clock::Timestamp;
use crate::ledger::Accepted;
use crate::mail::Envelope;
use crate::smtp::{Account, Reply};
use crate::store::{CommitError, Message, Spill};
use std::net::{IpAddr, Ipv4Addr};

/// Whoever hands a message in.
pub struct Visitor<'a> {
    /// Where he is.
    pub peer: IpAddr,
    /// The name he gave.
    pub client_name: &'a str,
    /// How the mail came (RFC 3848).
    pub protocol: &'static str,
    /// The user, if logged in.
    pub account: Option<&'a Account>,
    /// Whether the sender may be told what becomes of the mail.
    pub reports: bool,
}

impl Front {
    /// Keeps a message of the operator's by the way that clients' mail takes; the sender gets no reports on it.
    pub async fn hand_in(&self, account: &Account, envelope: Envelope, message: &[u8]) -> Reply {
        let visitor = Visitor {
            peer: Ipv4Addr::LOCALHOST.into(),
            client_name: &self.rules.hostname,
            protocol: "HTTP",
            account: Some(account),
            // Whoever follows it sees it.
            reports: false,
        };
        let first = [&[0; HEADROOM], message].concat();
        self.keep(&visitor, envelope, first, None).await
    }

    /// Keeps a message; `first` holds [`HEADROOM`] unused bytes before it.
    pub(super) async fn keep(
        &self,
        visitor: &Visitor<'_>,
        envelope: Envelope,
        first: Vec<u8>,
        rest: Option<Spill>,
    ) -> Reply {
        let now = self.clock.now();
        let circumstances = Circumstances {
            id: self.mint.next(now, fastrand::u128(..)),
            now,
            hostname: &self.rules.hostname,
            peer: visitor.peer,
            client_name: visitor.client_name,
            protocol: visitor.protocol,
            account: visitor.account,
            providers: &self.providers,
            routing: &self.routing,
            reports: self.reports && visitor.reports,
            fingerprints: self.duplicates.is_some(),
            // A store that cannot be read says nothing of loops.
            is_ours: &|id| matches!(self.store.send(id), Ok(Some(_))),
        };
        match acceptance::accept(&circumstances, envelope, first, rest) {
            Ok((accepted, message)) => self.count(accepted, message, now).await,
            Err(refusal) => refusal,
        }
    }

    /// Keeps a message if the user's quota has something left; it counts unless it is not kept, or was kept before.
    async fn count(&self, accepted: Accepted, message: Message, now: Timestamp) -> Reply {
        let Some(user) = accepted.send.user.clone() else { return self.commit(accepted, message, now).await };
        let (id, recipients) = (accepted.send.id, accepted.recipients.len() as u64);
        if let Err(used_up) = self.quotas.take(&user, recipients) {
            tracing::warn!(user, "a message was refused: the quota is used up");
            return used_up;
        }
        let reply = self.commit(accepted, message, now).await;
        if reply != Reply::Queued(id) {
            self.quotas.give_back(&user, recipients);
        }
        reply
    }

    async fn commit(&self, accepted: Accepted, message: Message, now: Timestamp) -> Reply {
        let (store, id) = (&self.store, accepted.send.id);
        // A series for each address that mail comes from would be without bound.
        let client = match accepted.send.user {
            Some(_) => accepted.send.client.clone(),
            None => UNAUTHENTICATED.to_owned(),
        };
        let kept = match &self.duplicates {
            None => store.accept(accepted, message).await.map(|()| id).map_err(NotKept::from),
            Some(duplicates) => duplicates.accept(store, accepted, message, now).await,
        };
        match kept {
            Ok(kept) => {
                metrics::counter!("mailtrail_smtp_accepted_total", "client" => client).increment(1);
                Reply::Queued(kept)
            }
            Err(error) => {
                tracing::error!(%id, %error, "a message was not taken");
                match error {
                    NotKept::Commit(CommitError::Disk(_)) => Reply::StoreFull,
                    NotKept::Commit(CommitError::ReadOnly) | NotKept::Read(_) => Reply::LocalError,
                }
            }
        }
    }
}

/// The label of clients that do not log in.
const UNAUTHENTICATED: &str = "unauthenticated";
