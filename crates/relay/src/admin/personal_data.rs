//! What is known about one address, and taking it out of everything.

use crate::admin::audit_log::noted;
use crate::admin::dto::TrailView;
use crate::admin::error::{Refusal, refuse};
use crate::admin::inbound::InboundView;
use crate::admin::provider_events::{KeptEvent, report};
use crate::admin::route_table::Routes;
use crate::admin::state::{Operator, Panel};
use crate::admin::store_maintenance;
use crate::admin::store_maintenance::{CareStep, Tell};
use crate::admin::suppressions::{SuppressionFilter, SuppressionView, suppressions};
use crate::log_line::FactView;
use axum::Json;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mailtrail_mail::{Mailbox, Timestamp};
use mailtrail_store::{EraseError, Erasing, Mentioned, Store};
use mailtrail_trail::suppression::Settings;
use serde::{Deserialize, Serialize};
use std::io;

/// An address that is to be erased.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EraseOrder {
    /// Which.
    pub address: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Something that is known about an address.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ExportLine {
    /// A send from it, to it, or with it in its trail.
    Send {
        /// The send.
        #[serde(flatten)]
        trail: Box<TrailView>,
        /// Bytes of its message, while that is kept.
        message_kept: Option<u64>,
    },
    /// A provider's report, a dead letter or a hint that mentions it.
    Event {
        /// The report.
        #[serde(flatten)]
        event: Box<KeptEvent>,
    },
    /// A mail from outside.
    Inbound {
        /// The mail.
        #[serde(flatten)]
        mail: Box<InboundView>,
        /// Bytes of its message, while that is kept.
        message_kept: Option<u64>,
    },
    /// What speaks against it on a suppression list.
    Suppression {
        /// The entry.
        #[serde(flatten)]
        entry: Box<SuppressionView>,
    },
    /// What else the log says.
    Log {
        /// The line.
        #[serde(flatten)]
        fact: Box<FactView>,
    },
}

/// All that is known about an address. Reads all of the journal. Blocks.
pub fn export(
    store: &Store,
    address: &Mailbox,
    settings: &Settings,
    now: Timestamp,
) -> Result<Vec<ExportLine>, EraseError> {
    let Mentioned { mut sends, reports, inbound, others, .. } = store.mentions(address, &mut |_| {})?;
    // What the ledger still knows of a record that is damaged.
    sends.extend(store.by_recipient(address.as_str(), usize::MAX)?);
    let mut lines = Vec::new();
    for id in sends {
        let Some(trail) = store.trail(id)? else { continue };
        let message_kept = store.job(id)?.and_then(|job| job.message).map(|message| message.size());
        lines.push(ExportLine::Send { trail: Box::new(TrailView::from(&trail)), message_kept });
    }
    for id in reports {
        let event = report(store, &id.to_string(), None)?;
        lines.extend(event.map(|event| ExportLine::Event { event: Box::new(event) }));
    }
    for id in inbound {
        let Some(mail) = store.inbound_mail(id)? else { continue };
        let message_kept = store.inbound_message(id)?.map(|message| message.size());
        lines.push(ExportLine::Inbound { mail: Box::new(InboundView::from(&mail)), message_kept });
    }
    let filter = SuppressionFilter { address: Some(address.to_string()), ..SuppressionFilter::default() };
    let entries = suppressions(store, settings, &filter, now)?.entries.into_iter();
    lines.extend(entries.map(|entry| ExportLine::Suppression { entry: Box::new(entry) }));
    let log = others.iter().map(|entry| FactView::new(&entry.fact, None));
    lines.extend(log.map(|fact| ExportLine::Log { fact: Box::new(fact) }));
    Ok(lines)
}

/// Erases an address. Blocks.
pub fn erase(
    store: &Store,
    order: &EraseOrder,
    operator: &str,
    now: Timestamp,
    tell: Tell<'_>,
) -> io::Result<()> {
    let Ok(address) = order.address.parse::<Mailbox>() else {
        return tell(CareStep::Failed { error: SENSELESS.to_owned(), damaged: false });
    };
    // It is carried out to its end, also when whoever asked has gone.
    let mut progress = |step: mailtrail_store::Progress| drop(tell(step.into()));
    let erased = if order.dry_run {
        store.mentions(&address, &mut progress).map(|found| (found, None))
    } else {
        let reason = noted(&order.reason);
        let erasing = Erasing { address: &address, operator, reason: &reason, at: now };
        store.erase(&erasing, &mut progress).map(|(found, pseudonym)| (found, Some(pseudonym)))
    };
    tell(match erased {
        Ok((found, pseudonym)) => erased_step(store, &address, &found, pseudonym),
        Err(error) => {
            let damaged = matches!(error, EraseError::Damaged | EraseError::Read(_) | EraseError::Rebuild(_));
            store_maintenance::failed(&error, damaged)
        }
    })
}

fn erased_step(store: &Store, address: &Mailbox, found: &Mentioned, pseudonym: Option<String>) -> CareStep {
    let waiting = found.waiting.sends.iter().chain(&found.waiting.inbound);
    let filed = store.dossiers_of(address.as_str()).unwrap_or_default();
    CareStep::Erased {
        pseudonym: pseudonym.filter(|_| found.records > 0),
        records: found.records,
        bodies: found.bodies,
        sends: found.sends.len() as u64,
        reports: found.reports.len() as u64,
        inbound: found.inbound.len() as u64,
        waiting: waiting.map(ToString::to_string).collect(),
        suppressed: filed.iter().any(|filed| filed.dossier.is_listed()),
    }
}

/// Paths below `/api/v1`.
pub(super) fn routes() -> Routes {
    Routes::default().get("/api/v1/export", exported).post("/api/v1/erase", erased)
}

#[derive(Deserialize)]
struct About {
    address: String,
}

async fn exported(
    State(panel): State<Panel>,
    ConnectInfo(Operator(operator)): ConnectInfo<Operator>,
    Query(about): Query<About>,
) -> Response {
    let Ok(address) = about.address.parse::<Mailbox>() else { return refuse(&Refusal::Senseless(SENSELESS)) };
    tracing::info!(operator, "an operator has all that is known about an address told");
    let work = move || export(&panel.store, &address, &panel.suppression, panel.clock.now());
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(lines)) => Json(lines).into_response(),
        Ok(Err(error @ EraseError::Nobody(_))) => {
            (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response()
        }
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn erased(
    State(panel): State<Panel>,
    ConnectInfo(Operator(operator)): ConnectInfo<Operator>,
    Json(order): Json<EraseOrder>,
) -> Response {
    tracing::warn!(operator, dry_run = order.dry_run, "an operator has an address erased");
    store_maintenance::answer(move |tell| erase(&panel.store, &order, &operator, panel.clock.now(), tell))
}

const SENSELESS: &str = "that is no mail address; name a whole one, such as ada@example.net";
