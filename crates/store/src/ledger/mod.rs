//! Projection of the journal that serves lookups: one sled tree with prefixed keys.
//!
//! Groups of records are gathered in memory ([`memtable`]) and written in one batch **together with the
//! journal position after them**, so recovery always continues at the right record. Only a ledger that is
//! built from nothing is written in parts, and its position last. The ledger is never the source of truth: a
//! damaged, missing or outdated one is rebuilt from the journal. No row is larger than a few KiB, since sled
//! keeps larger ones in files that it never syncs.

mod apply;
mod check;
mod contact_hints;
mod database;
mod encoding;
mod events;
mod expire;
mod inbound;
mod inbound_row;
mod keys;
mod lookup;
mod memtable;
mod rows;
mod sink_cursors;
mod stats;
mod suppressions;
mod table;
mod tables;
#[cfg(test)]
mod tests;
mod write_batch;

pub(crate) use database::{Ledger, LedgerError, LedgerHandle};
