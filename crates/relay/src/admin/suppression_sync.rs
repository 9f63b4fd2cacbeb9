//! Synchronisation with the providers' suppression lists. The response streams the progress, one JSON
//! object per line.

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

/// Request for a synchronisation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionSyncRequest {
    /// Upstream; absent: all with a configured provider API.
    pub upstream: Option<String>,
    /// Whether to report the changes without making them.
    #[serde(default)]
    pub dry_run: bool,
    /// Reason.
    #[serde(default)]
    pub reason: String,
}

/// Progress of one upstream's synchronisation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SuppressionSyncProgress {
    /// Upstream.
    pub upstream: String,
    /// Event.
    #[serde(flatten)]
    pub step: SuppressionSyncEvent,
}

/// Event of a synchronisation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum SuppressionSyncEvent {
    /// Reading the provider's lists.
    Read {
        /// Number of entries so far.
        entries: u64,
    },
    /// Unreadable provider entries. They are skipped, and no evidence is ended.
    Unread {
        /// Number of entries.
        unread: u64,
        /// First unreadable entry and the reason.
        first: String,
    },
    /// Waiting because of the provider's rate limit.
    Waiting {
        /// Duration in seconds.
        seconds: u64,
    },
    /// Change for an address, made or, with `dry_run`, planned.
    Act {
        /// Address in lower case.
        address: String,
        /// Reason: `hard-bounce`, `complaint` or `unsubscribe`.
        reason: String,
        /// Change: `taken-in` or `ended` on our list, `added-there` or `removed-there` on the provider's.
        act: String,
        /// Reason for which the provider rejects it, if it does.
        why: Option<String>,
    },
    /// Both lists are synchronised.
    Done,
    /// The synchronisation failed.
    Failed {
        /// Error.
        error: String,
    },
}

/// Starts a synchronisation; the response ends with it.
pub(super) async fn sync_suppressions(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(order): Json<SuppressionSyncRequest>,
) -> Response {
    let upstreams = match select_upstreams(&api, order.upstream) {
        Ok(upstreams) => upstreams,
        Err(refusal) => return error_response(&refusal),
    };
    let order =
        SyncOptions { operator, reason: audit_log::truncate_reason(&order.reason), dry_run: order.dry_run };
    let (lines, received) = mpsc::channel(CHANNEL_CAPACITY);
    // Runs to completion even if the client disconnects.
    tokio::spawn(async move {
        for upstream in upstreams {
            sync_upstream(&api, upstream, &order, &lines).await;
        }
    });
    let next = async |mut received: mpsc::Receiver<SuppressionSyncProgress>| {
        let mut line = serde_json::to_string(&received.recv().await?).unwrap_or_default();
        line.push('\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), received))
    };
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream::unfold(received, next)))
        .into_response()
}

fn select_upstreams(api: &ApiState, wanted: Option<String>) -> Result<Vec<String>, ApiError> {
    match wanted {
        Some(name) if !api.upstream_health.iter().any(|health| health.name() == name) => {
            Err(ApiError::UnknownUpstream(name))
        }
        Some(name) => Ok(vec![name]),
        None => match api.suppression_sync.upstreams() {
            none if none.is_empty() => Err(ApiError::Invalid(
                "no upstream's provider can be asked for its lists: that needs the account's api_key (and domain, for Mailgun)",
            )),
            all => Ok(all),
        },
    }
}

async fn sync_upstream(
    api: &ApiState,
    upstream: String,
    order: &SyncOptions,
    lines: &mpsc::Sender<SuppressionSyncProgress>,
) {
    let (steps, mut received) = mpsc::channel::<SyncUpdate>(CHANNEL_CAPACITY);
    let send_line = async |step| {
        // The client may have disconnected.
        let _ = lines.send(SuppressionSyncProgress { upstream: upstream.clone(), step }).await;
    };
    let forward_updates = async {
        while let Some(step) = received.recv().await {
            send_line(step.into()).await;
        }
    };
    let synced = async {
        let synced = api.suppression_sync.sync_upstream(&upstream, order, &steps).await;
        drop(steps);
        synced
    };
    let end = match tokio::join!(synced, forward_updates).0 {
        Ok(()) => SuppressionSyncEvent::Done,
        Err(trouble) => SuppressionSyncEvent::Failed { error: trouble.to_string() },
    };
    send_line(end).await;
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

/// Capacity of the response channel in lines.
const CHANNEL_CAPACITY: usize = 256;
