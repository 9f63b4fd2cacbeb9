//! Bringing our suppression list and the providers' together: the answer tells what is done while it is done, one JSON
//! object a line.

use crate::admin::audit_log;
use crate::admin::error::{ApiError, error_response};
use crate::admin::state::{ApiState, Caller};
use crate::suppression_sync::{SyncChange, SyncOptions, SyncUpdate};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use tokio::sync::mpsc;

/// Whose lists are brought together with ours.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionSyncRequest {
    /// That upstream's; absent: those of all whose account is known.
    pub upstream: Option<String>,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What is happening, and for which upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SuppressionSyncProgress {
    /// The upstream.
    pub upstream: String,
    /// What.
    #[serde(flatten)]
    pub step: SuppressionSyncEvent,
}

/// What is happening.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum SuppressionSyncEvent {
    /// The provider's lists are being read.
    Read {
        /// Entries so far.
        entries: u64,
    },
    /// Entries of the provider's cannot be read. They are passed over, and nothing is ended.
    Unread {
        /// How many.
        unread: u64,
        /// The first of them, and why.
        first: String,
    },
    /// The provider takes no more requests for a while.
    Waiting {
        /// For so long.
        seconds: u64,
    },
    /// Something is done about an address or, with `dry_run`, would be.
    Act {
        /// The address, in lower case.
        address: String,
        /// `hard-bounce`, `complaint` or `unsubscribe`.
        reason: String,
        /// `taken-in` and `ended` on our list, `added-there` and `removed-there` on the provider's.
        act: String,
        /// Why the provider does not want it, where that is so.
        why: Option<String>,
    },
    /// Both lists are as they are to be.
    Done,
    /// It broke off.
    Failed {
        /// Why.
        error: String,
    },
}

/// Begins it; the answer ends when it has.
pub(super) async fn sync_suppressions(
    State(panel): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(order): Json<SuppressionSyncRequest>,
) -> Response {
    let upstreams = match select_upstreams(&panel, order.upstream) {
        Ok(upstreams) => upstreams,
        Err(refusal) => return error_response(&refusal),
    };
    let order =
        SyncOptions { operator, reason: audit_log::truncate_reason(&order.reason), dry_run: order.dry_run };
    let (lines, heard) = mpsc::channel(CHANNEL_CAPACITY);
    // It is carried out to its end, also when whoever asked has gone.
    tokio::spawn(async move {
        for upstream in upstreams {
            sync_upstream(&panel, upstream, &order, &lines).await;
        }
    });
    let next = async |mut heard: mpsc::Receiver<SuppressionSyncProgress>| {
        let mut line = serde_json::to_string(&heard.recv().await?).unwrap_or_default();
        line.push('\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), heard))
    };
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream::unfold(heard, next))).into_response()
}

fn select_upstreams(panel: &ApiState, wanted: Option<String>) -> Result<Vec<String>, ApiError> {
    match wanted {
        Some(name) if !panel.upstream_health.iter().any(|health| health.name() == name) => {
            Err(ApiError::UnknownUpstream(name))
        }
        Some(name) => Ok(vec![name]),
        None => match panel.suppression_sync.upstreams() {
            none if none.is_empty() => Err(ApiError::Invalid(
                "no upstream's provider can be asked for its lists: that needs the account's api_key (and domain, for Mailgun)",
            )),
            all => Ok(all),
        },
    }
}

async fn sync_upstream(
    panel: &ApiState,
    upstream: String,
    order: &SyncOptions,
    lines: &mpsc::Sender<SuppressionSyncProgress>,
) {
    let (steps, mut heard) = mpsc::channel::<SyncUpdate>(CHANNEL_CAPACITY);
    let tell = async |step| {
        // Whoever asked may have gone.
        let _ = lines.send(SuppressionSyncProgress { upstream: upstream.clone(), step }).await;
    };
    let told = async {
        while let Some(step) = heard.recv().await {
            tell(step.into()).await;
        }
    };
    let synced = async {
        let synced = panel.suppression_sync.sync_upstream(&upstream, order, &steps).await;
        drop(steps);
        synced
    };
    let end = match tokio::join!(synced, told).0 {
        Ok(()) => SuppressionSyncEvent::Done,
        Err(trouble) => SuppressionSyncEvent::Failed { error: trouble.to_string() },
    };
    tell(end).await;
}

impl From<SyncUpdate> for SuppressionSyncEvent {
    fn from(step: SyncUpdate) -> Self {
        match step {
            SyncUpdate::EntriesRead(entries) => Self::Read { entries },
            SyncUpdate::EntriesUnreadable(unread, first) => Self::Unread { unread, first },
            SyncUpdate::RateLimited(wait) => Self::Waiting { seconds: wait.as_secs() },
            SyncUpdate::Changed(SyncChange { address, reason, action, rejection }) => {
                let (reason, act) = (reason.as_str().to_owned(), action.as_str().to_owned());
                Self::Act { address, reason, act, why: rejection }
            }
        }
    }
}

/// Lines that may wait for whoever asked.
const CHANNEL_CAPACITY: usize = 256;
