//! Mailgun's two APIs for events, and its lists of suppressed addresses.

use crate::provider_api::domain::{Domain, Record};
use crate::provider_api::error::Fault;
use crate::provider_api::http::Http;
use crate::provider_api::suppression_list::{Entry, List};
use crate::provider_api::webhook::Webhook;
use crate::provider_api::webhook_registration::Change;
use crate::provider_api::{Next, Page, Span, Unread, http, moment, webhook_registration};
use mailtrail_mail::Timestamp;
use mailtrail_trail::provider::{lenient, mailgun};
use reqwest::header::ACCEPT;
use reqwest::{Method, RequestBuilder, Url};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A page of `GET /v3/<domain>/events`. The end is an empty page.
pub(super) async fn events(
    http: &Http,
    domain: &str,
    span: Span,
    next: Option<&Next>,
) -> Result<Page, Fault> {
    let url = match next {
        Some(next) => http.own(EVENTS, &next.0)?,
        None => {
            let mut url = http.url(["v3", domain, "events"]);
            let end = span.end.saturating_add(std::time::Duration::from_millis(999)).as_secs();
            url.query_pairs_mut()
                .append_pair("begin", &span.begin.as_secs().to_string())
                .append_pair("end", &end.to_string())
                .append_pair("ascending", "yes")
                .append_pair("limit", "300");
            url
        }
    };
    let listing = http.ask_page(EVENTS, authorised(http, Method::GET, url), OF_EVENTS).await?;
    let items = listing.items.ok_or_else(|| http.strange(EVENTS, NO_ITEMS))?;
    let next = listing.answer.pointer("/paging/next").and_then(Value::as_str);
    Ok(Page { is_torn: listing.is_torn, ..page(items, listing.unread, next) })
}

/// A page of `POST /v1/analytics/logs`, its events in the shape of the other API.
pub(super) async fn logs(http: &Http, domain: &str, span: Span, next: Option<&Next>) -> Result<Page, Fault> {
    let mut paging = json!({ "sort": "timestamp:asc", "limit": 100 });
    if let Some(Next(token)) = next {
        paging["token"] = token.as_str().into();
    }
    let end = span.end.saturating_add(std::time::Duration::from_millis(999));
    let request = json!({
        "start": span.begin.to_rfc5322(),
        "end": end.to_rfc5322(),
        "filter": { "AND": [{
            "attribute": "domain", "comparator": "=", "values": [{ "label": domain, "value": domain }],
        }] },
        "include_subaccounts": false,
        "include_totals": false,
        "pagination": paging,
    });
    let request = authorised(http, Method::POST, http.url(["v1", "analytics", "logs"])).json(&request);
    let listing = http.ask_page(LOGS, request, OF_EVENTS).await?;
    let items = listing.items.ok_or_else(|| http.strange(LOGS, NO_ITEMS))?;
    let items = items.into_iter().map(reshaped).collect();
    let next = listing.answer.pointer("/pagination/next").and_then(Value::as_str);
    let next = next.filter(|token| !token.is_empty());
    Ok(Page { is_torn: listing.is_torn, ..page(items, listing.unread, next) })
}

fn page(items: Vec<Value>, mut unread: Vec<Unread>, next: Option<&str>) -> Page {
    let next = next.filter(|_| !(items.is_empty() && unread.is_empty())).map(|next| Next(next.to_owned()));
    let mut events = Vec::with_capacity(items.len());
    for item in items {
        match mailgun::fault(&(&item).into()) {
            Some(reason) => unread.push(Unread::new(&item, reason)),
            None => events.push(item),
        }
    }
    let last = events.last().and_then(|event| event["timestamp"].as_f64());
    Page {
        complete_until: last.map(|at| Timestamp::from_millis((at * 1e3) as u64)),
        events,
        unread,
        next,
        is_torn: false,
    }
}

