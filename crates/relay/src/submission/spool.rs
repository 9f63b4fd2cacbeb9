//! Where a message is gathered while it comes in: in memory as long as it is small, then in a file of the store's.
//!
//! The memory of all messages that come in at once is bounded: each has [`FREE`] bytes of its own, whatever is more
//! is taken from one [`Memory`] of [`BUDGET`] bytes. Nobody ever waits for it: a message that gets nothing, or that
//! passes [`LARGE`], goes on in a file. Its first part, which holds the whole header section, stays in memory.
//!
//! The most that so many sessions can hold is therefore [`BUDGET`] and, each, [`HEADROOM`] + [`FREE`] + [`CHUNK`] +
//! 2 × [`PIECE`], which are 194 KiB.

use crate::submission::cleanup::HEADROOM;
use crate::submission::connection::READ;
use mailtrail_mail::HeaderBlock;
use mailtrail_smtp::Reply;
use mailtrail_store::{Spill, Store};
use std::io;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The memory that all messages of all listeners share, beyond what each has of its own.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Semaphore>);

impl Memory {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Memory, until the permit is dropped, or `None` at once.
    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(BUDGET)
    }
}

/// A message on its way in.
pub struct Spool {
    /// What was decoded and is not in the file.
    buffer: Vec<u8>,
    stage: Stage,
    taken: Vec<OwnedSemaphorePermit>,
    memory: Memory,
    store: Store,
}

enum Stage {
    /// The buffer holds the message so far, of which so many bytes may be in memory.
    Memory { allowed: usize },
    /// The first part is here, and what the buffer holds belongs behind the file.
    File { first: Vec<u8>, file: Spill },
    /// It cannot be kept; what comes is dropped.
    Refused(Reply),
}

/// A message that came in.
pub struct Spooled {
    /// [`HEADROOM`] unused bytes, then the first part.
    pub first: Vec<u8>,
    /// The other part of a large message.
    pub rest: Option<Spill>,
    /// To be held as long as the first part.
    pub taken: Vec<OwnedSemaphorePermit>,
}

impl Spool {
    /// An empty one.
    pub fn new(memory: Memory, store: Store) -> Self {
        let stage = Stage::Memory { allowed: FREE };
        let mut buffer = Vec::with_capacity(HEADROOM + READ);
        buffer.resize(HEADROOM, 0);
        Self { buffer, stage, taken: Vec::new(), memory, store }
    }

    /// Where what is decoded next goes.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Sees to it that there is room for the next piece.
    pub async fn make_room(mut self) -> Self {
        self.stage = match self.stage {
            Stage::Memory { allowed } if self.buffer.len() <= HEADROOM + allowed => self.within(allowed),
            Stage::Memory { allowed } => match self.more(allowed) {
                Some(permit) => {
                    self.taken.push(permit);
                    self.within(2 * allowed)
                }
                None => self.overflow(allowed).await,
            },
            Stage::File { first, file } if self.buffer.len() >= CHUNK => {
                match append(file, &mut self.buffer).await {
                    Ok(file) => Stage::File { first, file },
                    Err(error) => refused(&error),
                }
            }
            Stage::File { .. } | Stage::Refused(_) => self.stage,
        };
        if matches!(self.stage, Stage::Refused(_)) {
            self.buffer.clear();
            self.buffer.shrink_to(PIECE);
            self.taken.clear();
        }
        self
    }

    /// The message, once it has come in, or why it cannot be kept.
    pub async fn finish(mut self) -> Result<Spooled, Reply> {
        match self.stage {
            Stage::Memory { .. } => Ok(Spooled { first: self.buffer, rest: None, taken: self.taken }),
            Stage::File { first, file } => match append(file, &mut self.buffer).await {
                Ok(file) => Ok(Spooled { first, rest: Some(file), taken: self.taken }),
                Err(error) => Err(refusal(&error)),
            },
            Stage::Refused(reply) => Err(reply),
        }
    }

    fn within(&mut self, allowed: usize) -> Stage {
        // Exactly: a vector that grows by itself doubles.
        self.buffer.reserve_exact(HEADROOM + allowed + PIECE - self.buffer.len());
        Stage::Memory { allowed }
    }

    /// As much again for a message that is allowed to be larger.
    fn more(&self, allowed: usize) -> Option<OwnedSemaphorePermit> {
        if allowed < LARGE { self.memory.take(allowed) } else { None }
    }

    /// Lets the message go on in a file.
    async fn overflow(&mut self, allowed: usize) -> Stage {
        if !HeaderBlock::behind_mbox_lines(&self.buffer[HEADROOM..]).is_whole() {
            if allowed == LARGE {
                return Stage::Refused(Reply::HeaderTooLarge { limit: LARGE as u64 });
            }
            tracing::warn!(
                bytes = allowed,
                "a long header needs more memory than is free and is refused for now"
            );
            return Stage::Refused(Reply::StoreFull);
        }
        let store = self.store.clone();
        match blocking(move || store.spill()).await {
            Ok(file) => {
                let chunk = Vec::with_capacity(CHUNK + PIECE);
                Stage::File { first: std::mem::replace(&mut self.buffer, chunk), file }
            }
            Err(error) => refused(&error),
        }
    }
}

