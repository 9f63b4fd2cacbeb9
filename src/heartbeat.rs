//! A mail of our own through the whole loop, now and then: whether what we send is taken, and whether the provider still
//! tells us so.

use crate::alarm::{Alarms, Kind};
use crate::clock::Clock;
use crate::id::{Mint, TrackingId};
use crate::ledger::{Accepted, Recipient, Send, Trail};
use crate::mail::{Mailbox, MessageId};
use crate::provider::OWN_ID_HEADER;
use crate::store::{CommitError, ReadError, Store};
use bytes::Bytes;
use mail_builder::MessageBuilder;
use mail_builder::headers::raw::Raw;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Who gets the mail, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The recipient: a mailbox of one's own, best at another provider.
    pub to: Mailbox,
    /// The sender; the upstream must know its domain.
    pub from: Mailbox,
    /// Time from one to the next. Default 1 h, 1 min to 7 days.
    pub every: Duration,
    /// How long its events may take. Default 15 min, 1 s to 1 day.
    pub patience: Duration,
}

/// What a heartbeat works with.
pub struct Heartbeat {
    /// Where mail is kept.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where ids come from.
    pub mint: Arc<Mint>,
    /// Our name.
    pub hostname: String,
    /// Where trouble is reported.
    pub alarms: Alarms,
    /// Who gets it, and how often.
    pub settings: Settings,
}

/// A beat was not made.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Heartbeat {
    /// Beats until we stop.
    pub async fn run(self, stopping: CancellationToken) {
        let Settings { every, patience, .. } = self.settings;
        let mut pause = FIRST.min(every);
        while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let beat = async {
                let id = self.beat().await?;
                tokio::time::sleep(patience).await;
                Ok::<_, Missed>(self.store.trail(id)?)
            };
            match stopping.run_until_cancelled(beat).await {
                None => return,
                Some(Ok(trail)) => self.judge(trail.as_ref()),
                Some(Err(error)) => tracing::error!(%error, "a heartbeat cannot be sent; the next one is"),
            }
            pause = every.saturating_sub(patience);
        }
    }

    async fn beat(&self) -> Result<TrackingId, CommitError> {
        let (now, Settings { to, from, .. }) = (self.clock.now(), &self.settings);
        let id = self.mint.next(now, fastrand::u128(..));
        let message_id = format!("{id}@{}", self.hostname);
        let message = MessageBuilder::new()
            .header(OWN_ID_HEADER, Raw::new(id.to_string()))
            .from(from.as_str())
            .to(to.as_str())
            .subject(SUBJECT)
            .message_id(message_id.as_str())
            .header("Date", Raw::new(now.rfc5322()))
            .header("Auto-Submitted", Raw::new("auto-generated"))
            .text_body("mailtrail sent this to see whether it arrives, and whether that is reported.\r\n")
            .write_to_vec()
            .expect("memory takes what is written");
        let send = Send {
            sender: Some(from.clone()),
            message_id: MessageId::parse(&message_id),
            subject: SUBJECT.to_owned(),
            size: message.len() as u64,
            smtputf8: !from.is_ascii() || !to.is_ascii(),
            ..Send::new(id, CLIENT)
        };
        let accepted = Accepted { send, recipients: vec![to.clone()] };
        self.store.accept(accepted, Bytes::from(message)).await?;
        Ok(id)
    }

    /// Well is what the provider has reported on, and not as a failure.
    fn judge(&self, trail: Option<&Trail>) {
        let recipient = trail.and_then(|trail| trail.recipients.first());
        let well = |one: &&Recipient| one.is_reported() && !one.state().is_failure();
        if recipient.filter(well).is_some() {
            return self.alarms.clear(Kind::Heartbeat, self.settings.to.as_str());
        }
        let state = recipient.map_or("lost", |recipient| recipient.state().word());
        let reported = if recipient.is_some_and(Recipient::is_reported) { "" } else { ", and no event came" };
        let id = trail.map(|trail| trail.send.id.to_string()).unwrap_or_default();
        let text = format!(
            "the test mail is {state}{reported} within {} s; `mailtrail trace {id}` tells more, and whether the \
             provider's webhook is registered and reaches us is to be looked at",
            self.settings.patience.as_secs()
        );
        self.alarms.raise(Kind::Heartbeat, self.settings.to.as_str(), text);
    }
}

/// The first one comes when whoever waits has come in.
const FIRST: Duration = Duration::from_secs(60);
/// The client's label.
const CLIENT: &str = "mailtrail";
const SUBJECT: &str = "mailtrail heartbeat";
