//! Tells senders what became of their mail: one report (RFC 3464) for each recipient that failed for good, or that
//! arrived where the client asked for that (`NOTIFY=SUCCESS`). A report is a send of its own, so it is kept, tried
//! again and traced as any other; the record that accepts it is also what says that it was made.
//!
//! Nobody gets a report on a report: they have no sender.

use bytes::Bytes;
use mailtrail_mail::{BodyType, Clock, Mailbox, MessageId, Mint, Timestamp};
use mailtrail_store::{CommitError, ReadError, Store};
use mailtrail_trail::{About, Accepted, Report, Send, Trail, dsn};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a reporter works with.
pub struct Reporter {
    /// Where sends are.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where ids come from.
    pub mint: Arc<Mint>,
    /// Our name.
    pub hostname: String,
}

/// A report was not made; it is tried again.
#[derive(Debug, thiserror::Error)]
enum NotMade {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Reporter {
    /// Makes reports until we stop.
    pub async fn run(self, stopping: CancellationToken) {
        let mut quota = Quota::default();
        while stopping.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            if let Err(error) = self.round(&mut quota).await {
                tracing::error!(%error, "a report to a sender was not made; it is tried again");
            }
        }
    }

    async fn round(&self, quota: &mut Quota) -> Result<(), NotMade> {
        for about in self.store.unreported(AT_ONCE)? {
            let Some(trail) = self.store.trail(about.id)? else { continue };
            let Some(sender) = trail.send.sender.clone() else { continue };
            if quota.admits(&sender, self.clock.now()) {
                self.report(about, &trail, sender).await?;
            }
        }
        Ok(())
    }

    async fn report(&self, about: About, trail: &Trail, sender: Mailbox) -> Result<(), NotMade> {
        let Some(recipient) = trail.recipients.get(usize::from(about.recipient)) else { return Ok(()) };
        let now = self.clock.now();
        let id = self.mint.next(now, fastrand::u128(..));
        let message_id = MessageId::parse(&format!("{id}@{}", self.hostname));
        let report = Report { id, now, hostname: &self.hostname, about, send: &trail.send, recipient };
        let message = Bytes::from(report.compose(&sender));
        let send = Send {
            about: Some(about),
            message_id,
            subject: dsn::SUBJECT.to_owned(),
            records: trail.send.records.clone(),
            body: if message.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime },
            size: message.len() as u64,
            ..Send::new(id, CLIENT)
        };
        self.store.accept_and_apply(Accepted { send, recipients: vec![sender] }, message).await?;
        tracing::info!(%id, about = %about.id, "a report to the sender was made");
        Ok(())
    }
}

/// Bounds the storm when a whole mailing fails: a sender's reports that are over [`QUOTA`] wait for the next minute.
#[derive(Default)]
struct Quota {
    minute: u64,
    used: HashMap<String, u32>,
}

impl Quota {
    fn admits(&mut self, sender: &Mailbox, now: Timestamp) -> bool {
        let minute = now.seconds() / 60;
        if minute != self.minute {
            (self.minute, self.used) = (minute, HashMap::new());
        }
        let used = self.used.entry(sender.folded()).or_default();
        *used += 1;
        *used <= QUOTA
    }
}

/// The client's label of reports.
const CLIENT: &str = "mailtrail";
const EVERY: Duration = Duration::from_secs(1);
/// Reports that are looked at in a round.
const AT_ONCE: usize = 1000;
/// Reports to one sender in a minute.
const QUOTA: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_gets_so_many_reports_a_minute() {
        let (ada, bob): (Mailbox, Mailbox) =
            ("Ada@a.example".parse().unwrap(), "bob@a.example".parse().unwrap());
        let (mut quota, now) = (Quota::default(), Timestamp::from_seconds(1_789_387_200));
        assert!((0..QUOTA).all(|_| quota.admits(&ada, now)));
        assert!(!quota.admits(&"ada@a.example".parse().unwrap(), now) && quota.admits(&bob, now));
        assert!(quota.admits(&ada, now.after(Duration::from_secs(60))));
    }
}
