//! ActiveCampaign's contact webhooks, sent on demand. They are authenticated only by their URL and posted once; a 410
//! response disables them permanently.

use crate::state::SandboxState;
use crate::webhook_client::WebhookEndpoint;
use axum::http::HeaderMap;
use form_urlencoded::Serializer;
use mailtrail_mail::Timestamp;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Event of a contact, by the webhook's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContactEvent {
    /// `open`
    Open,
    /// `click`
    Click,
    /// `bounce`
    Bounce,
    /// `unsubscribe`
    Unsubscribe,
    /// `sent`: a campaign began; no contact is named.
    Sent,
    /// `reply`
    Reply,
    /// `forward`
    Forward,
    /// `share`
    Share,
    /// `subscribe`
    Subscribe,
    /// `update`
    Update,
}

/// Not a type of ActiveCampaign's webhooks.
#[derive(Debug, thiserror::Error)]
#[error("it is one of open, click, bounce, unsubscribe, sent, reply, forward, share, subscribe, update")]
pub struct ParseContactEventError;

/// What became of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostResult {
    /// Response status. The webhook is not repeated.
    Answered(u16),
    /// No response. The webhook is not repeated.
    NoResponse,
    /// It was not posted: an earlier one was answered with 410.
    Disabled,
    /// There is no address to post it to.
    NoTarget,
}

/// Where webhooks go, unless they are switched off.
#[derive(Debug, Default)]
pub(crate) struct ContactWebhook(Mutex<ContactTarget>);

#[derive(Clone, Debug, Default)]
enum ContactTarget {
    #[default]
    Unset,
    Url(Arc<str>),
    Disabled,
}

impl ContactEvent {
    /// All events.
    pub const ALL: [Self; 10] = [
        Self::Open,
        Self::Click,
        Self::Bounce,
        Self::Unsubscribe,
        Self::Sent,
        Self::Reply,
        Self::Forward,
        Self::Share,
        Self::Subscribe,
        Self::Update,
    ];

    /// Returns the webhook's type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Click => "click",
            Self::Bounce => "bounce",
            Self::Unsubscribe => "unsubscribe",
            Self::Sent => "sent",
            Self::Reply => "reply",
            Self::Forward => "forward",
            Self::Share => "share",
            Self::Subscribe => "subscribe",
            Self::Update => "update",
        }
    }

    /// Originator: a visitor, a user, a program, or ActiveCampaign itself.
    const fn initiated_by(self) -> &'static str {
        match self {
            Self::Bounce => "system",
            Self::Sent | Self::Update => "admin",
            Self::Subscribe => "api",
            _ => "public",
        }
    }

    /// Whether it comes with the whole campaign; others have its number only, or nothing.
    const fn has_campaign(self) -> bool {
        matches!(self, Self::Open | Self::Click | Self::Unsubscribe | Self::Sent)
    }
}

impl FromStr for ContactEvent {
    type Err = ParseContactEventError;

    fn from_str(word: &str) -> Result<Self, ParseContactEventError> {
        Self::ALL.into_iter().find(|event| event.as_str() == word).ok_or(ParseContactEventError)
    }
}

impl ContactWebhook {
    /// Sets the URL and enables the webhook again.
    pub(crate) fn set_url(&self, url: String) {
        self.set_target(ContactTarget::Url(url.into()));
    }

    /// Posts a webhook once.
    pub(crate) async fn send_event(
        &self,
        state: &SandboxState,
        event: ContactEvent,
        email: &str,
    ) -> PostResult {
        let destination = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let url = match destination {
            ContactTarget::Url(url) => url,
            ContactTarget::Unset => return PostResult::NoTarget,
            ContactTarget::Disabled => return PostResult::Disabled,
        };
        let address = WebhookEndpoint { url, headers: HeaderMap::new() };
        let body = form_body(event, email, state.clock.now());
        let status =
            state.webhook_client.post_body(address, "application/x-www-form-urlencoded", body.into()).await;
        if status == Some(410) {
            self.set_target(ContactTarget::Disabled);
        }
        status.map_or(PostResult::NoResponse, PostResult::Answered)
    }

    fn set_target(&self, destination: ContactTarget) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = destination;
    }
}

