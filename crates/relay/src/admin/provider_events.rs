//! Provider events: received, unmatched and undecodable ones, and their replay.

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
use futures_util::{StreamExt, stream};
use mailtrail_mail::{MessageId, Timestamp, TrackingId, address_contains, fold_address};
use mailtrail_store::{EventContent, EventState, ReadError, Retention, Store, StoredEvent};
use mailtrail_trail::{Diagnostic, EventReplay, ProviderEvent, TrailSource};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Filter of provider events; all given conditions must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EventFilter {
    /// Maximum number of events; the newest are returned.
    pub lines: Option<usize>,
    /// Earliest time of arrival, milliseconds since the epoch.
    pub since: Option<u64>,
    /// Latest time of arrival, milliseconds since the epoch.
    pub until: Option<u64>,
    /// Name of an upstream.
    pub upstream: Option<String>,
    /// Word of an event, `dead`, or `hint`.
    pub event: Option<String>,
    /// Part of the recipient's address.
    pub to: Option<String>,
    /// Tracking id of the matched message.
    pub send: Option<String>,
}

/// A provider event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventView {
    /// Id of the event.
    pub id: String,
    /// Time of arrival, RFC 3339.
    pub arrived: String,
    /// Upstream of the provider.
    pub upstream: String,
    /// Source: `webhook` or `poll`.
    pub source: String,
    /// Kind, in the event vocabulary; `dead` if undecodable, `hint` for a contact hint.
    pub event: String,
    /// Time of the event, RFC 3339.
    pub at: Option<String>,
    /// The provider's name of the event.
    pub name: Option<String>,
    /// Recipient as written by the provider.
    pub recipient: Option<String>,
    /// Message-ID in the event.
    pub message_id: Option<String>,
    /// Tracking id in the event.
    pub tracking_id: Option<String>,
    /// Diagnostic text.
    pub text: Option<String>,
    /// Whether software caused the event rather than a person.
    pub by_machine: bool,
    /// Whether the provider only simulated sending.
    pub test_mode: bool,
    /// State: `joined` to a message; `orphan`: waits for one; `dead`: undecodable; `hint`: belongs to no
    /// message; `gone`: only in the journal.
    pub state: String,
    /// Tracking id of the matched message.
    pub send: Option<String>,
    /// Correlation with the message: `tracking-id` or `message-id`.
    pub joined_by: Option<String>,
    /// Reason for not being joined.
    pub reason: Option<String>,
    /// Expiry of an orphan or a dead letter, RFC 3339, if the retention is known.
    pub ages_out: Option<String>,
}

/// A provider event with its raw form.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventDetailView {
    /// Description of the event.
    #[serde(flatten)]
    pub event: EventView,
    /// Raw form as received; absent if it is no longer stored or is not text.
    pub raw: Option<String>,
    /// Raw form that is not text, in base64.
    pub raw_base64: Option<String>,
}

/// Replay of the events in one journal segment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EventReplayRequest {
    /// The segment, or the next one after it; absent: the first that may have events.
    pub segment: Option<u32>,
    /// Ids of the events.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Alternatively: all events.
    #[serde(default)]
    pub all: bool,
    /// Restricts `all` to undecodable events; combined with `orphans` to both.
    #[serde(default)]
    pub dead: bool,
    /// Restricts `all` to unmatched events.
    #[serde(default)]
    pub orphans: bool,
    /// Restricts `all` by the earliest time of arrival, milliseconds since the epoch.
    pub since: Option<u64>,
    /// Reason.
    #[serde(default)]
    pub reason: String,
    /// Whether to report the results without applying them.
    #[serde(default)]
    pub dry_run: bool,
}

/// Results of replaying one segment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EventReplayResponse {
    /// Result of each requested event.
    pub replayed: Vec<EventReplayResult>,
    /// Next segment, if there is more.
    pub next: Option<u32>,
}

/// Result of replaying one event, or of a dry run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventReplayResult {
    /// Id of the event.
    pub id: String,
    /// Outcome. `joined`: matched its message; `changed`: now decoded differently; `orphan`: now decoded,
    /// waits for a message; `unchanged`; `dead`: still undecodable; `gone`: can no longer be replayed.
    pub outcome: String,
    /// Tracking id of the message that it is joined to.
    pub send: Option<String>,
    /// Reason for no change.
    pub why: Option<String>,
}

