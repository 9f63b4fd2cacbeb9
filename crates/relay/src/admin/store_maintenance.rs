//! Maintenance of the store. The response streams the progress, one JSON object per line.

use crate::admin::audit_log;
use crate::admin::error::{ApiError, error_response};
use crate::admin::route_table::RouteTable;
use crate::admin::state::{ApiState, Caller};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use mailtrail_mail::Timestamp;
use mailtrail_store::{
    BackupError, BackupReport, CorruptRegion, ReplayProgress, Retention, Store, VerifyReport,
};
use mailtrail_trail::OperatorActionData;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Request to rebuild the ledger.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RebuildRequest {
    /// Whether to accept the new ledger even if the journal is damaged and the present ledger has more data.
    #[serde(default)]
    pub despite_damage: bool,
    /// Reason.
    #[serde(default)]
    pub reason: String,
}

/// Request to back up the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupRequest {
    /// Absolute path of a directory that the relay writes to.
    pub directory: PathBuf,
    /// Reason.
    #[serde(default)]
    pub reason: String,
}

/// Progress or result of a maintenance task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum MaintenanceEvent {
    /// Progress of the task.
    Progress {
        /// Bytes of the journal, or parts of the work, completed so far.
        done: u64,
        /// Total in the same unit.
        total: u64,
    },
    /// A damaged range of the journal.
    Damaged {
        /// Number of the segment.
        segment: u32,
        /// Byte offset in the segment file.
        at: u64,
        /// Length in bytes; 0 if unknown.
        bytes: u64,
        /// Description of the damage.
        what: String,
        /// Number of messages in the ledger with acceptance and content in that range.
        sends: u64,
        /// Number of those still queued.
        waiting: u64,
        /// Ids of the first 100.
        ids: Vec<String>,
        /// Consequence of the damage.
        means: String,
    },
    /// The ledger and the journal, or two rows of the ledger, are inconsistent.
    Contradiction {
        /// Description of the inconsistency.
        what: String,
    },
    /// The verification is complete.
    Verified {
        /// Whether the store is intact.
        whole: bool,
        /// Number of journal segments.
        segments: u64,
        /// Size of the journal in bytes.
        bytes: u64,
        /// Number of intact journal records.
        records: u64,
        /// Number of messages in the ledger.
        sends: u64,
        /// Number of those still queued.
        queued: u64,
    },
    /// The ledger is rebuilt.
    Rebuilt {
        /// Number of journal records in it.
        records: u64,
    },
    /// The backup is complete.
    BackedUp {
        /// Directory of the backup.
        directory: PathBuf,
        /// Number of journal segments.
        segments: u64,
        /// Size of the journal in bytes.
        bytes: u64,
        /// Journal position before which everything was copied.
        until: String,
    },
    /// The address is erased, or would be in a dry run.
    Erased {
        /// Pseudonym that replaces it; absent if nothing was done.
        pseudonym: Option<String>,
        /// Number of journal records that mentioned it.
        records: u64,
        /// Number of messages and raw payloads that are removed.
        bodies: u64,
        /// Number of messages from it, to it, or with it in their trail.
        sends: u64,
        /// Number of provider events.
        reports: u64,
        /// Number of inbound messages.
        inbound: u64,
        /// Ids of pending items that mention it; it is not erased before these are completed.
        waiting: Vec<String>,
        /// Whether the suppression list still withholds mail from it.
        suppressed: bool,
    },
    /// The task failed.
    Failed {
        /// Error.
        error: String,
        /// Whether the store is damaged.
        damaged: bool,
    },
}

/// Callback for events; an error reports that the receiver is gone.
pub type MaintenanceCallback<'a> = &'a mut dyn FnMut(MaintenanceEvent) -> io::Result<()>;

/// Verifies the whole store. Blocks.
pub fn verify_store(
    store: &Store,
    retention: Option<&Retention>,
    now: Timestamp,
    report: MaintenanceCallback<'_>,
) -> io::Result<()> {
    match store.verify(retention, now, &mut |step| report(step.into())) {
        Ok(verified) => report_verification(&verified, report),
        Err(error) => report(failed_event(&error, true)),
    }
}

/// Rebuilds the ledger. Blocks.
pub fn rebuild_ledger(
    store: &Store,
    despite_damage: bool,
    report: MaintenanceCallback<'_>,
) -> io::Result<()> {
    // Runs to completion even if the client disconnects.
    let rebuilt = store.rebuild_ledger(despite_damage, &mut |step| drop(report(step.into())));
    report(match rebuilt {
        Ok(records) => MaintenanceEvent::Rebuilt { records },
        Err(error) => failed_event(&error, true),
    })
}

/// Backs up the store. Blocks.
pub fn back_up_store(store: &Store, directory: &Path, report: MaintenanceCallback<'_>) -> io::Result<()> {
    let copied = store.back_up(directory, &mut |step| report(step.into()));
    report(match copied {
        Ok(BackupReport { segments, bytes, until }) => MaintenanceEvent::BackedUp {
            directory: directory.to_owned(),
            segments,
            bytes,
            until: until.to_string(),
        },
        Err(error) => failed_event(&error, matches!(error, BackupError::Read(_) | BackupError::Commit(_))),
    })
}

/// Returns the routes below `/api/v1/store`.
pub(super) fn routes() -> RouteTable {
    RouteTable::default()
        .get("/api/v1/store/verify", handle_verify)
        .post("/api/v1/store/rebuild", handle_rebuild)
        .post("/api/v1/store/backup", handle_backup)
}

async fn handle_verify(State(api): State<ApiState>) -> Response {
    ndjson_response(move |report| verify_store(&api.store, Some(&api.retention), api.clock.now(), report))
}

