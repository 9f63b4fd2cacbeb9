//! Brevo's API, as far as a relay needs it: the account, its domains and webhooks, statistics of events, blocked
//! contacts.

use crate::brevo::{blocked_contacts, statistics, time_zone, webhooks};
use crate::control_api;
use crate::mailgun::{Form, Refusal};
use crate::state::House;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use mailtrail_mail::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

pub(crate) fn router(house: Arc<House>) -> Router {
    Router::new()
        .route("/v3/account", get(account))
        .route("/v3/senders/domains", get(domains))
        .route("/v3/smtp/statistics/events", get(statistics::page))
        .route("/v3/smtp/blockedContacts", get(blocked_contacts::page))
        .route("/v3/smtp/blockedContacts/{email}", delete(blocked_contacts::remove))
        .route("/v3/webhooks", get(webhooks::all).post(webhooks::create))
        .route("/v3/webhooks/{id}", get(webhooks::one).put(webhooks::change).delete(webhooks::remove))
        .layer(middleware::from_fn_with_state(house.clone(), limit))
        .merge(control_api::routes())
        .layer(middleware::from_fn_with_state(house.clone(), admit))
        .fallback(|| async { absent("Unable to find the requested path") })
        .with_state(house)
}

/// Only who knows the key.
async fn admit(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    let given = request.headers().get("api-key").map(|key| key.as_bytes()).unwrap_or_default();
    if given.ct_eq(house.api_key.reveal().as_bytes()).into() {
        return next.run(request).await;
    }
    refusal(StatusCode::UNAUTHORIZED, "unauthorized", "Key not found").into_response()
}

/// Only so many in an hour. Each answer says how many are left.
async fn limit(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    let most = house.sky.now().requests;
    let seen = house.limiter.count(HOUR);
    let answer = if seen.count <= most {
        next.run(request).await
    } else {
        refusal(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests").into_response()
    };
    let field = |name, value: u64| (HeaderName::from_static(name), value.to_string());
    let fields = [
        field("x-sib-ratelimit-limit", most.into()),
        field("x-sib-ratelimit-remaining", most.saturating_sub(seen.count).into()),
        field("x-sib-ratelimit-reset", seen.ends.as_secs()),
    ];
    (fields, answer).into_response()
}

async fn account(State(house): State<Arc<House>>) -> Json<Value> {
    Json(json!({
        "organization_id": "5f0000000000000000000001",
        "email": format!("owner@{}", house.domain),
        "firstName": "Ada",
        "lastName": "Owner",
        "companyName": "Example",
        "plan": [{ "type": "free", "creditsType": "sendLimit", "credits": 300 }],
        "relay": {
            "enabled": true,
            "data": {
                "userName": house.login.username(),
                "relay": "smtp-relay.brevo.com",
                "port": 587,
            },
        },
    }))
}

async fn domains(State(house): State<Arc<House>>) -> Json<Value> {
    Json(json!({
        "domains": [{
            "id": 1,
            "domain_name": house.domain,
            "authenticated": true,
            "verified": true,
        }],
    }))
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Refusal {
    Refusal(status, json!({ "code": code, "message": message }))
}

pub(super) fn bad(message: &str) -> Refusal {
    refusal(StatusCode::BAD_REQUEST, "invalid_parameter", message)
}

pub(super) fn absent(message: &str) -> Refusal {
    refusal(StatusCode::NOT_FOUND, "document_not_found", message)
}

/// `limit` and `offset`.
pub(super) fn paging(form: &Form, usual: usize, most: usize) -> Result<(usize, usize), Refusal> {
    let limit = form.limit(usual, most).map_err(|_| bad("limit is not valid"))?;
    let offset = form.get("offset").map_or(Some(0), |offset| offset.parse().ok());
    Ok((limit, offset.ok_or_else(|| bad("offset is not valid"))?))
}

/// From the beginning of `startDate` to the end of `endDate`, days of the account; both or neither.
pub(super) fn days(form: &Form) -> Result<Option<(Timestamp, Timestamp)>, Refusal> {
    let day = |name: &str| {
        let date = form.get(name).map(time_zone::day);
        date.map_or(Ok(None), |date| date.map(Some).ok_or_else(|| bad(&format!("{name} is not valid"))))
    };
    match (day("startDate")?, day("endDate")?) {
        (Some(from), Some(to)) if from <= to => Ok(Some((from, to.after(DAY)))),
        (Some(_), Some(_)) => Err(bad("endDate is before startDate")),
        (None, None) => Ok(None),
        _ => Err(bad("startDate and endDate belong together")),
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
