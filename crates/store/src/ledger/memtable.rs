//! Row storage for lookups and changes: sled's rows, overlaid by a memtable of recent changes.
//!
//! Every change enters the memtable first. The memtable is written to sled in one batch together with its
//! journal position. Rows that are inserted and removed in the meantime never reach sled, and a row that
//! changed often reaches it once. A crash loses the memtable, which the journal can replay. Memtable and
//! position change in one step: a reader of the position finds every row up to it afterwards. One thread
//! changes rows, any number read them. No lock is held while sled is read.

use crate::ledger::encoding::{decode_row, encode_row};
use crate::ledger::keys;
use crate::position::Position;
use sled::IVec;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::iter::Peekable;
use std::ops::Bound;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::panic::resume_unwind;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The rows, in memory and on disk.
pub struct Memtable {
    tree: sled::Tree,
    pending: RwLock<Pending>,
    negative_cache: NegativeCache,
    /// Whether a batch is being written.
    is_flushing: watch::Sender<bool>,
}

/// Key hashes of [`keys::NEGATIVE_CACHED`] rows that sled or the memtable may hold, so that most misses skip
/// sled. Removed keys stay until the next start.
#[derive(Default)]
struct NegativeCache {
    hasher: RandomState,
    hashes: RwLock<HashSet<u64>>,
}

/// Changed rows by key.
pub type RowChanges = BTreeMap<IVec, RowChange>;

/// Change of a row.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// New value; `None` for a removed row.
    pub value: Option<IVec>,
    /// The layer below has no such row, so removing it again leaves nothing to do there.
    pub is_insert: bool,
}

#[derive(Default)]
struct Pending {
    rows: RowChanges,
    /// Bytes of keys and values.
    bytes: usize,
    /// Rows that are not [`RowChange::is_insert`].
    updates: usize,
    position: Option<Position>,
    /// Time of the first change.
    oldest_change: Option<Instant>,
}

/// Range of encoded keys.
pub type KeyRange = (Bound<IVec>, Bound<IVec>);

impl Memtable {
    /// Creates an empty memtable over a tree.
    pub fn new(tree: sled::Tree) -> sled::Result<Self> {
        let negative_cache = NegativeCache::default();
        for prefix in keys::NEGATIVE_CACHED {
            for row in tree.scan_prefix([prefix]).keys() {
                negative_cache.add(&row?);
            }
        }
        Ok(Self { tree, pending: RwLock::default(), negative_cache, is_flushing: watch::Sender::new(false) })
    }

    pub fn get(&self, key: &[u8]) -> sled::Result<Option<IVec>> {
        if let Some(change) = self.read_pending().rows.get(key) {
            return Ok(change.value.clone());
        }
        if self.negative_cache.is_absent(key) { Ok(None) } else { self.tree.get(key) }
    }

    /// Returns when no batch is being written to sled, so that a lookup hardly waits.
    pub async fn wait_idle(&self) {
        // `self` holds the sender.
        let _ = self.is_flushing.subscribe().wait_for(|writing| !writing).await;
    }

    pub fn contains_key(&self, key: &[u8]) -> sled::Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Returns the journal position that the rows correspond to.
    pub fn position(&self) -> sled::Result<Option<Position>> {
        if let Some(position) = self.read_pending().position {
            return Ok(Some(position));
        }
        Ok(self.tree.get(keys::POSITION_KEY)?.as_deref().and_then(decode_row))
    }

