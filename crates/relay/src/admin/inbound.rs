//! Mail from outside: what came, where it stands, and delivering what was kept back.

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
use mailtrail_trail::{InboundMail, InboundOutcome, InboundState, InboundTransition, missing_files_text};
use serde::{Deserialize, Serialize};

/// Which mail from outside is wanted; all given conditions must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InboundFilter {
    /// At most so many, the newest.
    pub lines: Option<usize>,
    /// `waiting`, `delivered`, `dead` or `duplicate`.
    pub state: Option<String>,
    /// A part of the recipient's address.
    pub to: Option<String>,
    /// A part of the sender's address.
    pub from: Option<String>,
}

/// One mail from outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InboundView {
    /// What names it.
    pub id: String,
    /// When it came, RFC 3339.
    pub arrived: String,
    /// The upstream whose provider brought it.
    pub upstream: String,
    /// The envelope's sender; empty: nobody.
    pub from: String,
    /// The envelope's recipient.
    pub to: String,
    /// The subject.
    pub subject: String,
    /// The Message-ID without brackets.
    pub message_id: Option<String>,
    /// Bytes of the message.
    pub size: u64,
    /// `waiting`, `delivered`, `dead` or `duplicate`.
    pub state: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// How often a target was asked and did not take it for now.
    pub attempts: u32,
    /// When it is tried next, if it waits, RFC 3339.
    pub next_attempt: Option<String>,
    /// The target that was asked last.
    pub target: Option<String>,
    /// What that said, or why it is not delivered.
    pub text: Option<String>,
    /// Files that the provider announced and did not hand over.
    #[serde(default)]
    pub missing_files: u32,
}

/// One mail from outside with its message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InboundDetailView {
    /// What is known about it.
    #[serde(flatten)]
    pub mail: InboundView,
    /// The message as it came, in base64; absent when it is no longer kept.
    pub message_base64: Option<String>,
}

/// Which mail is to be delivered after all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// Their ids.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Or: all dead letters; duplicates only by their ids.
    #[serde(default)]
    pub all: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Say what would become of them, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReleaseResult {
    /// What names it, as it was asked for.
    pub id: String,
    /// Whether it waits for its target now.
    pub done: bool,
    /// Why not.
    pub why: Option<String>,
}

/// The questions and orders about mail from outside.
pub(super) fn routes() -> RouteTable {
    RouteTable::default()
        .get("/api/v1/inbound", list_inbound)
        .post("/api/v1/inbound/replay", release_inbound)
        .get("/api/v1/inbound/{id}", show_inbound)
}

async fn list_inbound(State(panel): State<ApiState>, Query(filter): Query<InboundFilter>) -> Response {
    json_blocking(move || find_inbound(&panel.store, &filter)).await
}

async fn show_inbound(State(panel): State<ApiState>, Path(id): Path<String>) -> Response {
    json_blocking(move || find_inbound_message(&panel.store, &id)).await
}

async fn release_inbound(
    State(panel): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(order): Json<ReleaseRequest>,
) -> Response {
    // It is carried out to its end, also when whoever asked has gone.
    match tokio::spawn(async move { release_messages(&panel, order, &operator).await }).await {
        Ok(Ok(released)) => Json(released).into_response(),
        Ok(Err(refusal)) => error_response(&refusal),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Mail from outside in the order of its arrival.
pub fn find_inbound(store: &Store, filter: &InboundFilter) -> Result<Vec<InboundView>, ReadError> {
    let newest = store.find_inbound(filter.lines.unwrap_or(usize::MAX), |mail| filter.matches(mail))?;
    Ok(newest.iter().rev().map(InboundView::from).collect())
}

/// One mail from outside with its message, if it is known.
pub fn find_inbound_message(store: &Store, id: &str) -> Result<Option<InboundDetailView>, ReadError> {
    let Ok(id) = id.parse() else { return Ok(None) };
    let Some(mail) = store.inbound_mail(id)? else { return Ok(None) };
    let message = store.read_inbound_body(id)?.map(|message| BASE64_STANDARD.encode(message));
    Ok(Some(InboundDetailView { mail: InboundView::from(&mail), message_base64: message }))
}

impl InboundFilter {
    fn matches(&self, mail: &InboundMail) -> bool {
        let has =
            |part: &Option<String>, text: &str| part.as_ref().is_none_or(|part| address_contains(text, part));
        let sender = mail.received.sender.as_ref().map_or("", |sender| sender.as_str());
        self.state.as_ref().is_none_or(|state| state == mail.state.as_str())
            && has(&self.to, mail.received.recipient.as_str())
            && has(&self.from, sender)
    }
}

impl From<&InboundMail> for InboundView {
    fn from(mail: &InboundMail) -> Self {
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
    /// Why it is not delivered, or what its target said, and what is missing of it.
    pub fn remarks(&self) -> String {
        let missing = missing_files_text(self.missing_files);
        self.text.clone().into_iter().chain(missing).collect::<Vec<_>>().join("; ")
    }
}

impl InboundDetailView {
    /// The message, byte for byte.
    pub fn message_bytes(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(self.message_base64.as_ref()?).ok()
    }
}

/// Lets mail go on that was kept back.
async fn release_messages(
    panel: &ApiState,
    order: ReleaseRequest,
    operator: &str,
) -> Result<Vec<ReleaseResult>, ApiError> {
    let ids = match order.all {
        true => {
            let dead = panel.store.find_inbound(usize::MAX, |mail| mail.state == InboundState::DeadLetter)?;
            dead.iter().rev().map(|mail| mail.received.id.to_string()).collect()
        }
        false if order.ids.is_empty() => {
            return Err(ApiError::Invalid("name mail by its ids, or say ALL"));
        }
        false => order.ids,
    };
    let fate = InboundOutcome::Released {
        operator: operator.to_owned(),
        reason: audit_log::truncate_reason(&order.reason),
    };
    let mut released = Vec::new();
    for id in ids {
        let why = release_message(panel, &id, &fate, order.dry_run).await?;
        released.push(ReleaseResult { id, done: why.is_none(), why: why.map(str::to_owned) });
    }
    let count = released.iter().filter(|one| one.done).count();
    if count > 0 && !order.dry_run {
        tracing::warn!(
            operator,
            mails = count,
            "an operator had mail from outside delivered that was kept back"
        );
    }
    Ok(released)
}

/// Says why it stays where it is.
async fn release_message(
    panel: &ApiState,
    id: &str,
    fate: &InboundOutcome,
    dry_run: bool,
) -> Result<Option<&'static str>, ApiError> {
    let Some(id) = id.parse::<TrackingId>().ok() else { return Ok(Some("that is no id")) };
    match panel.store.inbound_mail(id)?.map(|mail| mail.state) {
        None => return Ok(Some("no mail from outside that is kept has that id")),
        Some(InboundState::Waiting) => return Ok(Some("it waits for its target already")),
        Some(InboundState::Delivered) => return Ok(Some("it was delivered")),
        Some(InboundState::DeadLetter | InboundState::Duplicate) => {}
    }
    if panel.store.load_inbound_body(id)?.is_none() {
        return Ok(Some("its message is no longer kept"));
    }
    if !dry_run {
        panel
            .store
            .record_inbound(InboundTransition { id, at: panel.clock.now(), outcome: fate.clone() })
            .await?;
    }
    Ok(None)
}
