//! `GET /v3/smtp/statistics/events`.

use crate::brevo::event::{statistics_event_name, to_statistics_event};
use crate::brevo::router::{invalid_parameter, parse_date_range, parse_paging};
use crate::mailgun::{ApiResult, Form};
use crate::state::SandboxState;
use axum::Json;
use axum::extract::{RawQuery, State};
use serde_json::{Value, json};
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;
use std::time::Duration;

pub(super) async fn list_events(
    State(state): State<Arc<SandboxState>>,
    RawQuery(query): RawQuery,
) -> ApiResult {
    let form = Form::from_urlencoded(&query.unwrap_or_default());
    let (limit, offset) = parse_paging(&form, 2500, 5000)?;
    let now = state.clock.now();
    let (from, to) = match (parse_date_range(&form)?, form.get("days")) {
        (Some(_), Some(_)) => return Err(invalid_parameter("days does not go with startDate and endDate")),
        (Some(span), None) => span,
        (None, text) => {
            let days = text.map_or(Some(30), |text| text.parse().ok().filter(|days| (1..=90).contains(days)));
            let days = days.ok_or_else(|| invalid_parameter("days is not valid"))?;
            // The latest event may be ahead of the clock, because event times are unique.
            (now.saturating_sub(ONE_DAY * days), now.saturating_add(ONE_DAY))
        }
    };
    let asked = form.get("event");
    if asked.is_some_and(|asked| !EVENT_NAMES.contains(&asked)) {
        return Err(invalid_parameter("event is not valid"));
    }
    let wanted = |event: &Value| {
        let is =
            |name: &str, text: &str| event[name].as_str().is_some_and(|own| own.eq_ignore_ascii_case(text));
        let word = statistics_event_name(event["event"].as_str().unwrap_or_default());
        let of_kind = |asked| asked == word || (asked == "bounces" && word.ends_with("Bounces"));
        asked.is_none_or(of_kind)
            && form.get("email").is_none_or(|email| is("email", email))
            && form.get("messageId").is_none_or(|id| is("message-id", id))
            && form.get("tags").is_none_or(|tag| is("tag", tag))
    };
    let range = (Included(from.as_millis() * 1000), Excluded(to.as_millis() * 1000));
    let newest_first = form.get("sort") != Some("asc");
    let most = offset.saturating_add(limit);
    let events = state.event_log.read_page(range, newest_first, most, now, wanted);
    let events: Vec<_> =
        events.into_iter().skip(offset).map(|(_, event)| to_statistics_event(&event)).collect();
    // Without any the field is not there.
    Ok(Json(if events.is_empty() { json!({}) } else { json!({ "events": events }) }))
}

/// Event names that can be requested.
pub(super) const EVENT_NAMES: [&str; 14] = [
    "bounces",
    "hardBounces",
    "softBounces",
    "delivered",
    "spam",
    "requests",
    "opened",
    "clicks",
    "invalid",
    "deferred",
    "blocked",
    "unsubscribed",
    "error",
    "loadedByProxy",
];
const ONE_DAY: Duration = Duration::from_secs(86_400);
