//! The domain: its state, tracking, queues; and the account's signing key.

use crate::mailgun::router::{ApiError, ApiResult, check_domain};
use crate::state::SandboxState;
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn show_domain(
    State(state): State<Arc<SandboxState>>,
    Path(domain): Path<String>,
) -> ApiResult {
    check_domain(&state, &domain).map_err(|_| ApiError::not_found("Domain not found"))?;
    let name = &state.domain;
    Ok(Json(json!({
        "domain": {
            "id": "5f0000000000000000000002",
            "name": name,
            "state": "active",
            "type": "custom",
            "smtp_login": state.credentials.username(),
            "spam_action": "disabled",
            "require_tls": false,
            "skip_verification": false,
            "wildcard": false,
            "web_scheme": "https",
            "web_prefix": "email",
            "use_automatic_sender_security": false,
            "created_at": "Thu, 10 Sep 2026 09:00:00 GMT",
        },
        "receiving_dns_records": [mx_record("mxa.mailgun.org"), mx_record("mxb.mailgun.org")],
        "sending_dns_records": [
            dns_record("TXT", name.clone(), "v=spf1 include:mailgun.org ~all"),
            dns_record("TXT", format!("pic._domainkey.{name}"), "k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC0example"),
            dns_record("CNAME", format!("email.{name}"), "mailgun.org"),
        ],
    })))
}

fn mx_record(host: &str) -> Value {
    json!({
        "record_type": "MX", "priority": "10", "value": host, "valid": "valid", "is_active": true,
        "cached": [format!("10 {host}")],
    })
}

fn dns_record(kind: &str, name: String, value: &str) -> Value {
    json!({
        "record_type": kind, "name": name, "value": value, "valid": "valid", "is_active": true, "cached": [],
    })
}

pub(super) async fn show_tracking(
    State(state): State<Arc<SandboxState>>,
    Path(domain): Path<String>,
) -> ApiResult {
    check_domain(&state, &domain)?;
    Ok(Json(json!({
        "tracking": {
            "open": { "active": true, "place_at_the_top": false },
            "click": { "active": true },
            "unsubscribe": { "active": true, "html_footer": "", "text_footer": "" },
            "web_scheme": "https",
        },
    })))
}

pub(super) async fn show_sending_queues(
    State(state): State<Arc<SandboxState>>,
    Path(domain): Path<String>,
) -> ApiResult {
    check_domain(&state, &domain)?;
    Ok(Json(json!({ "regular": { "is_disabled": false }, "scheduled": { "is_disabled": false } })))
}

pub(super) async fn show_signing_key(State(state): State<Arc<SandboxState>>) -> Json<Value> {
    Json(json!({ "message": "success", "http_signing_key": state.signing_key.expose() }))
}
