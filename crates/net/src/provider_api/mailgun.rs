//! Mailgun's two APIs for events, and its lists of suppressed addresses.

use crate::provider_api::domain::{DnsRecord, SendingDomain};
use crate::provider_api::error::ApiError;
use crate::provider_api::http::ApiHttpClient;
use crate::provider_api::suppression_list::{SuppressionEntry, SuppressionList};
use crate::provider_api::webhook::RegisteredWebhook;
use crate::provider_api::webhook_registration::WebhookChange;
use crate::provider_api::{
    EventPage, PageToken, TimeRange, UnreadableItem, http, parse_time, webhook_registration,
};
use mailtrail_mail::Timestamp;
use mailtrail_trail::provider::{lenient, mailgun};
use reqwest::header::ACCEPT;
use reqwest::{Method, RequestBuilder, Url};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A page of `GET /v3/<domain>/events`. The end is an empty page.
pub(super) async fn fetch_events(
    http: &ApiHttpClient,
    domain: &str,
    span: TimeRange,
    next: Option<&PageToken>,
) -> Result<EventPage, ApiError> {
    let url = match next {
        Some(next) => http.same_origin(EVENTS_LABEL, &next.0)?,
        None => {
            let mut url = http.build_url(["v3", domain, "events"]);
            let end = span.end.saturating_add(std::time::Duration::from_millis(999)).as_secs();
            url.query_pairs_mut()
                .append_pair("begin", &span.start.as_secs().to_string())
                .append_pair("end", &end.to_string())
                .append_pair("ascending", "yes")
                .append_pair("limit", "300");
            url
        }
    };
    let listing = http.ask_page(EVENTS_LABEL, authorized_request(http, Method::GET, url), OF_EVENTS).await?;
    let items = listing.items.ok_or_else(|| http.unexpected(EVENTS_LABEL, MISSING_ITEMS_TEXT))?;
    let next = listing.response.pointer("/paging/next").and_then(Value::as_str);
    Ok(EventPage { is_torn: listing.is_torn, ..build_page(items, listing.unreadable, next) })
}

/// A page of `POST /v1/analytics/logs`, its events in the shape of the other API.
pub(super) async fn fetch_logs(
    http: &ApiHttpClient,
    domain: &str,
    span: TimeRange,
    next: Option<&PageToken>,
) -> Result<EventPage, ApiError> {
    let mut paging = json!({ "sort": "timestamp:asc", "limit": 100 });
    if let Some(PageToken(token)) = next {
        paging["token"] = token.as_str().into();
    }
    let end = span.end.saturating_add(std::time::Duration::from_millis(999));
    let request = json!({
        "start": span.start.to_rfc5322(),
        "end": end.to_rfc5322(),
        "filter": { "AND": [{
            "attribute": "domain", "comparator": "=", "values": [{ "label": domain, "value": domain }],
        }] },
        "include_subaccounts": false,
        "include_totals": false,
        "pagination": paging,
    });
    let request =
        authorized_request(http, Method::POST, http.build_url(["v1", "analytics", "logs"])).json(&request);
    let listing = http.ask_page(LOGS_LABEL, request, OF_EVENTS).await?;
    let items = listing.items.ok_or_else(|| http.unexpected(LOGS_LABEL, MISSING_ITEMS_TEXT))?;
    let items = items.into_iter().map(normalize_event).collect();
    let next = listing.response.pointer("/pagination/next").and_then(Value::as_str);
    let next = next.filter(|token| !token.is_empty());
    Ok(EventPage { is_torn: listing.is_torn, ..build_page(items, listing.unreadable, next) })
}

fn build_page(items: Vec<Value>, mut unreadable: Vec<UnreadableItem>, next: Option<&str>) -> EventPage {
    let next =
        next.filter(|_| !(items.is_empty() && unreadable.is_empty())).map(|next| PageToken(next.to_owned()));
    let mut events = Vec::with_capacity(items.len());
    for item in items {
        match mailgun::validate_payload(&(&item).into()) {
            Some(reason) => unreadable.push(UnreadableItem::new(&item, reason)),
            None => events.push(item),
        }
    }
    let last = events.last().and_then(|event| event["timestamp"].as_f64());
    EventPage {
        complete_until: last.map(|at| Timestamp::from_millis((at * 1e3) as u64)),
        events,
        unreadable,
        next,
        is_torn: false,
    }
}

/// Converts an event of the logs to the form of webhooks and of the Events API. Its time has milliseconds, so an event
/// may appear with two times; its identity uses the day only.
fn normalize_event(event: Value) -> Value {
    let Value::Object(event) = event else { return event };
    let mut reshaped = Map::new();
    for (name, value) in event {
        match (name.as_str(), value) {
            ("@timestamp", Value::String(at)) => {
                // An invalid time is kept as it is, and the event gets the time of the poll.
                let written = Timestamp::parse_any(&at).map(|at| at.as_millis() as f64 / 1e3);
                reshaped.insert("timestamp".into(), written.map_or(Value::String(at), Value::from));
            }
            ("user-variables", Value::String(text)) => {
                let read = serde_json::from_str(&text).unwrap_or(Value::String(text));
                reshaped.insert(name, read);
            }
            ("storage", Value::Object(mut storage)) => {
                if let Some(first) = storage.get("url").and_then(|url| url.get(0)).cloned() {
                    storage.insert("url".into(), first);
                }
                reshaped.insert(name, storage.into());
            }
            (_, value) => {
                reshaped.insert(name, value);
            }
        }
    }
    reshaped.into()
}

