//! Checks invariants of the rows, independently of the code that maintains them.

use crate::check_report::{CheckReport, Inconsistency};
use crate::ledger::database::Ledger;
use crate::ledger::rows::{MessageRow, QueueEntryRow};
use crate::ledger::table::Table;
use crate::ledger::tables::{Messages, QueueEntries};
use crate::position::Position;
use crate::queue_id::QueueDepth;
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::QueueKey;
use std::collections::HashMap;
use std::ops::Bound::{Excluded, Unbounded};

impl Ledger {
    /// Checks the queue for unexpected entries and for messages accepted before `before`.
    pub fn check_queue(&self, before: Timestamp, report: &mut CheckReport) -> sled::Result<()> {
        for found in QueueEntries::scan(self.memtable()) {
            let found = found?;
            let Some((at, id)) = found.key() else { continue };
            report.queued += 1;
            if id.timestamp() < before {
                report.overdue.push(id);
            }
            let entry =
                found.row().map(|queue_key| QueueEntryRow { next_attempt: at.as_millis(), queue_key });
            let current = Messages::get(self.memtable(), id)?;
            // The message may have changed between two reads.
            if current.is_none_or(|row| row.queue_entry != entry)
                && self.memtable().contains_key(found.encoded_key())?
            {
                report.inconsistencies.push(Inconsistency::UnexpectedInQueue(id));
            }
        }
        Ok(())
    }

    /// Returns the queue depths by queue key.
    pub fn queue_depths(&self) -> sled::Result<Vec<(QueueKey, QueueDepth)>> {
        let mut waiting = HashMap::<sled::IVec, QueueDepth>::new();
        for found in QueueEntries::scan(self.memtable()) {
            let found = found?;
            let Some((_, id)) = found.key() else { continue };
            let oldest = id.timestamp();
            let all =
                waiting.entry(found.encoded_row().clone()).or_insert(QueueDepth { messages: 0, oldest });
            *all = QueueDepth { messages: all.messages + 1, oldest: all.oldest.min(oldest) };
        }
        let waits = |(value, all): (sled::IVec, _)| Some((QueueEntries::decode(&value)?.into(), all));
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
        let start = from.map_or(Unbounded, Excluded);
        let mut last = None;
        for found in Messages::range(self.memtable(), start, Unbounded).take(limit) {
            let found = found?;
            let Some(id) = found.key() else { continue };
            last = Some(id);
            match found.row() {
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
        for found in Messages::scan(self.memtable()) {
            if let Some(row) = found?.row() {
                each(row.message.id(), row.position, row.queue_entry.is_some());
            }
        }
        Ok(())
    }

    /// Returns whether a message is in the queue as its row states, or is finished.
    fn is_consistent(&self, id: TrackingId, row: &MessageRow) -> sled::Result<bool> {
        match &row.queue_entry {
            Some(queued) => QueueEntries::contains(
                self.memtable(),
                QueueEntries::entry_key(row.message.lane(), queued, id),
            ),
            None => Ok(!self.load_recipients(id, row)?.iter().any(|one| one.is_open())),
        }
    }
}
