//! Buffers a message while it is received: in memory while it is small, then in a file of the store.
//!
//! The memory of all messages in progress is bounded: each has [`PER_MESSAGE_BYTES`] of its own and takes more from one
//! budget of [`TOTAL_BUDGET_BYTES`]. No message waits for memory: one that gets none, or exceeds
//! [`MAX_IN_MEMORY_BYTES`], continues in a file. Its first part, with the whole header section, stays in memory.
//!
//! The maximum for n sessions is therefore [`TOTAL_BUDGET_BYTES`] and, for each session, [`HEADER_HEADROOM`] +
//! [`PER_MESSAGE_BYTES`] + [`FILE_CHUNK_BYTES`] + 2 × [`READ_CHUNK_BYTES`] for decoding: 194 KiB.

use crate::submission::message_context::HEADER_HEADROOM;
use mailtrail_mail::HeaderSection;
use mailtrail_smtp::Reply;
use mailtrail_store::{SpillFile, Store};
use std::io;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The memory that all messages of all listeners share, beyond what each has of its own.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Semaphore>);

impl MemoryBudget {
    /// Creates a budget of this many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Memory, until the permit is dropped, or `None` at once.
    fn try_acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(TOTAL_BUDGET_BYTES)
    }
}

/// A message on its way in.
pub struct Spool {
    /// Decoded bytes that are not in the file.
    buffer: Vec<u8>,
    state: SpoolState,
    permits: Vec<OwnedSemaphorePermit>,
    budget: MemoryBudget,
    store: Store,
}

enum SpoolState {
    /// The buffer holds the message so far; `limit` is its share of the memory.
    Memory { limit: usize },
    /// `head` holds the first part; the buffer follows the file.
    File { head: Vec<u8>, tail: SpillFile },
    /// The message cannot be stored; further input is discarded.
    Rejected(Reply),
}

/// A message that came in.
pub struct SpooledMessage {
    /// [`HEADROOM`] unused bytes, then the first part.
    pub head: Vec<u8>,
    /// The other part of a large message.
    pub tail: Option<SpillFile>,
    /// To be held as long as the first part.
    pub permits: Vec<OwnedSemaphorePermit>,
}

impl Spool {
    /// Creates an empty spool.
    pub fn new(budget: MemoryBudget, store: Store) -> Self {
        let state = SpoolState::Memory { limit: PER_MESSAGE_BYTES };
        let mut buffer = Vec::with_capacity(HEADER_HEADROOM + READ_CHUNK_BYTES);
        buffer.resize(HEADER_HEADROOM, 0);
        Self { buffer, state, permits: Vec::new(), budget, store }
    }

    /// Buffer for decoded input.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Sees to it that there is room for the next piece.
    pub async fn reserve(mut self) -> Self {
        self.state = match self.state {
            SpoolState::Memory { limit } if self.buffer.len() <= HEADER_HEADROOM + limit => {
                self.in_memory(limit)
            }
            SpoolState::Memory { limit } => match self.acquire_more(limit) {
                Some(permit) => {
                    self.permits.push(permit);
                    self.in_memory(2 * limit)
                }
                None => self.spill_to_file(limit).await,
            },
            SpoolState::File { head, tail } if self.buffer.len() >= FILE_CHUNK_BYTES => {
                match append_buffer(tail, &mut self.buffer).await {
                    Ok(tail) => SpoolState::File { head, tail },
                    Err(error) => rejected_state(&error),
                }
            }
            SpoolState::File { .. } | SpoolState::Rejected(_) => self.state,
        };
        if matches!(self.state, SpoolState::Rejected(_)) {
            self.buffer.clear();
            self.buffer.shrink_to(MAX_DECODED_READ_BYTES);
            self.permits.clear();
        }
        self
    }

    /// Returns the complete message, or the reply if it cannot be stored.
    pub async fn finish(mut self) -> Result<SpooledMessage, Reply> {
        match self.state {
            SpoolState::Memory { .. } => {
                Ok(SpooledMessage { head: self.buffer, tail: None, permits: self.permits })
            }
            SpoolState::File { head, tail } => match append_buffer(tail, &mut self.buffer).await {
                Ok(file) => Ok(SpooledMessage { head, tail: Some(file), permits: self.permits }),
                Err(error) => Err(disk_error_reply(&error)),
            },
            SpoolState::Rejected(reply) => Err(reply),
        }
    }

