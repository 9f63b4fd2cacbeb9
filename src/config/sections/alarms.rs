//! `[alarms]`: thresholds and recipients of notifications.

use crate::config::section::Section;
use crate::config::sections::webhook_endpoint::read_url;
use crate::config::units;
use crate::config::units::{ONE_DAY, ONE_MINUTE};
use mailtrail_mail::Mailbox;
use mailtrail_net::webhook_client;
use mailtrail_relay::alarms::{AlarmNotifications, EmailSettings};
use mailtrail_relay::monitoring::Thresholds;
use mailtrail_store::RESERVED_BYTES;
use std::time::Duration;

/// Reads the section; `upstreams` are the configured names.
pub(crate) fn read_alarms(root: &mut Section<'_>, upstreams: &[&str]) -> (Thresholds, AlarmNotifications) {
    let mut section = root.subsection("alarms");
    let (thresholds, usual) = (read_thresholds(&mut section), AlarmNotifications::default());
    let webhook = read_webhook(&mut section);
    let email = read_email(&mut section, upstreams);
    let delay = section.duration("after", Duration::ZERO..=ONE_MINUTE * 60).unwrap_or(usual.delay);
    let repeat_interval =
        section.duration("repeat", ONE_MINUTE * 60..=ONE_DAY * 30).unwrap_or(usual.repeat_interval);
    section.reject_unknown();
    (thresholds, AlarmNotifications { webhook, email, delay, repeat_interval })
}

fn read_thresholds(section: &mut Section<'_>) -> Thresholds {
    let usual = Thresholds::default();
    let silence = section.parse("silence", "\"off\" or a duration from \"1min\" to \"7d\"", |text| {
        let allowed = |duration: &Duration| (ONE_MINUTE..=ONE_DAY * 7).contains(duration);
        if text == "off" { Some(None) } else { units::parse_duration(text).filter(allowed).map(Some) }
    });
    let queue = section.integer("queue", 1..=10_000_000);
    let relay_time = section.duration("relay_time", Duration::from_millis(100)..=ONE_DAY);
    let window = section.duration("window", ONE_MINUTE * 60..=ONE_DAY * 30);
    let least = section.integer("least", 1..=1_000_000);
    let mut percent = |key| section.parse(key, units::EXPECTED_PERCENTAGE, units::parse_percentage);
    let (bounces, complaints) = (percent("bounce_rate"), percent("complaint_rate"));
    let deliveries = percent("delivery_rate");
    let disk = section.size("disk", RESERVED_BYTES..=1 << 40);
    Thresholds {
        event_silence: silence.unwrap_or(usual.event_silence),
        max_queued_messages: queue.unwrap_or(usual.max_queued_messages),
        max_relay_latency: relay_time.unwrap_or(usual.max_relay_latency),
        rate_window: window.unwrap_or(usual.rate_window),
        min_recipients: least.unwrap_or(usual.min_recipients),
        max_bounce_rate: bounces.unwrap_or(usual.max_bounce_rate),
        max_complaint_rate: complaints.unwrap_or(usual.max_complaint_rate),
        min_delivery_rate: deliveries.unwrap_or(usual.min_delivery_rate),
        min_free_disk_bytes: disk.unwrap_or(usual.min_free_disk_bytes),
    }
}

fn read_webhook(section: &mut Section<'_>) -> Option<webhook_client::WebhookEndpoint> {
    let given = section.contains_key("webhook_url");
    let url = read_url(section, "webhook_url");
    let secrets = section.secrets("webhook_secret", 2);
    let allow_private_address = section.boolean("allow_private").unwrap_or(false);
    match (given, secrets.is_empty()) {
        (true, true) if section.is_valid() => {
            section.add_error("webhook_secret", "or webhook_secret_file is required")
        }
        (false, false) => section.require_key("webhook_url"),
        _ => {}
    }
    if url.as_ref().is_some_and(|url| url.scheme() == "http") && !allow_private_address {
        section.add_warning("webhook_url", "is not https: alarms cross the network unencrypted");
    }
    Some(webhook_client::WebhookEndpoint {
        url: url?,
        secrets,
        allow_private_address,
        timeout: WEBHOOK_TIMEOUT,
    })
}

fn read_email(section: &mut Section<'_>, upstreams: &[&str]) -> Option<EmailSettings> {
    let to = section.list("mail_to", "a mail address", |text| text.parse::<Mailbox>().ok());
    let from = section.parse("mail_from", "a mail address", |text| text.parse().ok());
    let preferred_upstream = section.parse("mail_upstream", "the name of an [[upstream]]", |text| {
        upstreams.contains(&text).then(|| text.to_owned())
    });
    let recipients = to.unwrap_or_default();
    if recipients.is_empty() {
        let left = ["mail_from", "mail_upstream"].into_iter().find(|key| section.contains_key(key));
        if let Some(left) = left.filter(|_| section.is_valid()) {
            section.add_warning(left, "has no meaning without mail_to");
        }
        return None;
    }
    if section.is_valid() {
        section.require_key("mail_from");
    }
    Some(EmailSettings { recipients, sender: from?, preferred_upstream })
}

/// Default timeout of a notification request, with its response.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
