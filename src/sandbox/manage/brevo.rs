//! Brevo's API, as far as a relay needs it: the account, statistics of events, blocked contacts.

use super::super::brevo::statistics_word;
use super::super::house::House;
use super::super::suppressions::List;
use super::form::Form;
use super::{Answer, Refusal, weather};
use crate::clock::Timestamp;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::ops::Bound::Included;
use std::sync::Arc;
use subtle::ConstantTimeEq;

pub(super) fn router(house: Arc<House>) -> Router {
    Router::new()
        .route("/v3/account", get(|State(house): State<Arc<House>>| async move {
            Json(json!({ "email": house.login.username }))
        }))
        .route("/v3/smtp/statistics/events", get(statistics))
        .route("/v3/smtp/blockedContacts", get(blocked))
        .route("/v3/smtp/blockedContacts/{email}", delete(unblock))
        .layer(middleware::from_fn_with_state(house.clone(), limit))
        .route("/sandbox/weather", get(weather::now).put(weather::change))
        .layer(middleware::from_fn_with_state(house.clone(), admit))
        .with_state(house)
}

async fn admit(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    let given = request.headers().get("api-key").map(|key| key.as_bytes()).unwrap_or_default();
    if given.ct_eq(house.api_key.reveal().as_bytes()).into() {
        return next.run(request).await;
    }
    refusal(StatusCode::UNAUTHORIZED, "unauthorized", "Key not found").into_response()
}

async fn limit(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    if house.limiter.admits(house.sky.now().requests) {
        return next.run(request).await;
    }
    let reset = [(HeaderName::from_static("x-sib-ratelimit-reset"), "60")];
    let refusal = refusal(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests");
    (reset, refusal).into_response()
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Refusal {
    Refusal(status, json!({ "code": code, "message": message }))
}

fn bad(message: &str) -> Refusal {
    refusal(StatusCode::BAD_REQUEST, "invalid_parameter", message)
}

async fn statistics(State(house): State<Arc<House>>, RawQuery(query): RawQuery) -> Answer {
    let form = Form::of(&query.unwrap_or_default());
    let (limit, offset) = paging(&form, 2500, 5000)?;
    let day = |name: &str| {
        let date = form.get(name).map(|date| Timestamp::parse_rfc3339(&format!("{date}T00:00:00Z")));
        date.map_or(Ok(None), |date| date.map(Some).ok_or_else(|| bad(&format!("{name} is not valid"))))
    };
    let (from, to) = match (day("startDate")?, day("endDate")?) {
        (Some(from), Some(to)) if from <= to => (from, to.after(DAY)),
        (None, None) => (Timestamp::default(), Timestamp::from_millis(u64::MAX / 1000)),
        _ => return Err(bad("startDate and endDate belong together")),
    };
    let range = (Included(from.millis() * 1000), Included(to.millis() * 1000 - 1));
    let wanted = |event: &Value| {
        let word = statistics_word(event["event"].as_str().unwrap_or_default());
        form.get("event").is_none_or(|wanted| wanted == word)
            && form.get("email").is_none_or(|email| event["email"] == email)
            && form.get("messageId").is_none_or(|id| event["message-id"] == id)
    };
    let newest_first = form.get("sort") != Some("asc");
    let most = offset.saturating_add(limit);
    let events = house.log.page(range, newest_first, most, house.clock.now(), wanted);
    let events: Vec<_> = events.into_iter().skip(offset).map(|(_, event)| written(&event)).collect();
    // Without any the field is not there.
    Ok(Json(if events.is_empty() { json!({}) } else { json!({ "events": events }) }))
}

fn written(event: &Value) -> Value {
    let at = Timestamp::from_seconds(event["ts"].as_u64().unwrap_or_default());
    let mut written = json!({
        "email": event["email"],
        "date": at.to_string().replace('Z', "+00:00"),
        "messageId": event["message-id"],
        "event": statistics_word(event["event"].as_str().unwrap_or_default()),
        "subject": event["subject"],
    });
    for (webhook, statistics) in
        [("tag", "tag"), ("reason", "reason"), ("link", "link"), ("sending_ip", "ip")]
    {
        if let Some(value) = event.get(webhook).filter(|value| *value != "") {
            written[statistics] = value.clone();
        }
    }
    written
}

async fn blocked(State(house): State<Arc<House>>, RawQuery(query): RawQuery) -> Answer {
    let form = Form::of(&query.unwrap_or_default());
    let (limit, offset) = paging(&form, 50, 100)?;
    let mut contacts = Vec::new();
    for (list, code, message) in REASONS {
        for (email, entry) in house.suppressions.page(list, None, false, "", usize::MAX) {
            let since = entry["created_at"].as_str().and_then(Timestamp::parse_rfc5322).unwrap_or_default();
            contacts.push((
                since,
                json!({
                    "email": email,
                    "senderEmail": "",
                    "blockedAt": since.to_string().replace('Z', "+00:00"),
                    "reason": { "code": code, "message": message },
                }),
            ));
        }
    }
    contacts.sort_by_key(|(since, _)| *since);
    if form.get("sort") != Some("asc") {
        contacts.reverse();
    }
    let count = contacts.len();
    let page: Vec<_> = contacts.into_iter().skip(offset).take(limit).map(|(_, contact)| contact).collect();
    Ok(Json(json!({ "count": count, "contacts": page })))
}

async fn unblock(State(house): State<Arc<House>>, Path(email): Path<String>) -> Result<StatusCode, Refusal> {
    let removed = REASONS.iter().filter(|(list, ..)| house.suppressions.remove(*list, &email)).count();
    match removed {
        0 => Err(refusal(StatusCode::NOT_FOUND, "document_not_found", "Contact not found")),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

/// `limit` and `offset`.
fn paging(form: &Form, usual: usize, most: usize) -> Result<(usize, usize), Refusal> {
    let limit = form.limit(usual, most).map_err(|_| bad("limit is not valid"))?;
    let offset = form.get("offset").map_or(Some(0), |offset| offset.parse().ok());
    Ok((limit, offset.ok_or_else(|| bad("offset is not valid"))?))
}

const REASONS: [(List, &str, &str); 3] = [
    (List::Bounces, "hardBounce", "Hard bounce"),
    (List::Unsubscribes, "unsubscribedViaEmail", "Unsubscribed via email"),
    (List::Complaints, "contactFlaggedAsSpam", "Contact flagged as spam"),
];
const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