/// Returns the routes for provider events.
pub(super) fn routes() -> RouteTable {
    RouteTable::default()
        .get("/api/v1/events", list_events)
        .get("/api/v1/events/orphans", list_orphan_events)
        .get("/api/v1/events/dead", list_dead_events)
        .post("/api/v1/events/replay", replay_events)
        .get("/api/v1/events/{id}", show_event)
}

async fn list_events(State(api): State<ApiState>, Query(filter): Query<EventFilter>) -> Response {
    json_blocking(move || find_events(&api.store, &filter, Some(api.retention))).await
}

async fn list_orphan_events(State(api): State<ApiState>, Query(filter): Query<EventFilter>) -> Response {
    json_blocking(move || find_orphan_events(&api.store, &filter, Some(api.retention))).await
}

async fn list_dead_events(State(api): State<ApiState>, Query(filter): Query<EventFilter>) -> Response {
    json_blocking(move || find_dead_events(&api.store, &filter, Some(api.retention))).await
}

async fn show_event(State(api): State<ApiState>, Path(id): Path<String>) -> Response {
    json_blocking(move || find_event(&api.store, &id, Some(api.retention))).await
}

async fn replay_events(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(order): Json<EventReplayRequest>,
) -> Response {
    // Runs to completion even if the client disconnects.
    match tokio::spawn(async move { replay_segment(&api, order, &operator).await }).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(refusal)) => error_response(&refusal),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Returns provider events in order of arrival.
pub fn find_events(
    store: &Store,
    filter: &EventFilter,
    retention: Option<Retention>,
) -> Result<Vec<EventView>, ReadError> {
    let wanted = filter.lines.unwrap_or(usize::MAX);
    let send: Option<TrackingId> = filter.send.as_deref().and_then(|send| send.parse().ok());
    // No event about a message precedes its acceptance.
    let since = filter.since().max(send.map(TrackingId::timestamp).unwrap_or_default());
    let mut views = Vec::new();
    'newest: for segment in store.journal_segments_since(since)?.into_iter().rev() {
        for report in store.events_in_segment(segment)?.into_iter().rev() {
            if views.len() >= wanted {
                break 'newest;
            }
            if filter.matches(&report) && report.id.timestamp() >= since {
                let view = to_view(store, &report, retention)?;
                if filter.send.is_none() || filter.send == view.send {
                    views.push(view);
                }
            }
        }
    }
    views.reverse();
    Ok(views)
}

/// Returns unmatched events in order of arrival.
pub fn find_orphan_events(
    store: &Store,
    filter: &EventFilter,
    retention: Option<Retention>,
) -> Result<Vec<EventView>, ReadError> {
    let newest = store.find_orphans(filter.lines.unwrap_or(usize::MAX), |report| filter.matches(report))?;
    newest.iter().rev().map(|report| to_view(store, report, retention)).collect()
}

/// Returns undecodable events in order of arrival.
pub fn find_dead_events(
    store: &Store,
    filter: &EventFilter,
    retention: Option<Retention>,
) -> Result<Vec<EventView>, ReadError> {
    let newest =
        store.find_dead_letters(filter.lines.unwrap_or(usize::MAX), |report| filter.matches(report))?;
    newest.iter().rev().map(|report| to_view(store, report, retention)).collect()
}

/// Returns an event with its raw form, if it is still in the journal.
pub fn find_event(
    store: &Store,
    id: &str,
    retention: Option<Retention>,
) -> Result<Option<EventDetailView>, ReadError> {
    let Ok(id) = id.parse() else { return Ok(None) };
    let Some(report) = store.find_event(id)? else { return Ok(None) };
    let event = to_view(store, &report, retention)?;
    let (raw, raw_base64) = match store.raw_event(&report)?.map(|raw| String::from_utf8(raw.into())) {
        None => (None, None),
        Some(Ok(text)) => (Some(text), None),
        Some(Err(binary)) => (None, Some(BASE64_STANDARD.encode(binary.as_bytes()))),
    };
    Ok(Some(EventDetailView { event, raw, raw_base64 }))
}

impl EventFilter {
    fn since(&self) -> Timestamp {
        Timestamp::from_millis(self.since.unwrap_or(0))
    }

