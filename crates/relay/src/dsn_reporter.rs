//! Sends delivery status notifications (RFC 3464) to senders. One DSN is made for each recipient that
//! failed permanently, or that was delivered where the client requested it (`NOTIFY=SUCCESS`). A DSN is a
//! message of its own, so it is stored, retried and traced like any other. The record that accepts it also
//! proves that it was made.
//!
//! A DSN never causes another DSN: it has no sender.

use bytes::Bytes;
use mailtrail_mail::{BodyType, Clock, Mailbox, MessageId, Timestamp, TrackingIdGenerator};
use mailtrail_store::{CommitError, ReadError, Store};
use mailtrail_trail::{AcceptedMessage, DsnMessage, Message, ReportedRecipient, Trail, dsn};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Generates the DSNs of the store's messages.
#[derive(Clone)]
pub struct DsnReporter {
    /// The store.
    pub store: Store,
    /// Clock.
    pub clock: Clock,
    /// Generator of tracking ids.
    pub id_generator: Arc<TrackingIdGenerator>,
    /// Our host name.
    pub hostname: String,
}

/// Error that prevents a DSN; it is retried.
#[derive(Debug, thiserror::Error)]
enum DsnError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl DsnReporter {
    /// Generates DSNs until shutdown.
    pub async fn run(self, stopping: CancellationToken) {
        let mut quota = PerSenderLimit::default();
        while stopping.run_until_cancelled(tokio::time::sleep(POLL_INTERVAL)).await.is_some() {
            if let Err(error) = self.send_pending(&mut quota).await {
                tracing::error!(%error, "cannot create DSN; retrying");
            }
        }
    }

    async fn send_pending(&self, quota: &mut PerSenderLimit) -> Result<(), DsnError> {
        for about in self.store.pending_dsns(MAX_DSNS_PER_PASS)? {
            let Some(trail) = self.store.load_trail(about.tracking_id)? else { continue };
            let Some(sender) = trail.message.sender.clone() else { continue };
            if quota.try_acquire(&sender, self.clock.now()) {
                self.send_dsn(about, &trail, sender).await?;
            }
        }
        Ok(())
    }

    async fn send_dsn(
        &self,
        reported: ReportedRecipient,
        trail: &Trail,
        sender: Mailbox,
    ) -> Result<(), DsnError> {
        let Some(recipient) = trail.recipients.get(usize::from(reported.recipient_index)) else {
            return Ok(());
        };
        let now = self.clock.now();
        let id = self.id_generator.generate(now, fastrand::u128(..));
        let message_id = MessageId::parse(&format!("{id}@{}", self.hostname));
        let report =
            DsnMessage { id, now, hostname: &self.hostname, reported, message: &trail.message, recipient };
        let message = Bytes::from(report.compose(&sender));
        let send = Message {
            dsn_for: Some(reported),
            message_id,
            subject: dsn::FAILURE_SUBJECT.to_owned(),
            odoo_records: trail.message.odoo_records.clone(),
            body_type: if message.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime },
            size: message.len() as u64,
            ..Message::new(id, CLIENT_LABEL)
        };
        self.store
            .put_message_applied(AcceptedMessage { message: send, recipients: vec![sender] }, message)
            .await?;
        tracing::info!(%id, about = %reported.tracking_id, "created DSN for sender");
        Ok(())
    }
}

/// Limits the burst when a whole mailing fails: DSNs to one sender beyond `MAX_DSNS_PER_MINUTE` wait for
/// the next minute.
#[derive(Default)]
struct PerSenderLimit {
    minute: u64,
    counts: HashMap<String, u32>,
}

impl PerSenderLimit {
    fn try_acquire(&mut self, sender: &Mailbox, now: Timestamp) -> bool {
        let minute = now.as_secs() / 60;
        if minute != self.minute {
            (self.minute, self.counts) = (minute, HashMap::new());
        }
        let used = self.counts.entry(sender.to_folded()).or_default();
        *used += 1;
        *used <= MAX_DSNS_PER_MINUTE
    }
}

/// Client label of DSNs.
const CLIENT_LABEL: &str = "mailtrail";
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of DSNs examined in a pass.
const MAX_DSNS_PER_PASS: usize = 1000;
/// Maximum number of DSNs to one sender per minute.
const MAX_DSNS_PER_MINUTE: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_dsns_per_sender_and_minute() {
        let (ada, bob): (Mailbox, Mailbox) =
            ("Ada@a.example".parse().unwrap(), "bob@a.example".parse().unwrap());
        let (mut quota, now) = (PerSenderLimit::default(), Timestamp::from_secs(1_789_387_200));
        assert!((0..MAX_DSNS_PER_MINUTE).all(|_| quota.try_acquire(&ada, now)));
        assert!(!quota.try_acquire(&"ada@a.example".parse().unwrap(), now) && quota.try_acquire(&bob, now));
        assert!(quota.try_acquire(&ada, now.saturating_add(Duration::from_secs(60))));
    }
}
