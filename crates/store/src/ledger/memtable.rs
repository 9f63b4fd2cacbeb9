//! What lookups and changes read: sled's rows, and in front of them a window of rows that were changed lately.
//!
//! Every change goes into the window first. It is written to sled in one batch together with the journal's position
//! that belongs to it, so sled never sees rows that came and went meanwhile, and a row that changed often only once.
//! A crash loses the window, and the journal has it. The window and its position change in one step: who reads the
//! position and rows afterwards finds every row up to it. One thread changes rows, any number read them; no lock is
//! held while sled is read.

use crate::journal::Place;
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
pub struct Window {
    tree: sled::Tree,
    changes: RwLock<Changes>,
    sparse: Sparse,
    /// Whether a batch is being written.
    writing: watch::Sender<bool>,
}

/// Hashes of the keys of [`keys::SPARSE`] rows that sled or the window may hold: most of those that are asked for are
/// not there, and nobody waits for sled to say so. What is taken out stays here until the next start.
#[derive(Default)]
struct Sparse {
    hasher: RandomState,
    hashes: RwLock<HashSet<u64>>,
}

/// Rows that changed, by their keys.
pub type Changed = BTreeMap<IVec, Change>;

/// What a row became.
#[derive(Clone, Debug)]
pub struct Change {
    /// `None` when it was taken out.
    pub value: Option<IVec>,
    /// What lies below has no such row: when it is taken out again, nothing is left to do there.
    pub new: bool,
}

#[derive(Default)]
struct Changes {
    rows: Changed,
    /// Of keys and values.
    bytes: usize,
    /// Rows that are not [`Change::new`].
    known: usize,
    position: Option<Place>,
    /// When the first of them came.
    since: Option<Instant>,
}

/// Part of the keys.
pub type Range = (Bound<IVec>, Bound<IVec>);

impl Window {
    /// Nothing changed yet.
    pub fn new(tree: sled::Tree) -> sled::Result<Self> {
        let sparse = Sparse::default();
        for prefix in keys::SPARSE {
            for row in tree.scan_prefix([prefix]).keys() {
                sparse.add(&row?);
            }
        }
        Ok(Self { tree, changes: RwLock::default(), sparse, writing: watch::Sender::new(false) })
    }

    pub fn get(&self, key: &[u8]) -> sled::Result<Option<IVec>> {
        if let Some(change) = self.read().rows.get(key) {
            return Ok(change.value.clone());
        }
        if self.sparse.lacks(key) { Ok(None) } else { self.tree.get(key) }
    }

    /// Returns when sled writes no batch: who looks then hardly waits.
    pub async fn at_rest(&self) {
        // The sender is here.
        let _ = self.writing.subscribe().wait_for(|writing| !writing).await;
    }

    pub fn has(&self, key: &[u8]) -> sled::Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// The place in the journal that the rows belong to.
    pub fn position(&self) -> sled::Result<Option<Place>> {
        if let Some(position) = self.read().position {
            return Ok(Some(position));
        }
        Ok(self.tree.get(keys::POSITION)?.as_deref().and_then(rows::decode))
    }

