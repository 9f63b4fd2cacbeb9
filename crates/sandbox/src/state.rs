use crate::activecampaign::ContactWebhook;
use crate::brevo::BrevoState;
use crate::captured::{CapturedMessage, CapturedMessages};
use crate::event_log::EventLog;
use crate::fault_injection::FaultInjector;
use crate::lifecycle::RecipientLifecycle;
use crate::mailgun::{MailgunWebhookRegistry, SuppressionLists};
use crate::message_facts::{MessageFacts, SubmissionOrigin};
use crate::profile::ProviderProfile;
use crate::rate_limit::WindowCounter;
use crate::scenario::Scenario;
use crate::seen::SeenCounter;
use crate::smtp::Credentials;
use crate::tasks::Tasks;
use crate::time_scale::TimeScale;
use crate::webhook_client::{WebhookClient, WebhookEndpoint, WebhookTarget, encode_hex, random_bytes};
use crate::{SandboxError, SandboxSettings, brevo, lifecycle};
use axum::http::HeaderMap;
use bytes::Bytes;
use mailtrail_mail::{Clock, Envelope, HeaderSection, MessageId, Secret, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// What all sessions and stories of one sandbox share.
#[derive(Debug)]
pub(crate) struct SandboxState {
    pub(crate) profile: ProviderProfile,
    pub(crate) domain: String,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) api_key: Secret,
    pub(crate) time_scale: TimeScale,
    pub(crate) seen_counter: SeenCounter,
    pub(crate) captured: CapturedMessages,
    pub(crate) webhook_client: WebhookClient,
    pub(crate) tasks: Tasks,
    pub(crate) event_log: EventLog,
    pub(crate) suppressions: SuppressionLists,
    pub(crate) mailgun_webhooks: MailgunWebhookRegistry,
    pub(crate) brevo: BrevoState,
    pub(crate) contact_webhook: ContactWebhook,
    pub(crate) faults: FaultInjector,
    pub(crate) request_counter: WindowCounter,
    pub(crate) signing_key: Secret,
    pub(crate) clock: Clock,
    last_event_micros: AtomicU64,
    event_count: AtomicU64,
    lifecycle_permits: Arc<Semaphore>,
}

impl SandboxState {
    pub(crate) fn new(settings: SandboxSettings, time_scale: TimeScale) -> Result<Self, SandboxError> {
        Ok(Self {
            credentials: Arc::new(Credentials::new(settings.username, settings.password)),
            profile: settings.profile,
            webhook_client: WebhookClient::new(
                settings.profile,
                settings.webhook_url,
                settings.signing_key.clone(),
            )?,
            signing_key: settings.signing_key,
            domain: settings.domain,
            api_key: settings.api_key,
            time_scale,
            seen_counter: SeenCounter::default(),
            captured: CapturedMessages::default(),
            tasks: Tasks::new(),
            event_log: EventLog::default(),
            suppressions: SuppressionLists::default(),
            mailgun_webhooks: MailgunWebhookRegistry::default(),
            brevo: BrevoState::default(),
            contact_webhook: ContactWebhook::default(),
            faults: FaultInjector::new(settings.faults),
            request_counter: WindowCounter::default(),
            event_count: AtomicU64::new(0),
            clock: settings.clock,
            last_event_micros: AtomicU64::new(0),
            lifecycle_permits: Arc::new(Semaphore::new(MAX_ACTIVE_LIFECYCLES)),
        })
    }

    /// Accepts a message and starts the lifecycles of its recipients. Returns its id; `None` if there are too many.
    pub(crate) fn accept_message(
        self: &Arc<Self>,
        envelope: Envelope,
        raw: Bytes,
        origin: SubmissionOrigin,
    ) -> Option<MessageId> {
        let count = u32::try_from(envelope.recipients.len()).unwrap_or(u32::MAX);
        let mut places = self.lifecycle_permits.clone().try_acquire_many_owned(count).ok()?;
        let facts = Arc::new(MessageFacts::from_message(
            &envelope,
            &raw,
            origin,
            &self.domain,
            &self.generate_message_id(),
        ));
        let Envelope { sender, recipients, .. } = envelope;
        let id = facts.message_id.clone();
        self.captured.push(CapturedMessage {
            number: 0,
            id: id.clone(),
            sender,
            recipients: recipients.clone(),
            raw,
        });
        for recipient in recipients {
            let Some(place) = places.split(1) else { break };
            let story = Arc::new(RecipientLifecycle::new(facts.clone(), recipient, place));
            self.tasks.spawn(lifecycle::run_lifecycle(self.clone(), story));
        }
        Some(id)
    }

