//! Checks invariants of the rows, independently of the code that maintains them.

use crate::check_report::{CheckReport, Inconsistency};
use crate::ledger::database::Ledger;
use crate::ledger::keys;
use crate::ledger::memtable::prefix_range;
use crate::ledger::rows::{MessageRow, QueueEntryRow, QueueKeyRow, decode_row};
use crate::position::Position;
use crate::queue_id::QueueDepth;
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::QueueKey;
use std::collections::HashMap;
use std::ops::Bound::{Excluded, Included};

impl Ledger {
    /// Checks the queue for unexpected entries and for messages accepted before `before`.
    pub fn check_queue(&self, before: Timestamp, report: &mut CheckReport) -> sled::Result<()> {
        for row in self.memtable().scan_prefix(b"q") {
            let (key, value) = row?;
            let Some((_, at, id)) = keys::parse_queue_key(&key) else { continue };
            report.queued += 1;
            if id.timestamp() < before {
                report.overdue.push(id);
            }
            let position = decode_row::<QueueKeyRow>(&value)
                .map(|queue_key| QueueEntryRow { next_attempt: at.as_millis(), queue_key });
            let current =
                self.memtable().get(&keys::message_key(id))?.and_then(|row| decode_row::<MessageRow>(&row));
            // The message may have changed between two reads.
            if current.is_none_or(|row| row.queue_entry != position) && self.memtable().contains_key(&key)? {
                report.inconsistencies.push(Inconsistency::UnexpectedInQueue(id));
            }
        }
        Ok(())
    }

    /// Returns the queue depths by queue key.
    pub fn queue_depths(&self) -> sled::Result<Vec<(QueueKey, QueueDepth)>> {
        let mut waiting = HashMap::<sled::IVec, QueueDepth>::new();
        for row in self.memtable().scan_prefix(b"q") {
            let (key, value) = row?;
            let Some((.., id)) = keys::parse_queue_key(&key) else { continue };
            let oldest = id.timestamp();
            let all = waiting.entry(value).or_insert(QueueDepth { messages: 0, oldest });
            *all = QueueDepth { messages: all.messages + 1, oldest: all.oldest.min(oldest) };
        }
        let waits = |(value, all): (sled::IVec, _)| Some((decode_row::<QueueKeyRow>(&value)?.into(), all));
        Ok(waiting.into_iter().filter_map(waits).collect())
    }

    /// Checks `limit` messages after `from` for open ones without a queue row. Returns the id to continue
    /// from, or `None` at the end.
    pub fn check_messages(
        &self,
        from: Option<TrackingId>,
        limit: usize,
        report: &mut CheckReport,
    ) -> sled::Result<Option<TrackingId>> {
        let start = from.map_or_else(|| Included(b"m".into()), |id| Excluded(keys::message_key(id).into()));
        let mut last = None;
        for row in self.memtable().range((start, prefix_range(b"m").1)).take(limit) {
            let (key, value) = row?;
            let Some(id) = keys::parse_tracking_id(&key) else { continue };
            last = Some(id);
            match decode_row::<MessageRow>(&value) {
                None => report.inconsistencies.push(Inconsistency::Unreadable(id)),
                // The message may have changed between two reads.
                Some(row) if !self.is_consistent(id, &row)? => {
                    let again =
                        self.load_message(id)?.map(|(_, row)| self.is_consistent(id, &row)).transpose()?;
                    report
                        .inconsistencies
                        .extend((again == Some(false)).then_some(Inconsistency::MissingFromQueue(id)));
                }
                Some(_) => {}
            }
        }
        Ok(last)
    }

    /// Passes every message with a readable row to `each`: its record's position, and whether it is queued.
    pub fn for_each_message(&self, mut each: impl FnMut(TrackingId, Position, bool)) -> sled::Result<()> {
        for row in self.memtable().scan_prefix(b"m") {
            if let Some(row) = decode_row::<MessageRow>(&row?.1) {
                each(row.message.id(), row.position, row.queue_entry.is_some());
            }
        }
        Ok(())
    }

    /// Returns whether a message is in the queue as its row states, or is finished.
    fn is_consistent(&self, id: TrackingId, row: &MessageRow) -> sled::Result<bool> {
        match &row.queue_entry {
            Some(queued) => self.memtable().contains_key(&queued.key(row.message.lane(), id)),
            None => Ok(!self.load_recipients(id, row)?.iter().any(|one| one.is_open())),
        }
    }
}
