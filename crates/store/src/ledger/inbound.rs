//! Lookups of inbound messages.

use crate::ledger::database::Ledger;
use crate::ledger::inbound_row::InboundRow;
use crate::ledger::table::Table;
use crate::ledger::tables::{InboundDedup, InboundMessages, InboundQueue};
use crate::position::Position;
use crate::record::InboundStateV1;
use mailtrail_mail::{Mailbox, Timestamp, TrackingId};
use mailtrail_trail::InboundSummary;

impl Ledger {
    /// Returns one inbound message and the position of its body.
    pub fn inbound_mail(&self, id: TrackingId) -> sled::Result<Option<(InboundSummary, Position)>> {
        Ok(InboundMessages::get(self.memtable(), id)?.and_then(InboundRow::into_domain))
    }

    /// Returns the earliest received waiting message that is due by `now` and to a recipient that satisfies
    /// `wanted`.
    pub fn next_due_inbound(
        &self,
        now: Timestamp,
        wanted: impl Fn(&Mailbox) -> bool,
    ) -> sled::Result<Option<InboundSummary>> {
        for found in InboundQueue::scan(self.memtable()) {
            let found = found?;
            let Some((id, (due, recipient))) = found.key().zip(found.row()) else { continue };
            if due <= now.as_millis() && recipient.parse().is_ok_and(|recipient| wanted(&recipient)) {
                return Ok(self.inbound_mail(id)?.map(|(message, _)| message));
            }
        }
        Ok(None)
    }

    /// Returns the messages that satisfy `wanted`, newest first.
    pub fn find_inbound(
        &self,
        limit: usize,
        wanted: impl Fn(&InboundSummary) -> bool,
    ) -> sled::Result<Vec<InboundSummary>> {
        let mut found = Vec::new();
        for row in InboundMessages::scan_rev(self.memtable()) {
            let message = row?.row().and_then(InboundRow::into_domain).map(|(message, _)| message);
            found.extend(message.filter(&wanted));
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    /// Returns up to `limit` keys of inbound messages that were received before `before` and are not waiting,
    /// and of their deduplication rows.
    pub fn expired_inbound(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for found in InboundMessages::scan(self.memtable()) {
            let found = found?;
            if expired.len() >= limit || found.key().is_none_or(|id| id.timestamp() >= before) {
                break;
            }
            if found.row().is_none_or(|row| row.state != InboundStateV1::Waiting) {
                expired.push(found.encoded_key().to_vec());
            }
        }
        for found in InboundDedup::scan(self.memtable()) {
            let found = found?;
            let old = |id| TrackingId::from_bytes(id).timestamp() < before;
            if expired.len() < limit && found.row().is_none_or(old) {
                expired.push(found.encoded_key().to_vec());
            }
        }
        Ok(expired)
    }
}
