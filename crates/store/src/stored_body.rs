use crate::journal::{Extent, Segment};
use bytes::Bytes;
use futures_util::future::{Either, ready};
use futures_util::{Stream, stream};
use std::io;
use std::sync::Arc;

/// A message as it is kept. A large one stays on disk and costs [`Stored::PIECE`] bytes of memory while it is read.
#[derive(Clone, Debug)]
pub enum Stored {
    /// Of at most [`Stored::SMALL`] bytes, already checked.
    Small(Bytes),
    /// Of more, not checked yet.
    Large(Large),
}

/// Where a large message lies.
#[derive(Clone, Debug)]
pub struct Large {
    segment: Arc<Segment>,
    body: Extent,
}

impl Stored {
    /// Bytes up to which a message is read into memory.
    pub const SMALL: u32 = 1 << 20;
    /// Bytes of a large message in memory at a time.
    pub const PIECE: u32 = 32 << 10;

    /// Finds the message of the frame at `offset`; `None` where it is seen to be damaged.
    pub(crate) fn find(segment: Arc<Segment>, offset: u64) -> io::Result<Option<Self>> {
        let Some(body) = segment.body(offset)? else { return Ok(None) };
        if body.length > Self::SMALL {
            return Ok(Some(Self::Large(Large { segment, body })));
        }
        Ok(read(&segment, body)?.map(Self::Small))
    }

    /// Bytes of the message.
    pub fn size(&self) -> u64 {
        match self {
            Self::Small(bytes) => bytes.len() as u64,
            Self::Large(large) => u64::from(large.body.length),
        }
    }

    /// All of it in memory; `None` where it is damaged. It blocks.
    pub(crate) fn whole(&self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Small(bytes) => Ok(Some(bytes.clone())),
            Self::Large(Large { segment, body }) => read(segment, *body),
        }
    }

    /// The message from its start, read off the runtime's threads. Its last piece comes only when all of it was
    /// found to be whole; where it is damaged, an error of the kind [`io::ErrorKind::InvalidData`] comes instead.
    pub fn pieces(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        match self {
            Self::Small(bytes) => Either::Left(stream::once(ready(Ok(bytes.clone())))),
            Self::Large(large) => Either::Right(stream::try_unfold(Reader::new(large), |reader| async {
                // Made and freed by the runtime's few threads: what others make, each of them keeps some of.
                let piece = vec![0; reader.rest.length.min(Self::PIECE) as usize];
                if piece.is_empty() {
                    return Ok(None);
                }
                let read = tokio::task::spawn_blocking(|| reader.next(piece)).await;
                read.map_err(io::Error::other)?.map(Some)
            })),
        }
    }
}

/// A body, unless it is damaged.
fn read(segment: &Segment, body: Extent) -> io::Result<Option<Bytes>> {
    let mut bytes = vec![0; body.length as usize];
    segment.read_exact_at(&mut bytes, body.start)?;
    let whole = crc32fast::hash(&bytes) == body.checksum;
    Ok(whole.then(|| bytes.into()))
}

/// A large message of which some is read.
struct Reader {
    segment: Arc<Segment>,
    rest: Extent,
    checksum: crc32fast::Hasher,
}

impl Reader {
    fn new(large: &Large) -> Self {
        Self { segment: large.segment.clone(), rest: large.body, checksum: crc32fast::Hasher::new() }
    }

    /// Fills the next piece.
    fn next(mut self, mut piece: Vec<u8>) -> io::Result<(Bytes, Self)> {
        self.segment.read_exact_at(&mut piece, self.rest.start)?;
        self.checksum.update(&piece);
        self.rest.start += piece.len() as u64;
        self.rest.length -= piece.len() as u32;
        if self.rest.length == 0 && self.checksum.clone().finalize() != self.rest.checksum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is damaged on disk"));
        }
        Ok((piece.into(), self))
    }
}
