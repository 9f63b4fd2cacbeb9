//! Inbound messages: queries, and release of withheld ones for delivery.

use crate::admin::audit_log;
use crate::admin::error::{ApiError, error_response, json_blocking};
use crate::admin::route_table::RouteTable;
use crate::admin::state::{ApiState, Caller};
use axum::Json;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mailtrail_mail::{TrackingId, address_contains};
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::{InboundOutcome, InboundState, InboundSummary, InboundTransition, missing_files_text};
use serde::{Deserialize, Serialize};

/// Filter of inbound messages; all given conditions must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InboundFilter {
    /// Maximum number of messages; the newest are returned.
    pub lines: Option<usize>,
    /// State: `waiting`, `delivered`, `dead` or `duplicate`.
    pub state: Option<String>,
    /// Part of the recipient's address.
    pub to: Option<String>,
    /// Part of the sender's address.
    pub from: Option<String>,
}

/// An inbound message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InboundView {
    /// Id of the message.
    pub id: String,
    /// Time of arrival, RFC 3339.
    pub arrived: String,
    /// Upstream of the provider that delivered it.
    pub upstream: String,
    /// Sender of the envelope; empty for `<>`.
    pub from: String,
    /// Recipient of the envelope.
    pub to: String,
    /// Subject.
    pub subject: String,
    /// Message-ID without brackets.
    pub message_id: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// State: `waiting`, `delivered`, `dead` or `duplicate`.
    pub state: String,
    /// Start of the state, RFC 3339.
    pub since: String,
    /// Number of attempts that a target deferred.
    pub attempts: u32,
    /// Time of the next attempt while waiting, RFC 3339.
    pub next_attempt: Option<String>,
    /// Target of the last attempt.
    pub target: Option<String>,
    /// Reply of that target, or reason for not being delivered.
    pub text: Option<String>,
    /// Number of files that the provider announced but did not deliver.
    #[serde(default)]
    pub missing_files: u32,
}

/// An inbound message with its content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InboundDetailView {
    /// Description of the message.
    #[serde(flatten)]
    pub mail: InboundView,
    /// Message as received, in base64; absent when it is no longer stored.
    pub message_base64: Option<String>,
}

/// Release of withheld inbound messages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// Ids of the messages.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Alternatively: all dead letters; duplicates are released only by id.
    #[serde(default)]
    pub all: bool,
    /// Reason.
    #[serde(default)]
    pub reason: String,
    /// Whether to report the results without releasing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Result of releasing one message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReleaseResult {
    /// Requested id.
    pub id: String,
    /// Whether the message waits for its target now.
    pub done: bool,
    /// Reason for not releasing it.
    pub why: Option<String>,
}

/// Returns the routes for inbound messages.
pub(super) fn routes() -> RouteTable {
    RouteTable::default()
        .get("/api/v1/inbound", list_inbound)
        .post("/api/v1/inbound/replay", release_inbound)
        .get("/api/v1/inbound/{id}", show_inbound)
}

async fn list_inbound(State(api): State<ApiState>, Query(filter): Query<InboundFilter>) -> Response {
    json_blocking(move || find_inbound(&api.store, &filter)).await
}

async fn show_inbound(State(api): State<ApiState>, Path(id): Path<String>) -> Response {
    json_blocking(move || find_inbound_message(&api.store, &id)).await
}

