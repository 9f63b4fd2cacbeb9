//! Brevo's statistics of transactional mail, and its blocked contacts.

use crate::provider_api::domain::Domain;
use crate::provider_api::error::Fault;
use crate::provider_api::http::Http;
use crate::provider_api::suppression_list::{Entry, List};
use crate::provider_api::webhook::Webhook;
use crate::provider_api::webhook_registration::Change;
use crate::provider_api::{Next, Page, Span, Unread, http, moment, webhook_registration};
use mailtrail_mail::{Timestamp, fold_domain};
use reqwest::{Method, RequestBuilder, Url};
use serde_json::{Value, json};
use std::time::Duration;

/// A page of `GET /v3/smtp/statistics/events`, the last events first: the spans that can be asked for are days of the
/// account's time zone, and mostly a few minutes are wanted.
pub(super) async fn events(http: &Http, span: Span, next: Option<&Next>) -> Result<Page, Fault> {
    let offset: usize = next.and_then(|next| next.0.parse().ok()).unwrap_or_default();
    let mut url = http.url(["v3", "smtp", "statistics", "events"]);
    let day = |at: Timestamp| at.to_string()[..10].to_owned();
    url.query_pairs_mut()
        // The account's day may have begun before ours.
        .append_pair("startDate", &day(span.begin.saturating_sub(DAY)))
        .append_pair("endDate", &day(span.end))
        .append_pair("limit", &EVENTS.to_string())
        .append_pair("offset", &offset.to_string())
        .append_pair("sort", "desc");
    let listing = http.ask_page(STATISTICS, authorised(http, Method::GET, url), OF_EVENTS).await?;
    let mut unread = listing.unread;
    let events = match listing.items {
        Some(events) => events,
        None if listing.answer.is_object() && listing.answer["events"].is_null() => Vec::new(),
        None => return Err(http.strange(STATISTICS, "it has no events")),
    };
    // Behind the events that can be read of a page may be others, at least one.
    let (is_full, step) = match listing.is_torn {
        true => (true, events.len().max(1)),
        false => (events.len() + unread.len() == EVENTS, EVENTS),
    };
    let more = is_full && events.last().and_then(at).is_none_or(|last| last >= span.begin);
    let mut wanted = Vec::new();
    for event in &events {
        match (event["event"].as_str(), at(event)) {
            (None, _) => unread.push(Unread::new(event, "it is no event")),
            (Some(_), None) => unread.push(Unread::new(event, "its date cannot be read")),
            (Some(_), Some(at)) if span.begin <= at && at <= span.end => wanted.push(reshaped(event)),
            (Some(_), Some(_)) => {}
        }
    }
    Ok(Page {
        events: wanted,
        unread,
        complete_until: None,
        next: more.then(|| Next((offset + step).to_string())),
        is_torn: listing.is_torn,
    })
}

fn at(event: &Value) -> Option<Timestamp> {
    moment(&event["date"])
}

