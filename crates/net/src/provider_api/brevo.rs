//! Brevo's statistics of transactional mail, and its blocked contacts.

use crate::provider_api::domain::SendingDomain;
use crate::provider_api::error::ApiError;
use crate::provider_api::http::ApiHttpClient;
use crate::provider_api::suppression_list::{SuppressionEntry, SuppressionList};
use crate::provider_api::webhook::RegisteredWebhook;
use crate::provider_api::webhook_registration::WebhookChange;
use crate::provider_api::{
    EventPage, PageToken, TimeRange, UnreadableItem, http, parse_time, webhook_registration,
};
use mailtrail_mail::{Timestamp, fold_domain};
use reqwest::{Method, RequestBuilder, Url};
use serde_json::{Value, json};
use std::time::Duration;

/// Fetches a page of `GET /v3/smtp/statistics/events`, the latest events first: the API selects by days in the
/// account's time zone, and mostly a few minutes are needed.
pub(super) async fn fetch_events(
    http: &ApiHttpClient,
    span: TimeRange,
    next: Option<&PageToken>,
) -> Result<EventPage, ApiError> {
    let offset: usize = next.and_then(|next| next.0.parse().ok()).unwrap_or_default();
    let mut url = http.build_url(["v3", "smtp", "statistics", "events"]);
    let day = |at: Timestamp| at.to_string()[..10].to_owned();
    url.query_pairs_mut()
        // The day may begin earlier in the account's time zone.
        .append_pair("startDate", &day(span.start.saturating_sub(ONE_DAY)))
        .append_pair("endDate", &day(span.end))
        .append_pair("limit", &EVENTS_PER_PAGE.to_string())
        .append_pair("offset", &offset.to_string())
        .append_pair("sort", "desc");
    let listing =
        http.ask_page(STATISTICS_LABEL, authorized_request(http, Method::GET, url), OF_EVENTS).await?;
    let mut unreadable = listing.unreadable;
    let events = match listing.items {
        Some(events) => events,
        None if listing.response.is_object() && listing.response["events"].is_null() => Vec::new(),
        None => return Err(http.unexpected(STATISTICS_LABEL, "it has no events")),
    };
    // A torn page may contain more events than the readable ones, at least one.
    let (is_full, step) = match listing.is_torn {
        true => (true, events.len().max(1)),
        false => (events.len() + unreadable.len() == EVENTS_PER_PAGE, EVENTS_PER_PAGE),
    };
    let more = is_full && events.last().and_then(event_time).is_none_or(|last| last >= span.start);
    let mut wanted = Vec::new();
    for event in &events {
        match (event["event"].as_str(), event_time(event)) {
            (None, _) => unreadable.push(UnreadableItem::new(event, "it is no event")),
            (Some(_), None) => unreadable.push(UnreadableItem::new(event, "its date cannot be read")),
            (Some(_), Some(at)) if span.start <= at && at <= span.end => wanted.push(normalize_event(event)),
            (Some(_), Some(_)) => {}
        }
    }
    Ok(EventPage {
        events: wanted,
        unreadable,
        complete_until: None,
        next: more.then(|| PageToken((offset + step).to_string())),
        is_torn: listing.is_torn,
    })
}

fn event_time(event: &Value) -> Option<Timestamp> {
    parse_time(&event["date"])
}

/// Converts an event of the statistics to the form of a webhook, with the webhook's event name. It has no timestamp of
/// the sender, and its time has whole seconds.
fn normalize_event(event: &Value) -> Value {
    let word = event["event"].as_str().unwrap_or_default();
    let word =
        EVENT_WORDS.iter().find(|(statistics, _)| *statistics == word).map_or(word, |(_, webhook)| webhook);
    let mut reshaped = json!({
        "event": word,
        "email": event["email"],
        "message-id": event["messageId"],
    });
    if let Some(at) = event_time(event) {
        reshaped["ts_epoch"] = at.as_millis().into();
    }
    for (name, other) in [
        ("subject", "subject"),
        ("tag", "tag"),
        ("reason", "reason"),
        ("link", "link"),
        ("ip", "sending_ip"),
        ("from", "sender_email"),
    ] {
        if let Some(value) = event.get(name).filter(|value| !value.is_null()) {
            reshaped[other] = value.clone();
        }
    }
    reshaped
}