    fn in_memory(&mut self, limit: usize) -> SpoolState {
        // Exactly: a vector that grows by itself doubles.
        self.buffer.reserve_exact(HEADER_HEADROOM + limit + MAX_DECODED_READ_BYTES - self.buffer.len());
        SpoolState::Memory { limit }
    }

    /// As much again for a message that is allowed to be larger.
    fn acquire_more(&self, allowed: usize) -> Option<OwnedSemaphorePermit> {
        if allowed < MAX_IN_MEMORY_BYTES { self.budget.try_acquire(allowed) } else { None }
    }

    /// Lets the message go on in a file.
    async fn spill_to_file(&mut self, allowed: usize) -> SpoolState {
        if !HeaderSection::parse_after_mbox_lines(&self.buffer[HEADER_HEADROOM..]).is_complete() {
            if allowed == MAX_IN_MEMORY_BYTES {
                return SpoolState::Rejected(Reply::HeaderTooLarge { limit: MAX_IN_MEMORY_BYTES as u64 });
            }
            tracing::warn!(
                bytes = allowed,
                "a long header needs more memory than is free and is refused for now"
            );
            return SpoolState::Rejected(Reply::StorageFull);
        }
        let store = self.store.clone();
        match run_blocking(move || store.create_spill_file()).await {
            Ok(tail) => {
                let chunk = Vec::with_capacity(FILE_CHUNK_BYTES + MAX_DECODED_READ_BYTES);
                SpoolState::File { head: std::mem::replace(&mut self.buffer, chunk), tail }
            }
            Err(error) => rejected_state(&error),
        }
    }
}

/// Appends the buffer to the file.
async fn append_buffer(mut file: SpillFile, buffer: &mut Vec<u8>) -> io::Result<SpillFile> {
    let mut chunk = std::mem::take(buffer);
    let written = move || {
        file.append(&chunk)?;
        chunk.clear();
        Ok((file, chunk))
    };
    let (file, chunk) = run_blocking(written).await?;
    *buffer = chunk;
    Ok(file)
}

/// Work with files, off the runtime's threads.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn rejected_state(error: &io::Error) -> SpoolState {
    SpoolState::Rejected(disk_error_reply(error))
}

fn disk_error_reply(error: &io::Error) -> Reply {
    tracing::error!(%error, "a large message cannot be written to disk and is refused");
    Reply::StorageFull
}

/// Bytes of each message that take nothing from the common memory; the least that is written to a file at a time.
const PER_MESSAGE_BYTES: usize = 64 << 10;
const FILE_CHUNK_BYTES: usize = PER_MESSAGE_BYTES;
/// Maximum bytes of a message, and of its header section, in memory. Its share doubles from [`PER_MESSAGE_BYTES`] on.
const MAX_IN_MEMORY_BYTES: usize = 1 << 20;
/// Bytes of the common memory: 64 messages of the largest size that goes into it.
const TOTAL_BUDGET_BYTES: usize = 64 << 20;
/// Maximum bytes that one read decodes to: twice the input if all of it is bare line ends, and a dot held back before.
const MAX_DECODED_READ_BYTES: usize = 2 * READ_CHUNK_BYTES + 4;