async fn release_inbound(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(order): Json<ReleaseRequest>,
) -> Response {
    // Runs to completion even if the client disconnects.
    match tokio::spawn(async move { release_messages(&api, order, &operator).await }).await {
        Ok(Ok(released)) => Json(released).into_response(),
        Ok(Err(refusal)) => error_response(&refusal),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Returns inbound messages in order of arrival.
pub fn find_inbound(store: &Store, filter: &InboundFilter) -> Result<Vec<InboundView>, ReadError> {
    let newest = store.find_inbound(filter.lines.unwrap_or(usize::MAX), |mail| filter.matches(mail))?;
    Ok(newest.iter().rev().map(InboundView::from).collect())
}

/// Returns an inbound message with its content, if it is known.
pub fn find_inbound_message(store: &Store, id: &str) -> Result<Option<InboundDetailView>, ReadError> {
    let Ok(id) = id.parse() else { return Ok(None) };
    let Some(mail) = store.load_inbound(id)? else { return Ok(None) };
    let message = store.read_inbound_body(id)?.map(|message| BASE64_STANDARD.encode(message));
    Ok(Some(InboundDetailView { mail: InboundView::from(&mail), message_base64: message }))
}

impl InboundFilter {
    fn matches(&self, mail: &InboundSummary) -> bool {
        let has =
            |part: &Option<String>, text: &str| part.as_ref().is_none_or(|part| address_contains(text, part));
        let sender = mail.received.sender.as_ref().map_or("", |sender| sender.as_str());
        self.state.as_ref().is_none_or(|state| state == mail.state.as_str())
            && has(&self.to, mail.received.recipient.as_str())
            && has(&self.from, sender)
    }
}

impl From<&InboundSummary> for InboundView {
    fn from(mail: &InboundSummary) -> Self {
        let arrival = &mail.received;
        let filled = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Self {
            id: arrival.id.to_string(),
            arrived: arrival.id.timestamp().to_string(),
            upstream: arrival.upstream.clone(),
            from: arrival.sender.as_ref().map(ToString::to_string).unwrap_or_default(),
            to: arrival.recipient.to_string(),
            subject: arrival.subject.clone(),
            message_id: arrival.message_id.as_ref().map(ToString::to_string),
            size: arrival.size,
            state: mail.state.as_str().to_owned(),
            since: mail.state_since.to_string(),
            attempts: mail.deferrals,
            next_attempt: (mail.state == InboundState::Waiting).then(|| mail.next_attempt.to_string()),
            target: filled(&mail.last_target),
            text: filled(&mail.diagnostic),
            missing_files: arrival.missing_files,
        }
    }
}

impl InboundView {
    /// Returns the reason for not being delivered or the target's reply, and the missing files.
    pub fn remarks(&self) -> String {
        let missing = missing_files_text(self.missing_files);
        self.text.clone().into_iter().chain(missing).collect::<Vec<_>>().join("; ")
    }
}

impl InboundDetailView {
    /// Returns the message, byte for byte.
    pub fn message_bytes(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(self.message_base64.as_ref()?).ok()
    }
}

/// Releases withheld messages.
async fn release_messages(
    api: &ApiState,
    order: ReleaseRequest,
    operator: &str,
) -> Result<Vec<ReleaseResult>, ApiError> {
    let ids = match order.all {
        true => {
            let dead = api.store.find_inbound(usize::MAX, |mail| mail.state == InboundState::DeadLetter)?;
            dead.iter().rev().map(|mail| mail.received.id.to_string()).collect()
        }
        false if order.ids.is_empty() => {
            return Err(ApiError::Invalid("name mail by its ids, or say ALL"));
        }
        false => order.ids,
    };
    let outcome = InboundOutcome::Released {
        operator: operator.to_owned(),
        reason: audit_log::truncate_reason(&order.reason),
    };
    let mut released = Vec::new();
    for id in ids {
        let why = release_message(api, &id, &outcome, order.dry_run).await?;
        released.push(ReleaseResult { id, done: why.is_none(), why: why.map(str::to_owned) });
    }
    let count = released.iter().filter(|one| one.done).count();
    if count > 0 && !order.dry_run {
        tracing::warn!(operator, mails = count, "operator released inbound messages");
    }
    Ok(released)
}

/// Releases one message; returns the reason if it cannot be released.
async fn release_message(
    api: &ApiState,
    id: &str,
    outcome: &InboundOutcome,
    dry_run: bool,
) -> Result<Option<&'static str>, ApiError> {
    let Some(id) = id.parse::<TrackingId>().ok() else { return Ok(Some("that is no id")) };
    match api.store.load_inbound(id)?.map(|mail| mail.state) {
        None => return Ok(Some("no mail from outside that is kept has that id")),
        Some(InboundState::Waiting) => return Ok(Some("it waits for its target already")),
        Some(InboundState::Delivered) => return Ok(Some("it was delivered")),
        Some(InboundState::DeadLetter | InboundState::Duplicate) => {}
    }
    if api.store.load_inbound_body(id)?.is_none() {
        return Ok(Some("its message is no longer kept"));
    }
    if !dry_run {
        api.store
            .record_inbound(InboundTransition { id, at: api.clock.now(), outcome: outcome.clone() })
            .await?;
    }
    Ok(None)
}