/// A page of `GET /v3/smtp/blockedContacts`.
pub(super) async fn fetch_suppressions(
    http: &ApiHttpClient,
    next: Option<&PageToken>,
) -> Result<(Vec<(SuppressionList, SuppressionEntry)>, Vec<UnreadableItem>, Option<PageToken>), ApiError> {
    let offset: usize = next.and_then(|next| next.0.parse().ok()).unwrap_or_default();
    let mut url = http.build_url(["v3", "smtp", "blockedContacts"]);
    url.query_pairs_mut()
        .append_pair("limit", &CONTACTS_PER_PAGE.to_string())
        .append_pair("offset", &offset.to_string())
        .append_pair("sort", "asc");
    let listing = http
        .get_json_list(BLOCKED_CONTACTS_LABEL, authorized_request(http, Method::GET, url), OF_CONTACTS)
        .await?;
    let mut unread = listing.unreadable;
    let contacts = match listing.items {
        Some(contacts) => contacts,
        None if listing.response.is_object() && listing.response["contacts"].is_null() => Vec::new(),
        None => return Err(http.unexpected(BLOCKED_CONTACTS_LABEL, "it has no contacts")),
    };
    let more = contacts.len() + unread.len() == CONTACTS_PER_PAGE;
    let mut entries = Vec::with_capacity(contacts.len());
    for contact in &contacts {
        match parse_entry(contact) {
            Ok(entry) => entries.push(entry),
            Err(reason) => unread.push(UnreadableItem::new(contact, reason)),
        }
    }
    Ok((entries, unread, more.then(|| PageToken((offset + CONTACTS_PER_PAGE).to_string()))))
}

/// Returns the list of a reason code, if it is known.
fn list_of_reason(code: &str) -> Option<SuppressionList> {
    match code {
        "hardBounce" => Some(SuppressionList::Bounces),
        "contactFlaggedAsSpam" => Some(SuppressionList::Complaints),
        "adminBlocked" => Some(SuppressionList::Unsubscribes),
        code if code.starts_with("unsubscribed") => Some(SuppressionList::Unsubscribes),
        _ => None,
    }
}

fn parse_entry(contact: &Value) -> Result<(SuppressionList, SuppressionEntry), &'static str> {
    let reason = &contact["reason"];
    let list =
        list_of_reason(reason["code"].as_str().unwrap_or_default()).ok_or("its reason is not known")?;
    let address = contact["email"].as_str().filter(|email| !email.is_empty()).ok_or("it has no address")?;
    let sender = contact["senderEmail"].as_str().filter(|sender| !sender.is_empty());
    // Unsubscribing from one sender does not affect other senders.
    let from = || vec![sender.unwrap_or("*").to_owned()];
    let entry = SuppressionEntry {
        address: address.to_owned(),
        since: parse_time(&contact["blockedAt"]),
        code: None,
        reason: reason["message"].as_str().map(str::to_owned),
        tags: if list == SuppressionList::Unsubscribes { from() } else { Vec::new() },
    };
    Ok((list, entry))
}

