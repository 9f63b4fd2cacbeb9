//! The projection of the journal that lookups are served from: one sled tree with prefixed keys.
//!
//! Groups of records are gathered in memory ([`window`]) and written in one batch **together with the journal's
//! position behind them**, so recovery knows exactly where to go on; only one that is made from nothing is written
//! piecemeal, and its position last. Nothing here is truth: a damaged, missing or outdated projection is rebuilt from
//! the journal. No row is larger than a few KiB (sled keeps larger ones in files that it never syncs).

mod apply;
mod check;
mod contact_hints;
mod database;
mod expire;
mod inbound;
mod keys;
mod lookup;
mod memtable;
mod replay_event;
mod rows;
mod sink_cursors;
mod stats;
mod suppressions;
#[cfg(test)]
mod tests;
mod write_batch;

pub(crate) use database::{Ledger, LedgerError, LedgerHandle};
