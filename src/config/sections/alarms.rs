//! `[alarms]`: from where on something is an alarm, and who is told.

use crate::config::section::Section;
use crate::config::sections::webhook_endpoint::read_url;
use crate::config::sections::{DAY, MINUTE};
use crate::config::units;
use mailtrail_mail::Mailbox;
use mailtrail_net::webhook_client;
use mailtrail_relay::alarms::{Letters, Settings};
use mailtrail_relay::monitoring::Thresholds;
use mailtrail_store::LEFT_FREE;
use std::time::Duration;

/// Reads it; `upstreams` are the names that there are.
pub(crate) fn read(root: &mut Section<'_>, upstreams: &[&str]) -> (Thresholds, Settings) {
    let mut section = root.table("alarms");
    let (thresholds, usual) = (thresholds(&mut section), Settings::default());
    let webhook = webhook(&mut section);
    let mail = letters(&mut section, upstreams);
    let after = section.duration("after", Duration::ZERO..=MINUTE * 60).unwrap_or(usual.after);
    let repeat = section.duration("repeat", MINUTE * 60..=DAY * 30).unwrap_or(usual.repeat);
    section.finish();
    (thresholds, Settings { webhook, mail, after, repeat })
}

fn thresholds(section: &mut Section<'_>) -> Thresholds {
    let usual = Thresholds::default();
    let silence = section.parsed("silence", "\"off\" or a duration from \"1min\" to \"7d\"", |text| {
        let allowed = |duration: &Duration| (MINUTE..=DAY * 7).contains(duration);
        if text == "off" { Some(None) } else { units::duration(text).filter(allowed).map(Some) }
    });
    let queue = section.integer("queue", 1..=10_000_000);
    let relay_time = section.duration("relay_time", Duration::from_millis(100)..=DAY);
    let window = section.duration("window", MINUTE * 60..=DAY * 30);
    let least = section.integer("least", 1..=1_000_000);
    let mut percent = |key| section.parsed(key, units::A_PERCENTAGE, units::percent);
    let (bounces, complaints) = (percent("bounce_rate"), percent("complaint_rate"));
    let deliveries = percent("delivery_rate");
    let disk = section.size("disk", LEFT_FREE..=1 << 40);
    Thresholds {
        silence: silence.unwrap_or(usual.silence),
        queue: queue.unwrap_or(usual.queue),
        relay_time: relay_time.unwrap_or(usual.relay_time),
        window: window.unwrap_or(usual.window),
        least: least.unwrap_or(usual.least),
        bounce_rate: bounces.unwrap_or(usual.bounce_rate),
        complaint_rate: complaints.unwrap_or(usual.complaint_rate),
        delivery_rate: deliveries.unwrap_or(usual.delivery_rate),
        disk: disk.unwrap_or(usual.disk),
    }
}

fn webhook(section: &mut Section<'_>) -> Option<webhook_client::Settings> {
    let given = section.has("webhook_url");
    let url = read_url(section, "webhook_url");
    let secrets = section.secrets("webhook_secret", 2);
    let allow_private = section.boolean("allow_private").unwrap_or(false);
    match (given, secrets.is_empty()) {
        (true, true) if section.is_sound() => {
            section.fault("webhook_secret", "or webhook_secret_file is required")
        }
        (false, false) => section.require("webhook_url"),
        _ => {}
    }
    if url.as_ref().is_some_and(|url| url.scheme() == "http") && !allow_private {
        section.warn("webhook_url", "is not https: whoever is on the way reads the alarms");
    }
    Some(webhook_client::Settings { url: url?, secrets, allow_private, timeout: TIMEOUT })
}

fn letters(section: &mut Section<'_>, upstreams: &[&str]) -> Option<Letters> {
    let to = section.list("mail_to", "a mail address", |text| text.parse::<Mailbox>().ok());
    let from = section.parsed("mail_from", "a mail address", |text| text.parse().ok());
    let upstream = section.parsed("mail_upstream", "the name of an [[upstream]]", |text| {
        upstreams.contains(&text).then(|| text.to_owned())
    });
    let to = to.unwrap_or_default();
    if to.is_empty() {
        let left = ["mail_from", "mail_upstream"].into_iter().find(|key| section.has(key));
        if let Some(left) = left.filter(|_| section.is_sound()) {
            section.warn(left, "has no meaning without mail_to");
        }
        return None;
    }
    if section.is_sound() {
        section.require("mail_from");
    }
    Some(Letters { to, from: from?, upstream })
}

/// How long a request and its answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
