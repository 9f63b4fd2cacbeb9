use crate::activecampaign::Campaigns;
use crate::brevo::Brevo;
use crate::captured::{Message, Shelf};
use crate::event_log::Log;
use crate::fault_injection::Sky;
use crate::lifecycle::Story;
use crate::mailgun::{Hooks, Suppressions};
use crate::message_facts::{Facts, Origin};
use crate::profile::Face;
use crate::rate_limit::Limiter;
use crate::scenario::Fate;
use crate::seen::Memory;
use crate::smtp::Login;
use crate::tasks::Tasks;
use crate::time_scale::Pace;
use crate::webhook_client::{Address, Target, Webhook, hex, random};
use crate::{SandboxError, Settings, brevo, lifecycle};
use axum::http::HeaderMap;
use bytes::Bytes;
use mailtrail_mail::{Clock, Envelope, HeaderBlock, MessageId, Secret, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// What all sessions and stories of one sandbox share.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) face: Face,
    pub(crate) domain: String,
    pub(crate) login: Arc<Login>,
    pub(crate) api_key: Secret,
    pub(crate) pace: Pace,
    pub(crate) memory: Memory,
    pub(crate) shelf: Shelf,
    pub(crate) webhook: Webhook,
    pub(crate) tasks: Tasks,
    pub(crate) log: Log,
    pub(crate) suppressions: Suppressions,
    pub(crate) hooks: Hooks,
    pub(crate) brevo: Brevo,
    pub(crate) campaigns: Campaigns,
    pub(crate) sky: Sky,
    pub(crate) limiter: Limiter,
    pub(crate) signing_key: Secret,
    pub(crate) clock: Clock,
    last: AtomicU64,
    happened: AtomicU64,
    places: Arc<Semaphore>,
}

impl House {
    pub(crate) fn new(settings: Settings, pace: Pace) -> Result<Self, SandboxError> {
        Ok(Self {
            login: Arc::new(Login::new(settings.username, settings.password)),
            face: settings.face,
            webhook: Webhook::new(settings.face, settings.webhook, settings.signing_key.clone())?,
            signing_key: settings.signing_key,
            domain: settings.domain,
            api_key: settings.api_key,
            pace,
            memory: Memory::default(),
            shelf: Shelf::default(),
            tasks: Tasks::new(),
            log: Log::default(),
            suppressions: Suppressions::default(),
            hooks: Hooks::default(),
            brevo: Brevo::default(),
            campaigns: Campaigns::default(),
            sky: Sky::new(settings.weather),
            limiter: Limiter::default(),
            happened: AtomicU64::new(0),
            clock: settings.clock,
            last: AtomicU64::new(0),
            places: Arc::new(Semaphore::new(STORIES)),
        })
    }

    /// Takes a message, starts its recipients' stories and says its id; `None` when there is no room for them.
    pub(crate) fn take(
        self: &Arc<Self>,
        envelope: Envelope,
        raw: Bytes,
        origin: Origin,
    ) -> Option<MessageId> {
        let count = u32::try_from(envelope.recipients.len()).unwrap_or(u32::MAX);
        let mut places = self.places.clone().try_acquire_many_owned(count).ok()?;
        let facts = Arc::new(Facts::read(&envelope, &raw, origin, &self.domain, &self.made_up_id()));
        let Envelope { sender, recipients, .. } = envelope;
        let id = facts.message_id.clone();
        self.shelf.put(Message { number: 0, id: id.clone(), sender, recipients: recipients.clone(), raw });
        for recipient in recipients {
            let Some(place) = places.split(1) else { break };
            let story = Arc::new(Story::new(facts.clone(), recipient, place));
            self.tasks.spawn(lifecycle::tell(self.clone(), story));
        }
        Some(id)
    }

    /// What a message is called that has no Message-ID of its own.
    fn made_up_id(&self) -> String {
        match self.face {
            Face::Mailgun => format!("{}@{}", hex(&random::<12>()), self.domain),
            Face::Brevo => brevo::made_up_id(self.clock.now()),
        }
    }

    /// Where a target is, and what it is shown; `None` where there is nothing any more.
    pub(crate) fn address(&self, target: &Target) -> Option<Address> {
        match target {
            Target::Configured => self.webhook.configured(),
            Target::Registered(url) => Some(Address { url: url.clone(), fields: HeaderMap::new() }),
            Target::Brevo(id) => self.brevo.hooks.address(*id),
        }
    }

    /// Whether a recipient has this fate and sees this Message-ID for the first time.
    pub(crate) fn is_first(&self, envelope: &Envelope, raw: &[u8], fate: Fate) -> bool {
        let concerned = envelope.recipients.iter().filter(|to| Fate::of(to) == fate);
        let id = || HeaderBlock::of(raw).first("Message-ID").map(|id| id.text()).unwrap_or_default();
        let first = concerned
            .filter(|to| self.memory.count(format!("{} {} {}", fate.word(), id(), to.folded())) == 0);
        first.count() > 0
    }

    /// The time in microseconds since 1970; no two events have the same, as in Mailgun's log.
    pub(crate) fn stamp(&self) -> u64 {
        let now = self.clock.now().millis().saturating_mul(1000);
        let next = |last: u64| now.max(last + 1);
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(last.unwrap_or_default())
    }

    /// The time in microseconds since 1970; no event that happened is later.
    pub(crate) fn now(&self) -> u64 {
        let now = self.clock.now().millis().saturating_mul(1000);
        now.max(self.last.load(Ordering::Relaxed))
    }

    /// Whether the weather loses a webhook, which is counted.
    pub(crate) fn loses(&self) -> bool {
        let lost = fastrand::f64() < self.sky.now().lose;
        if lost {
            self.shelf.count(|tally| tally.lost_events += 1);
        }
        lost
    }

    /// When an event of now appears: every second one late, if the weather is like that.
    pub(crate) fn appears(&self) -> Timestamp {
        let second = !self.happened.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        let late = if second { self.sky.now().late } else { 0 };
        self.clock.now().after(Duration::from_secs(late.into()))
    }

    /// The same over SMTP.
    pub(crate) fn rate_limited_reply(&self) -> String {
        match self.face {
            Face::Mailgun => format!("421 {}", self.rate_limited()),
            // Nobody has seen Brevo say it.
            Face::Brevo => "421 4.7.0 Too many messages, please slow down".to_owned(),
        }
    }

    /// Mailgun's refusal of a domain that has sent too much.
    pub(crate) fn rate_limited(&self) -> String {
        let until = date(self.clock.now().after(self.pace.of(RATE_LIMIT)));
        format!(
            "Domain {} is not allowed to send: recipient limit exceeded, try again after {until}",
            self.domain
        )
    }
}

/// A time as Mailgun writes it.
pub(crate) fn date(at: Timestamp) -> String {
    at.rfc5322().replace("+0000", "UTC")
}

/// Recipients whose events are not all settled; beyond it mail is refused for the time being, so that no event is lost.
const STORIES: usize = 50_000;
/// Mailgun's seconds that a rate-limited domain has to wait.
const RATE_LIMIT: u32 = 5;
