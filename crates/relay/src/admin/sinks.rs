use crate::admin::audit_log;
use crate::admin::error::ApiError;
use crate::admin::state::ApiState;
use crate::log_line::LogLine;
use mailtrail_mail::Timestamp;
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::OperatorActionData;
use serde::{Deserialize, Serialize};

/// Progress of a sink.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SinkView {
    /// Name of the sink.
    pub sink: String,
    /// Position in the journal; absent for a sink that never ran.
    pub cursor: Option<String>,
    /// Time at which the position was recorded, RFC 3339.
    pub at: Option<String>,
    /// Whether the sink has received all events.
    pub is_up_to_date: bool,
    /// Number of retained dead letters; at most 1000 are counted.
    pub refused: usize,
    /// Number of delayed events.
    #[serde(default)]
    pub delayed: usize,
}

/// Dead letter of a sink.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SinkDeadLetterView {
    /// Time, RFC 3339.
    pub at: String,
    /// Reason of the rejection.
    pub why: String,
    /// The event; absent if it is no longer in the journal.
    pub line: Option<LogLine>,
}

/// Replay of a sink from a time on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SinkReplayRequest {
    /// Earliest recording time of the events, milliseconds since the epoch.
    pub since: u64,
    /// Reason.
    #[serde(default)]
    pub reason: String,
}

/// Returns all configured sinks in the order of the configuration.
pub(super) fn find_sinks(api: &ApiState) -> Result<Vec<SinkView>, ReadError> {
    api.sink_names.iter().map(|sink| to_view(&api.store, sink)).collect()
}

fn to_view(store: &Store, sink: &str) -> Result<SinkView, ReadError> {
    let handed = store.sink_position(sink)?;
    let is_up_to_date = match handed {
        Some((cursor, _)) => {
            store.read_from(cursor, BACKLOG_SCAN_LIMIT)?.0.iter().all(|record| record.entries.is_empty())
        }
        None => false,
    };
    Ok(SinkView {
        sink: sink.to_owned(),
        cursor: handed.map(|(cursor, _)| cursor.to_string()),
        at: handed.map(|(_, at)| at.to_string()),
        is_up_to_date,
        refused: store.sink_dead_letters(sink, MAX_DEAD_LETTERS)?.len(),
        delayed: store.count_delayed(sink)?,
    })
}

/// Returns the dead letters of a sink, oldest first.
pub(super) fn find_dead_letters(store: &Store, sink: &str) -> Result<Vec<SinkDeadLetterView>, ReadError> {
    let refused = store.sink_dead_letters(sink, MAX_DEAD_LETTERS)?.into_iter().map(|refused| {
        let trail = refused
            .entry
            .as_ref()
            .and_then(|entry| entry.tracking_id)
            .map(|id| store.load_trail(id))
            .transpose()?;
        let line = refused.entry.as_ref().map(|entry| LogLine::new(entry, trail.flatten().as_ref()));
        Ok(SinkDeadLetterView { at: refused.at.to_string(), why: refused.reason, line })
    });
    refused.collect()
}

/// Rewinds a sink to the events recorded since then.
pub(super) async fn rewind_sink(
    api: &ApiState,
    sink: &str,
    order: &SinkReplayRequest,
    operator: &str,
) -> Result<(), ApiError> {
    if !api.sink_names.iter().any(|known| known == sink) {
        return Err(ApiError::UnknownSink(sink.to_owned()));
    }
    let (store, since) = (api.store.clone(), Timestamp::from_millis(order.since));
    let cursor = tokio::task::spawn_blocking(move || store.cursor_at_time(since)).await;
    let cursor = cursor.map_err(|_| ApiError::Internal)??;
    let action = OperatorActionData::SinkReplay { sink: sink.to_owned(), since };
    audit_log::record_action(api, action, operator, &order.reason).await?;
    tracing::info!(sink, operator, %since, %cursor, "operator rewound a sink");
    api.store.request_rewind(sink, cursor);
    Ok(())
}

const MAX_DEAD_LETTERS: usize = 1000;
/// Number of records scanned for an event to deliver.
const BACKLOG_SCAN_LIMIT: usize = 1000;
