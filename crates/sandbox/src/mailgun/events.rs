//! `GET /v3/<domain>/events`.

use crate::mailgun::form::Form;
use crate::mailgun::paging::{PageStart, TimeSpan};
use crate::mailgun::router::{ApiError, ApiResult, check_domain};
use crate::state::SandboxState;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::http::header::HOST;
use mailtrail_mail::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn list_events(
    State(state): State<Arc<SandboxState>>,
    Path(domain): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> ApiResult {
    check_domain(&state, &domain)?;
    let query = query.unwrap_or_default();
    // A query without a start keeps its time on later pages.
    let query = format!("{query}&now={}", state.current_micros());
    render_page(&state, &headers, PageStart::First, &query)
}

pub(super) async fn list_events_page(
    State(state): State<Arc<SandboxState>>,
    Path((domain, page)): Path<(String, String)>,
    headers: HeaderMap,
) -> ApiResult {
    check_domain(&state, &domain)?;
    let (start, query) = PageStart::decode(&page).ok_or_else(|| ApiError::bad_request("invalid page"))?;
    render_page(&state, &headers, start, &query)
}

fn render_page(state: &SandboxState, headers: &HeaderMap, start: PageStart, query: &str) -> ApiResult {
    let form = Form::from_urlencoded(query);
    let limit = form.parse_limit(100, MAX_EVENTS_PER_PAGE)?;
    let (items, next, previous) =
        parse_time_span(&form)?.read_page(state, start, limit, |event| matches_filters(&form, event));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let url = |start: PageStart| format!("http://{host}/v3/{}/events/{}", state.domain, start.encode(query));
    Ok(Json(json!({ "items": items, "paging": { "next": url(next), "previous": url(previous) } })))
}

/// Parses `begin` and `end`, the limits in reading order; without an end, `ascending` gives the direction.
fn parse_time_span(form: &Form) -> Result<TimeSpan, ApiError> {
    let time = |name: &str| match form.get(name) {
        None => Ok(None),
        Some(text) => parse_time_micros(text).map(Some).ok_or_else(|| {
            ApiError::bad_request(format!("'{name}' parameter is not a RFC-2822 compliant date"))
        }),
    };
    let (begin, end) = (time("begin")?, time("end")?);
    let ascending = match form.get("ascending") {
        Some("yes" | "true") => Some(true),
        Some("no" | "false") => Some(false),
        Some(_) => return Err(ApiError::bad_request("'ascending' parameter must be yes or no")),
        None => None,
    };
    let now = form.get("now").and_then(|now| now.parse().ok()).unwrap_or_default();
    match (begin, end, ascending) {
        (Some(_), None, None) => {
            Err(ApiError::bad_request("'ascending' parameter is required without 'end'"))
        }
        (Some(begin), Some(end), Some(ascending)) if (begin <= end) != ascending && begin != end => {
            Err(ApiError::bad_request("'ascending' parameter contradicts 'begin' and 'end'"))
        }
        (Some(begin), Some(end), _) => {
            Ok(TimeSpan { low: begin.min(end), high: begin.max(end), ascending: begin <= end })
        }
        (begin, end, Some(true)) => {
            Ok(TimeSpan { low: begin.unwrap_or(now), high: end.unwrap_or(u64::MAX), ascending: true })
        }
        (begin, end, _) => {
            Ok(TimeSpan { low: end.unwrap_or(0), high: begin.unwrap_or(now), ascending: false })
        }
    }
}

/// Seconds since 1970, or a date (RFC 2822).
fn parse_time_micros(text: &str) -> Option<u64> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..1e12).contains(seconds));
    let date = || Timestamp::parse_rfc5322(text).map(|at| at.as_millis() * 1000);
    seconds.map(|seconds| (seconds * 1e6) as u64).or_else(date)
}

/// Whether an event matches each filter; `a OR b` matches either.
fn matches_filters(form: &Form, event: &Value) -> bool {
    let fields = [
        ("event", "/event"),
        ("recipient", "/recipient"),
        ("message-id", "/message/headers/message-id"),
        ("severity", "/severity"),
        ("from", "/message/headers/from"),
        ("to", "/message/headers/to"),
        ("subject", "/message/headers/subject"),
    ];
    fields.iter().all(|(name, pointer)| {
        let Some(asked) = form.get(name) else { return true };
        let value = event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        asked.split(" OR ").any(|term| term.trim().eq_ignore_ascii_case(value))
    })
}

/// Events of one page at most.
const MAX_EVENTS_PER_PAGE: usize = 300;
