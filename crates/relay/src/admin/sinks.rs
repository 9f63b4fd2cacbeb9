use crate::admin::audit_log;
use crate::admin::error::ApiError;
use crate::admin::state::ApiState;
use crate::log_line::LogLine;
use mailtrail_mail::Timestamp;
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::OperatorActionData;
use serde::{Deserialize, Serialize};

/// How far a sink got.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SinkView {
    /// The sink.
    pub sink: String,
    /// Where in the journal it stands; absent for one that never ran.
    pub cursor: Option<String>,
    /// When that was noted, RFC 3339.
    pub at: Option<String>,
    /// Whether it has everything.
    pub is_up_to_date: bool,
    /// What it refused for good, as far as it is kept; at most 1000 are counted.
    pub refused: usize,
    /// What it takes later, each alone.
    #[serde(default)]
    pub delayed: usize,
}

/// What a sink refused for good.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SinkDeadLetterView {
    /// When, RFC 3339.
    pub at: String,
    /// Why.
    pub why: String,
    /// What it was; absent when the journal has it no longer.
    pub line: Option<LogLine>,
}

/// From where on a sink is to be told again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SinkReplayRequest {
    /// What was noted then or later, milliseconds since the epoch.
    pub since: u64,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// All sinks that are configured, in the order of the configuration.
pub(super) fn find_sinks(panel: &ApiState) -> Result<Vec<SinkView>, ReadError> {
    panel.sink_names.iter().map(|sink| to_view(&panel.store, sink)).collect()
}

fn to_view(store: &Store, sink: &str) -> Result<SinkView, ReadError> {
    let handed = store.sink_position(sink)?;
    let is_up_to_date = match handed {
        Some((cursor, _)) => {
            store.read_from(cursor, BACKLOG_SCAN_LIMIT)?.0.iter().all(|parcel| parcel.entries.is_empty())
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

/// What a sink refused for good, the oldest first.
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

/// Has a sink told again what was noted since then.
pub(super) async fn rewind_sink(
    panel: &ApiState,
    sink: &str,
    order: &SinkReplayRequest,
    operator: &str,
) -> Result<(), ApiError> {
    if !panel.sink_names.iter().any(|known| known == sink) {
        return Err(ApiError::UnknownSink(sink.to_owned()));
    }
    let (store, since) = (panel.store.clone(), Timestamp::from_millis(order.since));
    let cursor = tokio::task::spawn_blocking(move || store.cursor_at(since)).await;
    let cursor = cursor.map_err(|_| ApiError::Internal)??;
    let errand = OperatorActionData::SinkReplay { sink: sink.to_owned(), since };
    audit_log::record_action(panel, errand, operator, &order.reason).await?;
    tracing::info!(sink, operator, %since, %cursor, "an operator has a sink told again");
    panel.store.request_rewind(sink, cursor);
    Ok(())
}

const MAX_DEAD_LETTERS: usize = 1000;
/// Records that are looked through for something to tell.
const BACKLOG_SCAN_LIMIT: usize = 1000;
