//! Erases an address from all stored data; the related records stay, under a pseudonym.
//!
//! The active segment is sealed, and every sealed segment that mentions the address is rewritten. The
//! pseudonym replaces the address in recipients as well as in error texts, and message bodies and raw
//! payloads that mention it are dropped. The ledger is then rebuilt from the journal, and the old one is
//! removed with all its files, since sled erases nothing. Suppression evidence is stored under a name that
//! can only be derived from the address itself.
//!
//! Nothing is changed before two checks: no queued message mentions the address, and the journal is
//! undamaged. Each segment changes atomically and positions stay, so the old ledger remains valid at every
//! moment; a crash leaves some segments that still mention the address. The key of the pseudonym is stored in
//! a file until the end. A second run continues with the same key, so that related records stay related. If
//! the ledger is also lost in between, an event that names its message by Message-ID and address may be
//! correlated only after the second run.

mod address_matcher;
mod error;
mod matches;
mod record_matcher;
mod rewrite;
mod search;
mod state;
#[cfg(test)]
mod tests;

pub use error::EraseError;
pub use matches::{ErasureMatches, ErasureRequest};
pub(crate) use state::warn_if_interrupted;
