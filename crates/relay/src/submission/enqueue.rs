//! Where a whole message is kept, and the `250` is earned.

use crate::submission::cleanup;
use crate::submission::deduplicator::EnqueueError;
use crate::submission::message_context::{HEADER_HEADROOM, MessageContext};
use crate::submission::rounds::RelayHistory;
use crate::submission::service::SubmissionService;
use mailtrail_mail::{Envelope, HeaderSection, Mailbox, Timestamp, TrackingId};
use mailtrail_smtp::{Account, Reply};
use mailtrail_store::{CommitError, MessageBody, ReadError, SpillFile};
use mailtrail_trail::{AcceptedMessage, AttemptOutcome, AttemptStatus, Diagnostic, RecipientResult};
use std::net::{IpAddr, Ipv4Addr};

/// Client that submits a message.
pub struct ClientInfo<'a> {
    /// Address of the client.
    pub peer: IpAddr,
    /// Name given in EHLO or HELO.
    pub client_name: &'a str,
    /// How the mail came (RFC 3848).
    pub protocol: &'static str,
    /// The user, if logged in.
    pub account: Option<&'a Account>,
    /// Whether the sender may receive DSNs.
    pub dsn_allowed: bool,
}

impl SubmissionService {
    /// Keeps a message of the operator's by the way that clients' mail takes; the sender gets no reports on it.
    pub async fn submit_internal(&self, account: &Account, envelope: Envelope, message: &[u8]) -> Reply {
        let visitor = ClientInfo {
            peer: Ipv4Addr::LOCALHOST.into(),
            client_name: &self.policy.hostname,
            protocol: "HTTP",
            account: Some(account),
            // The operator follows the trail instead.
            dsn_allowed: false,
        };
        let first = [&[0; HEADER_HEADROOM], message].concat();
        self.enqueue(&visitor, envelope, first, None).await
    }

    /// Keeps a message; `first` holds [`HEADROOM`] unused bytes before it.
    pub(super) async fn enqueue(
        &self,
        visitor: &ClientInfo<'_>,
        envelope: Envelope,
        first: Vec<u8>,
        rest: Option<SpillFile>,
    ) -> Reply {
        let now = self.clock.now();
        let header = HeaderSection::parse_after_mbox_lines(&first[HEADER_HEADROOM..]);
        let rounds = RelayHistory::from_header(&header, |id| self.load_recipients(id));
        if rounds.is_loop(&envelope.recipients) {
            return Reply::MailLoop;
        }
        let again = envelope.recipients.iter().any(|recipient| rounds.has_recipient(recipient));
        let id = self.id_generator.generate(now, fastrand::u128(..));
        let circumstances = MessageContext {
            id,
            now,
            hostname: &self.policy.hostname,
            peer: visitor.peer,
            client_name: visitor.client_name,
            protocol: visitor.protocol,
            account: visitor.account,
            cleanup: visitor.account.map_or(&self.listener.cleanup, |account| &account.header_cleanup),
            providers: &self.providers,
            routing: &self.routing,
            dsn_enabled: self.dsn_enabled && visitor.dsn_allowed,
            needs_fingerprint: self.deduplicator.is_some(),
            relay_history: &rounds,
        };
        match cleanup::accept_message(&circumstances, envelope, first, rest) {
            Ok((accepted, message)) if again => {
                // While locked, the message is not sent before its looping recipients are recorded.
                let grip = self.store.try_lock(id);
                let reply = self.enqueue_within_quota(accepted, message, now, true).await;
                if reply == Reply::Queued(id) {
                    self.fail_looping_recipients(id, &rounds, now).await;
                }
                drop(grip);
                self.store.queue_wakeup().notify();
                reply
            }
            Ok((accepted, message)) => self.enqueue_within_quota(accepted, message, now, false).await,
            Err(refusal) => refusal,
        }
    }

