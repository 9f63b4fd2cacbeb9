//! `POST /v1/analytics/logs`, the successor of the Events API: account-wide, with tokens for pages and events of a
//! slightly different shape.

use crate::mailgun::paging::{PageStart, TimeSpan};
use crate::mailgun::router::{ApiError, ApiResult};
use crate::state::SandboxState;
use axum::Json;
use axum::extract::State;
use mailtrail_mail::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn query_logs(
    State(state): State<Arc<SandboxState>>,
    Json(request): Json<Value>,
) -> ApiResult {
    let time = |name: &str| {
        let written = request[name].as_str().unwrap_or_default();
        Timestamp::parse_rfc5322(written)
            .map(|at| (at, written.to_owned()))
            .ok_or_else(|| ApiError::bad_request(format!("{name}: a RFC-2822 compliant date is required")))
    };
    let ((start, start_text), (end, end_text)) = (time("start")?, time("end")?);
    let paging = &request["pagination"];
    let ascending = match paging["sort"].as_str() {
        Some("timestamp:asc") => true,
        Some("timestamp:desc") | None => false,
        Some(_) => return Err(ApiError::bad_request("pagination.sort: unknown sort")),
    };
    let limit = paging["limit"].as_u64().unwrap_or(100);
    if !(1..=MAX_EVENTS_PER_PAGE).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "pagination.limit: must be from 1 to {MAX_EVENTS_PER_PAGE}"
        )));
    }
    let from = match paging["token"].as_str() {
        None | Some("") => PageStart::First,
        Some(token) => {
            PageStart::decode(token).ok_or_else(|| ApiError::bad_request("pagination.token: invalid"))?.0
        }
    };
    let span = TimeSpan { low: start.as_millis() * 1000, high: end.as_millis() * 1000, ascending };
    let wanted = |event: &Value| matches_query(&request, event);
    let (items, next, previous) = span.read_page(&state, from, limit as usize, wanted);
    let total = span.read_page(&state, PageStart::First, usize::MAX, wanted).0.len();
    Ok(Json(json!({
        "start": start_text,
        "end": end_text,
        "items": items.into_iter().map(to_log_event).collect::<Vec<_>>(),
        "pagination": {
            "previous": previous.encode(""),
            "next": next.encode(""),
            "first": PageStart::First.encode(""),
            "last": PageStart::Before(u64::MAX).encode(""),
            "total": total,
        },
        "aggregates": {},
    })))
}

fn matches_query(request: &Value, event: &Value) -> bool {
    let kinds = request["events"].as_array().filter(|kinds| !kinds.is_empty());
    let conditions = request["filter"]["AND"].as_array();
    kinds.is_none_or(|kinds| kinds.contains(&event["event"]))
        && conditions.into_iter().flatten().all(|condition| matches_condition(condition, event))
}

/// Whether an event meets `{"attribute", "comparator", "values": [{"value"}]}`.
fn matches_condition(condition: &Value, event: &Value) -> bool {
    let value = match condition["attribute"].as_str() {
        Some("domain") => &event["domain"]["name"],
        Some("recipient") => &event["recipient"],
        Some("message_id") => &event["message"]["headers"]["message-id"],
        _ => return false,
    };
    let equal = condition["values"].as_array().into_iter().flatten().any(|one| one["value"] == *value);
    equal == (condition["comparator"] != "!=")
}

/// `@timestamp` in milliseconds, the variables as JSON in a string, and a list of storage URLs.
fn to_log_event(mut event: Value) -> Value {
    let at = event["timestamp"].as_f64().unwrap_or_default();
    event["@timestamp"] = Timestamp::from_millis((at * 1e3) as u64).to_string().into();
    event["user-variables"] = event["user-variables"].to_string().into();
    if let Some(url) = event.pointer_mut("/storage/url") {
        *url = json!([url]);
    }
    if let Some(event) = event.as_object_mut() {
        event.remove("timestamp");
    }
    event
}

/// Events of one page at most.
const MAX_EVENTS_PER_PAGE: u64 = 100;