/// Writes what the buffer holds behind the file.
async fn append(mut file: Spill, buffer: &mut Vec<u8>) -> io::Result<Spill> {
    let mut chunk = std::mem::take(buffer);
    let written = move || {
        file.append(&chunk)?;
        chunk.clear();
        Ok((file, chunk))
    };
    let (file, chunk) = blocking(written).await?;
    *buffer = chunk;
    Ok(file)
}

/// Work with files, off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn refused(error: &io::Error) -> Stage {
    Stage::Refused(refusal(error))
}

fn refusal(error: &io::Error) -> Reply {
    tracing::error!(%error, "a large message cannot be written to disk and is refused");
    Reply::StoreFull
}

/// Bytes of each message that take nothing from the common memory; the least that is written to a file at a time.
const FREE: usize = 64 << 10;
const CHUNK: usize = FREE;
/// Bytes of a message, and of its header section, that may be in memory. What may be there doubles from [`FREE`] on.
const LARGE: usize = 1 << 20;
/// Bytes of the common memory: 64 messages of the largest size that goes into it.
const BUDGET: usize = 64 << 20;
/// Bytes that one read may decode to: twice what was read, if all are bare line ends, and a dot held back before.
const PIECE: usize = 2 * READ + 4;

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::Clock;

    /// What a message comes to when it arrives in pieces of `size`.
    async fn gather(memory: &Memory, message: &[u8], size: usize) -> Result<Spooled, Reply> {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Clock::System).unwrap();
        let mut spool = Spool::new(memory.clone(), store);
        for piece in message.chunks(size) {
            spool.buffer().extend_from_slice(piece);
            spool = spool.make_room().await;
            let room = spool.buffer.capacity() - spool.buffer.len();
            assert!(room >= PIECE && spool.buffer.capacity() <= HEADROOM + LARGE + PIECE);
        }
        spool.finish().await
    }

    fn message(header: usize, size: usize) -> Vec<u8> {
        let mut message = format!("A: {}\r\n\r\n", "b".repeat(header)).into_bytes();
        message.resize(size, b'c');
        message
    }

    /// Bytes in memory and in the file.
    fn parts(spooled: &Spooled) -> (usize, u64) {
        (spooled.first.len() - HEADROOM, spooled.rest.as_ref().map_or(0, Spill::size))
    }

    #[tokio::test]
    async fn memory_is_taken_as_a_message_grows_and_given_back() {
        let memory = Memory::default();
        for (size, taken, in_file) in [
            (FREE, 0, false),
            (FREE + 1, FREE, false),
            (2 * FREE + 1, 3 * FREE, false),
            (LARGE, LARGE - FREE, false),
            (LARGE + 1, LARGE - FREE, true),
            (3 * LARGE, LARGE - FREE, true),
        ] {
            let spooled = gather(&memory, &message(100, size), 16 << 10).await.unwrap();
            assert_eq!(BUDGET - memory.0.available_permits(), taken, "{size}");
            let (first, rest) = parts(&spooled);
            assert_eq!((first as u64 + rest, spooled.rest.is_some()), (size as u64, in_file), "{size}");
            drop(spooled);
            assert_eq!(memory.0.available_permits(), BUDGET, "{size}");
        }
    }

    #[tokio::test]
    async fn without_memory_a_message_goes_on_in_a_file() {
        for (budget, expected) in [(0, FREE), (FREE, 2 * FREE), (2 * FREE, 2 * FREE)] {
            let memory = Memory::new(budget);
            let spooled = gather(&memory, &message(100, 10 * FREE), 1 << 10).await.unwrap();
            let (first, rest) = parts(&spooled);
            assert_eq!(first, expected + (1 << 10), "{budget}");
            assert_eq!(rest, (10 * FREE - first) as u64, "{budget}");
        }
    }

    #[tokio::test]
    async fn a_header_must_fit_into_memory() {
        let large = gather(&Memory::default(), &message(LARGE + PIECE, 2 * LARGE), PIECE).await;
        assert_eq!(large.err(), Some(Reply::HeaderTooLarge { limit: LARGE as u64 }));
        assert!(gather(&Memory::default(), &message(LARGE - 100, 2 * LARGE), PIECE).await.is_ok());
        // For now only: there may be memory later.
        let without_memory = gather(&Memory::new(0), &message(FREE + PIECE, 2 * LARGE), PIECE).await;
        assert_eq!(without_memory.err(), Some(Reply::StoreFull));
    }
}
