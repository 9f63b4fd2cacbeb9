//! Durable storage: the journal is the source of truth, the ledger is a projection that serves lookups.
//!
//! Each write method is one durable commit. After `Ok` its record is on stable storage; after an error the
//! record is never read. One thread writes the journal and covers many writers with one sync. Another applies
//! the written records to the ledger. A store belongs to one process.

mod address_evidence;
mod backup;
mod body;
mod check_report;
mod commit_command;
mod compaction;
mod data_dir_lock;
mod disk_space;
mod erase;
#[cfg(test)]
#[path = "../../../tests/golden/check.rs"]
mod golden;
mod group_commit;
mod handles;
mod inner;
mod journal;
mod journal_thread;
mod ledger;
mod ledger_paths;
mod ledger_thread;
mod log_cursor;
mod log_entry;
mod log_reader;
mod maintenance_error;
mod message_locks;
mod open;
mod open_error;
mod position;
#[cfg(test)]
mod power_cut;
mod queue_id;
mod read_error;
mod rebuild;
mod record;
mod replay;
mod retention;
mod segment_cache;
mod shortage;
mod sink_cursor;
mod store;
mod stored_body;
mod stored_event;
mod verify;
mod wakeup;

pub use address_evidence::AddressEvidence;
pub use backup::{BackupError, BackupReport};
pub use body::{MessageBody, SpillFile};
pub use check_report::{CheckReport, Inconsistency};
pub use commit_command::CommitError;
pub use disk_space::{FreeSpace, LOW_BYTES, LOW_INODES, RESERVED_BYTES, RESERVED_INODES};
pub use erase::{EraseError, ErasureMatches, ErasureRequest};
pub use handles::DeliveryJob;
pub use log_cursor::LogCursor;
pub use log_entry::LogEntry;
pub use maintenance_error::MaintenanceError;
pub use message_locks::MessageLock;
pub use open_error::OpenError;
pub use queue_id::QueueId;
pub use read_error::ReadError;
pub use replay::{OpenReport, ReplayProgress};
pub use retention::Retention;
pub use shortage::is_shortage;
pub use sink_cursor::{DelayedDelivery, SinkAck};
pub use store::Store;
pub use stored_body::StoredBody;
pub use stored_event::{EventContent, EventState, StoredEvent};
pub use verify::{CorruptRegion, VerifyReport};
