//! The care of the store: the answer tells how far it is while it is done, one JSON object a line.

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
use mailtrail_store::{BackupError, BackupReport, CorruptRegion, Progress, Retention, Store, VerifyReport};
use mailtrail_trail::OperatorActionData;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// How the ledger is made anew.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RebuildRequest {
    /// Take the new one also when the journal is damaged and the present one knows more.
    #[serde(default)]
    pub despite_damage: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// Where a copy of the store goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupRequest {
    /// An absolute path; the relay writes there.
    pub directory: PathBuf,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What is happening, or what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum MaintenanceEvent {
    /// How far it is.
    Progress {
        /// Bytes of the journal, or parts of the work.
        done: u64,
        /// In all.
        total: u64,
    },
    /// A place of the journal is damaged.
    Damaged {
        /// Number of the segment.
        segment: u32,
        /// Byte of its file.
        at: u64,
        /// How many; 0 where that is not known.
        bytes: u64,
        /// What is wrong with them.
        what: String,
        /// Sends of the ledger whose acceptance and message lay there.
        sends: u64,
        /// Those of them that still wait.
        waiting: u64,
        /// Ids of the first 100.
        ids: Vec<String>,
        /// What that means.
        means: String,
    },
    /// The ledger and the journal, or two rows of the ledger, say different things.
    Contradiction {
        /// Which.
        what: String,
    },
    /// All was read.
    Verified {
        /// Whether nothing is wrong.
        whole: bool,
        /// Segments of the journal.
        segments: u64,
        /// Bytes of the journal.
        bytes: u64,
        /// Whole records in it.
        records: u64,
        /// Sends in the ledger.
        sends: u64,
        /// Those of them that wait.
        queued: u64,
    },
    /// The ledger is new.
    Rebuilt {
        /// Records of the journal in it.
        records: u64,
    },
    /// The copy is whole.
    BackedUp {
        /// Where it is.
        directory: PathBuf,
        /// Segments of the journal.
        segments: u64,
        /// Bytes of the journal.
        bytes: u64,
        /// Place in the journal: all before it was copied.
        until: String,
    },
    /// The address is erased, or would be.
    Erased {
        /// What stands in its place; absent where nothing was done.
        pseudonym: Option<String>,
        /// Records of the journal that mentioned it.
        records: u64,
        /// Messages and raw payloads that are left out.
        bodies: u64,
        /// Sends from it, to it, or with it in their trail.
        sends: u64,
        /// Reports of providers.
        reports: u64,
        /// Mail from outside.
        inbound: u64,
        /// What waits and mentions it, by its ids: it is not erased before that is done.
        waiting: Vec<String>,
        /// Whether the suppression list keeps mail from it on.
        suppressed: bool,
    },
    /// It broke off.
    Failed {
        /// Why.
        error: String,
        /// Whether the store is to blame.
        damaged: bool,
    },
}

/// Hears what happens; an error says that nobody wants to know any more.
pub type MaintenanceCallback<'a> = &'a mut dyn FnMut(MaintenanceEvent) -> io::Result<()>;

/// Reads all of the store. Blocks.
pub fn verify_store(
    store: &Store,
    retention: Option<&Retention>,
    now: Timestamp,
    tell: MaintenanceCallback<'_>,
) -> io::Result<()> {
    match store.verify(retention, now, &mut |step| tell(step.into())) {
        Ok(verified) => report_verification(&verified, tell),
        Err(error) => tell(failed_event(&error, true)),
    }
}

/// Makes the ledger anew. Blocks.
pub fn rebuild_ledger(store: &Store, despite_damage: bool, tell: MaintenanceCallback<'_>) -> io::Result<()> {
    // It is carried out to its end, also when whoever asked has gone.
    let rebuilt = store.rebuild(despite_damage, &mut |step| drop(tell(step.into())));
    tell(match rebuilt {
        Ok(records) => MaintenanceEvent::Rebuilt { records },
        Err(error) => failed_event(&error, true),
    })
}

/// Copies the store. Blocks.
pub fn back_up_store(store: &Store, directory: &Path, tell: MaintenanceCallback<'_>) -> io::Result<()> {
    let copied = store.back_up(directory, &mut |step| tell(step.into()));
    tell(match copied {
        Ok(BackupReport { segments, bytes, until }) => MaintenanceEvent::BackedUp {
            directory: directory.to_owned(),
            segments,
            bytes,
            until: until.to_string(),
        },
        Err(error) => failed_event(&error, matches!(error, BackupError::Read(_) | BackupError::Commit(_))),
    })
}