    /// Returns whether the event's own fields match the filter.
    fn matches(&self, report: &StoredEvent) -> bool {
        let arrived = report.id.timestamp();
        let word = event_name(&report.content);
        let recipient = recipient_of(&report.content).unwrap_or_default();
        arrived >= self.since()
            && self.until.is_none_or(|until| arrived.as_millis() <= until)
            && self.upstream.as_ref().is_none_or(|upstream| *upstream == report.upstream)
            && self.event.as_ref().is_none_or(|wanted| wanted == word)
            && self.to.as_ref().is_none_or(|to| address_contains(recipient, to))
    }
}

impl EventDetailView {
    /// Returns the raw form, byte for byte.
    pub fn raw_bytes(&self) -> Option<Vec<u8>> {
        let decode = |text: &String| BASE64_STANDARD.decode(text).ok();
        self.raw.clone().map(String::into_bytes).or_else(|| self.raw_base64.as_ref().and_then(decode))
    }
}

fn to_view(
    store: &Store,
    report: &StoredEvent,
    retention: Option<Retention>,
) -> Result<EventView, ReadError> {
    let event_state = store.event_state(report)?;
    let (event, hint) = (report.content.event(), report.content.hint());
    let words = event.map(|event| &event.diagnostic).or(hint.map(|hint| &hint.diagnostic));
    let (send, rung) = match event_state {
        EventState::Correlated { tracking_id, correlated_by } => (Some(tracking_id), Some(correlated_by)),
        EventState::Orphan | EventState::DeadLetter | EventState::Hint | EventState::Unreferenced => {
            (None, None)
        }
    };
    let reason = match (event_state, &report.content) {
        (EventState::Correlated { .. }, _) => None,
        (_, EventContent::DeadLetter { reason }) => Some(reason.clone()),
        (_, EventContent::Hint(_)) => Some(CONTACT_HINT_REASON.to_owned()),
        (EventState::Orphan, EventContent::Event(event)) => Some(orphan_reason(store, event)?),
        (EventState::DeadLetter | EventState::Hint | EventState::Unreferenced, EventContent::Event(_)) => {
            Some(FORGOTTEN_REASON.to_owned())
        }
    };
    let waits = matches!(event_state, EventState::Orphan | EventState::DeadLetter);
    let ages_out = retention.filter(|_| waits).map(|kept| report.id.timestamp().saturating_add(kept.events));
    Ok(EventView {
        id: report.id.to_string(),
        arrived: report.id.timestamp().to_string(),
        upstream: report.upstream.clone(),
        source: TrailSource::from(report.source).as_str().to_owned(),
        event: event_name(&report.content).to_owned(),
        at: event.map(|event| event.at).or(hint.map(|hint| hint.at)).map(|at| at.to_string()),
        name: words.map(|words| words.name.clone()).filter(|name| !name.is_empty()),
        recipient: recipient_of(&report.content).map(str::to_owned),
        message_id: event.and_then(|event| event.message_id.as_ref()).map(ToString::to_string),
        tracking_id: event.and_then(|event| event.tracking_id).map(|id| id.to_string()),
        text: words.and_then(Diagnostic::to_line),
        by_machine: event.is_some_and(|event| event.automated),
        test_mode: event.is_some_and(|event| event.test_mode),
        state: state_name(event_state).to_owned(),
        send: send.map(|send| send.to_string()),
        joined_by: rung.map(|rung| rung.as_str().to_owned()),
        reason,
        ages_out: ages_out.map(|at| at.to_string()),
    })
}

/// Returns the word of the event's kind.
fn event_name(content: &EventContent) -> &'static str {
    match content {
        EventContent::Event(event) => event.kind.as_str(),
        EventContent::DeadLetter { .. } => DEAD_NAME,
        EventContent::Hint(_) => HINT_NAME,
    }
}

/// Returns the recipient as written by the provider.
fn recipient_of(content: &EventContent) -> Option<&str> {
    let of_hint = || content.hint()?.address.as_deref();
    content.event().and_then(|event| event.recipient.as_deref()).or_else(of_hint)
}

const fn state_name(event_state: EventState) -> &'static str {
    match event_state {
        EventState::Correlated { .. } => "joined",
        EventState::Orphan => "orphan",
        EventState::DeadLetter => DEAD_NAME,
        EventState::Hint => HINT_NAME,
        EventState::Unreferenced => "gone",
    }
}

