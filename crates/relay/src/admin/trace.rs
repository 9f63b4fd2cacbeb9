use crate::admin::dto::{QueueLine, TrailView};
use mailtrail_mail::{MessageId, Record, TrackingId};
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::Trail;
use serde::{Deserialize, Serialize};

/// The sends that fit a question.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Found {
    /// Newest first.
    pub trails: Vec<TrailView>,
    /// Whether there may be more than were asked for.
    pub more: bool,
    /// Whether there are older sends, whose subjects were not searched.
    pub cut_off: bool,
}

/// Finds sends by anything that names them: tracking id or the start of one, Message-ID, recipient, Odoo's record,
/// or a part of the subject, of the newest [`SUBJECTS`] sends; an empty part is in all.
pub fn find(store: &Store, what: &str, limit: usize) -> Result<Found, ReadError> {
    find_as(store, what, limit, |trail| trail.into())
}

/// The same; `view` makes a view of each.
pub(super) fn find_as(
    store: &Store,
    what: &str,
    limit: usize,
    view: impl Fn(&Trail) -> TrailView,
) -> Result<Found, ReadError> {
    let (what, wanted) = (what.trim(), limit.saturating_add(1));
    let (mut ids, cut_off) = match named(store, what, wanted)? {
        Some(ids) => (ids, false),
        None => store.by_subject(what, wanted, SUBJECTS)?,
    };
    let more = ids.len() > limit;
    ids.truncate(limit);
    let mut trails = Vec::with_capacity(ids.len());
    for id in ids {
        trails.extend(store.trail(id)?.as_ref().map(&view));
    }
    Ok(Found { trails, more, cut_off })
}

/// The sends that wait, the earliest due first.
pub fn queue(store: &Store, limit: usize) -> Result<Vec<QueueLine>, ReadError> {
    queue_as(store, limit, |trail| trail.into())
}

/// The same; `view` makes a view of each.
pub(super) fn queue_as(
    store: &Store,
    limit: usize,
    view: impl Fn(&Trail) -> QueueLine,
) -> Result<Vec<QueueLine>, ReadError> {
    let mut lines = Vec::new();
    for id in store.queued(limit)? {
        lines.extend(store.trail(id)?.as_ref().map(&view));
    }
    Ok(lines)
}

/// The sends that are named so; `None` for what is no name.
fn named(store: &Store, what: &str, limit: usize) -> Result<Option<Vec<TrackingId>>, ReadError> {
    if let Ok(id) = what.parse() {
        return Ok(Some(vec![id]));
    }
    if let Some(record) = Record::parse(what) {
        return store.by_record(&record, limit).map(Some);
    }
    if what.contains('@') {
        let mut ids = match MessageId::parse(what) {
            Some(message_id) => store.by_message_id(&message_id, limit)?,
            None => Vec::new(),
        };
        if ids.is_empty() {
            ids = store.by_recipient(what.trim_start_matches('<').trim_end_matches('>'), limit)?;
        }
        return Ok(Some(ids));
    }
    if what.len() >= SHORTEST_PREFIX
        && let Some((low, high)) = TrackingId::range_of_prefix(what)
    {
        let ids = store.between(low, high, limit)?;
        if !ids.is_empty() {
            return Ok(Some(ids));
        }
    }
    Ok(None)
}

/// Characters from which on the start of a tracking id is taken for one.
pub(super) const SHORTEST_PREFIX: usize = 6;
/// Sends whose subjects are searched, newest first.
pub const SUBJECTS: usize = 20_000;
