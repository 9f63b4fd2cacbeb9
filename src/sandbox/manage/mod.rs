//! Mailgun's management API: events, logs, suppressions, webhooks, the domain.
//!
//! Shapes and words are those of the documentation; where it is silent, an error has plain words of our own.

mod domain;
mod events;
mod form;
mod lists;
mod logs;
mod paging;
mod webhooks;

pub(super) use form::Form;

use super::house::House;
use super::{api, control};
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
pub(super) fn router(house: Arc<House>) -> Router {
    Router::new()
        .route("/v3/{domain}/events", get(events::first))
        .route("/v3/{domain}/events/{page}", get(events::other))
        .route("/v1/analytics/logs", post(logs::page))
        .route("/v3/{domain}/{list}", get(lists::page).post(lists::add).delete(lists::clear))
        .route("/v3/{domain}/{list}/{address}", get(lists::one).delete(lists::remove))
        .route("/v3/domains/{domain}/webhooks", get(webhooks::all).post(webhooks::create))
        .route(
            "/v3/domains/{domain}/webhooks/{kind}",
            get(webhooks::one).put(webhooks::replace).delete(webhooks::remove),
        )
        .route(
            "/v4/domains/{domain}/webhooks",
            post(webhooks::register).put(webhooks::register).delete(webhooks::unregister),
        )
        .route("/v4/domains/{domain}", get(domain::state))
        .route("/v4/domains/{domain}/verify", put(domain::state))
        .route("/v3/domains/{domain}/tracking", get(domain::tracking))
        .route("/v3/domains/{domain}/sending_queues", get(domain::queues))
        .route("/v5/accounts/http_signing_key", get(domain::signing_key))
        .layer(middleware::from_fn_with_state(house.clone(), limit))
        .merge(control::routes())
        .layer(middleware::from_fn_with_state(house.clone(), admit))
        .fallback(|| async { api::MAGNIFICENT })
        .method_not_allowed_fallback(|| async { api::MAGNIFICENT })
        .with_state(house)
}

/// An answer that is no success: a status and its body.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) StatusCode, pub(super) Value);

impl Refusal {
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, json!({ "message": text.into() }))
    }

    fn not_found(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, json!({ "message": text.into() }))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

pub(super) type Answer = Result<Json<Value>, Refusal>;

/// Only who knows the key.
async fn admit(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    if api::is_known(&house, request.headers()) {
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
fn own(house: &House, domain: &str) -> Result<(), Refusal> {
    if domain.eq_ignore_ascii_case(&house.domain) {
        Ok(())
    } else {
        Err(Refusal::not_found(format!("Domain not found: {domain}")))
    }
}

const MINUTE: Duration = Duration::from_secs(60);
