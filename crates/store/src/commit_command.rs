//! Commands to the journal thread and the ledger thread, and the result of a commit.

use crate::journal::EncodedRecord;
use crate::ledger::Ledger;
use crate::position::Position;
use crate::record::{JournalRecord, Record};
use mailtrail_mail::{Timestamp, TrackingId};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Reason why a record was not committed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// Write error of the journal.
    #[error("the journal cannot be written: {0}")]
    Journal(String),
    /// The ledger cannot be written now.
    #[error("the ledger cannot be written: {0}")]
    Ledger(String),
    /// The store is read-only, or has failed.
    #[error("the store takes nothing: it was opened for reading, or it has failed")]
    ReadOnly,
}

/// Durability and visibility options of a commit.
#[derive(Clone, Copy, Debug)]
pub struct CommitOptions {
    /// Whether the record is written at once, or together with the next urgent one.
    pub urgent: bool,
    /// Whether lookups must see the record before it is acknowledged.
    pub wait_applied: bool,
}

impl CommitOptions {
    /// Written at once; lookups may lag.
    pub const URGENT: Self = Self { urgent: true, wait_applied: false };
    /// Written at once; lookups see the record on return.
    pub const URGENT_APPLIED: Self = Self { urgent: true, wait_applied: true };
    /// Written with the next urgent record; lookups may lag.
    pub const RELAXED: Self = Self { urgent: false, wait_applied: false };
    /// Written with the next urgent record; lookups see the record on return.
    pub const RELAXED_APPLIED: Self = Self { urgent: false, wait_applied: true };
}

/// Commands to the journal thread.
pub enum JournalCommand {
    /// Appends one record.
    Append {
        /// Record for the ledger.
        record: Record,
        /// Encoded form for the journal.
        encoded: EncodedRecord,
        /// Options of the commit.
        options: CommitOptions,
        /// Receiver of the result.
        ack: Ack,
    },
    /// Starts a new segment if the present one holds any record and is at least that old.
    Seal(Duration),
    /// Acknowledges once everything before is applied and durable.
    Drain(Ack),
}

/// Channel on which a caller waits for a record.
pub type Ack = oneshot::Sender<Result<(), CommitError>>;

/// Commands to the ledger thread, executed in order.
pub enum LedgerCommand {
    /// Applies durable records and then releases their permits.
    Apply(CommittedGroup, OwnedSemaphorePermit),
    /// Removes messages that finished before that time.
    ExpireMessages(Vec<TrackingId>, Timestamp),
    /// Removes rows by their keys.
    DeleteKeys(Vec<Vec<u8>>),
    /// Removes suppression evidence that has been obsolete since before that time.
    ExpireEvidence(Vec<Vec<u8>>, Timestamp),
    /// Subtracts bytes of finished messages that were dropped from a segment of the journal.
    AccountGarbage(u32, u64),
    /// Switches to another ledger once it is brought up to this one.
    ReplaceLedger(Box<Ledger>),
    /// Makes everything so far durable and acknowledges.
    Checkpoint(Ack),
}

/// Records that are on stable storage.
pub struct CommittedGroup {
    pub records: Vec<JournalRecord>,
    /// Callers that wait until the records are applied.
    pub acks: Vec<Ack>,
    /// End of the journal after the records.
    pub position: Position,
}

impl CommittedGroup {
    /// Appends the next group.
    pub fn merge(&mut self, next: Self) {
        self.records.extend(next.records);
        self.acks.extend(next.acks);
        self.position = next.position;
    }
}
