//! `/v3/smtp/blockedContacts`. No call adds one.

use crate::brevo::router::{not_found, parse_date_range, parse_paging};
use crate::brevo::time_zone;
use crate::mailgun::{ApiError, ApiResult, Form, SuppressionList};
use crate::state::SandboxState;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use mailtrail_mail::Timestamp;
use serde_json::json;
use std::sync::Arc;

pub(super) async fn list_blocked_contacts(
    State(state): State<Arc<SandboxState>>,
    RawQuery(query): RawQuery,
) -> ApiResult {
    let form = Form::from_urlencoded(&query.unwrap_or_default());
    let (limit, offset) = parse_paging(&form, 50, 100)?;
    let span = parse_date_range(&form)?;
    let mut contacts = Vec::new();
    for (list, code, message) in BLOCK_REASONS {
        for (email, entry) in state.suppressions.read_page(list, None, false, "", usize::MAX) {
            let since = entry["created_at"].as_str().and_then(Timestamp::parse_rfc5322).unwrap_or_default();
            let contact = json!({
                "email": email,
                // Blocked for all senders.
                "senderEmail": "",
                "blockedAt": time_zone::format_iso8601(since),
                "reason": { "code": code, "message": message },
            });
            contacts.push((since, contact));
        }
    }
    contacts.retain(|(since, _)| span.is_none_or(|(from, to)| from <= *since && *since < to));
    contacts.sort_by_key(|(since, _)| *since);
    if form.get("sort") != Some("asc") {
        contacts.reverse();
    }
    let count = contacts.len();
    let page: Vec<_> = contacts.into_iter().skip(offset).take(limit).map(|(_, contact)| contact).collect();
    Ok(Json(json!({ "count": count, "contacts": page })))
}

pub(super) async fn unblock_contact(
    State(state): State<Arc<SandboxState>>,
    Path(email): Path<String>,
) -> Result<StatusCode, ApiError> {
    let removed = BLOCK_REASONS.iter().filter(|(list, ..)| state.suppressions.remove(*list, &email)).count();
    if removed > 0 { Ok(StatusCode::NO_CONTENT) } else { Err(not_found("Contact not found")) }
}

const BLOCK_REASONS: [(SuppressionList, &str, &str); 3] = [
    (SuppressionList::Bounces, "hardBounce", "Hard bounce"),
    (SuppressionList::Unsubscribes, "unsubscribedViaEmail", "Unsubscribed via email"),
    (SuppressionList::Complaints, "contactFlaggedAsSpam", "Contact flagged as spam"),
];
