//! Typed access to the rows of the ledger. A table names its first bytes, the parts of its key and the type of
//! its rows; reading and writing follow from these.

use crate::ledger::encoding::{decode_row, encode_row};
use crate::ledger::memtable::{Memtable, MergedRows, prefix_range};
use crate::ledger::write_batch::WriteBatch;
use serde::{Serialize, de::DeserializeOwned};
use sled::IVec;
use std::marker::PhantomData;
use std::ops::Bound::{self, Included, Unbounded};

/// Rows that can be looked up by key: those of a memtable, or those after the changes of a batch.
pub(crate) trait RowSource {
    /// Returns the encoded row with that key.
    fn get_bytes(&self, key: &[u8]) -> sled::Result<Option<IVec>>;
}

impl RowSource for Memtable {
    fn get_bytes(&self, key: &[u8]) -> sled::Result<Option<IVec>> {
        self.get(key)
    }
}

impl RowSource for WriteBatch<'_> {
    fn get_bytes(&self, key: &[u8]) -> sled::Result<Option<IVec>> {
        self.get(key)
    }
}

/// A table: rows of one type under keys with the same first bytes. A damaged row reads as none.
pub(crate) trait Table: Sized {
    /// First bytes of all keys.
    const PREFIX: &'static [u8];
    /// Parts of a key.
    type Key<'k>;
    /// Parts that a key yields again; most keys hold hashes.
    type ParsedKey<'k>;
    /// Type of the rows. It borrows where a row is written from parts of a record.
    type Row<'r>: Serialize + DeserializeOwned;

    /// Encodes a key.
    fn key(key: Self::Key<'_>) -> Vec<u8>;

    /// Decodes a key, as far as that is possible.
    fn parse_key(key: &[u8]) -> Option<Self::ParsedKey<'_>>;

    /// Encodes a row.
    fn encode(row: &Self::Row<'_>) -> Vec<u8> {
        encode_row(row)
    }

    /// Decodes a row; `None` for a damaged one.
    fn decode(bytes: &[u8]) -> Option<Self::Row<'static>> {
        decode_row(bytes)
    }

    /// Returns the row with that key.
    fn get(rows: &impl RowSource, key: Self::Key<'_>) -> sled::Result<Option<Self::Row<'static>>> {
        Ok(rows.get_bytes(&Self::key(key))?.and_then(|row| Self::decode(&row)))
    }

    /// Returns whether a row has that key.
    fn contains(rows: &impl RowSource, key: Self::Key<'_>) -> sled::Result<bool> {
        Ok(rows.get_bytes(&Self::key(key))?.is_some())
    }

    /// Inserts or replaces a row.
    fn put(rows: &mut WriteBatch<'_>, key: Self::Key<'_>, row: &Self::Row<'_>) {
        rows.put(Self::key(key), Self::encode(row));
    }

    /// Inserts a row that cannot exist yet.
    fn put_new(rows: &mut WriteBatch<'_>, key: Self::Key<'_>, row: &Self::Row<'_>) {
        rows.put_new(Self::key(key), Self::encode(row));
    }

    /// Inserts a row unless one has that key; returns whether it did.
    fn put_if_absent(
        rows: &mut WriteBatch<'_>,
        key: Self::Key<'_>,
        row: &Self::Row<'_>,
    ) -> sled::Result<bool> {
        let key = Self::key(key);
        let is_absent = rows.get(&key)?.is_none();
        if is_absent {
            rows.put_new(key, Self::encode(row));
        }
        Ok(is_absent)
    }

    /// Removes a row, if it exists.
    fn delete(rows: &mut WriteBatch<'_>, key: Self::Key<'_>) {
        rows.delete(Self::key(key));
    }

    /// Returns all rows in ascending order.
    fn scan(rows: &Memtable) -> TableRows<'_, Self> {
        Self::scan_prefix(rows, Self::PREFIX)
    }

    /// Returns all rows in descending order.
    fn scan_rev(rows: &Memtable) -> TableRows<'_, Self> {
        Self::scan_prefix_rev(rows, Self::PREFIX)
    }

    /// Returns the rows between two keys in ascending order.
    fn range<'m>(
        rows: &'m Memtable,
        from: Bound<Self::Key<'_>>,
        to: Bound<Self::Key<'_>>,
    ) -> TableRows<'m, Self> {
        TableRows::new(rows.range(Self::key_range(from, to)))
    }

    /// Returns the rows between two keys in descending order.
    fn range_rev<'m>(
        rows: &'m Memtable,
        from: Bound<Self::Key<'_>>,
        to: Bound<Self::Key<'_>>,
    ) -> TableRows<'m, Self> {
        TableRows::new(rows.range_rev(Self::key_range(from, to)))
    }

    /// Encodes a range of keys; an open end is the end of the table.
    fn key_range(from: Bound<Self::Key<'_>>, to: Bound<Self::Key<'_>>) -> (Bound<IVec>, Bound<IVec>) {
        let from = match from {
            Unbounded => Included(Self::PREFIX.into()),
            from => from.map(|key| Self::key(key).into()),
        };
        let to = match to {
            Unbounded => prefix_range(Self::PREFIX).1,
            to => to.map(|key| Self::key(key).into()),
        };
        (from, to)
    }

    /// Returns the rows with keys that start with these bytes, in ascending order.
    fn scan_prefix<'m>(rows: &'m Memtable, prefix: &[u8]) -> TableRows<'m, Self> {
        TableRows::new(rows.scan_prefix(prefix))
    }

    /// Returns the rows with keys that start with these bytes, in descending order.
    fn scan_prefix_rev<'m>(rows: &'m Memtable, prefix: &[u8]) -> TableRows<'m, Self> {
        TableRows::new(rows.scan_prefix_rev(prefix))
    }

    /// Returns the rows of a batch with keys that start with these bytes, but only the last `limit` of those
    /// from before the batch.
    fn scan_batch(rows: &WriteBatch<'_>, prefix: &[u8], limit: usize) -> sled::Result<Vec<TableRow<Self>>> {
        Ok(rows.scan_prefix(prefix, limit)?.into_iter().map(TableRow::new).collect())
    }
}

/// An encoded row of a table with its key. Both are decoded on request.
pub(crate) struct TableRow<T> {
    key: IVec,
    row: IVec,
    table: PhantomData<T>,
}

impl<T: Table> TableRow<T> {
    fn new((key, row): (IVec, IVec)) -> Self {
        Self { key, row, table: PhantomData }
    }

    /// Returns the parts of the key; `None` for a damaged key.
    pub fn key(&self) -> Option<T::ParsedKey<'_>> {
        T::parse_key(&self.key)
    }

    /// Returns the row; `None` for a damaged one.
    pub fn row(&self) -> Option<T::Row<'static>> {
        T::decode(&self.row)
    }

    /// Returns the encoded key, by which the row can be deleted.
    pub fn encoded_key(&self) -> &IVec {
        &self.key
    }

    /// Returns the encoded row.
    pub fn encoded_row(&self) -> &IVec {
        &self.row
    }
}

/// Rows of a table in the order of their keys.
pub(crate) struct TableRows<'m, T> {
    rows: MergedRows<'m>,
    table: PhantomData<T>,
}

impl<'m, T> TableRows<'m, T> {
    fn new(rows: MergedRows<'m>) -> Self {
        Self { rows, table: PhantomData }
    }
}

impl<T: Table> Iterator for TableRows<'_, T> {
    type Item = sled::Result<TableRow<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next().map(|row| row.map(TableRow::new))
    }
}
