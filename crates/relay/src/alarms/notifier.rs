//! Sends notifications of raised and resolved alarms by signed webhook and by mail.
//!
//! Earlier notifications are in memory only: after a restart an active alarm is reported again, and an alarm that ended
//! with the process is not reported as resolved. The mail passes the queue and prefers an upstream without an alarm. It
//! causes no alarm itself: it has no DSN, and its provider events are not expected.

use crate::alarms::email::EmailSender;
use crate::alarms::notification::Notification;
use crate::alarms::notification_state::NotificationState;
use crate::alarms::registry::AlarmRegistry;
use crate::alarms::retry_queue::RetryQueue;
use crate::alarms::settings::{AlarmNotifications, EmailSettings};
use crate::monitoring::UpstreamActivity;
use mailtrail_mail::{Clock, TrackingIdGenerator};
use mailtrail_net::{WebhookClient, webhook_client};
use mailtrail_store::Store;
use reqwest::header::CONTENT_TYPE;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Reported alarms and pending notifications; all configurations of a process share it.
#[derive(Clone, Debug, Default)]
pub struct NotifierState(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    alarms: NotificationState,
    webhooks: RetryQueue,
    emails: RetryQueue,
}

/// Sends notifications about alarms.
#[expect(missing_docs, reason = "the names say all")]
#[derive(Clone)]
pub struct AlarmNotifier {
    pub store: Store,
    pub clock: Clock,
    pub id_generator: Arc<TrackingIdGenerator>,
    /// Name of the relay in texts and Message-IDs.
    pub hostname: String,
    pub alarms: AlarmRegistry,
    /// Activity from which alarm mail is excluded.
    pub upstream_activity: UpstreamActivity,
    pub state: NotifierState,
    /// Upstreams in the order of preference.
    pub upstreams: Vec<String>,
    pub settings: AlarmNotifications,
}

/// Medium of a notification.
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
            let sending = async {
                if let Some(endpoint) = &mut endpoint {
                    self.post_pending(endpoint).await;
                }
                if let Some(email) = &self.settings.email {
                    self.mail_pending(email).await;
                }
            };
            tokio::select! {
                () = sending => {}
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
                log_dropped(way, &displaced, "too many pending notifications");
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
            let sender = EmailSender {
                store: &self.store,
                clock: self.clock,
                id_generator: &self.id_generator,
                hostname: &self.hostname,
                upstream_activity: &self.upstream_activity,
                settings,
            };
            let first = self.choose_upstream(settings);
            let submitted = sender.submit(&notification, first).await.map_err(|error| error.to_string());
            if !self.record_attempt(Channel::Email, &notification, submitted) {
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
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(format!("endpoint responded with {}", response.status())),
            Err(error) => Err(webhook_client::request_error_text(error)),
        }
    }

    /// Returns the upstream that mail prefers: one without an alarm, if there is one.
    fn choose_upstream(&self, email: &EmailSettings) -> Option<String> {
        let active = self.alarms.list();
        let has_no_alarm =
            |name: &&String| !active.iter().any(|alarm| alarm.upstream() == Some(name.as_str()));
        let preferred = email.preferred_upstream.iter();
        preferred.chain(&self.upstreams).find(has_no_alarm).or(email.preferred_upstream.as_ref()).cloned()
    }

    fn next_pending(&self, way: Channel) -> Option<Arc<Notification>> {
        let (now, state) = (self.clock.now(), self.lock_state());
        match way {
            Channel::Webhook => state.webhooks.next_due(now),
            Channel::Email => state.emails.next_due(now),
        }
    }

    /// Records the result of an attempt. Returns whether the next notification may be sent.
    fn record_attempt(&self, way: Channel, notification: &Notification, tried: Result<(), String>) -> bool {
        let (now, mut state) = (self.clock.now(), self.lock_state());
        let queue = match way {
            Channel::Webhook => &mut state.webhooks,
            Channel::Email => &mut state.emails,
        };
        let Err(why) = tried else {
            queue.mark_delivered();
            count_notification(way, "told");
            return true;
        };
        let (failures, given_up) = queue.record_failure(now);
        drop(state);
        if given_up {
            log_dropped(way, notification, &why);
        } else if failures == 1 {
            tracing::warn!(way = way.as_str(), why, "alarm notification failed; retrying for one day");
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

/// Logs a notification that was given up, so that its alarms are not lost.
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
        "alarm notification given up; check webhook_url and mail_to of [alarms]"
    );
}

fn count_notification(way: Channel, outcome: &'static str) {
    metrics::counter!("mailtrail_alarm_bulletins_total", "way" => way.as_str(), "outcome" => outcome)
        .increment(1);
}

const POLL_INTERVAL: Duration = Duration::from_secs(1);
