//! Where a whole message is kept, and the `250` is earned.

use crate::submission::cleanup;
use crate::submission::cleanup::{Circumstances, HEADROOM};
use crate::submission::deduplicator::NotKept;
use crate::submission::listener::Front;
use crate::submission::rounds::Rounds;
use mailtrail_mail::{Envelope, HeaderBlock, Mailbox, Timestamp, TrackingId};
use mailtrail_smtp::{Account, Reply};
use mailtrail_store::{CommitError, Message, ReadError, Spill};
use mailtrail_trail::{Accepted, Outcome, Settled, Standing, Words};
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
        let header = HeaderBlock::behind_mbox_lines(&first[HEADROOM..]);
        let rounds = Rounds::of(&header, |id| self.recipients(id));
        if rounds.are_a_loop(&envelope.recipients) {
            return Reply::Loop;
        }
        let again = envelope.recipients.iter().any(|recipient| rounds.reached(recipient));
        let id = self.mint.next(now, fastrand::u128(..));
        let circumstances = Circumstances {
            id,
            now,
            hostname: &self.rules.hostname,
            peer: visitor.peer,
            client_name: visitor.client_name,
            protocol: visitor.protocol,
            account: visitor.account,
            cleanup: visitor.account.map_or(&self.listener.cleanup, |account| &account.cleanup),
            providers: &self.providers,
            routing: &self.routing,
            reports: self.reports && visitor.reports,
            fingerprints: self.duplicates.is_some(),
            rounds: &rounds,
        };
        match cleanup::accept(&circumstances, envelope, first, rest) {
            Ok((accepted, message)) if again => {
                // In our hands it is not sent before that is noted.
                let grip = self.store.take(id);
                let reply = self.count(accepted, message, now, true).await;
                if reply == Reply::Queued(id) {
                    self.end_loops(id, &rounds, now).await;
                }
                drop(grip);
                self.store.due_bell().ring();
                reply
            }
            Ok((accepted, message)) => self.count(accepted, message, now, false).await,
            Err(refusal) => refusal,
        }
    }

    /// Those of an earlier send; a store that cannot be read says nothing of loops.
    fn recipients(&self, id: TrackingId) -> Option<Vec<Mailbox>> {
        let trail = self.store.trail(id).ok()??;
        Some(trail.recipients.into_iter().map(|recipient| recipient.address).collect())
    }

    /// Gives up the recipients of a send that had the message in an earlier round; the others get it. A note that is
    /// lost costs them a second copy, and the rounds are counted all the same.
    async fn end_loops(&self, id: TrackingId, rounds: &Rounds, now: Timestamp) {
        let Ok(Some(trail)) = self.store.trail(id) else { return };
        let again =
            (0u16..).zip(&trail.recipients).filter(|(_, recipient)| rounds.reached(&recipient.address));
        let (name, enhanced) = ("loop".to_owned(), Some("5.4.6".to_owned()));
        let text = Some("The message runs in a loop: the recipient has this mail already".to_owned());
        let settled = Settled {
            recipients: again.map(|(place, _)| place).collect(),
            standing: Standing::Failed,
            words: Words { name, enhanced, text, ..Words::default() },
        };
        let outcome =
            Outcome { id, at: now, upstream: String::new(), settled: vec![settled], due: Some(now) };
        if let Err(error) = self.store.settle(outcome).await {
            tracing::error!(%id, %error, "cannot record a loop; the recipients get the message again");
        }
    }

    /// Keeps a message if the user's quota has something left; it counts unless it is not kept, or was kept before.
    /// `applied`: lookups see it at once.
    async fn count(&self, accepted: Accepted, message: Message, now: Timestamp, applied: bool) -> Reply {
        let Some(user) = accepted.send.user.clone() else {
            return self.commit(accepted, message, now, applied).await;
        };
        let (id, recipients) = (accepted.send.id, accepted.recipients.len() as u64);
        if let Err(used_up) = self.quotas.take(&user, recipients) {
            tracing::warn!(user, "a message was refused: the quota is used up");
            return used_up;
        }
        let reply = self.commit(accepted, message, now, applied).await;
        if reply != Reply::Queued(id) {
            self.quotas.give_back(&user, recipients);
        }
        reply
    }

    async fn commit(&self, accepted: Accepted, message: Message, now: Timestamp, applied: bool) -> Reply {
        let (store, id) = (&self.store, accepted.send.id);
        // A series for each address that mail comes from would be without bound.
        let client = match accepted.send.user {
            Some(_) => accepted.send.client.clone(),
            None => UNAUTHENTICATED.to_owned(),
        };
        let kept = match &self.duplicates {
            None if applied => {
                store.accept_and_apply(accepted, message).await.map(|()| id).map_err(NotKept::from)
            }
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
                    NotKept::Commit(CommitError::Disk(_) | CommitError::Ledger(_))
                    | NotKept::Read(ReadError::Closed(_)) => Reply::StoreFull,
                    NotKept::Commit(CommitError::ReadOnly) | NotKept::Read(_) => Reply::LocalError,
                }
            }
        }
    }
}

/// The label of clients that do not log in.
const UNAUTHENTICATED: &str = "unauthenticated";