    /// Recipients of an earlier message; `None` if the store cannot be read, which reports no loop.
    fn load_recipients(&self, id: TrackingId) -> Option<Vec<Mailbox>> {
        let trail = self.store.load_trail(id).ok()??;
        Some(trail.recipients.into_iter().map(|recipient| recipient.address).collect())
    }

    /// Fails the recipients that had the message in an earlier pass; the others get it. If recording fails, they get a
    /// second copy, and the passes are counted in any case.
    async fn fail_looping_recipients(&self, id: TrackingId, rounds: &RelayHistory, now: Timestamp) {
        let Ok(Some(trail)) = self.store.load_trail(id) else { return };
        let again =
            (0u16..).zip(&trail.recipients).filter(|(_, recipient)| rounds.has_recipient(&recipient.address));
        let (name, enhanced_status) = ("loop".to_owned(), Some("5.4.6".to_owned()));
        let text = Some("The message runs in a loop: the recipient has this mail already".to_owned());
        let settled = RecipientResult {
            recipients: again.map(|(place, _)| place).collect(),
            status: AttemptStatus::Failed,
            diagnostic: Diagnostic { name, enhanced_status, text, ..Diagnostic::default() },
        };
        let outcome = AttemptOutcome {
            id,
            at: now,
            upstream: String::new(),
            results: vec![settled],
            next_attempt: Some(now),
        };
        if let Err(error) = self.store.record_attempt_outcome(outcome).await {
            tracing::error!(%id, %error, "cannot record a loop; the recipients get the message again");
        }
    }

    /// Keeps a message if the user's quota has something left; it counts unless it is not kept, or was kept before.
    /// `applied`: lookups see it at once.
    async fn enqueue_within_quota(
        &self,
        accepted: AcceptedMessage,
        message: MessageBody,
        now: Timestamp,
        applied: bool,
    ) -> Reply {
        let Some(user) = accepted.message.user.clone() else {
            return self.store_message(accepted, message, now, applied).await;
        };
        let (id, recipients) = (accepted.message.id, accepted.recipients.len() as u64);
        if let Err(used_up) = self.quotas.try_consume(&user, recipients) {
            tracing::warn!(user, "a message was refused: the quota is used up");
            return used_up;
        }
        let reply = self.store_message(accepted, message, now, applied).await;
        if reply != Reply::Queued(id) {
            self.quotas.refund(&user, recipients);
        }
        reply
    }

    async fn store_message(
        &self,
        accepted: AcceptedMessage,
        message: MessageBody,
        now: Timestamp,
        applied: bool,
    ) -> Reply {
        let (store, id) = (&self.store, accepted.message.id);
        // A series for each address that mail comes from would be without bound.
        let client = match accepted.message.user {
            Some(_) => accepted.message.client.clone(),
            None => UNAUTHENTICATED_LABEL.to_owned(),
        };
        let kept = match &self.deduplicator {
            None if applied => {
                store.put_message_applied(accepted, message).await.map(|()| id).map_err(EnqueueError::from)
            }
            None => store.put_message(accepted, message).await.map(|()| id).map_err(EnqueueError::from),
            Some(duplicates) => duplicates.store_unique(store, accepted, message, now).await,
        };
        match kept {
            Ok(kept) => {
                metrics::counter!("mailtrail_smtp_accepted_total", "client" => client).increment(1);
                Reply::Queued(kept)
            }
            Err(error) => {
                tracing::error!(%id, %error, "a message was not taken");
                match error {
                    EnqueueError::Commit(CommitError::Journal(_) | CommitError::Ledger(_))
                    | EnqueueError::Read(ReadError::LedgerClosed(_)) => Reply::StorageFull,
                    EnqueueError::Commit(CommitError::ReadOnly) | EnqueueError::Read(_) => Reply::LocalError,
                }
            }
        }
    }
}

/// The label of clients that do not log in.
const UNAUTHENTICATED_LABEL: &str = "unauthenticated";
