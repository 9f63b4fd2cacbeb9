//! What lookups and changes read: sled's rows, and in front of them a window of rows that were changed lately.
//!
//! Every change goes into the window first. It is written to sled in one batch together with the journal's position
//! that belongs to it, so sled never sees rows that came and went meanwhile, and a row that changed often only once.
//! A crash loses the window, and the journal has it. The window and its position change in one step: who reads the
//! position and rows afterwards finds every row up to it. One thread changes rows, any number read them; no lock is
//! held while sled is read.

use crate::journal::Position;
use crate::ledger::{keys, rows};
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

/// The rows.
pub struct Memtable {
    tree: sled::Tree,
    pending: RwLock<Pending>,
    negative_cache: NegativeCache,
    /// Whether a batch is being written.
    is_flushing: watch::Sender<bool>,
}

/// Hashes of the keys of [`keys::SPARSE`] rows that sled or the window may hold: most of those that are asked for are
/// not there, and nobody waits for sled to say so. What is taken out stays here until the next start.
#[derive(Default)]
struct NegativeCache {
    hasher: RandomState,
    hashes: RwLock<HashSet<u64>>,
}

/// Rows that changed, by their keys.
pub type RowChanges = BTreeMap<IVec, RowChange>;

/// What a row became.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// `None` when it was taken out.
    pub value: Option<IVec>,
    /// What lies below has no such row: when it is taken out again, nothing is left to do there.
    pub is_insert: bool,
}

#[derive(Default)]
struct Pending {
    rows: RowChanges,
    /// Of keys and values.
    bytes: usize,
    /// Rows that are not [`Change::new`].
    updates: usize,
    position: Option<Position>,
    /// When the first of them came.
    oldest_change: Option<Instant>,
}

/// Part of the keys.
pub type KeyRange = (Bound<IVec>, Bound<IVec>);

impl Memtable {
    /// Nothing changed yet.
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

    /// Returns when sled writes no batch: who looks then hardly waits.
    pub async fn wait_idle(&self) {
        // The sender is here.
        let _ = self.is_flushing.subscribe().wait_for(|writing| !writing).await;
    }

    pub fn contains_key(&self, key: &[u8]) -> sled::Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// The place in the journal that the rows belong to.
    pub fn position(&self) -> sled::Result<Option<Position>> {
        if let Some(position) = self.read_pending().position {
            return Ok(Some(position));
        }
        Ok(self.tree.get(keys::POSITION_KEY)?.as_deref().and_then(rows::decode_row))
    }

    /// The rows of a range, in order.
    pub fn range(&self, range: KeyRange) -> MergedRows<'_> {
        MergedRows::new(self, range, false)
    }

    /// The rows of a range, the last first.
    pub fn range_rev(&self, range: KeyRange) -> MergedRows<'_> {
        MergedRows::new(self, range, true)
    }

    /// Those whose keys start with `prefix`, in order.
    pub fn scan_prefix(&self, prefix: &[u8]) -> MergedRows<'_> {
        self.range(prefix_range(prefix))
    }

    /// Those whose keys start with `prefix`, the last first.
    pub fn scan_prefix_rev(&self, prefix: &[u8]) -> MergedRows<'_> {
        self.range_rev(prefix_range(prefix))
    }

    /// Takes changes in; with a position the journal is applied up to there then.
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

    /// Whether it holds so much that it is to be written. New rows may wait longer: those of a send change once more, or
    /// go, as soon as it is relayed.
    pub fn is_full(&self) -> bool {
        let changes = self.read_pending();
        changes.updates >= MAX_UPDATES || changes.rows.len() >= MAX_ROWS || changes.bytes >= MAX_BYTES
    }

    /// When it is to be written at the latest, if it holds anything.
    pub fn flush_due(&self) -> Option<Instant> {
        self.read_pending().oldest_change.map(|since| since + MAX_AGE)
    }

    /// Writes it to sled. Lookups wait while sled applies the batch.
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
                batch.insert(keys::POSITION_KEY, rows::encode_row(&position));
            }
        }
        self.is_flushing.send_replace(true);
        let written = self.tree.apply_batch(batch);
        self.is_flushing.send_replace(false);
        written?;
        // Dropped behind the lock.
        let _rows = std::mem::take(&mut *self.write_pending());
        collect_garbage();
        Ok(())
    }

    /// Writes the rows from `threads` threads and not as one, and keeps the position back: for an unfinished tree, which
    /// is worth nothing before its position is there. Lookups do not wait.
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

    /// Whether there is surely no such row.
    fn is_absent(&self, key: &[u8]) -> bool {
        let known = || self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        keys::is_negative_cached(key) && !known().contains(&self.hasher.hash_one(key))
    }
}

/// sled's garbage outruns its collector otherwise (500,000 rows in batches took 2.4 GB instead of 84 MB).
fn collect_garbage() {
    for _ in 0..4 {
        crossbeam_epoch::pin().flush();
    }
}

/// Puts a change over those that were there; true if it is the first of a row that is not [`Change::new`].
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

/// The keys that start so.
pub fn prefix_range(prefix: &[u8]) -> KeyRange {
    let mut end = prefix.to_vec();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    let behind = match end.last_mut() {
        Some(last) => {
            *last += 1;
            Excluded(end.into())
        }
        None => Unbounded,
    };
    (Included(prefix.into()), behind)
}

/// The rows of a range. The window's part is copied in pieces, each before sled is asked for the same keys: a row
/// that moves from the one to the other meanwhile is seen.
pub struct MergedRows<'a> {
    memtable: &'a Memtable,
    reverse: bool,
    /// What was not looked at yet.
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

    /// Looks at the next piece; false when there is none.
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

    /// Whether the next change comes before, with or behind the next row of sled's.
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

/// Whether no key can lie in it; `BTreeMap` panics on some of these.
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

/// Rows at which the window is written: at most this and what one group changes, a few thousand rows more. While sled
/// applies the batch its garbage takes some 5 KiB a row, and lookups wait some 6 µs a row.
const MAX_ROWS: usize = 4096;
/// Rows that are not new, at which it is written: who reports what became of sends waits while it is.
const MAX_UPDATES: usize = 512;
/// Bytes of keys and values at which it is written; a row that changes several times counts each time.
const MAX_BYTES: usize = 8 << 20;
/// Age at which it is written.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Rows that a thread inserts before it collects sled's garbage.
const GC_EVERY: usize = 1000;
/// Rows of the window that are copied at a time.
const CHUNK_ROWS: usize = 64;