/// Fetches a page of a list. The last page is an empty one, or the one before it.
pub(super) async fn fetch_suppressions(
    http: &ApiHttpClient,
    domain: &str,
    list: SuppressionList,
    next: Option<&PageToken>,
) -> Result<(Vec<SuppressionEntry>, Vec<UnreadableItem>, Option<PageToken>), ApiError> {
    let url = match next {
        Some(next) => http.same_origin(list.as_str(), &next.0)?,
        None => {
            let mut url = http.build_url(["v3", domain, list.as_str()]);
            url.query_pairs_mut().append_pair("limit", "1000");
            url
        }
    };
    let listing =
        http.get_json_list(list.as_str(), authorized_request(http, Method::GET, url), OF_ADDRESSES).await?;
    let items = listing.items.ok_or_else(|| http.unexpected(list.as_str(), MISSING_ITEMS_TEXT))?;
    let mut unread = listing.unreadable;
    let is_empty = items.is_empty() && unread.is_empty();
    let paging = |name: &str| listing.response["paging"][name].as_str();
    let next = paging("next").filter(|next| !is_empty && paging("last") != Some(next));
    let mut entries = Vec::with_capacity(items.len());
    for item in &items {
        match parse_entry(item) {
            Some(entry) => entries.push(entry),
            None => unread.push(UnreadableItem::new(item, "it has no address")),
        }
    }
    Ok((entries, unread, next.map(|next| PageToken(next.to_owned()))))
}

fn parse_entry(item: &Value) -> Option<SuppressionEntry> {
    let text = |name: &str| item[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let tags = item["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    Some(SuppressionEntry {
        address: text("address")?,
        since: parse_time(&item["created_at"]),
        code: text("code"),
        reason: text("error"),
        tags: text("tag").into_iter().chain(tags).collect(),
    })
}

/// Adds entries, all of them or none.
pub(super) async fn add_suppressions(
    http: &ApiHttpClient,
    domain: &str,
    list: SuppressionList,
    entries: &[SuppressionEntry],
) -> Result<(), ApiError> {
    let written: Vec<Value> = entries.iter().map(|entry| entry_to_json(list, entry)).collect();
    let url = http.build_url(["v3", domain, list.as_str()]);
    http.get_json(list.as_str(), authorized_request(http, Method::POST, url).json(&written)).await.map(drop)
}

fn entry_to_json(list: SuppressionList, entry: &SuppressionEntry) -> Value {
    let mut written = json!({ "address": entry.address });
    if let Some(since) = entry.since {
        written["created_at"] = since.to_rfc5322().replace("+0000", "UTC").into();
    }
    match list {
        SuppressionList::Bounces => {
            written["code"] = entry.code.as_deref().unwrap_or("550").into();
            written["error"] = entry.reason.as_deref().unwrap_or_default().into();
        }
        SuppressionList::Unsubscribes => {
            let everything = || vec!["*".to_owned()];
            let tags = Some(entry.tags.clone()).filter(|tags| !tags.is_empty()).unwrap_or_else(everything);
            written["tags"] = tags.into();
        }
        SuppressionList::Complaints => {}
    }
    written
}

