//! Mailgun's management API: events, logs, suppressions, webhooks, domain.
//!
//! Forms and texts are the documented ones; undocumented errors have texts of our own.

use crate::control_api;
use crate::mailgun::messages;
use crate::state::SandboxState;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Everything but messages.
pub(crate) fn router(state: Arc<SandboxState>) -> Router {
    Router::new()
        .route("/v3/{domain}/events", get(crate::mailgun::events::list_events))
        .route("/v3/{domain}/events/{page}", get(crate::mailgun::events::list_events_page))
        .route("/v1/analytics/logs", post(crate::mailgun::logs::query_logs))
        .route(
            "/v3/{domain}/{list}",
            get(crate::mailgun::suppressions::list_entries)
                .post(crate::mailgun::suppressions::add_entries)
                .delete(crate::mailgun::suppressions::clear_list),
        )
        .route(
            "/v3/{domain}/{list}/{address}",
            get(crate::mailgun::suppressions::show_entry).delete(crate::mailgun::suppressions::delete_entry),
        )
        .route(
            "/v3/domains/{domain}/webhooks",
            get(crate::mailgun::webhooks::list_webhooks).post(crate::mailgun::webhooks::create_webhook),
        )
        .route(
            "/v3/domains/{domain}/webhooks/{kind}",
            get(crate::mailgun::webhooks::show_webhook)
                .put(crate::mailgun::webhooks::replace_webhook)
                .delete(crate::mailgun::webhooks::delete_webhook),
        )
        .route(
            "/v4/domains/{domain}/webhooks",
            post(crate::mailgun::webhooks::register_url)
                .put(crate::mailgun::webhooks::register_url)
                .delete(crate::mailgun::webhooks::unregister_url),
        )
        .route("/v4/domains/{domain}", get(crate::mailgun::domain::show_domain))
        .route("/v4/domains/{domain}/verify", put(crate::mailgun::domain::show_domain))
        .route("/v3/domains/{domain}/tracking", get(crate::mailgun::domain::show_tracking))
        .route("/v3/domains/{domain}/sending_queues", get(crate::mailgun::domain::show_sending_queues))
        .route("/v5/accounts/http_signing_key", get(crate::mailgun::domain::show_signing_key))
        .layer(middleware::from_fn_with_state(state.clone(), limit_requests))
        .merge(control_api::control_routes())
        .layer(middleware::from_fn_with_state(state.clone(), require_api_key))
        .fallback(|| async { messages::NOT_FOUND_BODY })
        .method_not_allowed_fallback(|| async { messages::NOT_FOUND_BODY })
        .with_state(state)
}

/// An answer that is no success: a status and its body.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) StatusCode, pub(crate) Value);

impl ApiError {
    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, json!({ "message": text.into() }))
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, json!({ "message": text.into() }))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

pub(crate) type ApiResult = Result<Json<Value>, ApiError>;

/// Rejects requests without the API key.
async fn require_api_key(State(state): State<Arc<SandboxState>>, request: Request, next: Next) -> Response {
    if messages::is_authorized(&state, request.headers()) {
        return next.run(request).await;
    }
    ApiError(StatusCode::UNAUTHORIZED, json!({ "message": "Invalid private key" })).into_response()
}

/// Limits requests per minute.
async fn limit_requests(State(state): State<Arc<SandboxState>>, request: Request, next: Next) -> Response {
    if state.request_counter.count_request(RATE_LIMIT_WINDOW).count <= state.faults.current().requests {
        return next.run(request).await;
    }
    ApiError(StatusCode::TOO_MANY_REQUESTS, json!({ "retry-seconds": 60 })).into_response()
}

/// The domain in a path is the sandbox's.
pub(crate) fn check_domain(state: &SandboxState, domain: &str) -> Result<(), ApiError> {
    if domain.eq_ignore_ascii_case(&state.domain) {
        Ok(())
    } else {
        Err(ApiError::not_found(format!("Domain not found: {domain}")))
    }
}

const RATE_LIMIT_WINDOW: Duration = Duration::from_secs(60);
