use crate::alarms::{Alarms, Kind};
use crate::inbound::message::Letter;
use crate::inbound::{Settings, Target, Verdict};
use futures_util::future::join_all;
use mailtrail_mail::{Clock, Mailbox, Timestamp};
use mailtrail_net::webhook_client;
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::{Fate, InboundMail, Move};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Brings mail from outside to its targets.
pub struct Carrier {
    /// The store.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where it is said that a target takes nothing.
    pub alarms: Alarms,
    /// Our name.
    pub hostname: String,
    /// The targets, in the order in which they are asked whose a mail is.
    pub targets: Vec<Settings>,
}

/// One target, and how it is at the moment.
struct Round<'a> {
    carrier: &'a Carrier,
    place: usize,
    target: Target,
    /// Since when it takes nothing.
    away: Option<Timestamp>,
    pause: Duration,
}

impl Carrier {
    /// Carries until we stop. Without targets the mail that came for former ones waits.
    pub async fn run(self, stopping: CancellationToken) {
        if self.targets.is_empty() {
            return;
        }
        let rounds = (0..self.targets.len()).map(|place| self.round(place).run(&stopping));
        tokio::join!(join_all(rounds), self.bury_unclaimed(&stopping));
    }

    fn round(&self, place: usize) -> Round<'_> {
        let target = Target::new(&self.targets[place].kind, &self.hostname);
        Round { carrier: self, place, target, away: None, pause: FIRST_PAUSE }
    }

    /// The place of the target that gets mail to that address.
    fn claim(&self, recipient: &Mailbox) -> Option<usize> {
        let fits = |target: &Settings| {
            target.recipients.is_empty() || target.recipients.iter().any(|pattern| recipient.matches(pattern))
        };
        self.targets.iter().position(fits)
    }

    /// The first mail to come that is due and the target's; of no target's where there is no place.
    async fn next(&self, place: Option<usize>) -> Result<Option<InboundMail>, ReadError> {
        let now = self.clock.now();
        self.store.next_inbound(now, |recipient| self.claim(recipient) == place)
    }

    async fn bury_unclaimed(&self, stopping: &CancellationToken) {
        loop {
            let pause = match self.next(None).await {
                Ok(Some(mail)) => {
                    let why = format!("no [[inbound.target]] takes mail to {}", mail.arrival.recipient);
                    self.move_on(&mail, Fate::Dead { target: String::new(), why }).await
                }
                Ok(None) => IDLE,
                Err(error) => self.unread(&error),
            };
            if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    fn unread(&self, error: &ReadError) -> Duration {
        tracing::error!(%error, "mail from outside cannot be looked for; it is tried again");
        LONGEST_PAUSE
    }

    /// Notes what became of a mail; says how long to wait.
    async fn move_on(&self, mail: &InboundMail, fate: Fate) -> Duration {
        let id = mail.arrival.id;
        let recipient = mail.arrival.recipient.as_str();
        let (target, outcome) = match &fate {
            Fate::Delivered { target, .. } => (target.clone(), "taken"),
            Fate::Deferred { target, why, .. } => {
                tracing::warn!(%id, recipient, target, why, "a mail from outside is not taken for now");
                (target.clone(), "deferred")
            }
            Fate::Dead { target, why } => {
                tracing::error!(
                    %id, recipient, target, why,
                    "a mail from outside cannot be delivered; `mailtrail inbound dead` lists it"
                );
                let text =
                    "mail from outside could not be delivered; `mailtrail inbound dead` has the reasons";
                self.alarms.note(Kind::Dead, "inbound", text, NEW);
                (target.clone(), "refused")
            }
            Fate::Released { .. } => (String::new(), "released"),
        };
        metrics::counter!("mailtrail_inbound_deliveries_total", "target" => target, "outcome" => outcome)
            .increment(1);
        match self.store.move_inbound(Move { id, at: self.clock.now(), fate }).await {
            Ok(()) => Duration::ZERO,
            Err(error) => {
                tracing::error!(%id, %error, "what became of a mail from outside cannot be kept; it is delivered again");
                LONGEST_PAUSE
            }
        }
    }
}

impl Round<'_> {
    async fn run(mut self, stopping: &CancellationToken) {
        loop {
            let pause = tokio::select! {
                pause = self.step() => pause,
                // Nobody knows then whether the target has it: it gets it again.
                () = webhook_client::too_late(stopping) => return,
            };
            if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Brings the next mail; says how long to wait for more.
    async fn step(&mut self) -> Duration {
        let mail = match self.carrier.next(Some(self.place)).await {
            Ok(Some(mail)) => mail,
            Ok(None) => return IDLE,
            Err(error) => return self.carrier.unread(&error),
        };
        let name = self.carrier.targets[self.place].name.clone();
        let message = match self.carrier.store.inbound_message(mail.arrival.id) {
            Ok(Some(message)) => message,
            Ok(None) => {
                let why = "its message is damaged, or no longer kept".to_owned();
                return self.carrier.move_on(&mail, Fate::Dead { target: String::new(), why }).await;
            }
            Err(error) => return self.carrier.unread(&error),
        };
        let letter = Letter::new(mail, message, &self.carrier.hostname);
        let verdict = self.target.deliver(&letter).await;
        if let Verdict::Denied(why) = &verdict {
            let text = format!("a right is missing, and the mail that needs it waits: {why}");
            self.carrier.alarms.note(Kind::Inbound, &format!("{name} rights"), &text, NEW);
        }
        let mail = letter.mail;
        match self.late(&mail, verdict) {
            Verdict::Taken(words) => {
                self.well();
                self.carrier.move_on(&mail, Fate::Delivered { target: name, words }).await
            }
            Verdict::Refused(why) => self.carrier.move_on(&mail, Fate::Dead { target: name, why }).await,
            Verdict::Later(why) | Verdict::Denied(why) => {
                self.well();
                let wait = FIRST_WAIT.saturating_mul(1 << mail.attempts.min(16)).min(LONGEST_WAIT);
                let due = self.carrier.clock.now().after(wait);
                self.carrier.move_on(&mail, Fate::Deferred { target: name, why, due }).await
            }
            Verdict::Away(why) => self.ill(&name, &why),
        }
    }

    /// What was offered for long enough is refused.
    fn late(&self, mail: &InboundMail, verdict: Verdict) -> Verdict {
        let patience = self.carrier.targets[self.place].give_up_after;
        let waited = self.carrier.clock.now().since(mail.since);
        match verdict {
            Verdict::Later(why) | Verdict::Denied(why) | Verdict::Away(why) if waited >= patience => {
                Verdict::Refused(format!("given up after {} h: {why}", waited.as_secs() / 3600))
            }
            verdict => verdict,
        }
    }

    fn well(&mut self) {
        self.pause = FIRST_PAUSE;
        if self.away.take().is_some() {
            self.carrier.alarms.clear(Kind::Inbound, &self.carrier.targets[self.place].name);
        }
    }

    fn ill(&mut self, name: &str, why: &str) -> Duration {
        let now = self.carrier.clock.now();
        let since = *self.away.get_or_insert(now);
        if now.since(since) >= PATIENCE {
            let text = format!("takes no mail: {why}; what comes in meanwhile waits");
            self.carrier.alarms.set(Kind::Inbound, name, Some(text));
        }
        tracing::warn!(target = name, why, "a target takes no mail from outside for now");
        let pause = self.pause.mul_f64(1.0 + fastrand::f64() / 4.0);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Time between two looks for mail.
const IDLE: Duration = Duration::from_millis(500);
/// How long a target is left alone that takes nothing.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long a mail waits that is not taken for now; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(60);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How long a dead letter is new.
const NEW: Duration = Duration::from_secs(86_400);
/// How long a target may take nothing before that is an alarm.
const PATIENCE: Duration = Duration::from_secs(60);
