//! Mailgun's management API: events, logs, suppressions, webhooks, the domain.
//!
//! Shapes and words are those of the documentation; where it is silent, an error has plain words of our own.

use crate::control_api;
use crate::mailgun::messages;
use crate::state::House;
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
pub(crate) fn router(house: Arc<House>) -> Router {
    Router::new()
        .route("/v3/{domain}/events", get(crate::mailgun::events::first))
        .route("/v3/{domain}/events/{page}", get(crate::mailgun::events::other))
        .route("/v1/analytics/logs", post(crate::mailgun::logs::page))
        .route(
            "/v3/{domain}/{list}",
            get(crate::mailgun::suppressions::page)
                .post(crate::mailgun::suppressions::add)
                .delete(crate::mailgun::suppressions::clear),
        )
        .route(
            "/v3/{domain}/{list}/{address}",
            get(crate::mailgun::suppressions::one).delete(crate::mailgun::suppressions::remove),
        )
        .route(
            "/v3/domains/{domain}/webhooks",
            get(crate::mailgun::webhooks::all).post(crate::mailgun::webhooks::create),
        )
        .route(
            "/v3/domains/{domain}/webhooks/{kind}",
            get(crate::mailgun::webhooks::one)
                .put(crate::mailgun::webhooks::replace)
                .delete(crate::mailgun::webhooks::remove),
        )
        .route(
            "/v4/domains/{domain}/webhooks",
            post(crate::mailgun::webhooks::register)
                .put(crate::mailgun::webhooks::register)
                .delete(crate::mailgun::webhooks::unregister),
        )
        .route("/v4/domains/{domain}", get(crate::mailgun::domain::state))
        .route("/v4/domains/{domain}/verify", put(crate::mailgun::domain::state))
        .route("/v3/domains/{domain}/tracking", get(crate::mailgun::domain::tracking))
        .route("/v3/domains/{domain}/sending_queues", get(crate::mailgun::domain::queues))
        .route("/v5/accounts/http_signing_key", get(crate::mailgun::domain::signing_key))
        .layer(middleware::from_fn_with_state(house.clone(), limit))
        .merge(control_api::routes())
        .layer(middleware::from_fn_with_state(house.clone(), admit))
        .fallback(|| async { messages::MAGNIFICENT })
        .method_not_allowed_fallback(|| async { messages::MAGNIFICENT })
        .with_state(house)
}

/// An answer that is no success: a status and its body.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) Value);

impl Refusal {
    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, json!({ "message": text.into() }))
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, json!({ "message": text.into() }))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

pub(crate) type Answer = Result<Json<Value>, Refusal>;

/// Only who knows the key.
async fn admit(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    if messages::is_known(&house, request.headers()) {
        return next.run(request).await;
    }
    Refusal(StatusCode::UNAUTHORIZED, json!({ "message": "Invalid private key" })).into_response()
}

/// Only so many in a minute.
async fn limit(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    if house.limiter.count(MINUTE).count <= house.sky.now().requests {
        return next.run(request).await;
    }
    Refusal(StatusCode::TOO_MANY_REQUESTS, json!({ "retry-seconds": 60 })).into_response()
}

/// The domain in a path is the sandbox's.
pub(crate) fn own(house: &House, domain: &str) -> Result<(), Refusal> {
    if domain.eq_ignore_ascii_case(&house.domain) {
        Ok(())
    } else {
        Err(Refusal::not_found(format!("Domain not found: {domain}")))
    }
}

const MINUTE: Duration = Duration::from_secs(60);
