//! The care of the store: the answer tells how far it is while it is done, one JSON object a line.

use crate::admin::audit_log;
use crate::admin::error::{Refusal, refuse};
use crate::admin::route_table::Routes;
use crate::admin::state::{Operator, Panel};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use mailtrail_mail::Timestamp;
use mailtrail_store::{BackedUp, BackupError, Hole, Progress, Retention, Store, Verified};
use mailtrail_trail::Errand;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// How the ledger is made anew.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RebuildOrder {
    /// Take the new one also when the journal is damaged and the present one knows more.
    #[serde(default)]
    pub despite_damage: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// Where a copy of the store goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupOrder {
    /// An absolute path; the relay writes there.
    pub directory: PathBuf,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What is happening, or what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum CareStep {
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
pub type Tell<'a> = &'a mut dyn FnMut(CareStep) -> io::Result<()>;

/// Reads all of the store. Blocks.
pub fn verify(
    store: &Store,
    retention: Option<&Retention>,
    now: Timestamp,
    tell: Tell<'_>,
) -> io::Result<()> {
    match store.verify(retention, now, &mut |step| tell(step.into())) {
        Ok(verified) => told(&verified, tell),
        Err(error) => tell(failed(&error, true)),
    }
}

/// Makes the ledger anew. Blocks.
pub fn rebuild(store: &Store, despite_damage: bool, tell: Tell<'_>) -> io::Result<()> {
    // It is carried out to its end, also when whoever asked has gone.
    let rebuilt = store.rebuild(despite_damage, &mut |step| drop(tell(step.into())));
    tell(match rebuilt {
        Ok(records) => CareStep::Rebuilt { records },
        Err(error) => failed(&error, true),
    })
}

/// Copies the store. Blocks.
pub fn back_up(store: &Store, directory: &Path, tell: Tell<'_>) -> io::Result<()> {
    let copied = store.back_up(directory, &mut |step| tell(step.into()));
    tell(match copied {
        Ok(BackedUp { segments, bytes, until }) => {
            CareStep::BackedUp { directory: directory.to_owned(), segments, bytes, until: until.to_string() }
        }
        Err(error) => failed(&error, matches!(error, BackupError::Read(_) | BackupError::Commit(_))),
    })
}

/// Paths below `/api/v1/store`.
pub(super) fn routes() -> Routes {
    Routes::default()
        .get("/api/v1/store/verify", verified)
        .post("/api/v1/store/rebuild", rebuilt)
        .post("/api/v1/store/backup", backed_up)
}

async fn verified(State(panel): State<Panel>) -> Response {
    answer(move |tell| verify(&panel.store, Some(&panel.retention), panel.clock.now(), tell))
}

async fn rebuilt(
    State(panel): State<Panel>,
    ConnectInfo(Operator(operator)): ConnectInfo<Operator>,
    Json(RebuildOrder { despite_damage, reason }): Json<RebuildOrder>,
) -> Response {
    let errand = Errand::StoreRebuild { despite_damage };
    if let Err(refusal) = audit_log::note(&panel, errand, &operator, &reason).await {
        return refuse(&refusal);
    }
    tracing::warn!(operator, despite_damage, "an operator has the ledger made anew from the journal");
    answer(move |tell| rebuild(&panel.store, despite_damage, tell))
}

async fn backed_up(
    State(panel): State<Panel>,
    ConnectInfo(Operator(operator)): ConnectInfo<Operator>,
    Json(BackupOrder { directory, reason }): Json<BackupOrder>,
) -> Response {
    if !directory.is_absolute() {
        return refuse(&Refusal::Senseless("the directory is an absolute path"));
    }
    let errand = Errand::StoreBackup { directory: directory.clone() };
    if let Err(error) = audit_log::note(&panel, errand, &operator, &reason).await {
        // A copy is needed most where nothing can be written any more.
        tracing::error!(%error, "that the store is copied cannot be noted in the journal");
    }
    tracing::warn!(operator, directory = %directory.display(), "an operator has the store copied");
    answer(move |tell| back_up(&panel.store, &directory, tell))
}

/// The lines of a work, while it is done on a thread of its own.
pub(super) fn answer(work: impl FnOnce(Tell<'_>) -> io::Result<()> + Send + 'static) -> Response {
    let (lines, heard) = mpsc::channel::<CareStep>(LINES);
    tokio::task::spawn_blocking(move || {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut tell = |step| match step {
            // Who reads slowly misses some of it and holds nothing up.
            CareStep::Progress { .. } if lines.is_closed() => Err(gone()),
            CareStep::Progress { .. } => {
                let _ = lines.try_send(step);
                Ok(())
            }
            step => {
                log(&step);
                lines.blocking_send(step).map_err(|_| gone())
            }
        };
        if work(&mut tell).is_err() {
            tracing::info!("whoever asked about the store has gone before the end");
        }
    });
    let next = async |mut heard: mpsc::Receiver<CareStep>| {
        let mut line = serde_json::to_string(&heard.recv().await?).unwrap_or_default();
        line.push('\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), heard))
    };
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream::unfold(heard, next))).into_response()
}

/// What came of it is for the log, too.
fn log(step: &CareStep) {
    match step {
        CareStep::Damaged { segment, at, bytes, what, .. } => {
            tracing::error!(segment, at, bytes, what, "the journal is damaged");
        }
        CareStep::Contradiction { what } => {
            tracing::error!(what, "the ledger and the journal contradict each other")
        }
        CareStep::Rebuilt { records } => tracing::info!(records, "the ledger is new"),
        CareStep::BackedUp { directory, until, .. } => {
            tracing::info!(directory = %directory.display(), until, "the store is copied");
        }
        CareStep::Failed { error, .. } => tracing::error!(error, "a work on the store broke off"),
        CareStep::Erased { pseudonym: Some(pseudonym), records, bodies, .. } => {
            tracing::warn!(pseudonym, records, bodies, "an address is erased");
        }
        CareStep::Progress { .. } | CareStep::Verified { .. } | CareStep::Erased { .. } => {}
    }
}

/// Tells what was found, what is wrong first.
fn told(verified: &Verified, tell: Tell<'_>) -> io::Result<()> {
    for hole in &verified.holes {
        tell(hole.into())?;
    }
    for what in &verified.contradictions {
        tell(CareStep::Contradiction { what: what.clone() })?;
    }
    let Verified { segments, bytes, records, sends, queued, .. } = *verified;
    tell(CareStep::Verified { whole: verified.is_whole(), segments, bytes, records, sends, queued })
}

pub(super) fn failed(error: &dyn std::error::Error, damaged: bool) -> CareStep {
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
    CareStep::Failed { error: text, damaged }
}

impl From<Progress> for CareStep {
    fn from(Progress { done, total }: Progress) -> Self {
        Self::Progress { done, total }
    }
}

impl From<&Hole> for CareStep {
    fn from(hole: &Hole) -> Self {
        Self::Damaged {
            segment: hole.segment,
            at: hole.at,
            bytes: hole.bytes,
            what: hole.what.clone(),
            sends: hole.sends,
            waiting: hole.waiting,
            ids: hole.ids.iter().map(ToString::to_string).collect(),
            means: means(hole),
        }
    }
}

fn means(hole: &Hole) -> String {
    let finished = hole.sends - hole.waiting;
    let waiting = (hole.waiting > 0).then(|| {
        format!(
            "{} sends that wait have lost their message and cannot be sent: look at them with `mailtrail queue show`, \
             have them sent again, and take them out with `mailtrail queue bounce`",
            hole.waiting
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
const LINES: usize = 256;