/// Bytes read at a time.
pub const READ_CHUNK_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::Clock;

    /// Spools a message that arrives in pieces of `size`.
    async fn spool_message(
        memory: &MemoryBudget,
        message: &[u8],
        size: usize,
    ) -> Result<SpooledMessage, Reply> {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Clock::System).unwrap();
        let mut spool = Spool::new(memory.clone(), store);
        for piece in message.chunks(size) {
            spool.buffer().extend_from_slice(piece);
            spool = spool.reserve().await;
            let room = spool.buffer.capacity() - spool.buffer.len();
            assert!(
                room >= MAX_DECODED_READ_BYTES
                    && spool.buffer.capacity()
                        <= HEADER_HEADROOM + MAX_IN_MEMORY_BYTES + MAX_DECODED_READ_BYTES
            );
        }
        spool.finish().await
    }

    fn test_message(header: usize, size: usize) -> Vec<u8> {
        let mut message = format!("A: {}\r\n\r\n", "b".repeat(header)).into_bytes();
        message.resize(size, b'c');
        message
    }

    /// Bytes in memory and in the file.
    fn part_sizes(spooled: &SpooledMessage) -> (usize, u64) {
        (spooled.head.len() - HEADER_HEADROOM, spooled.tail.as_ref().map_or(0, SpillFile::size))
    }

    #[tokio::test]
    async fn acquires_memory_as_message_grows_and_releases_it() {
        let memory = MemoryBudget::default();
        for (size, taken, in_file) in [
            (PER_MESSAGE_BYTES, 0, false),
            (PER_MESSAGE_BYTES + 1, PER_MESSAGE_BYTES, false),
            (2 * PER_MESSAGE_BYTES + 1, 3 * PER_MESSAGE_BYTES, false),
            (MAX_IN_MEMORY_BYTES, MAX_IN_MEMORY_BYTES - PER_MESSAGE_BYTES, false),
            (MAX_IN_MEMORY_BYTES + 1, MAX_IN_MEMORY_BYTES - PER_MESSAGE_BYTES, true),
            (3 * MAX_IN_MEMORY_BYTES, MAX_IN_MEMORY_BYTES - PER_MESSAGE_BYTES, true),
        ] {
            let spooled = spool_message(&memory, &test_message(100, size), 16 << 10).await.unwrap();
            assert_eq!(TOTAL_BUDGET_BYTES - memory.0.available_permits(), taken, "{size}");
            let (first, rest) = part_sizes(&spooled);
            assert_eq!((first as u64 + rest, spooled.tail.is_some()), (size as u64, in_file), "{size}");
            drop(spooled);
            assert_eq!(memory.0.available_permits(), TOTAL_BUDGET_BYTES, "{size}");
        }
    }

    #[tokio::test]
    async fn spills_to_file_when_budget_is_exhausted() {
        for (budget, expected) in [
            (0, PER_MESSAGE_BYTES),
            (PER_MESSAGE_BYTES, 2 * PER_MESSAGE_BYTES),
            (2 * PER_MESSAGE_BYTES, 2 * PER_MESSAGE_BYTES),
        ] {
            let memory = MemoryBudget::new(budget);
            let spooled =
                spool_message(&memory, &test_message(100, 10 * PER_MESSAGE_BYTES), 1 << 10).await.unwrap();
            let (first, rest) = part_sizes(&spooled);
            assert_eq!(first, expected + (1 << 10), "{budget}");
            assert_eq!(rest, (10 * PER_MESSAGE_BYTES - first) as u64, "{budget}");
        }
    }

    #[tokio::test]
    async fn rejects_header_larger_than_memory() {
        let large = spool_message(
            &MemoryBudget::default(),
            &test_message(MAX_IN_MEMORY_BYTES + MAX_DECODED_READ_BYTES, 2 * MAX_IN_MEMORY_BYTES),
            MAX_DECODED_READ_BYTES,
        )
        .await;
        assert_eq!(large.err(), Some(Reply::HeaderTooLarge { limit: MAX_IN_MEMORY_BYTES as u64 }));
        assert!(
            spool_message(
                &MemoryBudget::default(),
                &test_message(MAX_IN_MEMORY_BYTES - 100, 2 * MAX_IN_MEMORY_BYTES),
                MAX_DECODED_READ_BYTES
            )
            .await
            .is_ok()
        );
        // For now only: there may be memory later.
        let without_memory = spool_message(
            &MemoryBudget::new(0),
            &test_message(PER_MESSAGE_BYTES + MAX_DECODED_READ_BYTES, 2 * MAX_IN_MEMORY_BYTES),
            MAX_DECODED_READ_BYTES,
        )
        .await;
        assert_eq!(without_memory.err(), Some(Reply::StorageFull));
    }
}