/// An event of the statistics as a webhook writes it, with the webhooks' word for what happened. What stamped it is not
/// told here, and its time has seconds only.
fn reshaped(event: &Value) -> Value {
    let word = event["event"].as_str().unwrap_or_default();
    let word = WORDS.iter().find(|(statistics, _)| *statistics == word).map_or(word, |(_, webhook)| webhook);
    let mut reshaped = json!({
        "event": word,
        "email": event["email"],
        "message-id": event["messageId"],
    });
    if let Some(at) = at(event) {
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
pub(super) async fn listed(
    http: &Http,
    next: Option<&Next>,
) -> Result<(Vec<(List, Entry)>, Vec<Unread>, Option<Next>), Fault> {
    let offset: usize = next.and_then(|next| next.0.parse().ok()).unwrap_or_default();
    let mut url = http.url(["v3", "smtp", "blockedContacts"]);
    url.query_pairs_mut()
        .append_pair("limit", &CONTACTS.to_string())
        .append_pair("offset", &offset.to_string())
        .append_pair("sort", "asc");
    let listing = http.ask_list(BLOCKED, authorised(http, Method::GET, url), OF_CONTACTS).await?;
    let mut unread = listing.unread;
    let contacts = match listing.items {
        Some(contacts) => contacts,
        None if listing.answer.is_object() && listing.answer["contacts"].is_null() => Vec::new(),
        None => return Err(http.strange(BLOCKED, "it has no contacts")),
    };
    let more = contacts.len() + unread.len() == CONTACTS;
    let mut entries = Vec::with_capacity(contacts.len());
    for contact in &contacts {
        match entry(contact) {
            Ok(entry) => entries.push(entry),
            Err(reason) => unread.push(Unread::new(contact, reason)),
        }
    }
    Ok((entries, unread, more.then(|| Next((offset + CONTACTS).to_string()))))
}

/// Which list a reason means, if it is known.
fn list_of(code: &str) -> Option<List> {
    match code {
        "hardBounce" => Some(List::Bounces),
        "contactFlaggedAsSpam" => Some(List::Complaints),
        "adminBlocked" => Some(List::Unsubscribes),
        code if code.starts_with("unsubscribed") => Some(List::Unsubscribes),
        _ => None,
    }
}

fn entry(contact: &Value) -> Result<(List, Entry), &'static str> {
    let reason = &contact["reason"];
    let list = list_of(reason["code"].as_str().unwrap_or_default()).ok_or("its reason is not known")?;
    let address = contact["email"].as_str().filter(|email| !email.is_empty()).ok_or("it has no address")?;
    let sender = contact["senderEmail"].as_str().filter(|sender| !sender.is_empty());
    // Who unsubscribed from one sender is sent what others send.
    let from = || vec![sender.unwrap_or("*").to_owned()];
    let entry = Entry {
        address: address.to_owned(),
        since: moment(&contact["blockedAt"]),
        code: None,
        reason: reason["message"].as_str().map(str::to_owned),
        tags: if list == List::Unsubscribes { from() } else { Vec::new() },
    };
    Ok((list, entry))
}

/// Unblocks an address, whatever blocked it; whether it was blocked.
pub(super) async fn remove(http: &Http, address: &str) -> Result<bool, Fault> {
    let url = http.url(["v3", "smtp", "blockedContacts", address]);
    match http.ask(BLOCKED, authorised(http, Method::DELETE, url)).await {
        Ok(_) => Ok(true),
        Err(Fault::Unknown { .. }) => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// An attachment of a mail that came in, by the `DownloadToken` that the webhook names; at most so many bytes.
pub(super) async fn attachment(http: &Http, token: &str, most: usize) -> Result<Vec<u8>, Fault> {
    let url = http.url(["v3", "inbound", "attachments", token]);
    http.fetch(ATTACHMENT, authorised(http, Method::GET, url), most).await
}

/// Looks for a domain in `GET /v3/senders/domains`.
pub(super) async fn domain(http: &Http, name: &str) -> Result<Option<Domain>, Fault> {
    let url = http.url(["v3", "senders", "domains"]);
    let answer = http.ask(DOMAINS, authorised(http, Method::GET, url)).await?;
    let domains = answer["domains"].as_array().ok_or_else(|| http.strange(DOMAINS, "it has no domains"))?;
    let named = |domain: &&Value| {
        domain["domain_name"].as_str().is_some_and(|known| fold_domain(known) == fold_domain(name))
    };
    Ok(domains.iter().find(named).map(|domain| {
        let is_active = domain["authenticated"] == true;
        let state = if is_active { "authenticated" } else { "not authenticated" };
        Domain { is_active, state: state.to_owned(), records: Vec::new() }
    }))
}

/// Who is told which kind of event.
pub(super) async fn webhooks(http: &Http) -> Result<Vec<Webhook>, Fault> {
    let hooks = hooks(http).await?;
    let webhooks = hooks.iter().flat_map(|hook| {
        let url = hook["url"].as_str().unwrap_or_default();
        let events = hook["events"].as_array().into_iter().flatten().filter_map(Value::as_str);
        events.map(|event| Webhook { event: event.to_owned(), url: url.to_owned() })
    });
    Ok(webhooks.collect())
}

/// `GET /v3/webhooks?type=transactional`.
pub(super) async fn hooks(http: &Http) -> Result<Vec<Value>, Fault> {
    let mut url = http.url(["v3", "webhooks"]);
    url.query_pairs_mut().append_pair("type", "transactional");
    let mut answer = http.ask(WEBHOOKS, authorised(http, Method::GET, url)).await?;
    match answer.get_mut("webhooks").map(Value::take) {
        Some(Value::Array(hooks)) => Ok(hooks),
        _ => Err(http.strange(WEBHOOKS, "it has no webhooks")),
    }
}

/// Changes webhooks.
pub(super) async fn carry_out(http: &Http, change: &Change) -> Result<(), Fault> {
    let authorised = |method, url| authorised(http, method, url);
    webhook_registration::carry_out(http, WEBHOOKS, change, authorised).await.map(drop)
}

fn authorised(http: &Http, method: Method, url: Url) -> RequestBuilder {
    http.request(method, url).header("api-key", http.key().reveal())
}

/// The statistics' words and those of webhooks, where they differ.
const WORDS: [(&str, &str); 7] = [
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
const STATISTICS: &str = "events";
const ATTACHMENT: &str = "an attachment";
const BLOCKED: &str = "blocked contacts";
const DOMAINS: &str = "the domains";
pub(super) const WEBHOOKS: &str = "webhooks";
/// The kinds of event that a webhook can be asked for; `sent` is another word for `request`.
pub(super) const KINDS: [&str; 12] = [
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
const EVENTS: usize = 5000;
/// Contacts of one page; Brevo's most.
const CONTACTS: usize = 100;
const DAY: Duration = Duration::from_secs(86_400);
