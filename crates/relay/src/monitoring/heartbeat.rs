//! Periodic test mail through the whole loop: the upstream must accept it, and the provider must report its delivery.

use crate::alarms::{AlarmKind, AlarmRegistry};
use crate::internal_mail::{SubmitFn, compose_for_submission};
use mailtrail_mail::{Mailbox, TrackingId};
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::{Recipient, Trail};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Recipient and timing of heartbeats; configuration: `[heartbeat]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatSettings {
    /// Recipient: the operator's own mailbox, preferably at another provider.
    pub recipient: Mailbox,
    /// Sender; the upstream must accept its domain.
    pub sender: Mailbox,
    /// Default: 1 h; `1 min..=7 days`.
    pub interval: Duration,
    /// Time limit for its provider events. Default: 15 min; `1 s..=1 day`.
    pub timeout: Duration,
}

/// Sender and evaluator of heartbeats.
#[expect(missing_docs, reason = "the names say all")]
#[derive(Clone)]
pub struct Heartbeat {
    pub store: Store,
    pub submit: SubmitFn,
    pub alarms: AlarmRegistry,
    pub settings: HeartbeatSettings,
}

/// Error of a heartbeat that was not sent.
#[derive(Debug, thiserror::Error)]
enum HeartbeatError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the relay rejected the message: {0}")]
    Rejected(String),
}

impl Heartbeat {
    /// Sends heartbeats until shutdown.
    pub async fn run(self, stopping: CancellationToken) {
        let HeartbeatSettings { interval, timeout, .. } = self.settings;
        let mut pause = INITIAL_DELAY.min(interval);
        while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let heartbeat = async {
                let id = self.send_message().await?;
                tokio::time::sleep(timeout).await;
                Ok::<_, HeartbeatError>(self.store.load_trail(id)?)
            };
            match stopping.run_until_cancelled(heartbeat).await {
                None => return,
                Some(Ok(trail)) => self.evaluate_trail(trail.as_ref()),
                Some(Err(error)) => {
                    tracing::error!(%error, "heartbeat not sent; will retry at the next interval")
                }
            }
            pause = interval.saturating_sub(timeout);
        }
    }

    async fn send_message(&self) -> Result<TrackingId, HeartbeatError> {
        let HeartbeatSettings { recipient, sender, .. } = &self.settings;
        let (envelope, message) = compose_for_submission(sender, recipient, MESSAGE_SUBJECT, MESSAGE_BODY);
        (self.submit)(envelope, message).await.map_err(HeartbeatError::Rejected)
    }

    /// Clears the alarm if the provider reported events and no failure; raises it otherwise.
    fn evaluate_trail(&self, trail: Option<&Trail>) {
        let recipient = trail.and_then(|trail| trail.recipients.first());
        let is_delivered =
            |recipient: &&Recipient| recipient.has_provider_events() && !recipient.state().is_failure();
        if recipient.filter(is_delivered).is_some() {
            return self.alarms.clear(AlarmKind::Heartbeat, self.settings.recipient.as_str());
        }
        let state = recipient.map_or("lost", |recipient| recipient.state().as_str());
        let reported =
            if recipient.is_some_and(Recipient::has_provider_events) { "" } else { " without an event" };
        let id = trail.map(|trail| trail.message.id.to_string()).unwrap_or_default();
        let text = format!(
            "the test mail is {state}{reported} within {} s; see `mailtrail trace {id}`, and check the provider's \
             webhook with `mailtrail doctor`",
            self.settings.timeout.as_secs()
        );
        self.alarms.raise(AlarmKind::Heartbeat, self.settings.recipient.as_str(), text);
    }
}

/// Delay of the first heartbeat, so that queued messages go first.
const INITIAL_DELAY: Duration = Duration::from_secs(60);
const MESSAGE_SUBJECT: &str = "mailtrail heartbeat";
const MESSAGE_BODY: &str = "mailtrail sent this to see whether it arrives, and whether that is reported.";