    /// Generates the Message-ID of a message without one.
    fn generate_message_id(&self) -> String {
        match self.profile {
            ProviderProfile::Mailgun => format!("{}@{}", encode_hex(&random_bytes::<12>()), self.domain),
            ProviderProfile::Brevo => brevo::generate_message_id(self.clock.now()),
        }
    }

    /// URL and authentication of a target; `None` if it no longer exists.
    pub(crate) fn resolve_target(&self, target: &WebhookTarget) -> Option<WebhookEndpoint> {
        match target {
            WebhookTarget::Configured => self.webhook_client.configured_endpoint(),
            WebhookTarget::Registered(url) => {
                Some(WebhookEndpoint { url: url.clone(), headers: HeaderMap::new() })
            }
            WebhookTarget::Brevo(id) => self.brevo.webhooks.endpoint_of(*id),
        }
    }

    /// Returns whether a recipient has this scenario and receives this Message-ID for the first time.
    pub(crate) fn is_first_attempt(&self, envelope: &Envelope, raw: &[u8], scenario: Scenario) -> bool {
        let concerned = envelope.recipients.iter().filter(|to| Scenario::for_recipient(to) == scenario);
        let id =
            || HeaderSection::parse(raw).find_field("Message-ID").map(|id| id.to_text()).unwrap_or_default();
        let first = concerned.filter(|to| {
            self.seen_counter.record_seen(format!("{} {} {}", scenario.as_str(), id(), to.to_folded())) == 0
        });
        first.count() > 0
    }

    /// Time in microseconds since 1970, unique as in Mailgun's log.
    pub(crate) fn next_event_micros(&self) -> u64 {
        let now = self.clock.now().as_millis().saturating_mul(1000);
        let next = |last: u64| now.max(last + 1);
        let last = self
            .last_event_micros
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(last.unwrap_or_default())
    }

    /// The time in microseconds since 1970; no event that happened is later.
    pub(crate) fn current_micros(&self) -> u64 {
        let now = self.clock.now().as_millis().saturating_mul(1000);
        now.max(self.last_event_micros.load(Ordering::Relaxed))
    }

    /// Whether the weather loses a webhook, which is counted.
    pub(crate) fn should_lose_webhook(&self) -> bool {
        let lost = fastrand::f64() < self.faults.current().lose;
        if lost {
            self.captured.update_counters(|tally| tally.lost_events += 1);
        }
        lost
    }

    /// When an event of now appears: every second one late, if the weather is like that.
    pub(crate) fn event_visible_at(&self) -> Timestamp {
        let second = !self.event_count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        let late = if second { self.faults.current().late } else { 0 };
        self.clock.now().saturating_add(Duration::from_secs(late.into()))
    }

    /// SMTP reply of the rate limit.
    pub(crate) fn rate_limit_reply(&self) -> String {
        match self.profile {
            ProviderProfile::Mailgun => format!("421 {}", self.rate_limit_message()),
            // Not observed at Brevo.
            ProviderProfile::Brevo => "421 4.7.0 Too many messages, please slow down".to_owned(),
        }
    }

    /// Mailgun's refusal of a domain that has sent too much.
    pub(crate) fn rate_limit_message(&self) -> String {
        let until =
            format_mailgun_date(self.clock.now().saturating_add(self.time_scale.scale(RATE_LIMIT_SECONDS)));
        format!(
            "Domain {} is not allowed to send: recipient limit exceeded, try again after {until}",
            self.domain
        )
    }
}

/// A time as Mailgun writes it.
pub(crate) fn format_mailgun_date(at: Timestamp) -> String {
    at.to_rfc5322().replace("+0000", "UTC")
}

/// Maximum number of recipients with outstanding events; above it messages are rejected transiently, so that no event
/// is lost.
const MAX_ACTIVE_LIFECYCLES: usize = 50_000;
/// Mailgun's seconds that a rate-limited domain has to wait.
const RATE_LIMIT_SECONDS: u32 = 5;
