use crate::journal::{Extent, Segment};
use bytes::Bytes;
use futures_util::future::{Either, ready};
use futures_util::{Stream, stream};
use std::io;
use std::sync::Arc;

/// A message as it is kept. A large one stays on disk and costs [`Stored::PIECE`] bytes of memory while it is read.
#[derive(Clone, Debug)]
pub enum StoredBody {
    /// Of at most [`Stored::SMALL`] bytes, already checked.
    InMemory(Bytes),
    /// Of more, not checked yet.
    OnDisk(OnDisk),
}

/// Where a large message lies.
#[derive(Clone, Debug)]
pub struct OnDisk {
    segment: Arc<Segment>,
    body: Extent,
}

impl StoredBody {
    /// Bytes up to which a message is read into memory.
    pub const MAX_INLINE_BYTES: u32 = 1 << 20;
    /// Bytes of a large message in memory at a time.
    pub const CHUNK_BYTES: u32 = 32 << 10;

    /// Finds the message of the frame at `offset`; `None` where it is seen to be damaged.
    pub(crate) fn load(segment: Arc<Segment>, offset: u64) -> io::Result<Option<Self>> {
        let Some(body) = segment.body_extent(offset)? else { return Ok(None) };
        if body.length > Self::MAX_INLINE_BYTES {
            return Ok(Some(Self::OnDisk(OnDisk { segment, body })));
        }
        Ok(read_body(&segment, body)?.map(Self::InMemory))
    }

    /// Bytes of the message.
    pub fn size(&self) -> u64 {
        match self {
            Self::InMemory(bytes) => bytes.len() as u64,
            Self::OnDisk(large) => u64::from(large.body.length),
        }
    }

    /// All of it in memory; `None` where it is damaged. It blocks.
    pub(crate) fn read_all(&self) -> io::Result<Option<Bytes>> {
        match self {
            Self::InMemory(bytes) => Ok(Some(bytes.clone())),
            Self::OnDisk(OnDisk { segment, body }) => read_body(segment, *body),
        }
    }

    /// The message from its start, read off the runtime's threads. Its last piece comes only when all of it was
    /// found to be whole; where it is damaged, an error of the kind [`io::ErrorKind::InvalidData`] comes instead.
    pub fn chunks(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        match self {
            Self::InMemory(bytes) => Either::Left(stream::once(ready(Ok(bytes.clone())))),
            Self::OnDisk(large) => {
                Either::Right(stream::try_unfold(BodyReader::new(large), |reader| async {
                    // Made and freed by the runtime's few threads: what others make, each of them keeps some of.
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

/// A body, unless it is damaged.
fn read_body(segment: &Segment, body: Extent) -> io::Result<Option<Bytes>> {
    let mut bytes = vec![0; body.length as usize];
    segment.read_exact_at(&mut bytes, body.start)?;
    let whole = crc32fast::hash(&bytes) == body.checksum;
    Ok(whole.then(|| bytes.into()))
}

/// A large message of which some is read.
struct BodyReader {
    segment: Arc<Segment>,
    remaining: Extent,
    checksum: crc32fast::Hasher,
}

impl BodyReader {
    fn new(large: &OnDisk) -> Self {
        Self { segment: large.segment.clone(), remaining: large.body, checksum: crc32fast::Hasher::new() }
    }

    /// Fills the next piece.
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
