//! Brevo's API, as far as a relay needs it: the account, its domains and webhooks, statistics of events, blocked
//! contacts.

use crate::brevo::{blocked_contacts, statistics, time_zone, webhooks};
use crate::control_api;
use crate::mailgun::{ApiError, Form};
use crate::state::SandboxState;
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

pub(crate) fn router(state: Arc<SandboxState>) -> Router {
    Router::new()
        .route("/v3/account", get(show_account))
        .route("/v3/senders/domains", get(list_domains))
        .route("/v3/smtp/statistics/events", get(statistics::list_events))
        .route("/v3/smtp/blockedContacts", get(blocked_contacts::list_blocked_contacts))
        .route("/v3/smtp/blockedContacts/{email}", delete(blocked_contacts::unblock_contact))
        .route("/v3/webhooks", get(webhooks::list_webhooks).post(webhooks::create_webhook))
        .route(
            "/v3/webhooks/{id}",
            get(webhooks::show_webhook).put(webhooks::update_webhook).delete(webhooks::delete_webhook),
        )
        .layer(middleware::from_fn_with_state(state.clone(), limit_requests))
        .merge(control_api::control_routes())
        .layer(middleware::from_fn_with_state(state.clone(), require_api_key))
        .fallback(|| async { not_found("Unable to find the requested path") })
        .with_state(state)
}

/// Rejects requests without the API key.
async fn require_api_key(State(state): State<Arc<SandboxState>>, request: Request, next: Next) -> Response {
    let given = request.headers().get("api-key").map(|key| key.as_bytes()).unwrap_or_default();
    if given.ct_eq(state.api_key.expose().as_bytes()).into() {
        return next.run(request).await;
    }
    api_error(StatusCode::UNAUTHORIZED, "unauthorized", "Key not found").into_response()
}

/// Limits requests per hour. Each response has the number left.
async fn limit_requests(State(state): State<Arc<SandboxState>>, request: Request, next: Next) -> Response {
    let most = state.faults.current().requests;
    let seen = state.request_counter.count_request(RATE_LIMIT_WINDOW);
    let answer = if seen.count <= most {
        next.run(request).await
    } else {
        api_error(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests").into_response()
    };
    let field = |name, value: u64| (HeaderName::from_static(name), value.to_string());
    let fields = [
        field("x-sib-ratelimit-limit", most.into()),
        field("x-sib-ratelimit-remaining", most.saturating_sub(seen.count).into()),
        field("x-sib-ratelimit-reset", seen.resets_in.as_secs()),
    ];
    (fields, answer).into_response()
}

async fn show_account(State(state): State<Arc<SandboxState>>) -> Json<Value> {
    Json(json!({
        "organization_id": "5f0000000000000000000001",
        "email": format!("owner@{}", state.domain),
        "firstName": "Ada",
        "lastName": "Owner",
        "companyName": "Example",
        "plan": [{ "type": "free", "creditsType": "sendLimit", "credits": 300 }],
        "relay": {
            "enabled": true,
            "data": {
                "userName": state.credentials.username(),
                "relay": "smtp-relay.brevo.com",
                "port": 587,
            },
        },
    }))
}

async fn list_domains(State(state): State<Arc<SandboxState>>) -> Json<Value> {
    Json(json!({
        "domains": [{
            "id": 1,
            "domain_name": state.domain,
            "authenticated": true,
            "verified": true,
        }],
    }))
}

fn api_error(status: StatusCode, code: &str, message: &str) -> ApiError {
    ApiError(status, json!({ "code": code, "message": message }))
}

pub(super) fn invalid_parameter(message: &str) -> ApiError {
    api_error(StatusCode::BAD_REQUEST, "invalid_parameter", message)
}

pub(super) fn not_found(message: &str) -> ApiError {
    api_error(StatusCode::NOT_FOUND, "document_not_found", message)
}

/// `limit` and `offset`.
pub(super) fn parse_paging(form: &Form, usual: usize, most: usize) -> Result<(usize, usize), ApiError> {
    let limit = form.parse_limit(usual, most).map_err(|_| invalid_parameter("limit is not valid"))?;
    let offset = form.get("offset").map_or(Some(0), |offset| offset.parse().ok());
    Ok((limit, offset.ok_or_else(|| invalid_parameter("offset is not valid"))?))
}

/// From the beginning of `startDate` to the end of `endDate`, days of the account; both or neither.
pub(super) fn parse_date_range(form: &Form) -> Result<Option<(Timestamp, Timestamp)>, ApiError> {
    let day = |name: &str| {
        let date = form.get(name).map(time_zone::parse_day_start);
        date.map_or(Ok(None), |date| {
            date.map(Some).ok_or_else(|| invalid_parameter(&format!("{name} is not valid")))
        })
    };
    match (day("startDate")?, day("endDate")?) {
        (Some(from), Some(to)) if from <= to => Ok(Some((from, to.saturating_add(ONE_DAY)))),
        (Some(_), Some(_)) => Err(invalid_parameter("endDate is before startDate")),
        (None, None) => Ok(None),
        _ => Err(invalid_parameter("startDate and endDate belong together")),
    }
}

const RATE_LIMIT_WINDOW: Duration = Duration::from_secs(3600);
const ONE_DAY: Duration = Duration::from_secs(86_400);