/// Takes an address off; whether it was there.
pub(super) async fn remove_suppression(
    http: &ApiHttpClient,
    domain: &str,
    list: SuppressionList,
    address: &str,
) -> Result<bool, ApiError> {
    let url = http.build_url(["v3", domain, list.as_str(), address]);
    match http.get_json(list.as_str(), authorized_request(http, Method::DELETE, url)).await {
        Ok(_) => Ok(true),
        // An unknown domain gives the same status, but another text.
        Err(ApiError::NotFound { diagnostic, .. }) if !diagnostic.starts_with("Domain") => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Fetches an inbound message that Mailgun has stored, unchanged, from the `message-url` of its notification, with a
/// maximum size.
pub(super) async fn fetch_stored_message(
    http: &ApiHttpClient,
    url: &str,
    most: usize,
) -> Result<String, ApiError> {
    let url = http.same_domain(STORED_MESSAGE_LABEL, url)?;
    let request = authorized_request(http, Method::GET, url).header(ACCEPT, "message/rfc2822");
    // Escape sequences are longer than their characters.
    let answer = http.get_bytes(STORED_MESSAGE_LABEL, request, most.saturating_mul(2)).await?;
    let stored: StoredMessage = lenient::parse_borrowed(&answer, &mut String::new())
        .map_err(|_| http.unexpected(STORED_MESSAGE_LABEL, "it has no body-mime"))?;
    Ok(stored.body)
}

#[derive(Deserialize)]
struct StoredMessage {
    #[serde(rename = "body-mime")]
    body: String,
}

/// Fetches `GET /v4/domains/<name>`.
pub(super) async fn fetch_domain(
    http: &ApiHttpClient,
    name: &str,
) -> Result<Option<SendingDomain>, ApiError> {
    let url = http.build_url(["v4", "domains", name]);
    let answer = match http.get_json(DOMAIN_LABEL, authorized_request(http, Method::GET, url)).await {
        Err(ApiError::NotFound { .. }) => return Ok(None),
        answer => answer?,
    };
    let state =
        answer["domain"]["state"].as_str().ok_or_else(|| http.unexpected(DOMAIN_LABEL, "it has no state"))?;
    let records = answer["sending_dns_records"].as_array().into_iter().flatten();
    let record = |record: &Value| {
        let text = |name: &str| record[name].as_str().map(str::to_owned);
        Some(DnsRecord { kind: text("record_type")?, name: text("name")?, value: text("value")? })
    };
    Ok(Some(SendingDomain {
        is_active: state == "active",
        state: state.to_owned(),
        dns_records: records.filter_map(record).collect(),
    }))
}

/// `GET /v3/domains/<domain>/webhooks`. Old registrations have one `url` instead of `urls`.
pub(super) async fn fetch_webhooks(
    http: &ApiHttpClient,
    domain: &str,
) -> Result<Vec<RegisteredWebhook>, ApiError> {
    let url = http.build_url(["v3", "domains", domain, "webhooks"]);
    let answer = http.get_json(WEBHOOKS_LABEL, authorized_request(http, Method::GET, url)).await?;
    let kinds = answer["webhooks"]
        .as_object()
        .ok_or_else(|| http.unexpected(WEBHOOKS_LABEL, "it has no webhooks"))?;
    let webhooks = kinds.iter().flat_map(|(event, kind)| {
        let urls = kind["urls"].as_array().into_iter().flatten().chain(kind.get("url"));
        urls.filter_map(Value::as_str)
            .map(|url| RegisteredWebhook { event: event.clone(), url: url.to_owned() })
    });
    Ok(webhooks.collect())
}

/// Where webhooks are registered by their addresses.
pub(super) fn webhooks_url(http: &ApiHttpClient, domain: &str) -> Url {
    http.build_url(["v4", "domains", domain, "webhooks"])
}

/// Changes webhooks. A path that leads nowhere is answered with 200, too.
pub(super) async fn apply_change(http: &ApiHttpClient, change: &WebhookChange) -> Result<(), ApiError> {
    let authorised = |method, url| authorized_request(http, method, url);
    let answer = webhook_registration::apply_change(http, WEBHOOKS_LABEL, change, authorised).await?;
    let fine = answer.is_null() || answer["webhooks"].is_object();
    if fine { Ok(()) } else { Err(http.unexpected(WEBHOOKS_LABEL, "it has no webhooks")) }
}

fn authorized_request(http: &ApiHttpClient, method: Method, url: Url) -> RequestBuilder {
    http.request(method, url).basic_auth("api", Some(http.key().expose()))
}

const OF_EVENTS: http::List = http::List { name: "items", field: "event" };
const OF_ADDRESSES: http::List = http::List { name: "items", field: "address" };
const MISSING_ITEMS_TEXT: &str = "it has no items";
const EVENTS_LABEL: &str = "events";
const LOGS_LABEL: &str = "logs";
const STORED_MESSAGE_LABEL: &str = "a stored mail";
const DOMAIN_LABEL: &str = "the domain";
const WEBHOOKS_LABEL: &str = "webhooks";
/// The kinds of event that webhooks can be registered for.
pub(super) const EVENT_TYPES: [&str; 8] = [
    "accepted",
    "delivered",
    "permanent_fail",
    "temporary_fail",
    "complained",
    "unsubscribed",
    "opened",
    "clicked",
];
/// Maximum number of webhook URLs per event.
pub(super) const MAX_URLS_PER_EVENT: usize = 3;
/// Entries that one request adds at most.
pub(super) const MAX_ENTRIES_PER_REQUEST: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_log_events_to_webhook_shape() {
        let logs: Value =
            serde_json::from_str(include_str!("../../../../tests/fixtures/mailgun/api_logs_page.json"))
                .unwrap();
        let events: Value =
            serde_json::from_str(include_str!("../../../../tests/fixtures/mailgun/api_events_page1.json"))
                .unwrap();
        let now = Timestamp::from_secs(1);
        let logged = mailgun::decode_event(&(&normalize_event(logs["items"][0].clone())).into(), now);
        assert_eq!(logged, mailgun::decode_event(&(&events["items"][1]).into(), now));
        assert!(logged.tracking_id.is_some());
    }

    #[test]
    fn leaves_unexpected_shapes_unchanged() {
        let odd = json!({ "@timestamp": "soon", "user-variables": "{", "storage": [], "id": 1 });
        let expected = json!({ "timestamp": "soon", "user-variables": "{", "storage": [], "id": 1 });
        assert_eq!(normalize_event(odd), expected);
        assert_eq!(normalize_event(json!(null)), json!(null));
    }
}
