//! `/v3/webhooks`: the transactional ones; others are not here.

use crate::brevo::router::{invalid_parameter, not_found};
use crate::brevo::time_zone;
use crate::brevo::webhook_registry::RegisteredWebhook;
use crate::mailgun::{ApiError, ApiResult, Form};
use crate::state::SandboxState;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn list_webhooks(
    State(state): State<Arc<SandboxState>>,
    RawQuery(query): RawQuery,
) -> ApiResult {
    let form = Form::from_urlencoded(&query.unwrap_or_default());
    let transactional = form.get("type").is_none_or(|kind| kind == "transactional");
    let webhooks = if transactional { state.brevo.webhooks.to_json() } else { Vec::new() };
    Ok(Json(json!({ "webhooks": webhooks })))
}

pub(super) async fn show_webhook(State(state): State<Arc<SandboxState>>, Path(id): Path<u64>) -> ApiResult {
    let hook = state.brevo.webhooks.get(id).ok_or_else(webhook_not_found)?;
    Ok(Json(hook.to_json(id)))
}

pub(super) async fn create_webhook(
    State(state): State<Arc<SandboxState>>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let hook = parse_webhook(&state, &body, None)?;
    let id = state
        .brevo
        .webhooks
        .register(hook)
        .ok_or_else(|| invalid_parameter("the account has 40 webhooks already"))?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

pub(super) async fn update_webhook(
    State(state): State<Arc<SandboxState>>,
    Path(id): Path<u64>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let known = state.brevo.webhooks.get(id).ok_or_else(webhook_not_found)?;
    state.brevo.webhooks.replace(id, parse_webhook(&state, &body, Some(known))?);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn delete_webhook(
    State(state): State<Arc<SandboxState>>,
    Path(id): Path<u64>,
) -> Result<StatusCode, ApiError> {
    if state.brevo.webhooks.remove(id) { Ok(StatusCode::NO_CONTENT) } else { Err(webhook_not_found()) }
}

fn parse_webhook(
    state: &SandboxState,
    body: &[u8],
    known: Option<RegisteredWebhook>,
) -> Result<RegisteredWebhook, ApiError> {
    let asked = serde_json::from_slice(body).map_err(|_| invalid_parameter("the body is not JSON"))?;
    RegisteredWebhook::from_json(&asked, known, time_zone::format_iso8601(state.clock.now()))
        .map_err(|fault| invalid_parameter(&fault))
}

fn webhook_not_found() -> ApiError {
    not_found("Webhook not found")
}
