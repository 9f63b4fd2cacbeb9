//! `/v3/<domain>/{bounces,complaints,unsubscribes,whitelists}`: alphabetical pages, one, add, delete.

use crate::mailgun::form::Form;
use crate::mailgun::router::{Answer, Refusal, own};
use crate::mailgun::suppression_lists::List;
use crate::state::{House, date};
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use mailtrail_mail::Mailbox;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn page(
    State(house): State<Arc<House>>,
    Path((domain, list)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let list = named(&house, &domain, &list)?;
    let form = Form::of(&query.unwrap_or_default());
    let (limit, term) = (form.limit(100, PAGE)?, form.get("term").unwrap_or_default());
    let address = form.get("address");
    let mut back = false;
    let mut page = match form.get("page") {
        None | Some("first") => house.suppressions.page(list, None, false, term, limit),
        Some("next") => house.suppressions.page(list, address, false, term, limit),
        Some("previous") => {
            back = true;
            house.suppressions.page(list, address, true, term, limit)
        }
        Some("last") => {
            back = true;
            house.suppressions.page(list, None, true, term, limit)
        }
        Some(_) => return Err(Refusal::bad("'page' parameter must be first, next, previous or last")),
    };
    if back {
        page.reverse();
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let url = |page: &str, address: &str| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("page", page).append_pair("address", address);
        query.append_pair("limit", &limit.to_string());
        if !term.is_empty() {
            query.append_pair("term", term);
        }
        format!("http://{host}/v3/{}/{}?{}", house.domain, list.word(), query.finish())
    };
    let paging = json!({
        "first": url("first", ""),
        "next": page.last().map_or_else(|| url("last", ""), |(last, _)| url("next", last)),
        "previous": url("previous", page.first().map_or(address.unwrap_or_default(), |(first, _)| first)),
        "last": url("last", ""),
    });
    let items: Vec<Value> = page.into_iter().map(|(_, entry)| entry).collect();
    Ok(Json(json!({ "items": items, "paging": paging })))
}

pub(super) async fn one(
    State(house): State<Arc<House>>,
    Path((domain, list, address)): Path<(String, String, String)>,
) -> Answer {
    let list = named(&house, &domain, &list)?;
    house.suppressions.get(list, &address).map(Json).ok_or_else(|| absent(list))
}

pub(super) async fn add(
    State(house): State<Arc<House>>,
    Path((domain, list)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let list = named(&house, &domain, &list)?;
    let is_json =
        headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json {
        return add_many(&house, list, &body);
    }
    let form = Form::read(&headers, body).await?;
    let mut entry = json!({});
    for field in ["address", "domain", "code", "error", "tag", "created_at", "reason"] {
        if let Some(value) = form.get(field) {
            entry[field] = value.into();
        }
    }
    let address = put(&house, list, entry)?;
    let subject = if list == List::Allowed { "Address/Domain" } else { "Address" };
    let message = format!("{subject} has been added to the {} table", list.word());
    Ok(Json(json!({ "message": message, "address": address })))
}

/// All of them or none.
fn add_many(house: &House, list: List, body: &[u8]) -> Answer {
    let entries: Vec<Value> =
        serde_json::from_slice(body).map_err(|_| Refusal::bad("the body is not a JSON array"))?;
    if entries.len() > PAGE {
        return Err(Refusal::bad(format!("Batch size should be less than {PAGE}")));
    }
    if entries.iter().any(|entry| key(list, entry).is_none()) {
        return Err(Refusal::bad("Invalid format for parameter address"));
    }
    let count = entries.len();
    for entry in entries {
        put(house, list, entry)?;
    }
    Ok(Json(json!({ "message": format!("{count} addresses have been added to the {} table", list.word()) })))
}

fn put(house: &House, list: List, mut entry: Value) -> Result<String, Refusal> {
    let key = key(list, &entry).ok_or_else(|| Refusal::bad("Invalid format for parameter address"))?;
    match list {
        List::Bounces => {
            let code = entry["code"].as_str().unwrap_or("550").to_owned();
            let error = entry["error"].as_str().unwrap_or_default().to_owned();
            entry = json!({ "code": code, "error": error, "created_at": entry["created_at"] });
        }
        List::Unsubscribes if entry["tags"].is_array() => {
            entry = json!({ "tags": entry["tags"], "created_at": entry["created_at"] });
        }
        List::Unsubscribes => {
            let tag = entry["tag"].as_str().unwrap_or("*").to_owned();
            entry = json!({ "tag": tag, "created_at": entry["created_at"] });
        }
        List::Complaints => entry = json!({ "created_at": entry["created_at"] }),
        List::Allowed => {
            let kind = if key.contains('@') { "address" } else { "domain" };
            let reason = entry["reason"].as_str().unwrap_or_default().to_owned();
            entry = json!({ "type": kind, "value": key, "reason": reason });
        }
    }
    house.suppressions.put(list, key.clone(), entry, &date(house.clock.now()));
    Ok(key)
}

/// What an entry is found by.
fn key(list: List, entry: &Value) -> Option<String> {
    let address = entry["address"].as_str().and_then(|address| address.parse::<Mailbox>().ok());
    let domain = || entry["domain"].as_str().filter(|domain| list == List::Allowed && !domain.is_empty());
    address.map(|address| address.folded()).or_else(|| domain().map(str::to_lowercase))
}

pub(super) async fn remove(
    State(house): State<Arc<House>>,
    Path((domain, list, address)): Path<(String, String, String)>,
) -> Answer {
    let list = named(&house, &domain, &list)?;
    if !house.suppressions.remove(list, &address) {
        return Err(absent(list));
    }
    let message = match list {
        List::Bounces => "Bounced address has been removed",
        List::Complaints => "Spam complaint has been removed",
        List::Unsubscribes => "Unsubscribe event has been removed",
        List::Allowed => "Allowlist address/domain has been removed",
    };
    Ok(Json(json!({ "message": message, "address": address })))
}

pub(super) async fn clear(
    State(house): State<Arc<House>>,
    Path((domain, list)): Path<(String, String)>,
) -> Answer {
    let list = named(&house, &domain, &list)?;
    house.suppressions.clear(list);
    Ok(Json(json!({ "message": format!("The {} of this domain have been removed", list.word()) })))
}

fn named(house: &House, domain: &str, list: &str) -> Result<List, Refusal> {
    own(house, domain)?;
    List::named(list).ok_or_else(|| Refusal(StatusCode::NOT_FOUND, json!("404 page not found")))
}

fn absent(list: List) -> Refusal {
    Refusal::not_found(match list {
        List::Bounces => "Address not found in bounces table",
        List::Complaints => "No spam complaints found for this address",
        List::Unsubscribes => "Address not found in unsubscribers table",
        List::Allowed => "Address/Domain not found in whitelists table",
    })
}

/// Entries of one page, and of one request that adds some.
const PAGE: usize = 1000;