async fn handle_rebuild(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(RebuildRequest { despite_damage, reason }): Json<RebuildRequest>,
) -> Response {
    let action = OperatorActionData::StoreRebuild { despite_damage };
    if let Err(refusal) = audit_log::record_action(&api, action, &operator, &reason).await {
        return error_response(&refusal);
    }
    tracing::warn!(operator, despite_damage, "an operator has the ledger made anew from the journal");
    ndjson_response(move |report| rebuild_ledger(&api.store, despite_damage, report))
}

async fn handle_backup(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(BackupRequest { directory, reason }): Json<BackupRequest>,
) -> Response {
    if !directory.is_absolute() {
        return error_response(&ApiError::Invalid("the directory is an absolute path"));
    }
    let action = OperatorActionData::StoreBackup { directory: directory.clone() };
    if let Err(error) = audit_log::record_action(&api, action, &operator, &reason).await {
        // A backup is needed most when the store can no longer be written.
        tracing::error!(%error, "cannot record backup in the journal");
    }
    tracing::warn!(operator, directory = %directory.display(), "an operator has the store copied");
    ndjson_response(move |report| back_up_store(&api.store, &directory, report))
}

/// Streams the events of a task that runs on its own thread.
pub(super) fn ndjson_response(
    work: impl FnOnce(MaintenanceCallback<'_>) -> io::Result<()> + Send + 'static,
) -> Response {
    let (lines, received) = mpsc::channel::<MaintenanceEvent>(CHANNEL_CAPACITY);
    tokio::task::spawn_blocking(move || {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut report = |step| match step {
            // A slow reader misses some progress but delays nothing.
            MaintenanceEvent::Progress { .. } if lines.is_closed() => Err(gone()),
            MaintenanceEvent::Progress { .. } => {
                let _ = lines.try_send(step);
                Ok(())
            }
            step => {
                log_event(&step);
                lines.blocking_send(step).map_err(|_| gone())
            }
        };
        if work(&mut report).is_err() {
            tracing::info!("client of store maintenance disconnected before the end");
        }
    });
    let next = async |mut received: mpsc::Receiver<MaintenanceEvent>| {
        let mut line = serde_json::to_string(&received.recv().await?).unwrap_or_default();
        line.push('\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), received))
    };
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream::unfold(received, next)))
        .into_response()
}

/// Logs the result, too.
fn log_event(step: &MaintenanceEvent) {
    match step {
        MaintenanceEvent::Damaged { segment, at, bytes, what, .. } => {
            tracing::error!(segment, at, bytes, what, "the journal is damaged");
        }
        MaintenanceEvent::Contradiction { what } => {
            tracing::error!(what, "ledger and journal are inconsistent")
        }
        MaintenanceEvent::Rebuilt { records } => tracing::info!(records, "the ledger is new"),
        MaintenanceEvent::BackedUp { directory, until, .. } => {
            tracing::info!(directory = %directory.display(), until, "store backed up");
        }
        MaintenanceEvent::Failed { error, .. } => tracing::error!(error, "store maintenance failed"),
        MaintenanceEvent::Erased { pseudonym: Some(pseudonym), records, bodies, .. } => {
            tracing::warn!(pseudonym, records, bodies, "an address is erased");
        }
        MaintenanceEvent::Progress { .. }
        | MaintenanceEvent::Verified { .. }
        | MaintenanceEvent::Erased { .. } => {}
    }
}

/// Reports the findings of a verification, the damage first.
fn report_verification(verified: &VerifyReport, report: MaintenanceCallback<'_>) -> io::Result<()> {
    for hole in &verified.corrupt_regions {
        report(hole.into())?;
    }
    for what in &verified.inconsistencies {
        report(MaintenanceEvent::Contradiction { what: what.clone() })?;
    }
    let VerifyReport { segments, bytes, records, messages, queued, .. } = *verified;
    report(MaintenanceEvent::Verified {
        whole: verified.is_intact(),
        segments,
        bytes,
        records,
        sends: messages,
        queued,
    })
}

pub(super) fn failed_event(error: &dyn std::error::Error, damaged: bool) -> MaintenanceEvent {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors include their cause.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    MaintenanceEvent::Failed { error: text, damaged }
}

impl From<ReplayProgress> for MaintenanceEvent {
    fn from(ReplayProgress { done, total }: ReplayProgress) -> Self {
        Self::Progress { done, total }
    }
}

impl From<&CorruptRegion> for MaintenanceEvent {
    fn from(hole: &CorruptRegion) -> Self {
        Self::Damaged {
            segment: hole.segment,
            at: hole.file_offset,
            bytes: hole.bytes,
            what: hole.description.clone(),
            sends: hole.lost_messages,
            waiting: hole.lost_queued,
            ids: hole.tracking_ids.iter().map(ToString::to_string).collect(),
            means: consequence(hole),
        }
    }
}

fn consequence(hole: &CorruptRegion) -> String {
    let finished = hole.lost_messages - hole.lost_queued;
    let waiting = (hole.lost_queued > 0).then(|| {
        format!(
            "{} sends that wait have lost their message and cannot be sent: look at them with `mailtrail queue show`, \
             have them sent again, and take them out with `mailtrail queue bounce`",
            hole.lost_queued
        )
    });
    let finished = (finished > 0)
        .then(|| format!("{finished} finished sends are in the ledger alone: a rebuild would forget them"));
    let means: Vec<_> = [waiting, finished].into_iter().flatten().collect();
    if means.is_empty() {
        return "no send of the ledger began there; what became of one may have been written there, and only the ledger \
                has that now"
            .to_owned();
    }
    means.join("; ")
}

/// Capacity of the response channel in lines.
const CHANNEL_CAPACITY: usize = 256;