/// Body of a webhook, with nested fields in PHP's notation.
fn form_body(event: ContactEvent, email: &str, at: Timestamp) -> String {
    let mut form = Serializer::new(String::new());
    let list = if event == ContactEvent::Update { "0" } else { "3" };
    form.append_pair("type", event.as_str())
        .append_pair("date_time", &format_date(at))
        .append_pair("initiated_from", event.initiated_by())
        .append_pair("initiated_by", event.initiated_by())
        .append_pair("list", list);
    if event != ContactEvent::Sent {
        form.append_pair("contact[id]", "1358").append_pair("contact[email]", email);
        form.extend_pairs(CONTACT_FIELDS);
    }
    if event.has_campaign() {
        form.extend_pairs(CAMPAIGN_FIELDS);
    } else if !matches!(event, ContactEvent::Subscribe | ContactEvent::Update) {
        form.append_pair("campaign[id]", "12");
    }
    form.extend_pairs(event_fields(event));
    if event.has_campaign() && event != ContactEvent::Sent {
        form.extend_pairs(ACCOUNT_FIELDS);
    }
    form.finish()
}

/// What only such an event has.
fn event_fields(event: ContactEvent) -> &'static [(&'static str, &'static str)] {
    match event {
        ContactEvent::Open => {
            &[("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0")]
        }
        ContactEvent::Click => &[("link[id]", "88"), ("link[url]", "https://www.example.com/offer?x=1&y=2")],
        ContactEvent::Bounce => {
            &[("bounce[type]", "hard"), ("bounce[code]", "5.1.1"), ("bounce[description]", "User unknown")]
        }
        ContactEvent::Unsubscribe => &[
            ("list[][id]", "3"),
            ("form[id]", ""),
            ("unsubscribe[reason]", "Too many mails"),
            ("active_subscriptions[0]", "5"),
        ],
        ContactEvent::Sent => {
            &[("campaign[webcopy_url]", "https://example.activehosted.example.com/p_v.php?l=3&c=12&m=31")]
        }
        ContactEvent::Reply => &[("result", "ok"), ("message", "Thanks, tell me more")],
        ContactEvent::Forward => &[("forward[count]", "2")],
        ContactEvent::Share => &[
            ("share[network]", "facebook"),
            ("share[network_id]", "1"),
            ("share[content]", "September news"),
        ],
        ContactEvent::Subscribe => &[("form[id]", "4")],
        ContactEvent::Update => &[],
    }
}

/// A time with the account's offset: `2026-09-14T07:00:00-05:00`.
fn format_date(at: Timestamp) -> String {
    format!("{}-05:00", &at.saturating_sub(UTC_OFFSET).to_string()[..19])
}

const UTC_OFFSET: Duration = Duration::from_secs(5 * 3600);
const CONTACT_FIELDS: [(&str, &str); 8] = [
    ("contact[first_name]", "Ada"),
    ("contact[last_name]", "Customer"),
    ("contact[phone]", ""),
    ("contact[orgname]", "Example Net"),
    ("contact[tags]", "customer, odoo"),
    ("contact[ip]", "198.51.100.200"),
    ("contact[customer_acct_name]", ""),
    ("contact[fields][odoo_partner_id]", "77"),
];
const CAMPAIGN_FIELDS: [(&str, &str); 7] = [
    ("campaign[id]", "12"),
    ("campaign[name]", "September news"),
    ("campaign[status]", "5"),
    ("campaign[type]", "single"),
    ("campaign[recipients]", "240"),
    ("campaign[message][id]", "31"),
    ("campaign[message][subject]", "September news"),
];
const ACCOUNT_FIELDS: [(&str, &str); 4] =
    [("customer_acct_name", ""), ("customer_acct_id", ""), ("orgname", "Example Net"), ("account_id", "0")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_bodies_match_recordings() {
        macro_rules! recorded {
            ($name:literal) => {
                include_str!(concat!("../../../tests/fixtures/activecampaign/", $name, ".form"))
            };
        }
        for (event, recorded) in ContactEvent::ALL.into_iter().zip([
            recorded!("open"),
            recorded!("click"),
            recorded!("bounce"),
            recorded!("unsubscribe"),
            recorded!("sent"),
            recorded!("reply"),
            recorded!("forward"),
            recorded!("share"),
            recorded!("subscribe"),
            recorded!("update"),
        ]) {
            let at = Timestamp::from_secs(1_789_387_200);
            assert_eq!(form_body(event, "ada@example.net", at), recorded, "{event:?}");
        }
    }
}