/// Returns the reason for which an event matches no message.
fn orphan_reason(store: &Store, event: &ProviderEvent) -> Result<String, ReadError> {
    let whom = event.recipient.as_deref().unwrap_or("anybody");
    if let Some(id) = event.tracking_id {
        return Ok(match store.load_message(id)? {
            Some(_) => format!("the send {id} is not to {whom}"),
            None => format!("no send has the tracking id {id}: forgotten, or of another mailtrail"),
        });
    }
    let Some(message_id) = &event.message_id else {
        return Ok("it names nothing that it could be joined by: no tracking id, no Message-ID".to_owned());
    };
    Ok(match count_candidates(store, message_id, event)? {
        (0, _) => format!(
            "no send has the Message-ID <{message_id}>: forgotten, or mail that did not go through here"
        ),
        (_, 0) => format!("no send with the Message-ID <{message_id}> is to {whom}"),
        _ => format!(
            "it happened before the mail with the Message-ID <{message_id}> was accepted: about an earlier one"
        ),
    })
}

/// Returns the number of messages with the Message-ID, and how many of these have the event's recipient.
fn count_candidates(
    store: &Store,
    message_id: &MessageId,
    event: &ProviderEvent,
) -> Result<(usize, usize), ReadError> {
    let (mut all, mut to) = (0, 0);
    for id in store.find_by_message_id(message_id, MAX_CANDIDATES)? {
        let Some(trail) = store.load_trail(id)? else { continue };
        let whom = event.recipient.as_deref().map(fold_address);
        let fits = |folded: String| whom.as_ref().is_none_or(|whom| *whom == folded);
        all += 1;
        to += usize::from(trail.recipients.iter().any(|recipient| fits(recipient.address.to_folded())));
    }
    Ok((all, to))
}

/// Replays the events of a segment, and applies those now decoded differently.
pub async fn replay_segment(
    api: &ApiState,
    order: EventReplayRequest,
    operator: &str,
) -> Result<EventReplayResponse, ApiError> {
    let ids = order.ids.iter().filter_map(|id| id.parse().ok()).collect::<HashSet<TrackingId>>();
    if ids.is_empty() && !order.all {
        return Err(ApiError::Invalid("name reports by their ids, or say ALL"));
    }
    let (here, dry_run, reason) = (api.clone(), order.dry_run, audit_log::truncate_reason(&order.reason));
    let options = ReplayOptions { operator, reason: &reason, dry_run };
    let planned = tokio::task::spawn_blocking(move || plan_segment(&here, &order, &ids)).await;
    let (plans, next) = planned.map_err(|_| ApiError::Internal)??;
    let one = |(report, plan)| async move { apply_step(api, &report, plan, options).await };
    let done = stream::iter(plans).map(one).buffered(REPLAY_BATCH).collect::<Vec<_>>().await;
    let replayed: Vec<_> = done.into_iter().collect::<Result<_, _>>()?;
    let changed = |one: &&EventReplayResult| matches!(&*one.outcome, "joined" | "changed" | "orphan");
    let changes = replayed.iter().filter(changed).count();
    if changes > 0 && !dry_run {
        tracing::warn!(operator, reports = replayed.len(), changes, "an operator had reports read anew");
    }
    Ok(EventReplayResponse { replayed, next })
}

/// Operator, reason and mode of a replay.
#[derive(Clone, Copy)]
struct ReplayOptions<'a> {
    operator: &'a str,
    reason: &'a str,
    dry_run: bool,
}

