//! `/v3/<domain>/{bounces,complaints,unsubscribes,whitelists}`: alphabetical pages, one, add, delete.

use crate::mailgun::form::Form;
use crate::mailgun::router::{ApiError, ApiResult, check_domain};
use crate::mailgun::suppression_lists::SuppressionList;
use crate::state::{SandboxState, format_mailgun_date};
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use mailtrail_mail::Mailbox;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn list_entries(
    State(state): State<Arc<SandboxState>>,
    Path((domain, list)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> ApiResult {
    let list = resolve_list(&state, &domain, &list)?;
    let form = Form::from_urlencoded(&query.unwrap_or_default());
    let (limit, term) = (form.parse_limit(100, MAX_ENTRIES_PER_PAGE)?, form.get("term").unwrap_or_default());
    let address = form.get("address");
    let mut back = false;
    let mut page = match form.get("page") {
        None | Some("first") => state.suppressions.read_page(list, None, false, term, limit),
        Some("next") => state.suppressions.read_page(list, address, false, term, limit),
        Some("previous") => {
            back = true;
            state.suppressions.read_page(list, address, true, term, limit)
        }
        Some("last") => {
            back = true;
            state.suppressions.read_page(list, None, true, term, limit)
        }
        Some(_) => {
            return Err(ApiError::bad_request("'page' parameter must be first, next, previous or last"));
        }
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
        format!("http://{host}/v3/{}/{}?{}", state.domain, list.as_str(), query.finish())
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

pub(super) async fn show_entry(
    State(state): State<Arc<SandboxState>>,
    Path((domain, list, address)): Path<(String, String, String)>,
) -> ApiResult {
    let list = resolve_list(&state, &domain, &list)?;
    state.suppressions.get(list, &address).map(Json).ok_or_else(|| entry_not_found(list))
}

pub(super) async fn add_entries(
    State(state): State<Arc<SandboxState>>,
    Path((domain, list)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> ApiResult {
    let list = resolve_list(&state, &domain, &list)?;
    let is_json =
        headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json {
        return add_batch(&state, list, &body);
    }
    let form = Form::from_body(&headers, body).await?;
    let mut entry = json!({});
    for field in ["address", "domain", "code", "error", "tag", "created_at", "reason"] {
        if let Some(value) = form.get(field) {
            entry[field] = value.into();
        }
    }
    let address = put_entry(&state, list, entry)?;
    let subject = if list == SuppressionList::Allowed { "Address/Domain" } else { "Address" };
    let message = format!("{subject} has been added to the {} table", list.as_str());
    Ok(Json(json!({ "message": message, "address": address })))
}

/// All of them or none.
fn add_batch(state: &SandboxState, list: SuppressionList, body: &[u8]) -> ApiResult {
    let entries: Vec<Value> =
        serde_json::from_slice(body).map_err(|_| ApiError::bad_request("the body is not a JSON array"))?;
    if entries.len() > MAX_ENTRIES_PER_PAGE {
        return Err(ApiError::bad_request(format!("Batch size should be less than {MAX_ENTRIES_PER_PAGE}")));
    }
    if entries.iter().any(|entry| entry_key(list, entry).is_none()) {
        return Err(ApiError::bad_request("Invalid format for parameter address"));
    }
    let count = entries.len();
    for entry in entries {
        put_entry(state, list, entry)?;
    }
    Ok(Json(
        json!({ "message": format!("{count} addresses have been added to the {} table", list.as_str()) }),
    ))
}

fn put_entry(state: &SandboxState, list: SuppressionList, mut entry: Value) -> Result<String, ApiError> {
    let key = entry_key(list, &entry)
        .ok_or_else(|| ApiError::bad_request("Invalid format for parameter address"))?;
    match list {
        SuppressionList::Bounces => {
            let code = entry["code"].as_str().unwrap_or("550").to_owned();
            let error = entry["error"].as_str().unwrap_or_default().to_owned();
            entry = json!({ "code": code, "error": error, "created_at": entry["created_at"] });
        }
        SuppressionList::Unsubscribes if entry["tags"].is_array() => {
            entry = json!({ "tags": entry["tags"], "created_at": entry["created_at"] });
        }
        SuppressionList::Unsubscribes => {
            let tag = entry["tag"].as_str().unwrap_or("*").to_owned();
            entry = json!({ "tag": tag, "created_at": entry["created_at"] });
        }
        SuppressionList::Complaints => entry = json!({ "created_at": entry["created_at"] }),
        SuppressionList::Allowed => {
            let kind = if key.contains('@') { "address" } else { "domain" };
            let reason = entry["reason"].as_str().unwrap_or_default().to_owned();
            entry = json!({ "type": kind, "value": key, "reason": reason });
        }
    }
    state.suppressions.put(list, key.clone(), entry, &format_mailgun_date(state.clock.now()));
    Ok(key)
}

/// Key of an entry.
fn entry_key(list: SuppressionList, entry: &Value) -> Option<String> {
    let address = entry["address"].as_str().and_then(|address| address.parse::<Mailbox>().ok());
    let domain =
        || entry["domain"].as_str().filter(|domain| list == SuppressionList::Allowed && !domain.is_empty());
    address.map(|address| address.to_folded()).or_else(|| domain().map(str::to_lowercase))
}

pub(super) async fn delete_entry(
    State(state): State<Arc<SandboxState>>,
    Path((domain, list, address)): Path<(String, String, String)>,
) -> ApiResult {
    let list = resolve_list(&state, &domain, &list)?;
    if !state.suppressions.remove(list, &address) {
        return Err(entry_not_found(list));
    }
    let message = match list {
        SuppressionList::Bounces => "Bounced address has been removed",
        SuppressionList::Complaints => "Spam complaint has been removed",
        SuppressionList::Unsubscribes => "Unsubscribe event has been removed",
        SuppressionList::Allowed => "Allowlist address/domain has been removed",
    };
    Ok(Json(json!({ "message": message, "address": address })))
}

pub(super) async fn clear_list(
    State(state): State<Arc<SandboxState>>,
    Path((domain, list)): Path<(String, String)>,
) -> ApiResult {
    let list = resolve_list(&state, &domain, &list)?;
    state.suppressions.clear(list);
    Ok(Json(json!({ "message": format!("The {} of this domain have been removed", list.as_str()) })))
}

fn resolve_list(state: &SandboxState, domain: &str, list: &str) -> Result<SuppressionList, ApiError> {
    check_domain(state, domain)?;
    SuppressionList::parse(list).ok_or_else(|| ApiError(StatusCode::NOT_FOUND, json!("404 page not found")))
}

fn entry_not_found(list: SuppressionList) -> ApiError {
    ApiError::not_found(match list {
        SuppressionList::Bounces => "Address not found in bounces table",
        SuppressionList::Complaints => "No spam complaints found for this address",
        SuppressionList::Unsubscribes => "Address not found in unsubscribers table",
        SuppressionList::Allowed => "Address/Domain not found in whitelists table",
    })
}

/// Entries of one page, and of one request that adds some.
const MAX_ENTRIES_PER_PAGE: usize = 1000;
