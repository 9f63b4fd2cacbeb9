//! Tables of the suppression list.

use crate::ledger::encoding::concat_key;
use crate::ledger::memtable::Memtable;
use crate::ledger::table::{Table, TableRow, TableRows};
use crate::ledger::write_batch::WriteBatch;
use crate::record::SuppressionEvidenceRow;

/// Suppression evidence, by folded address and list. Neither contains a 0 byte.
pub struct Evidence;

impl Table for Evidence {
    const PREFIX: &'static [u8] = b"x";
    type Key<'k> = (&'k str, &'k str);
    /// Address and list; the row of [`SuppressedCount`] has none.
    type ParsedKey<'k> = (&'k str, &'k str);
    type Row<'r> = SuppressionEvidenceRow;

    fn key((address, list): (&str, &str)) -> Vec<u8> {
        concat_key(Self::PREFIX, &[address.as_bytes(), &[0], list.as_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<(&str, &str)> {
        std::str::from_utf8(key.get(1..)?).ok()?.split_once('\0')
    }
}

impl Evidence {
    /// Returns the evidence for an address on all lists.
    pub fn of_address<'m>(rows: &'m Memtable, address: &str) -> TableRows<'m, Self> {
        Self::scan_prefix(rows, &concat_key(Self::PREFIX, &[address.as_bytes(), &[0]]))
    }

    /// Returns the evidence for an address on all lists after the changes of a batch.
    pub fn of_address_in(rows: &WriteBatch<'_>, address: &str) -> sled::Result<Vec<TableRow<Self>>> {
        Self::scan_batch(rows, &concat_key(Self::PREFIX, &[address.as_bytes(), &[0]]), usize::MAX)
    }
}

/// Number of suppressed addresses; one row.
pub struct SuppressedCount;

impl Table for SuppressedCount {
    const PREFIX: &'static [u8] = b"x";
    type Key<'k> = ();
    type ParsedKey<'k> = ();
    type Row<'r> = u64;

    fn key((): ()) -> Vec<u8> {
        Self::PREFIX.to_vec()
    }

    fn parse_key(_: &[u8]) -> Option<()> {
        Some(())
    }
}

/// The salt by which the suppression list recognises erased addresses; one row.
pub struct ErasureSalt;

impl Table for ErasureSalt {
    const PREFIX: &'static [u8] = b"f";
    type Key<'k> = ();
    type ParsedKey<'k> = ();
    type Row<'r> = [u8; 16];

    fn key((): ()) -> Vec<u8> {
        Self::PREFIX.to_vec()
    }

    fn parse_key(_: &[u8]) -> Option<()> {
        Some(())
    }
}
