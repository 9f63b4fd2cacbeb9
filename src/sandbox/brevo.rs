//! Events as Brevo's webhooks write them, one to a request. The account's time zone is UTC here.

use super::event::Happening;
use super::story::Story;
use crate::clock::Timestamp;
use serde_json::{Map, Value, json};

/// The body of an event's webhook; `opened` says whether the recipient opened it before.
pub(super) fn data(story: &Story, happening: Happening, at: Timestamp, opened: bool) -> Map<String, Value> {
    let (word, reason) = words(happening, opened);
    let facts = &story.facts;
    let mut data = Map::new();
    let mut put = |name: &str, value: Value| drop(data.insert(name.to_owned(), value));
    put("id", json!(1_048_577));
    put("email", story.recipient.as_str().into());
    put("message-id", format!("<{}>", facts.message_id.as_str()).into());
    put("date", at.to_string()[..19].replace('T', " ").into());
    if let Some(tag) = &facts.mailin_tag {
        put("tag", tag.as_str().into());
    }
    put("event", word.into());
    put("subject", facts.message["headers"]["subject"].clone());
    if let Some(reason) = reason {
        put("reason", reason.into());
    }
    if let Happening::Opened | Happening::Clicked = happening {
        let link = if happening == Happening::Clicked { facts.link.as_str() } else { "" };
        put("link", link.into());
        put("contact_id", json!(42));
        put("user_agent", "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0".into());
        put("device_used", "DESKTOP".into());
    }
    if !matches!(word, "blocked" | "spam" | "unsubscribed") {
        put("sending_ip", SENDING_IP.into());
    }
    if let Some(custom) = &facts.mailin_custom {
        put("X-Mailin-custom", custom.as_str().into());
    }
    put("ts_event", at.seconds().into());
    put("ts", at.seconds().into());
    put("ts_epoch", at.millis().into());
    data
}

/// The webhooks' word, and a reason where there is one.
fn words(happening: Happening, opened: bool) -> (&'static str, Option<&'static str>) {
    match happening {
        Happening::Accepted => ("request", Some("sent")),
        Happening::Delivered | Happening::DeliveredInTestMode => ("delivered", Some("sent")),
        Happening::Bounced | Happening::BouncedLate => {
            ("hard_bounce", Some("550 5.1.1 Recipient address rejected: User unknown"))
        }
        Happening::MailboxFull => ("soft_bounce", Some("452 4.2.2 mailbox over quota")),
        Happening::Greylisted => ("deferred", Some("451 4.7.1 Greylisted, please come back later")),
        Happening::Suppressed => ("blocked", Some("blocked : due to blacklist user")),
        Happening::SuppressedUnsubscribed => ("blocked", Some("blocked : due to unsubscribed user")),
        Happening::SuppressedComplained => ("blocked", Some("blocked : due to spam complaint")),
        Happening::Opened if opened => ("opened", None),
        Happening::Opened => ("unique_opened", None),
        Happening::OpenedByBot => ("proxy_open", None),
        Happening::Clicked => ("click", None),
        Happening::Complained => ("spam", None),
        Happening::Unsubscribed => ("unsubscribed", None),
    }
}

/// The statistics' word for a webhook's.
pub(super) fn statistics_word(word: &str) -> &str {
    match word {
        "request" => "requests",
        "soft_bounce" => "softBounces",
        "hard_bounce" => "hardBounces",
        "unique_opened" => "opened",
        "proxy_open" => "loadedByProxy",
        "click" => "clicks",
        word => word,
    }
}

/// An address of RFC 5737: nothing is sent from anywhere.
const SENDING_IP: &str = "192.0.2.80";
