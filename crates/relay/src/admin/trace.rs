use crate::admin::dto::{QueueLine, TrailView};
use mailtrail_mail::{MessageId, OdooRecord, TrackingId};
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::Trail;
use serde::{Deserialize, Serialize};

/// Messages that match a query.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TraceResult {
    /// Trails, newest first.
    pub trails: Vec<TrailView>,
    /// Whether there may be more than the limit.
    pub more: bool,
    /// Whether there are older messages, with subjects not searched.
    pub cut_off: bool,
}

/// Finds messages by tracking id or a prefix of one, Message-ID, recipient, Odoo record, or a part of the
/// subject. Subjects are searched in the newest [`MAX_SUBJECT_SCAN`] messages; the empty string is in all.
pub fn find_trails(store: &Store, what: &str, limit: usize) -> Result<TraceResult, ReadError> {
    find_trails_with(store, what, limit, |trail| trail.into())
}

/// Like [`find_trails`]; `view` creates the view of each message.
pub(super) fn find_trails_with(
    store: &Store,
    what: &str,
    limit: usize,
    view: impl Fn(&Trail) -> TrailView,
) -> Result<TraceResult, ReadError> {
    let (what, wanted) = (what.trim(), limit.saturating_add(1));
    let (mut ids, cut_off) = match lookup_by_name(store, what, wanted)? {
        Some(ids) => (ids, false),
        None => store.find_by_subject(what, wanted, MAX_SUBJECT_SCAN)?,
    };
    let more = ids.len() > limit;
    ids.truncate(limit);
    let mut trails = Vec::with_capacity(ids.len());
    for id in ids {
        trails.extend(store.load_trail(id)?.as_ref().map(&view));
    }
    Ok(TraceResult { trails, more, cut_off })
}

/// Returns the queued messages, the earliest due first.
pub fn find_queued(store: &Store, limit: usize) -> Result<Vec<QueueLine>, ReadError> {
    find_queued_with(store, limit, |trail| trail.into())
}

/// Like [`find_queued`]; `view` creates the view of each message.
pub(super) fn find_queued_with(
    store: &Store,
    limit: usize,
    view: impl Fn(&Trail) -> QueueLine,
) -> Result<Vec<QueueLine>, ReadError> {
    let mut lines = Vec::new();
    for id in store.queued_ids(limit)? {
        lines.extend(store.load_trail(id)?.as_ref().map(&view));
    }
    Ok(lines)
}

/// Returns the messages that have this name; `None` if `what` is not a name.
fn lookup_by_name(store: &Store, what: &str, limit: usize) -> Result<Option<Vec<TrackingId>>, ReadError> {
    if let Ok(id) = what.parse() {
        return Ok(Some(vec![id]));
    }
    if let Some(record) = OdooRecord::parse(what) {
        return store.find_by_odoo_record(&record, limit).map(Some);
    }
    if what.contains('@') {
        let mut ids = match MessageId::parse(what) {
            Some(message_id) => store.find_by_message_id(&message_id, limit)?,
            None => Vec::new(),
        };
        if ids.is_empty() {
            ids = store.find_by_recipient(what.trim_start_matches('<').trim_end_matches('>'), limit)?;
        }
        return Ok(Some(ids));
    }
    if what.len() >= MIN_ID_PREFIX
        && let Some((low, high)) = TrackingId::prefix_range(what)
    {
        let ids = store.ids_in_range(low, high, limit)?;
        if !ids.is_empty() {
            return Ok(Some(ids));
        }
    }
    Ok(None)
}

/// Minimum length of a tracking id prefix in characters.
pub(super) const MIN_ID_PREFIX: usize = 6;
/// Number of newest messages with searched subjects.
pub const MAX_SUBJECT_SCAN: usize = 20_000;