/// Step of a replay for one event.
enum ReplayStep {
    /// No change.
    Skip { outcome: &'static str, reason: String },
    /// Apply the event as decoded now.
    Apply(Box<ProviderEvent>),
}

type PlannedReplays = Vec<(StoredEvent, ReplayStep)>;

/// Plans the replay of a segment's requested events. Also returns the next segment, if it may have some.
fn plan_segment(
    api: &ApiState,
    order: &EventReplayRequest,
    ids: &HashSet<TrackingId>,
) -> Result<(PlannedReplays, Option<u32>), ReadError> {
    let since = Timestamp::from_millis(order.since.unwrap_or(0));
    let oldest = ids.iter().min().map_or(since, |id| id.timestamp());
    let segments = api.store.journal_segments_since(oldest)?.into_iter();
    let mut segments = segments.skip_while(|number| order.segment.is_some_and(|from| *number < from));
    let mut plans = Vec::new();
    let Some(segment) = segments.next() else { return Ok((plans, None)) };
    for report in api.store.events_in_segment(segment)? {
        let named = if ids.is_empty() { report.id.timestamp() >= since } else { ids.contains(&report.id) };
        if !named {
            continue;
        }
        let event_state = api.store.event_state(&report)?;
        let asked = match event_state {
            _ if !ids.is_empty() || !(order.dead || order.orphans) => true,
            EventState::DeadLetter => order.dead,
            EventState::Orphan => order.orphans,
            EventState::Correlated { .. } | EventState::Hint | EventState::Unreferenced => false,
        };
        if asked {
            let plan = plan_event(api, &report, event_state)?;
            plans.push((report, plan));
        }
    }
    Ok((plans, segments.next()))
}

fn plan_event(
    api: &ApiState,
    report: &StoredEvent,
    event_state: EventState,
) -> Result<ReplayStep, ReadError> {
    let leave = |outcome, why: &str| Ok(ReplayStep::Skip { outcome, reason: why.to_owned() });
    match event_state {
        EventState::Unreferenced => return leave("gone", FORGOTTEN_REASON),
        EventState::Hint => return leave("unchanged", CONTACT_HINT_REASON),
        EventState::Correlated { .. } | EventState::Orphan | EventState::DeadLetter => {}
    }
    let Some(raw) = api.store.raw_event(report)? else {
        return leave("gone", "its raw form is no longer kept");
    };
    let unread = if event_state == EventState::DeadLetter { DEAD_NAME } else { "unchanged" };
    let Some(provider) = api.providers.get(&report.upstream) else {
        let why =
            format!("no upstream {:?} is configured, so nobody knows whose words these are", report.upstream);
        return leave(unread, &why);
    };
    let event = match provider.decode_raw(&raw, report.id.timestamp(), report.content.event()) {
        Ok(event) => event,
        Err(error) => return leave(unread, &error.to_string()),
    };
    let is_new = report.content.event() != Some(&event);
    if is_new || (event_state == EventState::Orphan && api.store.correlate(&event)?.is_some()) {
        return Ok(ReplayStep::Apply(Box::new(event)));
    }
    match event_state {
        EventState::Orphan => leave("unchanged", &orphan_reason(&api.store, &event)?),
        _ => leave("unchanged", "it says what it said"),
    }
}

async fn apply_step(
    api: &ApiState,
    report: &StoredEvent,
    plan: ReplayStep,
    options: ReplayOptions<'_>,
) -> Result<EventReplayResult, ApiError> {
    let id = report.id.to_string();
    let event = match plan {
        ReplayStep::Skip { outcome, reason: why } => {
            let send = match api.store.event_state(report)? {
                EventState::Correlated { tracking_id, .. } => Some(tracking_id.to_string()),
                EventState::Orphan | EventState::DeadLetter | EventState::Hint | EventState::Unreferenced => {
                    None
                }
            };
            return Ok(EventReplayResult { id, outcome: outcome.to_owned(), send, why: Some(why) });
        }
        ReplayStep::Apply(event) => *event,
    };
    let was_joined = matches!(api.store.event_state(report)?, EventState::Correlated { .. });
    let send = api.store.correlate(&event)?;
    if !options.dry_run {
        let (operator, reason) = (options.operator.to_owned(), options.reason.to_owned());
        let (id, at, source, upstream) = (report.id, api.clock.now(), report.source, report.upstream.clone());
        let previous = report.content.event().cloned();
        api.store
            .replay_event(EventReplay { id, at, operator, reason, upstream, source, previous, event })
            .await?;
    }
    let outcome = match send {
        _ if was_joined => "changed",
        Some(_) => "joined",
        None => "orphan",
    };
    Ok(EventReplayResult {
        id,
        outcome: outcome.to_owned(),
        send: send.map(|send| send.to_string()),
        why: None,
    })
}

const DEAD_NAME: &str = "dead";
/// Kind of an event about a contact from a source that sent none of our mail.
pub const HINT_NAME: &str = "hint";
const CONTACT_HINT_REASON: &str = "it is about a contact, and belongs to no mail";
const FORGOTTEN_REASON: &str = "its send was forgotten, it aged out, or it repeats another report";
/// Messages of one Message-ID examined to find a reason.
const MAX_CANDIDATES: usize = 100;
/// Events applied at a time: they share an fsync.
const REPLAY_BATCH: usize = 256;
