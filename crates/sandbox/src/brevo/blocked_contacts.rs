//! `/v3/smtp/blockedContacts`. No call adds one.

use crate::brevo::router::{absent, days, paging};
use crate::brevo::time_zone;
use crate::mailgun::{Answer, Form, List, Refusal};
use crate::state::House;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use mailtrail_mail::Timestamp;
use serde_json::json;
use std::sync::Arc;

pub(super) async fn page(State(house): State<Arc<House>>, RawQuery(query): RawQuery) -> Answer {
    let form = Form::of(&query.unwrap_or_default());
    let (limit, offset) = paging(&form, 50, 100)?;
    let span = days(&form)?;
    let mut contacts = Vec::new();
    for (list, code, message) in REASONS {
        for (email, entry) in house.suppressions.page(list, None, false, "", usize::MAX) {
            let since = entry["created_at"].as_str().and_then(Timestamp::parse_rfc5322).unwrap_or_default();
            let contact = json!({
                "email": email,
                // Blocked for all senders.
                "senderEmail": "",
                "blockedAt": time_zone::iso(since),
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

pub(super) async fn remove(
    State(house): State<Arc<House>>,
    Path(email): Path<String>,
) -> Result<StatusCode, Refusal> {
    let removed = REASONS.iter().filter(|(list, ..)| house.suppressions.remove(*list, &email)).count();
    if removed > 0 { Ok(StatusCode::NO_CONTENT) } else { Err(absent("Contact not found")) }
}

const REASONS: [(List, &str, &str); 3] = [
    (List::Bounces, "hardBounce", "Hard bounce"),
    (List::Unsubscribes, "unsubscribedViaEmail", "Unsubscribed via email"),
    (List::Complaints, "contactFlaggedAsSpam", "Contact flagged as spam"),
];
