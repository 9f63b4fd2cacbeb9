//! Answers the challenge that `doctor` sends through a registered webhook URL.

use crate::loopback_probe::LoopbackProbe;
use crate::webhook::service::WebhookService;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// Answers a loopback probe. No body is read, and an invalid probe does not count as a request with a bad signature.
pub async fn respond_to_probe(
    State(inbox): State<Arc<WebhookService>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(question) = request.headers().get(LoopbackProbe::HEADER_NAME) else {
        return next.run(request).await;
    };
    let path = request.uri().path();
    let is_source = path
        .strip_prefix("/webhooks/")
        .map(|name| name.strip_suffix('/').unwrap_or(name))
        .is_some_and(|name| inbox.sources.iter().any(|source| source.name == name));
    let answer = question.to_str().ok().filter(|_| is_source);
    match answer.and_then(|question| inbox.loopback_probe.respond(question, path)) {
        Some(answer) => answer.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
