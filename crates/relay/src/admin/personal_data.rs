//! Export and erasure of the data about one address (GDPR).

use crate::admin::audit_log::truncate_reason;
use crate::admin::dto::TrailView;
use crate::admin::error::{ApiError, error_response};
use crate::admin::inbound::InboundView;
use crate::admin::provider_events::{EventDetailView, find_event};
use crate::admin::route_table::RouteTable;
use crate::admin::state::{ApiState, Caller};
use crate::admin::store_maintenance;
use crate::admin::store_maintenance::{MaintenanceCallback, MaintenanceEvent};
use crate::admin::suppressions::{SuppressionListFilter, SuppressionView, find_suppressions};
use crate::log_line::TimelineEntry;
use axum::Json;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mailtrail_mail::{Mailbox, Timestamp};
use mailtrail_store::{EraseError, ErasureMatches, ErasureRequest, Store};
use mailtrail_trail::suppression::SuppressionSettings;
use serde::{Deserialize, Serialize};
use std::io;

/// Erasure of an address.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EraseRequest {
    /// Address.
    pub address: String,
    /// Reason.
    #[serde(default)]
    pub reason: String,
    /// Whether to report the effect without erasing.
    #[serde(default)]
    pub dry_run: bool,
}

/// A line of the export about an address.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ExportLine {
    /// A message from it, to it, or with it in its trail.
    Send {
        /// The message.
        #[serde(flatten)]
        trail: Box<TrailView>,
        /// Size of its content in bytes, while it is stored.
        message_kept: Option<u64>,
    },
    /// A provider event, a dead letter or a contact hint that mentions it.
    Event {
        /// The event.
        #[serde(flatten)]
        event: Box<EventDetailView>,
    },
    /// An inbound message.
    Inbound {
        /// The message.
        #[serde(flatten)]
        mail: Box<InboundView>,
        /// Size of its content in bytes, while it is stored.
        message_kept: Option<u64>,
    },
    /// An entry of a suppression list.
    Suppression {
        /// The entry.
        #[serde(flatten)]
        entry: Box<SuppressionView>,
    },
    /// Any other log line.
    Log {
        /// The line.
        #[serde(flatten)]
        fact: Box<TimelineEntry>,
    },
}

/// Exports all data about an address. Reads the whole journal. Blocks.
pub fn export_address(
    store: &Store,
    address: &Mailbox,
    settings: &SuppressionSettings,
    now: Timestamp,
) -> Result<Vec<ExportLine>, EraseError> {
    let ErasureMatches { messages: mut sends, events, inbound, log_entries, .. } =
        store.find_mentions(address, &mut |_| {})?;
    // The ledger's data from a journal record that is damaged.
    sends.extend(store.find_by_recipient(address.as_str(), usize::MAX)?);
    let mut lines = Vec::new();
    for id in sends {
        let Some(trail) = store.load_trail(id)? else { continue };
        let message_kept = store.load_job(id)?.and_then(|job| job.body).map(|message| message.size());
        lines.push(ExportLine::Send { trail: Box::new(TrailView::from(&trail)), message_kept });
    }
    for id in events {
        let event = find_event(store, &id.to_string(), None)?;
        lines.extend(event.map(|event| ExportLine::Event { event: Box::new(event) }));
    }
    for id in inbound {
        let Some(mail) = store.load_inbound(id)? else { continue };
        let message_kept = store.load_inbound_body(id)?.map(|message| message.size());
        lines.push(ExportLine::Inbound { mail: Box::new(InboundView::from(&mail)), message_kept });
    }
    let filter =
        SuppressionListFilter { address: Some(address.to_string()), ..SuppressionListFilter::default() };
    let entries = find_suppressions(store, settings, &filter, now)?.entries.into_iter();
    lines.extend(entries.map(|entry| ExportLine::Suppression { entry: Box::new(entry) }));
    let log = log_entries.iter().map(|entry| TimelineEntry::new(&entry.event, None));
    lines.extend(log.map(|fact| ExportLine::Log { fact: Box::new(fact) }));
    Ok(lines)
}

/// Erases an address. Blocks.
pub fn erase_address(
    store: &Store,
    order: &EraseRequest,
    operator: &str,
    now: Timestamp,
    report: MaintenanceCallback<'_>,
) -> io::Result<()> {
    let Ok(address) = order.address.parse::<Mailbox>() else {
        return report(MaintenanceEvent::Failed { error: INVALID_ADDRESS.to_owned(), damaged: false });
    };
    // Runs to completion even if the client disconnects.
    let mut progress = |step: mailtrail_store::ReplayProgress| drop(report(step.into()));
    let erased = if order.dry_run {
        store.find_mentions(&address, &mut progress).map(|found| (found, None))
    } else {
        let reason = truncate_reason(&order.reason);
        let erasing = ErasureRequest { address: &address, operator, reason: &reason, at: now };
        store.erase_address(&erasing, &mut progress).map(|(found, pseudonym)| (found, Some(pseudonym)))
    };
    report(match erased {
        Ok((found, pseudonym)) => erased_event(store, &address, &found, pseudonym),
        Err(error) => {
            let damaged =
                matches!(error, EraseError::JournalDamaged | EraseError::Read(_) | EraseError::Rebuild(_));
            store_maintenance::failed_event(&error, damaged)
        }
    })
}

fn erased_event(
    store: &Store,
    address: &Mailbox,
    found: &ErasureMatches,
    pseudonym: Option<String>,
) -> MaintenanceEvent {
    let waiting = found.pending.messages.iter().chain(&found.pending.inbound);
    let filed = store.evidence_for_address(address.as_str()).unwrap_or_default();
    MaintenanceEvent::Erased {
        pseudonym: pseudonym.filter(|_| found.records > 0),
        records: found.records,
        bodies: found.bodies,
        sends: found.messages.len() as u64,
        reports: found.events.len() as u64,
        inbound: found.inbound.len() as u64,
        waiting: waiting.map(ToString::to_string).collect(),
        suppressed: filed.iter().any(|filed| filed.evidence.is_listed()),
    }
}

/// Returns the routes below `/api/v1`.
pub(super) fn routes() -> RouteTable {
    RouteTable::default().get("/api/v1/export", handle_export).post("/api/v1/erase", handle_erase)
}

#[derive(Deserialize)]
struct ExportQuery {
    address: String,
}

async fn handle_export(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Query(about): Query<ExportQuery>,
) -> Response {
    let Ok(address) = about.address.parse::<Mailbox>() else {
        return error_response(&ApiError::Invalid(INVALID_ADDRESS));
    };
    tracing::info!(operator, "operator exported an address");
    let work = move || export_address(&api.store, &address, &api.suppression_settings, api.clock.now());
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(lines)) => Json(lines).into_response(),
        Ok(Err(error @ EraseError::NoDomain(_))) => {
            (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response()
        }
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn handle_erase(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(order): Json<EraseRequest>,
) -> Response {
    tracing::warn!(operator, dry_run = order.dry_run, "operator requested an erasure");
    store_maintenance::ndjson_response(move |report| {
        erase_address(&api.store, &order, &operator, api.clock.now(), report)
    })
}

const INVALID_ADDRESS: &str = "that is no mail address; name a whole one, such as ada@example.net";
