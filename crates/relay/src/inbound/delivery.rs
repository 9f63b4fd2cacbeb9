use crate::alarms::{AlarmKind, AlarmRegistry, DEAD_LETTER_ALARM_WINDOW};
use crate::inbound::message::InboundMessage;
use crate::inbound::response::TargetResponse;
use crate::inbound::target::{TargetBackend, TargetSettings};
use futures_util::future::join_all;
use mailtrail_mail::{Clock, Mailbox, Timestamp};
use mailtrail_net::webhook_client;
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::{InboundOutcome, InboundSummary, InboundTransition};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Brings mail from outside to its targets.
#[derive(Clone)]
pub struct InboundDelivery {
    /// Source of inbound messages.
    pub store: Store,
    /// Clock of the retry schedule.
    pub clock: Clock,
    /// Registry of active alarms, for failing targets.
    pub alarms: AlarmRegistry,
    /// Host name of the relay, for EHLO and Message-IDs.
    pub hostname: String,
    /// Targets in the order in which recipients are matched.
    pub targets: Vec<TargetSettings>,
}

/// One target, and how it is at the moment.
struct TargetLoop<'a> {
    delivery: &'a InboundDelivery,
    index: usize,
    target: TargetBackend,
    /// Since when it takes nothing.
    down_since: Option<Timestamp>,
    backoff: Duration,
}

impl InboundDelivery {
    /// Carries until we stop. Without targets the mail that came for former ones waits.
    pub async fn run(self, stopping: CancellationToken) {
        if self.targets.is_empty() {
            return;
        }
        let rounds = (0..self.targets.len()).map(|place| self.target_loop(place).run(&stopping));
        tokio::join!(join_all(rounds), self.dead_letter_unroutable(&stopping));
    }

