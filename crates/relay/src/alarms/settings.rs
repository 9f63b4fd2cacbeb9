//! Settings of alarm notifications.

use mailtrail_mail::Mailbox;
use mailtrail_net::webhook_client::WebhookEndpoint;
use std::time::Duration;

/// Recipients and timing of notifications; configuration: `[alarms]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say all")]
pub struct AlarmNotifications {
    pub webhook: Option<WebhookEndpoint>,
    pub email: Option<EmailSettings>,
    /// Time that an alarm must be active, or inactive, before it is reported. Default: 1 min; at most 1 h.
    pub delay: Duration,
    /// Interval at which active alarms are reported again. Default: 24 h; `1 h..=30 days`.
    pub repeat_interval: Duration,
}

/// Settings of notifications by mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailSettings {
    /// Recipients; at least one.
    pub recipients: Vec<Mailbox>,
    /// Sender; the upstreams must accept its domain.
    pub sender: Mailbox,
    /// Upstream that is preferred unless an alarm is about it. Otherwise the first upstream without an alarm is used.
    pub preferred_upstream: Option<String>,
}

impl Default for AlarmNotifications {
    fn default() -> Self {
        let (delay, repeat_interval) = (Duration::from_secs(60), Duration::from_secs(86_400));
        Self { webhook: None, email: None, delay, repeat_interval }
    }
}
