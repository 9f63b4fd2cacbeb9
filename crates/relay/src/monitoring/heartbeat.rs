//! A mail of our own through the whole loop, now and then: whether what we send is taken, and whether the provider still
//! tells us so.

use crate::alarms::{AlarmKind, AlarmRegistry};
use crate::internal_mail::{SubmitFn, compose_message};
use mailtrail_mail::{Mailbox, TrackingId};
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::{Recipient, Trail};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Who gets the mail, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatSettings {
    /// The recipient: a mailbox of one's own, best at another provider.
    pub recipient: Mailbox,
    /// The sender; the upstream must know its domain.
    pub sender: Mailbox,
    /// Time from one to the next. Default 1 h, 1 min to 7 days.
    pub interval: Duration,
    /// How long its events may take. Default 15 min, 1 s to 1 day.
    pub timeout: Duration,
}

/// What a heartbeat works with.
pub struct Heartbeat {
    /// Where mail is kept.
    pub store: Store,
    /// Takes the mail in.
    pub submit: SubmitFn,
    /// Where trouble is reported.
    pub alarms: AlarmRegistry,
    /// Who gets it, and how often.
    pub settings: HeartbeatSettings,
}

/// Error of a heartbeat that was not sent.
#[derive(Debug, thiserror::Error)]
enum HeartbeatError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the relay does not take the mail: {0}")]
    Rejected(String),
}

impl Heartbeat {
    /// Beats until we stop.
    pub async fn run(self, stopping: CancellationToken) {
        let HeartbeatSettings { interval, timeout, .. } = self.settings;
        let mut pause = INITIAL_DELAY.min(interval);
        while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let stats = async {
                let id = self.send_message().await?;
                tokio::time::sleep(timeout).await;
                Ok::<_, HeartbeatError>(self.store.load_trail(id)?)
            };
            match stopping.run_until_cancelled(stats).await {
                None => return,
                Some(Ok(trail)) => self.evaluate_trail(trail.as_ref()),
                Some(Err(error)) => tracing::error!(%error, "a heartbeat cannot be sent; the next one is"),
            }
            pause = interval.saturating_sub(timeout);
        }
    }

    async fn send_message(&self) -> Result<TrackingId, HeartbeatError> {
        let HeartbeatSettings { recipient, sender, .. } = &self.settings;
        let (envelope, message) = compose_message(sender, recipient, MESSAGE_SUBJECT, MESSAGE_BODY);
        (self.submit)(envelope, message).await.map_err(HeartbeatError::Rejected)
    }

    /// Well is what the provider has reported on, and not as a failure.
    fn evaluate_trail(&self, trail: Option<&Trail>) {
        let recipient = trail.and_then(|trail| trail.recipients.first());
        let well = |one: &&Recipient| one.has_provider_events() && !one.state().is_failure();
        if recipient.filter(well).is_some() {
            return self.alarms.clear(AlarmKind::Heartbeat, self.settings.recipient.as_str());
        }
        let state = recipient.map_or("lost", |recipient| recipient.state().as_str());
        let reported =
            if recipient.is_some_and(Recipient::has_provider_events) { "" } else { ", and no event came" };
        let id = trail.map(|trail| trail.message.id.to_string()).unwrap_or_default();
        let text = format!(
            "the test mail is {state}{reported} within {} s; `mailtrail trace {id}` tells more, and whether the \
             provider's webhook is registered and reaches us is to be looked at",
            self.settings.timeout.as_secs()
        );
        self.alarms.raise(AlarmKind::Heartbeat, self.settings.recipient.as_str(), text);
    }
}

/// The first one comes when whoever waits has come in.
const INITIAL_DELAY: Duration = Duration::from_secs(60);
const MESSAGE_SUBJECT: &str = "mailtrail heartbeat";
const MESSAGE_BODY: &str = "mailtrail sent this to see whether it arrives, and whether that is reported.";
