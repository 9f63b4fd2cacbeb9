//! A mail of our own through the whole loop, now and then: whether what we send is taken, and whether the provider still
//! tells us so.

use crate::alarms::{Alarms, Kind};
use crate::internal_mail::{HandIn, compose};
use mailtrail_mail::{Mailbox, TrackingId};
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::{Recipient, Trail};
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
    /// Takes the mail in.
    pub hand_in: HandIn,
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
    #[error("the relay does not take the mail: {0}")]
    Refused(String),
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
                Ok::<_, Missed>(self.store.load_trail(id)?)
            };
            match stopping.run_until_cancelled(beat).await {
                None => return,
                Some(Ok(trail)) => self.judge(trail.as_ref()),
                Some(Err(error)) => tracing::error!(%error, "a heartbeat cannot be sent; the next one is"),
            }
            pause = every.saturating_sub(patience);
        }
    }

    async fn beat(&self) -> Result<TrackingId, Missed> {
        let Settings { to, from, .. } = &self.settings;
        let (envelope, message) = compose(from, to, SUBJECT, TEXT);
        (self.hand_in)(envelope, message).await.map_err(Missed::Refused)
    }

    /// Well is what the provider has reported on, and not as a failure.
    fn judge(&self, trail: Option<&Trail>) {
        let recipient = trail.and_then(|trail| trail.recipients.first());
        let well = |one: &&Recipient| one.has_provider_events() && !one.state().is_failure();
        if recipient.filter(well).is_some() {
            return self.alarms.clear(Kind::Heartbeat, self.settings.to.as_str());
        }
        let state = recipient.map_or("lost", |recipient| recipient.state().as_str());
        let reported =
            if recipient.is_some_and(Recipient::has_provider_events) { "" } else { ", and no event came" };
        let id = trail.map(|trail| trail.message.id.to_string()).unwrap_or_default();
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
const SUBJECT: &str = "mailtrail heartbeat";
const TEXT: &str = "mailtrail sent this to see whether it arrives, and whether that is reported.";