    /// Returns the rows of a range in ascending order.
    pub fn range(&self, range: KeyRange) -> MergedRows<'_> {
        MergedRows::new(self, range, false)
    }

    /// Returns the rows of a range in descending order.
    pub fn range_rev(&self, range: KeyRange) -> MergedRows<'_> {
        MergedRows::new(self, range, true)
    }

    /// Returns the rows with the given key prefix in ascending order.
    pub fn scan_prefix(&self, prefix: &[u8]) -> MergedRows<'_> {
        self.range(prefix_range(prefix))
    }

    /// Returns the rows with the given key prefix in descending order.
    pub fn scan_prefix_rev(&self, prefix: &[u8]) -> MergedRows<'_> {
        self.range_rev(prefix_range(prefix))
    }

    /// Adds changes; with a position, the journal is applied up to there.
    pub fn apply_changes(&self, changed: RowChanges, position: Option<Position>) {
        let mut changes = self.write_pending();
        changes.position = position.or(changes.position);
        changes.oldest_change.get_or_insert_with(Instant::now);
        for (key, change) in changed {
            self.negative_cache.add(&key);
            changes.bytes += change_size(&key, &change);
            changes.updates += usize::from(merge_change(&mut changes.rows, key, change));
        }
    }

    /// Returns whether the memtable must be flushed. New rows may wait longer: a message's rows change again,
    /// or are removed, as soon as it is relayed.
    pub fn is_full(&self) -> bool {
        let changes = self.read_pending();
        changes.updates >= MAX_UPDATES || changes.rows.len() >= MAX_ROWS || changes.bytes >= MAX_BYTES
    }

    /// Returns when the memtable must be flushed, if it holds anything.
    pub fn flush_due(&self) -> Option<Instant> {
        self.read_pending().oldest_change.map(|since| since + MAX_AGE)
    }

    /// Writes the memtable to sled. Lookups wait while sled applies the batch.
    pub fn flush(&self) -> sled::Result<()> {
        let mut batch = sled::Batch::default();
        {
            let changes = self.read_pending();
            if changes.oldest_change.is_none() {
                return Ok(());
            }
            for (key, RowChange { value, .. }) in &changes.rows {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            if let Some(position) = changes.position {
                batch.insert(keys::POSITION_KEY, encode_row(&position));
            }
        }
        self.is_flushing.send_replace(true);
        let written = self.tree.apply_batch(batch);
        self.is_flushing.send_replace(false);
        written?;
        // Dropped after the lock is released.
        let _rows = std::mem::take(&mut *self.write_pending());
        collect_garbage();
        Ok(())
    }

    /// Writes the rows from `threads` threads, without atomicity and without the position. Only for an
    /// unfinished tree, which is worthless before its position is written. Lookups do not wait.
    pub fn bulk_flush(&self, threads: usize) -> sled::Result<()> {
        let copy = |(key, change): (&IVec, &RowChange)| (key.clone(), change.value.clone());
        let rows: Vec<_> = self.read_pending().rows.iter().map(copy).collect();
        let part = rows.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let parts: Vec<_> =
                rows.chunks(part).map(|part| scope.spawn(|| self.insert_rows(part))).collect();
            parts.into_iter().try_for_each(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })?;
        let mut changes = self.write_pending();
        (changes.bytes, changes.updates) = (0, 0);
        changes.rows.clear();
        Ok(())
    }

    fn insert_rows(&self, rows: &[(IVec, Option<IVec>)]) -> sled::Result<()> {
        for some in rows.chunks(GC_EVERY) {
            for (key, value) in some {
                match value {
                    Some(value) => self.tree.insert(key, value)?,
                    None => self.tree.remove(key)?,
                };
            }
            collect_garbage();
        }
        Ok(())
    }

    fn read_pending(&self) -> RwLockReadGuard<'_, Pending> {
        self.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_pending(&self) -> RwLockWriteGuard<'_, Pending> {
        self.pending.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NegativeCache {
    fn add(&self, key: &[u8]) {
        if keys::is_negative_cached(key) {
            let hash = self.hasher.hash_one(key);
            self.hashes.write().unwrap_or_else(PoisonError::into_inner).insert(hash);
        }
    }

    /// Returns whether the row is certainly absent.
    fn is_absent(&self, key: &[u8]) -> bool {
        let known = || self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        keys::is_negative_cached(key) && !known().contains(&self.hasher.hash_one(key))
    }
}

/// Collects sled's garbage, which otherwise grows faster than its collector runs: 500,000 rows in batches
/// took 2.4 GB instead of 84 MB.
fn collect_garbage() {
    for _ in 0..4 {
        crossbeam_epoch::pin().flush();
    }
}

/// Merges a change over earlier ones; returns true if it is the first change of a row that is not
/// [`RowChange::is_insert`].
pub fn merge_change(changed: &mut RowChanges, key: IVec, change: RowChange) -> bool {
    match changed.entry(key) {
        Entry::Occupied(known) if known.get().is_insert && change.value.is_none() => drop(known.remove()),
        Entry::Occupied(mut known) => known.get_mut().value = change.value,
        Entry::Vacant(place) => {
            let known = !change.is_insert;
            if known || change.value.is_some() {
                place.insert(change);
            }
            return known;
        }
    }
    false
}

fn change_size(key: &IVec, change: &RowChange) -> usize {
    key.len() + change.value.as_ref().map_or(0, |value| value.len())
}

/// Returns the range of keys with the given prefix.
pub fn prefix_range(prefix: &[u8]) -> KeyRange {
    let mut end = prefix.to_vec();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    let after = match end.last_mut() {
        Some(last) => {
            *last += 1;
            Excluded(end.into())
        }
        None => Unbounded,
    };
    (Included(prefix.into()), after)
}

/// Rows of a range. The memtable's part is copied in chunks, each before sled is read for the same keys, so a
/// row that moves from memtable to sled in the meantime is seen.
pub struct MergedRows<'a> {
    memtable: &'a Memtable,
    reverse: bool,
    /// Part of the range that was not read yet.
    remaining: Option<KeyRange>,
    changes: Peekable<std::vec::IntoIter<(IVec, Option<IVec>)>>,
    disk_rows: Peekable<DiskRows>,
}

