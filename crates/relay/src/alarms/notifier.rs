//! Tells somebody of alarms, by a signed webhook and by mail, also of those that are over.
//!
//! What was told is in memory only: an alarm that is raised again after a restart is told again, and one that ended with
//! the process is not said to be over. The mail takes the queue's way, as all mail does, first by an upstream that no
//! alarm is about. It makes no alarm itself: nobody gets a report on it, and no event is missed for it.

use crate::alarms::email::EmailSender;
use crate::alarms::notification::Notification;
use crate::alarms::notification_state::NotificationState;
use crate::alarms::registry::AlarmRegistry;
use crate::alarms::retry_queue::RetryQueue;
use crate::monitoring::UpstreamActivity;
use mailtrail_mail::{Clock, Mailbox, TrackingIdGenerator};
use mailtrail_net::{WebhookClient, webhook_client};
use mailtrail_store::Store;
use reqwest::header::CONTENT_TYPE;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Who is told, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlarmNotifications {
    /// Where it is posted, if anywhere.
    pub webhook: Option<webhook_client::WebhookEndpoint>,
    /// Who gets mail, if anybody.
    pub email: Option<EmailSettings>,
    /// How long an alarm is on, or off, before it is told. Default 1 min, up to 1 h.
    pub delay: Duration,
    /// When one that lasts is told again. Default 24 h, 1 h to 30 days.
    pub repeat_interval: Duration,
}

/// Who gets mail, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailSettings {
    /// The recipients; at least one.
    pub recipients: Vec<Mailbox>,
    /// The sender; the upstreams must know its domain.
    pub sender: Mailbox,
    /// The upstream that is preferred, unless an alarm is about it; else the first in order that none is about.
    pub preferred_upstream: Option<String>,
}

impl Default for AlarmNotifications {
    fn default() -> Self {
        let (delay, repeat_interval) = (Duration::from_secs(60), Duration::from_secs(86_400));
        Self { webhook: None, email: None, delay, repeat_interval }
    }
}

/// What was told, and what waits to be; of all configurations of a process.
#[derive(Clone, Debug, Default)]
pub struct NotifierState(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    alarms: NotificationState,
    webhooks: RetryQueue,
    emails: RetryQueue,
}

/// Sends notifications about alarms.
pub struct AlarmNotifier {
    /// Where mail is kept.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where ids come from.
    pub id_generator: Arc<TrackingIdGenerator>,
    /// Our name.
    pub hostname: String,
    /// What is told.
    pub alarms: AlarmRegistry,
    /// Where our own mail is not missed.
    pub upstream_activity: UpstreamActivity,
    /// What was told already.
    pub state: NotifierState,
    /// The upstreams, in the order of preference.
    pub upstreams: Vec<String>,
    /// Who is told.
    pub settings: AlarmNotifications,
}

/// The two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Webhook,
    Email,
}

impl AlarmNotifier {
    /// Sends notifications until shutdown. A notification in progress at shutdown has an unknown result; the notifier
    /// of the next configuration sends it again.
    pub async fn run(self, stopping: CancellationToken) {
        let mut endpoint = self.settings.webhook.clone().map(WebhookClient::new);
        if endpoint.is_none() {
            self.lock_state().webhooks.clear();
        }
        if self.settings.email.is_none() {
            self.lock_state().emails.clear();
            if endpoint.is_none() {
                return;
            }
        }
        while stopping.run_until_cancelled(tokio::time::sleep(POLL_INTERVAL)).await.is_some() {
            self.collect_updates();
            let told = async {
                if let Some(endpoint) = &mut endpoint {
                    self.post_pending(endpoint).await;
                }
                if let Some(letters) = &self.settings.email {
                    self.mail_pending(letters).await;
                }
            };
            tokio::select! {
                () = told => {}
                () = webhook_client::shutdown_grace_elapsed(&stopping) => return,
            }
        }
    }