    /// The rows of a range, in order.
    pub fn range(&self, range: Range) -> Rows<'_> {
        Rows::new(self, range, false)
    }

    /// The rows of a range, the last first.
    pub fn range_back(&self, range: Range) -> Rows<'_> {
        Rows::new(self, range, true)
    }

    /// Those whose keys start with `prefix`, in order.
    pub fn prefixed(&self, prefix: &[u8]) -> Rows<'_> {
        self.range(starting_with(prefix))
    }

    /// Those whose keys start with `prefix`, the last first.
    pub fn prefixed_back(&self, prefix: &[u8]) -> Rows<'_> {
        self.range_back(starting_with(prefix))
    }

    /// Takes changes in; with a position the journal is applied up to there then.
    pub fn change(&self, changed: Changed, position: Option<Place>) {
        let mut changes = self.write();
        changes.position = position.or(changes.position);
        changes.since.get_or_insert_with(Instant::now);
        for (key, change) in changed {
            self.sparse.add(&key);
            changes.bytes += size(&key, &change);
            changes.known += usize::from(merge(&mut changes.rows, key, change));
        }
    }

    /// Whether it holds so much that it is to be written. New rows may wait longer: those of a send change once more, or
    /// go, as soon as it is relayed.
    pub fn is_full(&self) -> bool {
        let changes = self.read();
        changes.known >= KNOWN_ROWS || changes.rows.len() >= ROWS || changes.bytes >= BYTES
    }

    /// When it is to be written at the latest, if it holds anything.
    pub fn due(&self) -> Option<Instant> {
        self.read().since.map(|since| since + AGE)
    }

    /// Writes it to sled. Lookups wait while sled applies the batch.
    pub fn flush(&self) -> sled::Result<()> {
        let mut batch = sled::Batch::default();
        {
            let changes = self.read();
            if changes.since.is_none() {
                return Ok(());
            }
            for (key, Change { value, .. }) in &changes.rows {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            if let Some(position) = changes.position {
                batch.insert(keys::POSITION, rows::encode(&position));
            }
        }
        self.writing.send_replace(true);
        let written = self.tree.apply_batch(batch);
        self.writing.send_replace(false);
        written?;
        // Dropped behind the lock.
        let _rows = std::mem::take(&mut *self.write());
        collect_garbage();
        Ok(())
    }

    /// Writes the rows from `threads` threads and not as one, and keeps the position back: for an unfinished tree, which
    /// is worth nothing before its position is there. Lookups do not wait.
    pub fn spread(&self, threads: usize) -> sled::Result<()> {
        let copy = |(key, change): (&IVec, &Change)| (key.clone(), change.value.clone());
        let rows: Vec<_> = self.read().rows.iter().map(copy).collect();
        let part = rows.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let parts: Vec<_> = rows.chunks(part).map(|part| scope.spawn(|| self.insert(part))).collect();
            parts.into_iter().try_for_each(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })?;
        let mut changes = self.write();
        (changes.bytes, changes.known) = (0, 0);
        changes.rows.clear();
        Ok(())
    }

    fn insert(&self, rows: &[(IVec, Option<IVec>)]) -> sled::Result<()> {
        for some in rows.chunks(GARBAGE) {
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

    fn read(&self) -> RwLockReadGuard<'_, Changes> {
        self.changes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Changes> {
        self.changes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sparse {
    fn add(&self, key: &[u8]) {
        if keys::is_sparse(key) {
            let hash = self.hasher.hash_one(key);
            self.hashes.write().unwrap_or_else(PoisonError::into_inner).insert(hash);
        }
    }

    /// Whether there is surely no such row.
    fn lacks(&self, key: &[u8]) -> bool {
        let known = || self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        keys::is_sparse(key) && !known().contains(&self.hasher.hash_one(key))
    }
}

/// sled's garbage outruns its collector otherwise (500,000 rows in batches took 2.4 GB instead of 84 MB).
fn collect_garbage() {
    for _ in 0..4 {
        crossbeam_epoch::pin().flush();
    }
}

/// Puts a change over those that were there; true if it is the first of a row that is not [`Change::new`].
pub fn merge(changed: &mut Changed, key: IVec, change: Change) -> bool {
    match changed.entry(key) {
        Entry::Occupied(known) if known.get().new && change.value.is_none() => drop(known.remove()),
        Entry::Occupied(mut known) => known.get_mut().value = change.value,
        Entry::Vacant(place) => {
            let known = !change.new;
            if known || change.value.is_some() {
                place.insert(change);
            }
            return known;
        }
    }
    false
}

fn size(key: &IVec, change: &Change) -> usize {
    key.len() + change.value.as_ref().map_or(0, |value| value.len())
}

/// The keys that start so.
pub fn starting_with(prefix: &[u8]) -> Range {
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
pub struct Rows<'a> {
    window: &'a Window,
    back: bool,
    /// What was not looked at yet.
    rest: Option<Range>,
    changed: Peekable<std::vec::IntoIter<(IVec, Option<IVec>)>>,
    stored: Peekable<Stored>,
}

/// sled's rows of a range, from either end.
enum Stored {
    Nothing,
    Forward(sled::Iter),
    Back(std::iter::Rev<sled::Iter>),
}

impl Iterator for Stored {
    type Item = sled::Result<(IVec, IVec)>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = match self {
            Self::Nothing => None,
            Self::Forward(rows) => rows.next(),
            Self::Back(rows) => rows.next(),
        };
        if next.is_none() {
            *self = Self::Nothing;
        }
        next
    }
}

impl<'a> Rows<'a> {
    fn new(window: &'a Window, range: Range, back: bool) -> Self {
        let rest = Some(range).filter(|range| !is_empty(range));
        Self {
            window,
            back,
            rest,
            changed: Vec::new().into_iter().peekable(),
            stored: Stored::Nothing.peekable(),
        }
    }

    /// Looks at the next piece; false when there is none.
    fn advance(&mut self) -> bool {
        let Some(range) = self.rest.take() else { return false };
        let copy = |(key, change): (&IVec, &Change)| (key.clone(), change.value.clone());
        let changed: Vec<_> = {
            let changes = self.window.read();
            let rows = changes.rows.range::<[u8], _>((as_bytes(&range.0), as_bytes(&range.1)));
            if self.back {
                rows.rev().take(PIECE).map(copy).collect()
            } else {
                rows.take(PIECE).map(copy).collect()
            }
        };
        let (piece, rest) = match changed.last() {
            Some((last, _)) if changed.len() == PIECE && self.back => {
                ((Included(last.clone()), range.1), Some((range.0, Excluded(last.clone()))))
            }
            Some((last, _)) if changed.len() == PIECE => {
                ((range.0, Included(last.clone())), Some((Excluded(last.clone()), range.1)))
            }
            _ => (range, None),
        };
        self.rest = rest.filter(|range| !is_empty(range));
        self.changed = changed.into_iter().peekable();
        let stored = self.window.tree.range(piece);
        self.stored = if self.back { Stored::Back(stored.rev()) } else { Stored::Forward(stored) }.peekable();
        true
    }

    /// Whether the next change comes before, with or behind the next row of sled's.
    fn order(&mut self) -> Option<std::cmp::Ordering> {
        use std::cmp::Ordering::{Greater, Less};
        match (self.changed.peek(), self.stored.peek()) {
            (None, None) => None,
            (Some(_), None) => Some(Less),
            (None, Some(_)) | (_, Some(Err(_))) => Some(Greater),
            (Some((changed, _)), Some(Ok((stored, _)))) if self.back => Some(stored.cmp(changed)),
            (Some((changed, _)), Some(Ok((stored, _)))) => Some(changed.cmp(stored)),
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = sled::Result<(IVec, IVec)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(order) = self.order() else {
                if self.advance() {
                    continue;
                }
                return None;
            };
            if order.is_gt() {
                return self.stored.next();
            }
            if order.is_eq() {
                self.stored.next();
            }
            if let Some((key, Some(value))) = self.changed.next() {
                return Some(Ok((key, value)));
            }
        }
    }
}

/// Whether no key can lie in it; `BTreeMap` panics on some of these.
fn is_empty((from, to): &Range) -> bool {
    match (from, to) {
        (Included(from), Included(to)) => from > to,
        (Included(from) | Excluded(from), Included(to) | Excluded(to)) => from >= to,
        _ => false,
    }
}

fn as_bytes(bound: &Bound<IVec>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &**key)
}

/// Rows at which the window is written: at most this and what one group changes, a few thousand rows more. While sled
/// applies the batch its garbage takes some 5 KiB a row, and lookups wait some 6 µs a row.
const ROWS: usize = 4096;
/// Rows that are not new, at which it is written: who reports what became of sends waits while it is.
const KNOWN_ROWS: usize = 512;
/// Bytes of keys and values at which it is written; a row that changes several times counts each time.
const BYTES: usize = 8 << 20;
/// Age at which it is written.
const AGE: Duration = Duration::from_secs(1);
/// Rows that a thread inserts before it collects sled's garbage.
const GARBAGE: usize = 1000;
/// Rows of the window that are copied at a time.
const PIECE: usize = 64;
