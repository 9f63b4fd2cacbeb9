//! Webhooks of the domain: by type (`/v3/domains/<domain>/webhooks`) and by URL (`/v4/domains/<domain>/webhooks`).

use crate::mailgun::form::Form;
use crate::mailgun::router::{ApiError, ApiResult, check_domain};
use crate::mailgun::webhook_registry;
use crate::mailgun::webhook_registry::WEBHOOK_KINDS;
use crate::state::SandboxState;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn list_webhooks(
    State(state): State<Arc<SandboxState>>,
    Path(domain): Path<String>,
) -> ApiResult {
    check_domain(&state, &domain)?;
    Ok(Json(json!({ "webhooks": state.mailgun_webhooks.to_json() })))
}

pub(super) async fn show_webhook(
    State(state): State<Arc<SandboxState>>,
    Path((domain, kind)): Path<(String, String)>,
) -> ApiResult {
    check_domain(&state, &domain)?;
    let urls = registered_urls(&state, &kind)?;
    Ok(Json(json!({ "webhook": webhook_registry::urls_to_json(&urls) })))
}

pub(super) async fn create_webhook(
    State(state): State<Arc<SandboxState>>,
    Path(domain): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> ApiResult {
    check_domain(&state, &domain)?;
    let form = Form::from_body(&headers, body).await?;
    let kind = form.get("id").unwrap_or_default();
    if !state.mailgun_webhooks.urls_for(kind).is_empty() {
        return Err(ApiError::bad_request("Webhook already exists"));
    }
    set_urls(&state, kind, &form, "Webhook has been created")
}

pub(super) async fn replace_webhook(
    State(state): State<Arc<SandboxState>>,
    Path((domain, kind)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> ApiResult {
    check_domain(&state, &domain)?;
    registered_urls(&state, &kind)?;
    set_urls(&state, &kind, &Form::from_body(&headers, body).await?, "Webhook has been updated")
}

pub(super) async fn delete_webhook(
    State(state): State<Arc<SandboxState>>,
    Path((domain, kind)): Path<(String, String)>,
) -> ApiResult {
    check_domain(&state, &domain)?;
    let urls = registered_urls(&state, &kind)?;
    if let Some(kind) = webhook_registry::parse_kind(&kind) {
        state.mailgun_webhooks.set_urls(kind, Vec::new());
    }
    Ok(Json(
        json!({ "message": "Webhook has been deleted", "webhook": webhook_registry::urls_to_json(&urls) }),
    ))
}

/// One URL gets these types, and no others.
pub(super) async fn register_url(
    State(state): State<Arc<SandboxState>>,
    Path(domain): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> ApiResult {
    check_domain(&state, &domain)?;
    let form = Form::from_body(&headers, body).await?;
    let url = form.get("url").unwrap_or_default();
    check_url(url)?;
    let wanted: Vec<_> = form.get_all("event_types").map(require_kind).collect::<Result<_, _>>()?;
    if wanted.is_empty() {
        return Err(invalid_parameters("event_types is required"));
    }
    assign_kinds(&state, url, &wanted)?;
    Ok(Json(json!({ "webhooks": state.mailgun_webhooks.to_json() })))
}

pub(super) async fn unregister_url(
    State(state): State<Arc<SandboxState>>,
    Path(domain): Path<String>,
    RawQuery(query): RawQuery,
) -> ApiResult {
    check_domain(&state, &domain)?;
    let query = Form::from_urlencoded(&query.unwrap_or_default());
    for url in query.get_all("url") {
        if !WEBHOOK_KINDS
            .iter()
            .any(|kind| state.mailgun_webhooks.urls_for(kind).iter().any(|known| **known == *url))
        {
            let description = format!("webhook for {url} not found");
            return Err(ApiError(StatusCode::NOT_FOUND, json!({ "Description": description })));
        }
        assign_kinds(&state, url, &[])?;
    }
    Ok(Json(json!({ "webhooks": state.mailgun_webhooks.to_json() })))
}

fn registered_urls(state: &SandboxState, kind: &str) -> Result<Vec<Arc<str>>, ApiError> {
    let urls = state.mailgun_webhooks.urls_for(kind);
    if urls.is_empty() { Err(ApiError::not_found("Webhook not found")) } else { Ok(urls) }
}

fn set_urls(state: &SandboxState, name: &str, form: &Form, message: &str) -> ApiResult {
    let urls: Vec<Arc<str>> = form.get_all("url").map(Arc::from).collect();
    if urls.is_empty() || urls.len() > MAX_URLS_PER_KIND {
        return Err(ApiError::bad_request(format!(
            "from 1 to {MAX_URLS_PER_KIND} values of 'url' are required"
        )));
    }
    urls.iter().try_for_each(|url| check_url(url))?;
    state.mailgun_webhooks.set_urls(require_kind(name)?, urls.clone());
    Ok(Json(json!({ "message": message, "webhook": webhook_registry::urls_to_json(&urls) })))
}

/// Registers a URL for exactly these types, or for none of them where one has as many as may be.
fn assign_kinds(state: &SandboxState, url: &str, wanted: &[&'static str]) -> Result<(), ApiError> {
    let others = |kind| {
        let mut urls = state.mailgun_webhooks.urls_for(kind);
        urls.retain(|known| **known != *url);
        urls
    };
    if let Some(full) = wanted.iter().find(|kind| others(kind).len() >= MAX_URLS_PER_KIND) {
        return Err(invalid_parameters(&format!("{full} has {MAX_URLS_PER_KIND} URLs already")));
    }
    for kind in WEBHOOK_KINDS {
        let mut urls = others(kind);
        if wanted.contains(&kind) {
            urls.push(url.into());
        }
        state.mailgun_webhooks.set_urls(kind, urls);
    }
    Ok(())
}

fn require_kind(name: &str) -> Result<&'static str, ApiError> {
    webhook_registry::parse_kind(name)
        .ok_or_else(|| invalid_parameters(&format!("{name} is not a valid webhook type")))
}

fn check_url(url: &str) -> Result<(), ApiError> {
    let scheme = reqwest::Url::parse(url).map(|url| url.scheme().to_owned()).unwrap_or_default();
    match scheme.as_str() {
        "http" | "https" => Ok(()),
        _ => Err(invalid_parameters(&format!("{url} is not a valid url: invalid URL scheme"))),
    }
}

fn invalid_parameters(text: &str) -> ApiError {
    let body: Value = json!({ "Reason": format!("invalid parameters: {text}") });
    ApiError(StatusCode::BAD_REQUEST, body)
}

/// URLs of one type.
const MAX_URLS_PER_KIND: usize = 3;