/// Paths below `/api/v1/store`.
pub(super) fn routes() -> RouteTable {
    RouteTable::default()
        .get("/api/v1/store/verify", handle_verify)
        .post("/api/v1/store/rebuild", handle_rebuild)
        .post("/api/v1/store/backup", handle_backup)
}

async fn handle_verify(State(panel): State<ApiState>) -> Response {
    ndjson_response(move |tell| verify_store(&panel.store, Some(&panel.retention), panel.clock.now(), tell))
}

async fn handle_rebuild(
    State(panel): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(RebuildRequest { despite_damage, reason }): Json<RebuildRequest>,
) -> Response {
    let errand = OperatorActionData::StoreRebuild { despite_damage };
    if let Err(refusal) = audit_log::record_action(&panel, errand, &operator, &reason).await {
        return error_response(&refusal);
    }
    tracing::warn!(operator, despite_damage, "an operator has the ledger made anew from the journal");
    ndjson_response(move |tell| rebuild_ledger(&panel.store, despite_damage, tell))
}

async fn handle_backup(
    State(panel): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(BackupRequest { directory, reason }): Json<BackupRequest>,
) -> Response {
    if !directory.is_absolute() {
        return error_response(&ApiError::Invalid("the directory is an absolute path"));
    }
    let errand = OperatorActionData::StoreBackup { directory: directory.clone() };
    if let Err(error) = audit_log::record_action(&panel, errand, &operator, &reason).await {
        // A copy is needed most where nothing can be written any more.
        tracing::error!(%error, "that the store is copied cannot be noted in the journal");
    }
    tracing::warn!(operator, directory = %directory.display(), "an operator has the store copied");
    ndjson_response(move |tell| back_up_store(&panel.store, &directory, tell))
}

/// The lines of a work, while it is done on a thread of its own.
pub(super) fn ndjson_response(
    work: impl FnOnce(MaintenanceCallback<'_>) -> io::Result<()> + Send + 'static,
) -> Response {
    let (lines, heard) = mpsc::channel::<MaintenanceEvent>(CHANNEL_CAPACITY);
    tokio::task::spawn_blocking(move || {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut tell = |step| match step {
            // Who reads slowly misses some of it and holds nothing up.
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
        if work(&mut tell).is_err() {
            tracing::info!("whoever asked about the store has gone before the end");
        }
    });
    let next = async |mut heard: mpsc::Receiver<MaintenanceEvent>| {
        let mut line = serde_json::to_string(&heard.recv().await?).unwrap_or_default();
        line.push('\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), heard))
    };
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream::unfold(heard, next))).into_response()
}

/// What came of it is for the log, too.
fn log_event(step: &MaintenanceEvent) {
    match step {
        MaintenanceEvent::Damaged { segment, at, bytes, what, .. } => {
            tracing::error!(segment, at, bytes, what, "the journal is damaged");
        }
        MaintenanceEvent::Contradiction { what } => {
            tracing::error!(what, "the ledger and the journal contradict each other")
        }
        MaintenanceEvent::Rebuilt { records } => tracing::info!(records, "the ledger is new"),
        MaintenanceEvent::BackedUp { directory, until, .. } => {
            tracing::info!(directory = %directory.display(), until, "the store is copied");
        }
        MaintenanceEvent::Failed { error, .. } => tracing::error!(error, "a work on the store broke off"),
        MaintenanceEvent::Erased { pseudonym: Some(pseudonym), records, bodies, .. } => {
            tracing::warn!(pseudonym, records, bodies, "an address is erased");
        }
        MaintenanceEvent::Progress { .. }
        | MaintenanceEvent::Verified { .. }
        | MaintenanceEvent::Erased { .. } => {}
    }
}

/// Tells what was found, what is wrong first.
fn report_verification(verified: &VerifyReport, tell: MaintenanceCallback<'_>) -> io::Result<()> {
    for hole in &verified.corrupt_regions {
        tell(hole.into())?;
    }
    for what in &verified.inconsistencies {
        tell(MaintenanceEvent::Contradiction { what: what.clone() })?;
    }
    let VerifyReport { segments, bytes, records, messages, queued, .. } = *verified;
    tell(MaintenanceEvent::Verified {
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
        // Some say their cause themselves.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    MaintenanceEvent::Failed { error: text, damaged }
}

impl From<Progress> for MaintenanceEvent {
    fn from(Progress { done, total }: Progress) -> Self {
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

/// Lines that may wait for whoever asked.
const CHANNEL_CAPACITY: usize = 256;