/// Unblocks an address for every reason. Returns whether it was blocked.
pub(super) async fn remove_suppression(http: &ApiHttpClient, address: &str) -> Result<bool, ApiError> {
    let url = http.build_url(["v3", "smtp", "blockedContacts", address]);
    match http.get_json(BLOCKED_CONTACTS_LABEL, authorized_request(http, Method::DELETE, url)).await {
        Ok(_) => Ok(true),
        Err(ApiError::NotFound { .. }) => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Fetches an attachment of an inbound message by the `DownloadToken` of the webhook, with a maximum size.
pub(super) async fn fetch_attachment(
    http: &ApiHttpClient,
    token: &str,
    most: usize,
) -> Result<Vec<u8>, ApiError> {
    let url = http.build_url(["v3", "inbound", "attachments", token]);
    http.get_bytes(ATTACHMENT_LABEL, authorized_request(http, Method::GET, url), most).await
}

/// Finds a domain in `GET /v3/senders/domains`.
pub(super) async fn find_domain(http: &ApiHttpClient, name: &str) -> Result<Option<SendingDomain>, ApiError> {
    let url = http.build_url(["v3", "senders", "domains"]);
    let answer = http.get_json(DOMAINS_LABEL, authorized_request(http, Method::GET, url)).await?;
    let domains =
        answer["domains"].as_array().ok_or_else(|| http.unexpected(DOMAINS_LABEL, "it has no domains"))?;
    let named = |domain: &&Value| {
        domain["domain_name"].as_str().is_some_and(|known| fold_domain(known) == fold_domain(name))
    };
    Ok(domains.iter().find(named).map(|domain| {
        let is_active = domain["authenticated"] == true;
        let state = if is_active { "authenticated" } else { "not authenticated" };
        SendingDomain { is_active, state: state.to_owned(), dns_records: Vec::new() }
    }))
}

/// Returns the registered webhooks by event.
pub(super) async fn fetch_webhooks(http: &ApiHttpClient) -> Result<Vec<RegisteredWebhook>, ApiError> {
    let hooks = fetch_raw_webhooks(http).await?;
    let webhooks = hooks.iter().flat_map(|hook| {
        let url = hook["url"].as_str().unwrap_or_default();
        let events = hook["events"].as_array().into_iter().flatten().filter_map(Value::as_str);
        events.map(|event| RegisteredWebhook { event: event.to_owned(), url: url.to_owned() })
    });
    Ok(webhooks.collect())
}

/// Fetches `GET /v3/webhooks?type=transactional`.
pub(super) async fn fetch_raw_webhooks(http: &ApiHttpClient) -> Result<Vec<Value>, ApiError> {
    let mut url = http.build_url(["v3", "webhooks"]);
    url.query_pairs_mut().append_pair("type", "transactional");
    let mut answer = http.get_json(WEBHOOKS_LABEL, authorized_request(http, Method::GET, url)).await?;
    match answer.get_mut("webhooks").map(Value::take) {
        Some(Value::Array(hooks)) => Ok(hooks),
        _ => Err(http.unexpected(WEBHOOKS_LABEL, "it has no webhooks")),
    }
}

/// Applies a planned change.
pub(super) async fn apply_change(http: &ApiHttpClient, change: &WebhookChange) -> Result<(), ApiError> {
    let authorised = |method, url| authorized_request(http, method, url);
    webhook_registration::apply_change(http, WEBHOOKS_LABEL, change, authorised).await.map(drop)
}

fn authorized_request(http: &ApiHttpClient, method: Method, url: Url) -> RequestBuilder {
    http.request(method, url).header("api-key", http.key().expose())
}

/// Event names of the statistics and of webhooks, where they differ.
const EVENT_WORDS: [(&str, &str); 7] = [
    ("requests", "request"),
    ("softBounces", "soft_bounce"),
    ("hardBounces", "hard_bounce"),
    ("invalid", "invalid_email"),
    ("loadedByProxy", "proxy_open"),
    ("clicks", "click"),
    ("bounces", "hard_bounce"),
];
const OF_EVENTS: http::List = http::List { name: "events", field: "event" };
const OF_CONTACTS: http::List = http::List { name: "contacts", field: "email" };
const STATISTICS_LABEL: &str = "events";
const ATTACHMENT_LABEL: &str = "an attachment";
const BLOCKED_CONTACTS_LABEL: &str = "blocked contacts";
const DOMAINS_LABEL: &str = "the domains";
pub(super) const WEBHOOKS_LABEL: &str = "webhooks";
/// Events that a webhook can be registered for; `sent` is another name of `request`.
pub(super) const EVENT_TYPES: [&str; 12] = [
    "request",
    "delivered",
    "deferred",
    "softBounce",
    "hardBounce",
    "blocked",
    "invalid",
    "spam",
    "uniqueOpened",
    "opened",
    "click",
    "unsubscribed",
];
/// Events of one page; Brevo's most.
const EVENTS_PER_PAGE: usize = 5000;
/// Contacts of one page; Brevo's most.
const CONTACTS_PER_PAGE: usize = 100;
const ONE_DAY: Duration = Duration::from_secs(86_400);