    fn target_loop(&self, index: usize) -> TargetLoop<'_> {
        let target = TargetBackend::new(&self.targets[index].kind, &self.hostname);
        TargetLoop { delivery: self, index, target, down_since: None, backoff: INITIAL_BACKOFF }
    }

    /// The place of the target that gets mail to that address.
    fn route(&self, recipient: &Mailbox) -> Option<usize> {
        let fits = |target: &TargetSettings| {
            target.recipients.is_empty()
                || target.recipients.iter().any(|pattern| recipient.matches_pattern(pattern))
        };
        self.targets.iter().position(fits)
    }

    /// The first mail to come that is due and the target's; of no target's where there is no place.
    async fn next_message(&self, place: Option<usize>) -> Result<Option<InboundSummary>, ReadError> {
        let now = self.clock.now();
        self.store.next_due_inbound(now, |recipient| self.route(recipient) == place)
    }

    async fn dead_letter_unroutable(&self, stopping: &CancellationToken) {
        loop {
            let pause = match self.next_message(None).await {
                Ok(Some(mail)) => {
                    let reason = format!("no [[inbound.target]] takes mail to {}", mail.received.recipient);
                    self.record_outcome(&mail, InboundOutcome::DeadLettered { target: String::new(), reason })
                        .await
                }
                Ok(None) => POLL_INTERVAL,
                Err(error) => self.on_read_error(&error),
            };
            if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    fn on_read_error(&self, error: &ReadError) -> Duration {
        tracing::error!(%error, "mail from outside cannot be looked for; it is tried again");
        MAX_BACKOFF
    }

    /// Records the outcome of a delivery. Returns the time until the next one.
    async fn record_outcome(&self, mail: &InboundSummary, scenario: InboundOutcome) -> Duration {
        let id = mail.received.id;
        let recipient = mail.received.recipient.as_str();
        let (target, outcome) = match &scenario {
            InboundOutcome::Delivered { target, .. } => (target.clone(), "taken"),
            InboundOutcome::Deferred { target, reason, .. } => {
                tracing::warn!(%id, recipient, target, reason, "a mail from outside is not taken for now");
                (target.clone(), "deferred")
            }
            InboundOutcome::DeadLettered { target, reason } => {
                tracing::error!(
                    %id, recipient, target, reason,
                    "a mail from outside cannot be delivered; `mailtrail inbound dead` lists it"
                );
                let text =
                    "mail from outside could not be delivered; `mailtrail inbound dead` has the reasons";
                self.alarms.raise_for(AlarmKind::DeadLetters, "inbound", text, DEAD_LETTER_ALARM_WINDOW);
                (target.clone(), "refused")
            }
            InboundOutcome::Released { .. } => (String::new(), "released"),
        };
        metrics::counter!("mailtrail_inbound_deliveries_total", "target" => target, "outcome" => outcome)
            .increment(1);
        match self
            .store
            .record_inbound(InboundTransition { id, at: self.clock.now(), outcome: scenario })
            .await
        {
            Ok(()) => Duration::ZERO,
            Err(error) => {
                tracing::error!(%id, %error, "what became of a mail from outside cannot be kept; it is delivered again");
                MAX_BACKOFF
            }
        }
    }
}

impl TargetLoop<'_> {
    async fn run(mut self, stopping: &CancellationToken) {
        loop {
            let pause = tokio::select! {
                pause = self.deliver_next() => pause,
                // The result is unknown, so the message is delivered again.
                () = webhook_client::shutdown_grace_elapsed(stopping) => return,
            };
            if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Delivers the next message. Returns the time until the next one.
    async fn deliver_next(&mut self) -> Duration {
        let mail = match self.delivery.next_message(Some(self.index)).await {
            Ok(Some(mail)) => mail,
            Ok(None) => return POLL_INTERVAL,
            Err(error) => return self.delivery.on_read_error(&error),
        };
        let name = self.delivery.targets[self.index].name.clone();
        let message = match self.delivery.store.load_inbound_body(mail.received.id) {
            Ok(Some(message)) => message,
            Ok(None) => {
                let reason = "its message is damaged, or no longer kept".to_owned();
                return self
                    .delivery
                    .record_outcome(&mail, InboundOutcome::DeadLettered { target: String::new(), reason })
                    .await;
            }
            Err(error) => return self.delivery.on_read_error(&error),
        };
        let letter = InboundMessage::new(mail, message, &self.delivery.hostname);
        let verdict = self.target.deliver(&letter).await;
        if let TargetResponse::AccessDenied(why) = &verdict {
            let text = format!("a right is missing, and the mail that needs it waits: {why}");
            self.delivery.alarms.raise_for(
                AlarmKind::Inbound,
                &format!("{name} rights"),
                &text,
                DEAD_LETTER_ALARM_WINDOW,
            );
        }
        let mail = letter.mail;
        match self.expire_overdue(&mail, verdict) {
            TargetResponse::Accepted(reply) => {
                self.mark_up();
                self.delivery.record_outcome(&mail, InboundOutcome::Delivered { target: name, reply }).await
            }
            TargetResponse::Rejected(reason) => {
                self.delivery
                    .record_outcome(&mail, InboundOutcome::DeadLettered { target: name, reason })
                    .await
            }
            TargetResponse::Deferred(reason) | TargetResponse::AccessDenied(reason) => {
                self.mark_up();
                let wait =
                    INITIAL_RETRY_DELAY.saturating_mul(1 << mail.deferrals.min(16)).min(MAX_RETRY_DELAY);
                let next_attempt = self.delivery.clock.now().saturating_add(wait);
                self.delivery
                    .record_outcome(&mail, InboundOutcome::Deferred { target: name, reason, next_attempt })
                    .await
            }
            TargetResponse::Unavailable(why) => self.mark_down(&name, &why),
        }
    }

    /// Converts a deferral after `give_up_after` into a rejection.
    fn expire_overdue(&self, mail: &InboundSummary, verdict: TargetResponse) -> TargetResponse {
        let patience = self.delivery.targets[self.index].give_up_after;
        let waited = self.delivery.clock.now().duration_since(mail.state_since);
        match verdict {
            TargetResponse::Deferred(why)
            | TargetResponse::AccessDenied(why)
            | TargetResponse::Unavailable(why)
                if waited >= patience =>
            {
                TargetResponse::Rejected(format!("given up after {} h: {why}", waited.as_secs() / 3600))
            }
            verdict => verdict,
        }
    }

    fn mark_up(&mut self) {
        self.backoff = INITIAL_BACKOFF;
        if self.down_since.take().is_some() {
            self.delivery.alarms.clear(AlarmKind::Inbound, &self.delivery.targets[self.index].name);
        }
    }

    fn mark_down(&mut self, name: &str, why: &str) -> Duration {
        let now = self.delivery.clock.now();
        let since = *self.down_since.get_or_insert(now);
        if now.duration_since(since) >= DOWN_ALARM_AFTER {
            let text = format!("takes no mail: {why}; what comes in meanwhile waits");
            self.delivery.alarms.set(AlarmKind::Inbound, name, Some(text));
        }
        tracing::warn!(target = name, why, "a target takes no mail from outside for now");
        let pause = self.backoff.mul_f64(1.0 + fastrand::f64() / 4.0);
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        pause
    }
}

/// Interval between checks for messages.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long a target is left alone that takes nothing.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// Delay after the first deferral of a message; it doubles.
const INITIAL_RETRY_DELAY: Duration = Duration::from_secs(60);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(3600);
/// How long a target may take nothing before that is an alarm.
const DOWN_ALARM_AFTER: Duration = Duration::from_secs(60);