/// sled's rows of a range, from either end.
enum DiskRows {
    Empty,
    Forward(sled::Iter),
    Reverse(std::iter::Rev<sled::Iter>),
}

impl Iterator for DiskRows {
    type Item = sled::Result<(IVec, IVec)>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = match self {
            Self::Empty => None,
            Self::Forward(rows) => rows.next(),
            Self::Reverse(rows) => rows.next(),
        };
        if next.is_none() {
            *self = Self::Empty;
        }
        next
    }
}

impl<'a> MergedRows<'a> {
    fn new(memtable: &'a Memtable, range: KeyRange, reverse: bool) -> Self {
        let remaining = Some(range).filter(|range| !is_empty_range(range));
        Self {
            memtable,
            reverse,
            remaining,
            changes: Vec::new().into_iter().peekable(),
            disk_rows: DiskRows::Empty.peekable(),
        }
    }

    /// Loads the next chunk; false if there is none.
    fn load_next_chunk(&mut self) -> bool {
        let Some(range) = self.remaining.take() else { return false };
        let copy = |(key, change): (&IVec, &RowChange)| (key.clone(), change.value.clone());
        let changed: Vec<_> = {
            let changes = self.memtable.read_pending();
            let rows = changes.rows.range::<[u8], _>((bound_as_bytes(&range.0), bound_as_bytes(&range.1)));
            if self.reverse {
                rows.rev().take(CHUNK_ROWS).map(copy).collect()
            } else {
                rows.take(CHUNK_ROWS).map(copy).collect()
            }
        };
        let (piece, rest) = match changed.last() {
            Some((last, _)) if changed.len() == CHUNK_ROWS && self.reverse => {
                ((Included(last.clone()), range.1), Some((range.0, Excluded(last.clone()))))
            }
            Some((last, _)) if changed.len() == CHUNK_ROWS => {
                ((range.0, Included(last.clone())), Some((Excluded(last.clone()), range.1)))
            }
            _ => (range, None),
        };
        self.remaining = rest.filter(|range| !is_empty_range(range));
        self.changes = changed.into_iter().peekable();
        let stored = self.memtable.tree.range(piece);
        self.disk_rows =
            if self.reverse { DiskRows::Reverse(stored.rev()) } else { DiskRows::Forward(stored) }.peekable();
        true
    }

    /// Compares the keys of the next change and of sled's next row in iteration order.
    fn compare_heads(&mut self) -> Option<std::cmp::Ordering> {
        use std::cmp::Ordering::{Greater, Less};
        match (self.changes.peek(), self.disk_rows.peek()) {
            (None, None) => None,
            (Some(_), None) => Some(Less),
            (None, Some(_)) | (_, Some(Err(_))) => Some(Greater),
            (Some((changed, _)), Some(Ok((stored, _)))) if self.reverse => Some(stored.cmp(changed)),
            (Some((changed, _)), Some(Ok((stored, _)))) => Some(changed.cmp(stored)),
        }
    }
}

impl Iterator for MergedRows<'_> {
    type Item = sled::Result<(IVec, IVec)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(order) = self.compare_heads() else {
                if self.load_next_chunk() {
                    continue;
                }
                return None;
            };
            if order.is_gt() {
                return self.disk_rows.next();
            }
            if order.is_eq() {
                self.disk_rows.next();
            }
            if let Some((key, Some(value))) = self.changes.next() {
                return Some(Ok((key, value)));
            }
        }
    }
}

/// Returns whether no key can lie in the range; `BTreeMap` panics on some of these ranges.
fn is_empty_range((from, to): &KeyRange) -> bool {
    match (from, to) {
        (Included(from), Included(to)) => from > to,
        (Included(from) | Excluded(from), Included(to) | Excluded(to)) => from >= to,
        _ => false,
    }
}

fn bound_as_bytes(bound: &Bound<IVec>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &**key)
}

/// Rows at which the memtable is flushed. It holds at most this number and the changes of one group, a few
/// thousand rows. While sled applies the batch, its garbage takes about 5 KiB per row, and lookups wait about
/// 6 µs per row.
const MAX_ROWS: usize = 4096;
/// Changes to existing rows at which the memtable is flushed: the recording of outcomes waits during a flush.
const MAX_UPDATES: usize = 512;
/// Bytes of keys and values at which the memtable is flushed; a row that changes several times counts each
/// time.
const MAX_BYTES: usize = 8 << 20;
/// Age at which the memtable is flushed.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Rows that a thread inserts between two collections of sled's garbage.
const GC_EVERY: usize = 1000;
/// Rows of the memtable copied at a time.
const CHUNK_ROWS: usize = 64;
