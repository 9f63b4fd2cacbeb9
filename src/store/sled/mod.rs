//! The projection of the journal that lookups are served from: one sled tree with prefixed keys.
//!
//! Groups of records are gathered in memory ([`window`]) and written in one batch **together with the journal's
//! position behind them**, so recovery knows exactly where to go on; only one that is made from nothing is written
//! piecemeal, and its position last. Nothing here is truth: a damaged, missing or outdated projection is rebuilt from
//! the journal. No row is larger than a few KiB (sled keeps larger ones in files that it never syncs).

mod apply;
mod audit;
mod forget;
mod hints;
mod inbound;
mod keys;
mod outbox;
mod overlay;
mod projection;
mod read;
mod reread;
mod rows;
mod suppressed;
mod tally;
#[cfg(test)]
mod tests;
mod window;

pub use projection::{Current, Projection, ProjectionError};
