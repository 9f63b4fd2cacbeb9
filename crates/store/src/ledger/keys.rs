//! Keys that are no part of a table: the ledger's own state, and prefixes with a negative cache.

/// Prefix of the rows that are not derived from the journal's records.
pub const META_PREFIX: &[u8] = b"k";
/// Key of the journal position up to which the ledger is complete.
pub const POSITION_KEY: &[u8] = b"kposition";
/// Key of the schema version.
pub const SCHEMA_KEY: &[u8] = b"kschema";

/// First bytes of rows that are looked up for every message and rarely exist: the erasure salt and the
/// suppression list.
pub const NEGATIVE_CACHED: [u8; 2] = *b"fx";

/// Returns whether misses of the key are cached.
pub fn is_negative_cached(key: &[u8]) -> bool {
    key.first().is_some_and(|class| NEGATIVE_CACHED.contains(class))
}
