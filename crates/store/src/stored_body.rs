//! Bodies read from the journal: small ones at once, large ones in chunks.

use crate::journal::{Extent, Segment};
use bytes::Bytes;
use futures_util::future::{Either, ready};
use futures_util::{Stream, stream};
use std::io;
use std::sync::Arc;

/// A stored body. A large one stays on disk and takes [`Self::CHUNK_BYTES`] of memory while it is read.
#[derive(Clone, Debug)]
pub enum StoredBody {
    /// Body of at most [`Self::MAX_INLINE_BYTES`], already verified.
    InMemory(Bytes),
    /// Larger body, not verified yet.
    OnDisk(OnDisk),
}

/// Location of a large body.
#[derive(Clone, Debug)]
pub struct OnDisk {
    segment: Arc<Segment>,
    body: Extent,
}

impl StoredBody {
    /// Largest body that is read into memory, in bytes.
    pub const MAX_INLINE_BYTES: u32 = 1 << 20;
    /// Bytes of a large body in memory at a time.
    pub const CHUNK_BYTES: u32 = 32 << 10;

    /// Loads the body of the frame at `offset`; `None` if it is found to be damaged.
    pub(crate) fn load(segment: Arc<Segment>, offset: u64) -> io::Result<Option<Self>> {
        let Some(body) = segment.body_extent(offset)? else { return Ok(None) };
        if body.length > Self::MAX_INLINE_BYTES {
            return Ok(Some(Self::OnDisk(OnDisk { segment, body })));
        }
        Ok(read_body(&segment, body)?.map(Self::InMemory))
    }

    /// Returns the size of the body, in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::InMemory(bytes) => bytes.len() as u64,
            Self::OnDisk(large) => u64::from(large.body.length),
        }
    }

    /// Reads the whole body into memory; `None` if it is damaged. Blocks.
    pub(crate) fn read_all(&self) -> io::Result<Option<Bytes>> {
        match self {
            Self::InMemory(bytes) => Ok(Some(bytes.clone())),
            Self::OnDisk(OnDisk { segment, body }) => read_body(segment, *body),
        }
    }

    /// Streams the body from its start, read off the runtime's threads. The last chunk is returned only after
    /// the whole body was verified. A damaged body ends in an error of kind [`io::ErrorKind::InvalidData`]
    /// instead.
    pub fn chunks(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        match self {
            Self::InMemory(bytes) => Either::Left(stream::once(ready(Ok(bytes.clone())))),
            Self::OnDisk(large) => {
                Either::Right(stream::try_unfold(BodyReader::new(large), |reader| async {
                    // Allocated and freed by the runtime's few threads: the allocator keeps some memory for
                    // each thread that allocates.
                    let piece = vec![0; reader.remaining.length.min(Self::CHUNK_BYTES) as usize];
                    if piece.is_empty() {
                        return Ok(None);
                    }
                    let read = tokio::task::spawn_blocking(|| reader.read_chunk(piece)).await;
                    read.map_err(io::Error::other)?.map(Some)
                }))
            }
        }
    }
}

/// Reads a body, unless it is damaged.
fn read_body(segment: &Segment, body: Extent) -> io::Result<Option<Bytes>> {
    let mut bytes = vec![0; body.length as usize];
    segment.read_exact_at(&mut bytes, body.start)?;
    let whole = crc32fast::hash(&bytes) == body.checksum;
    Ok(whole.then(|| bytes.into()))
}

/// A large body that is being read.
struct BodyReader {
    segment: Arc<Segment>,
    remaining: Extent,
    checksum: crc32fast::Hasher,
}

impl BodyReader {
    fn new(large: &OnDisk) -> Self {
        Self { segment: large.segment.clone(), remaining: large.body, checksum: crc32fast::Hasher::new() }
    }

    /// Reads the next chunk.
    fn read_chunk(mut self, mut piece: Vec<u8>) -> io::Result<(Bytes, Self)> {
        self.segment.read_exact_at(&mut piece, self.remaining.start)?;
        self.checksum.update(&piece);
        self.remaining.start += piece.len() as u64;
        self.remaining.length -= piece.len() as u32;
        if self.remaining.length == 0 && self.checksum.clone().finalize() != self.remaining.checksum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is damaged on disk"));
        }
        Ok((piece.into(), self))
    }
}