    fn collect_updates(&self) {
        let AlarmNotifications { webhook, email, delay, repeat_interval } = &self.settings;
        let (now, mut state) = (self.clock.now(), self.lock_state());
        let updates = state.alarms.due_updates(self.alarms.list(), now, *delay, *repeat_interval);
        if updates.is_empty() {
            return;
        }
        let id = self.id_generator.generate(now, fastrand::u128(..));
        let notification = Arc::new(Notification { id, created_at: now, updates });
        let posted = webhook.as_ref().and_then(|_| state.webhooks.push(notification.clone()));
        let mailed = email.as_ref().and_then(|_| state.emails.push(notification));
        drop(state);
        for (way, displaced) in [(Channel::Webhook, posted), (Channel::Email, mailed)] {
            if let Some(displaced) = displaced {
                log_dropped(way, &displaced, "too much waits to be told");
            }
        }
    }

    async fn post_pending(&self, endpoint: &mut WebhookClient) {
        while let Some(notification) = self.next_pending(Channel::Webhook) {
            let posted = self.post_notification(endpoint, &notification).await;
            if !self.record_attempt(Channel::Webhook, &notification, posted) {
                return;
            }
        }
    }

    async fn mail_pending(&self, settings: &EmailSettings) {
        while let Some(notification) = self.next_pending(Channel::Email) {
            let post = EmailSender {
                store: &self.store,
                clock: self.clock,
                id_generator: &self.id_generator,
                hostname: &self.hostname,
                upstream_activity: &self.upstream_activity,
                settings,
            };
            let first = self.choose_upstream(settings);
            let handed_in = post.submit(&notification, first).await.map_err(|error| error.to_string());
            if !self.record_attempt(Channel::Email, &notification, handed_in) {
                return;
            }
        }
    }

    async fn post_notification(
        &self,
        endpoint: &mut WebhookClient,
        notification: &Notification,
    ) -> Result<(), String> {
        let body = notification.to_json(&self.hostname);
        let mut signing = endpoint.start_signature(&notification.webhook_id());
        signing.update(body.as_bytes());
        let request = endpoint.build_request(signing)?.header(CONTENT_TYPE, "application/json").body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("it answers {}", answer.status())),
            Err(error) => Err(webhook_client::request_error_text(error)),
        }
    }

    /// The upstream that mail goes to first: one that no alarm is about, where there is one.
    fn choose_upstream(&self, letters: &EmailSettings) -> Option<String> {
        let on = self.alarms.list();
        let is_well = |name: &&String| !on.iter().any(|alarm| alarm.upstream() == Some(name.as_str()));
        let preferred = letters.preferred_upstream.iter();
        preferred.chain(&self.upstreams).find(is_well).or(letters.preferred_upstream.as_ref()).cloned()
    }

    fn next_pending(&self, way: Channel) -> Option<Arc<Notification>> {
        let (now, state) = (self.clock.now(), self.lock_state());
        match way {
            Channel::Webhook => state.webhooks.next_due(now),
            Channel::Email => state.emails.next_due(now),
        }
    }

    /// Notes how a try ended; whether the next may be tried.
    fn record_attempt(&self, way: Channel, notification: &Notification, tried: Result<(), String>) -> bool {
        let (now, mut state) = (self.clock.now(), self.lock_state());
        let outbox = match way {
            Channel::Webhook => &mut state.webhooks,
            Channel::Email => &mut state.emails,
        };
        let Err(why) = tried else {
            outbox.mark_delivered();
            count_notification(way, "told");
            return true;
        };
        let (failures, over) = outbox.record_failure(now);
        drop(state);
        if over {
            log_dropped(way, notification, &why);
        } else if failures == 1 {
            tracing::warn!(
                way = way.as_str(),
                why,
                "nobody can be told of alarms that way; it is tried again for a day"
            );
        }
        false
    }

    fn lock_state(&self) -> MutexGuard<'_, Inner> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Email => "mail",
        }
    }
}

/// What nobody was told stands in the log.
fn log_dropped(way: Channel, notification: &Notification, why: &str) {
    count_notification(way, "given-up");
    let names: Vec<_> = notification
        .updates
        .iter()
        .map(|item| format!("{} {}", item.alarm.kind.as_str(), item.alarm.subject))
        .collect();
    tracing::error!(
        way = way.as_str(),
        alarms = names.join(", "),
        why,
        "nobody was told of these alarms; look at webhook_url and mail_to of [alarms]"
    );
}

fn count_notification(way: Channel, outcome: &'static str) {
    metrics::counter!("mailtrail_alarm_bulletins_total", "way" => way.as_str(), "outcome" => outcome)
        .increment(1);
}

/// Time from one look to the next.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