/// An event of the logs as webhooks and the Events API write it. Its time has milliseconds only, so the same event may
/// come with two times: its identity has the day alone.
fn reshaped(event: Value) -> Value {
    let Value::Object(event) = event else { return event };
    let mut reshaped = Map::new();
    for (name, value) in event {
        match (name.as_str(), value) {
            ("@timestamp", Value::String(at)) => {
                // What is no time stays as it is, and the event gets that of the poll.
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

/// A page of a list. The end is an empty page, or one whose next is the last.
pub(super) async fn listed(
    http: &Http,
    domain: &str,
    list: List,
    next: Option<&Next>,
) -> Result<(Vec<Entry>, Vec<Unread>, Option<Next>), Fault> {
    let url = match next {
        Some(next) => http.own(list.word(), &next.0)?,
        None => {
            let mut url = http.url(["v3", domain, list.word()]);
            url.query_pairs_mut().append_pair("limit", "1000");
            url
        }
    };
    let listing = http.ask_list(list.word(), authorised(http, Method::GET, url), OF_ADDRESSES).await?;
    let items = listing.items.ok_or_else(|| http.strange(list.word(), NO_ITEMS))?;
    let mut unread = listing.unread;
    let is_empty = items.is_empty() && unread.is_empty();
    let paging = |name: &str| listing.answer["paging"][name].as_str();
    let next = paging("next").filter(|next| !is_empty && paging("last") != Some(next));
    let mut entries = Vec::with_capacity(items.len());
    for item in &items {
        match entry(item) {
            Some(entry) => entries.push(entry),
            None => unread.push(Unread::new(item, "it has no address")),
        }
    }
    Ok((entries, unread, next.map(|next| Next(next.to_owned()))))
}

fn entry(item: &Value) -> Option<Entry> {
    let text = |name: &str| item[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let tags = item["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    Some(Entry {
        address: text("address")?,
        since: moment(&item["created_at"]),
        code: text("code"),
        reason: text("error"),
        tags: text("tag").into_iter().chain(tags).collect(),
    })
}

/// Adds entries, all of them or none.
pub(super) async fn add(http: &Http, domain: &str, list: List, entries: &[Entry]) -> Result<(), Fault> {
    let written: Vec<Value> = entries.iter().map(|entry| written(list, entry)).collect();
    let url = http.url(["v3", domain, list.word()]);
    http.ask(list.word(), authorised(http, Method::POST, url).json(&written)).await.map(drop)
}

fn written(list: List, entry: &Entry) -> Value {
    let mut written = json!({ "address": entry.address });
    if let Some(since) = entry.since {
        written["created_at"] = since.to_rfc5322().replace("+0000", "UTC").into();
    }
    match list {
        List::Bounces => {
            written["code"] = entry.code.as_deref().unwrap_or("550").into();
            written["error"] = entry.reason.as_deref().unwrap_or_default().into();
        }
        List::Unsubscribes => {
            let everything = || vec!["*".to_owned()];
            let tags = Some(entry.tags.clone()).filter(|tags| !tags.is_empty()).unwrap_or_else(everything);
            written["tags"] = tags.into();
        }
        List::Complaints => {}
    }
    written
}

/// Takes an address off; whether it was there.
pub(super) async fn remove(http: &Http, domain: &str, list: List, address: &str) -> Result<bool, Fault> {
    let url = http.url(["v3", domain, list.word(), address]);
    match http.ask(list.word(), authorised(http, Method::DELETE, url)).await {
        Ok(_) => Ok(true),
        // So it says of a domain that it does not know, too, but in other words.
        Err(Fault::Unknown { words, .. }) if !words.starts_with("Domain") => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// A mail that Mailgun stored, as it came, from the `message-url` of its notification; at most so many bytes.
pub(super) async fn stored(http: &Http, url: &str, most: usize) -> Result<String, Fault> {
    let url = http.kin(STORED, url)?;
    let request = authorised(http, Method::GET, url).header(ACCEPT, "message/rfc2822");
    // Escapes take more room than what they stand for.
    let answer = http.fetch(STORED, request, most.saturating_mul(2)).await?;
    let stored: Stored = lenient::read(&answer, &mut String::new())
        .map_err(|_| http.strange(STORED, "it has no body-mime"))?;
    Ok(stored.body)
}

#[derive(Deserialize)]
struct Stored {
    #[serde(rename = "body-mime")]
    body: String,
}

/// `GET /v4/domains/<name>`.
pub(super) async fn domain(http: &Http, name: &str) -> Result<Option<Domain>, Fault> {
    let url = http.url(["v4", "domains", name]);
    let answer = match http.ask(DOMAIN, authorised(http, Method::GET, url)).await {
        Err(Fault::Unknown { .. }) => return Ok(None),
        answer => answer?,
    };
    let state = answer["domain"]["state"].as_str().ok_or_else(|| http.strange(DOMAIN, "it has no state"))?;
    let records = answer["sending_dns_records"].as_array().into_iter().flatten();
    let record = |record: &Value| {
        let text = |name: &str| record[name].as_str().map(str::to_owned);
        Some(Record { kind: text("record_type")?, name: text("name")?, value: text("value")? })
    };
    Ok(Some(Domain {
        is_active: state == "active",
        state: state.to_owned(),
        records: records.filter_map(record).collect(),
    }))
}

/// `GET /v3/domains/<domain>/webhooks`. Old registrations have one `url` instead of `urls`.
pub(super) async fn webhooks(http: &Http, domain: &str) -> Result<Vec<Webhook>, Fault> {
    let url = http.url(["v3", "domains", domain, "webhooks"]);
    let answer = http.ask(WEBHOOKS, authorised(http, Method::GET, url)).await?;
    let kinds = answer["webhooks"].as_object().ok_or_else(|| http.strange(WEBHOOKS, "it has no webhooks"))?;
    let webhooks = kinds.iter().flat_map(|(event, kind)| {
        let urls = kind["urls"].as_array().into_iter().flatten().chain(kind.get("url"));
        urls.filter_map(Value::as_str).map(|url| Webhook { event: event.clone(), url: url.to_owned() })
    });
    Ok(webhooks.collect())
}

/// Where webhooks are registered by their addresses.
pub(super) fn registry(http: &Http, domain: &str) -> Url {
    http.url(["v4", "domains", domain, "webhooks"])
}

/// Changes webhooks. A path that leads nowhere is answered with 200, too.
pub(super) async fn carry_out(http: &Http, change: &Change) -> Result<(), Fault> {
    let authorised = |method, url| authorised(http, method, url);
    let answer = webhook_registration::carry_out(http, WEBHOOKS, change, authorised).await?;
    let fine = answer.is_null() || answer["webhooks"].is_object();
    if fine { Ok(()) } else { Err(http.strange(WEBHOOKS, "it has no webhooks")) }
}

fn authorised(http: &Http, method: Method, url: Url) -> RequestBuilder {
    http.request(method, url).basic_auth("api", Some(http.key().reveal()))
}

const OF_EVENTS: http::List = http::List { name: "items", field: "event" };
const OF_ADDRESSES: http::List = http::List { name: "items", field: "address" };
const NO_ITEMS: &str = "it has no items";
const EVENTS: &str = "events";
const LOGS: &str = "logs";
const STORED: &str = "a stored mail";
const DOMAIN: &str = "the domain";
const WEBHOOKS: &str = "webhooks";
/// The kinds of event that webhooks can be registered for.
pub(super) const KINDS: [&str; 8] = [
    "accepted",
    "delivered",
    "permanent_fail",
    "temporary_fail",
    "complained",
    "unsubscribed",
    "opened",
    "clicked",
];
/// Addresses that are told one kind.
pub(super) const URLS: usize = 3;
/// Entries that one request adds at most.
pub(super) const ENTRIES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_the_logs_is_the_event_that_a_webhook_brings() {
        let logs: Value =
            serde_json::from_str(include_str!("../../../../tests/fixtures/mailgun/api_logs_page.json"))
                .unwrap();
        let events: Value =
            serde_json::from_str(include_str!("../../../../tests/fixtures/mailgun/api_events_page1.json"))
                .unwrap();
        let now = Timestamp::from_secs(1);
        let logged = mailgun::decode(&(&reshaped(logs["items"][0].clone())).into(), now);
        assert_eq!(logged, mailgun::decode(&(&events["items"][1]).into(), now));
        assert!(logged.tracking_id.is_some());
    }

    #[test]
    fn odd_shapes_stay_as_they_are() {
        let odd = json!({ "@timestamp": "soon", "user-variables": "{", "storage": [], "id": 1 });
        let expected = json!({ "timestamp": "soon", "user-variables": "{", "storage": [], "id": 1 });
        assert_eq!(reshaped(odd), expected);
        assert_eq!(reshaped(json!(null)), json!(null));
    }
}
