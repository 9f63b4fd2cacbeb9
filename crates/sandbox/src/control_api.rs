//! What happens on demand: no part of any provider's API.

use crate::activecampaign::{ContactEvent, PostResult};
use crate::fault_injection::FaultInjection;
use crate::mailgun::ApiError;
use crate::state::SandboxState;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// `/sandbox/weather` and `/sandbox/contacts`.
pub(crate) fn control_routes() -> Router<Arc<SandboxState>> {
    Router::new()
        .route("/sandbox/weather", get(show_faults).put(set_faults))
        .route("/sandbox/contacts", post(send_contact_event))
}

async fn show_faults(State(state): State<Arc<SandboxState>>) -> Json<FaultInjection> {
    Json(state.faults.current())
}

/// Sets all faults; a missing field gets its default.
async fn set_faults(
    State(state): State<Arc<SandboxState>>,
    body: Bytes,
) -> Result<Json<FaultInjection>, ApiError> {
    let weather: FaultInjection = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(format!("this is no weather: {error}")))?;
    state.faults.set(weather);
    Ok(Json(weather))
}

/// Event that ActiveCampaign is to send.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContactEventRequest {
    event: String,
    email: String,
}

/// Sends an event of a contact and returns the response.
async fn send_contact_event(
    State(state): State<Arc<SandboxState>>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let ContactEventRequest { event, email } = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(format!("this is no event of a contact: {error}")))?;
    let event: ContactEvent =
        event.parse().map_err(|error| ApiError::bad_request(format!("event: {error}")))?;
    match state.contact_webhook.send_event(&state, event, &email).await {
        PostResult::Answered(status) => Ok(Json(json!({ "answered": status }))),
        PostResult::NoResponse => Ok(Json(json!({ "answered": null }))),
        PostResult::Disabled => Err(ApiError(
            StatusCode::CONFLICT,
            json!({ "message": "the webhook was answered with 410, which switched it off for good" }),
        )),
        PostResult::NoTarget => Err(ApiError::bad_request(
            "there is no address to tell it to; start the sandbox with --activecampaign",
        )),
    }
}
