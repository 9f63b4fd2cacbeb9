//! Accepted messages: storing, lookups and statistics.

use crate::body::{MessageBody, SpillFile};
use crate::commit_command::{CommitError, CommitOptions};
use crate::read_error::ReadError;
use crate::record::Record;
use crate::store::Store;
use bytes::Bytes;
use mailtrail_mail::{Mailbox, MessageId, OdooRecord, Timestamp, TrackingId};
use mailtrail_trail::{
    AcceptedMessage, DeliveryStats, DuplicateSubmission, Message, ReportedRecipient, StatsGroup, Trail,
};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::ops::Range;

impl Store {
    /// Stores a message and its body.
    pub async fn put_message(
        &self,
        accepted: AcceptedMessage,
        message: impl Into<MessageBody>,
    ) -> Result<(), CommitError> {
        self.0.commit(accepted.into(), message, CommitOptions::URGENT).await
    }

    /// Stores a message like [`Self::put_message`]; lookups see it on return.
    pub async fn put_message_applied(
        &self,
        accepted: AcceptedMessage,
        message: impl Into<MessageBody>,
    ) -> Result<(), CommitError> {
        self.0.commit(accepted.into(), message, CommitOptions::URGENT_APPLIED).await
    }

    /// Records that a client submitted a message again.
    pub async fn record_duplicate(&self, duplicate: DuplicateSubmission) -> Result<(), CommitError> {
        self.0.commit(Record::DuplicateSubmission(duplicate), Bytes::new(), CommitOptions::URGENT).await
    }

    /// Returns whether the disk has space for a message of `size` bytes. Unknown free space counts as none.
    pub fn has_free_space(&self, size: u64) -> bool {
        if self.0.ledger_closed().is_some_and(|closed| closed.borrow().is_some()) {
            return false;
        }
        self.0.disk.free_space(&self.0.journal_dir).and_then(|free| free.check_available(size)).is_ok()
    }

    /// Creates a temporary file on the store's disk for the part of a body that is not held in memory. May
    /// block.
    pub fn create_spill_file(&self) -> io::Result<SpillFile> {
        SpillFile::new(&self.0.journal_dir)
    }

    /// Returns the metadata of one message.
    pub fn load_message(&self, id: TrackingId) -> Result<Option<Message>, ReadError> {
        Ok(self.0.ledger()?.load_message(id)?.map(|(send, _)| send))
    }

    /// Returns the full trail of one message.
    pub fn load_trail(&self, id: TrackingId) -> Result<Option<Trail>, ReadError> {
        Ok(self.0.ledger()?.load_trail(id)?)
    }

    /// Returns when the newest message was accepted.
    pub fn newest_acceptance(&self) -> Result<Option<Timestamp>, ReadError> {
        let last = TrackingId::new(Timestamp::from_millis((1 << 48) - 1), u128::MAX);
        let newest = self.ids_in_range(TrackingId::new(Timestamp::default(), 0), last, 1)?;
        Ok(newest.first().map(|newest| newest.timestamp()))
    }

    /// Returns messages with the given Message-ID, newest first.
    pub fn find_by_message_id(
        &self,
        message_id: &MessageId,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.0.ledger()?.find_by_message_id(message_id, limit)?)
    }

    /// Returns whether a newer message with the same Message-ID went to that recipient: the client submitted
    /// it again.
    pub fn is_resubmitted(&self, send: &Message, recipient: &Mailbox) -> Result<bool, ReadError> {
        Ok(self.0.ledger()?.is_resubmitted(send, recipient)?)
    }

    /// Returns messages to the given recipient, newest first.
    pub fn find_by_recipient(&self, address: &str, limit: usize) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.0.ledger()?.find_by_recipient(address, limit)?)
    }

    /// Returns messages about the given Odoo record, newest first.
    pub fn find_by_odoo_record(
        &self,
        record: &OdooRecord,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.0.ledger()?.find_by_odoo_record(record, limit)?)
    }

    /// Searches the newest `searched` messages for a subject that contains `part`, ignoring case. Returns at
    /// most `limit`, newest first, and whether the search ended before the oldest message.
    pub fn find_by_subject(
        &self,
        part: &str,
        limit: usize,
        searched: usize,
    ) -> Result<(Vec<TrackingId>, bool), ReadError> {
        Ok(self.0.ledger()?.find_by_subject(part, limit, searched)?)
    }

    /// Returns messages with ids from `low` to `high`, newest first.
    pub fn ids_in_range(
        &self,
        low: TrackingId,
        high: TrackingId,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.0.ledger()?.ids_in_range(low, high, limit)?)
    }

    /// Counts the recipients of all messages accepted from `since` to `until`, in total and by group. Reads
    /// every message of that period.
    pub fn delivery_stats(
        &self,
        since: Timestamp,
        until: Timestamp,
        grouping: StatsGroup,
    ) -> Result<(DeliveryStats, BTreeMap<String, DeliveryStats>), ReadError> {
        Ok(self.0.ledger()?.delivery_stats(since, until, grouping)?)
    }

    /// Returns the users that submitted messages in `period`, each with a client address and the time of its
    /// last message. Reads every message of that period.
    pub fn logins(
        &self,
        period: Range<Timestamp>,
    ) -> Result<BTreeMap<(IpAddr, String), Timestamp>, ReadError> {
        Ok(self.0.ledger()?.logins(period)?)
    }

    /// Counts the recipients of messages accepted in `period` by submitting user. Reads every message of that
    /// period.
    pub fn submitted_by_user(&self, period: Range<Timestamp>) -> Result<BTreeMap<String, u64>, ReadError> {
        Ok(self.0.ledger()?.submitted_by_user(period)?)
    }

    /// Returns up to `limit` recipients for which a DSN is pending.
    pub fn pending_dsns(&self, limit: usize) -> Result<Vec<ReportedRecipient>, ReadError> {
        Ok(self.0.ledger()?.pending_dsns(limit)?)
    }
}
