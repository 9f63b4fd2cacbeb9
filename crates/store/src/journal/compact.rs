use crate::journal::disk::{Disk, DiskFile};
use crate::journal::frame::Frame;
use crate::journal::segment::{Origin, Segment, SegmentHeader, segment_path, unfinished_path};
use mailtrail_mail::Timestamp;
use std::io::{self, SeekFrom, Write};
use std::path::Path;

/// What stays of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All of it.
    All,
    /// All but its body.
    Head,
    /// Nothing.
    Nothing,
    /// All but its body, and that without its body in the place of the rest.
    Changed {
        /// The record's version.
        version: u8,
        /// The record.
        head: Vec<u8>,
    },
}

/// What a rewriting did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rewritten {
    /// Bytes of the file before.
    pub before: u64,
    /// Bytes of it now; nothing when the segment is gone.
    pub after: u64,
}

/// Why a segment was not rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// Some of its bytes are no record: it is left as it is, for whoever wants to look.
    #[error("segment {0} of the journal is damaged and stays as it is")]
    Damaged(u32),
    /// The disk.
    #[error("segment {0} of the journal cannot be rewritten: {1}")]
    Io(u32, #[source] io::Error),
}

/// Writes a sealed segment anew with what `keep` says of each record, and puts it in the place of the old one in one
/// step. An empty one is removed when it `may_go`: no segment before it may need to hear from it where it ends.
pub fn rewrite(
    disk: &dyn Disk,
    directory: &Path,
    segment: &Segment,
    may_go: bool,
    now: Timestamp,
    mut keep: impl FnMut(&Frame) -> io::Result<Keep>,
) -> Result<Rewritten, RewriteError> {
    let number = segment.header().number;
    let failed = |error| RewriteError::Io(number, error);
    let (path, unfinished) = (segment_path(directory, number), unfinished_path(directory, number));
    let mut copy = Copy::start(disk, &unfinished, segment).map_err(failed)?;
    let mut damaged = false;
    let each = |frame: Frame| {
        let wish = keep(&frame)?;
        copy.frame(&frame, wish)
    };
    let end = segment.scan(0, false, each, |_| damaged = true).map_err(failed)?;
    if damaged || copy.damaged {
        disk.remove(&unfinished).map_err(failed)?;
        return Err(RewriteError::Damaged(number));
    }
    let before = segment.length();
    if copy.is_empty() && may_go {
        let gone = disk.remove(&unfinished).and_then(|()| disk.remove(&path));
        gone.and_then(|()| disk.sync_directory(directory)).map_err(failed)?;
        return Ok(Rewritten { before, after: 0 });
    }
    let after = copy.finish(now, end).map_err(failed)?;
    let placed = disk.rename(&unfinished, &path).and_then(|()| disk.sync_directory(directory));
    placed.map_err(failed)?;
    Ok(Rewritten { before, after })
}

struct Copy<'a> {
    segment: &'a Segment,
    file: io::BufWriter<Box<dyn DiskFile>>,
    salt: u32,
    length: u64,
    damaged: bool,
}

impl<'a> Copy<'a> {
    fn start(disk: &dyn Disk, path: &Path, segment: &'a Segment) -> io::Result<Self> {
        let mut file = io::BufWriter::with_capacity(PIECE, disk.create(path)?);
        // Its place is taken until the length is known.
        file.write_all(&[0; SegmentHeader::LENGTH])?;
        let length = SegmentHeader::LENGTH as u64;
        Ok(Self { segment, file, salt: fastrand::u32(..), length, damaged: false })
    }

    fn is_empty(&self) -> bool {
        self.length == SegmentHeader::LENGTH as u64
    }

    fn frame(&mut self, frame: &Frame, keep: Keep) -> io::Result<()> {
        let (header, head) = match &keep {
            Keep::All => (frame.header, &frame.head),
            Keep::Head => (frame.header.without_body(&frame.head), &frame.head),
            Keep::Nothing => return Ok(()),
            Keep::Changed { version, head } => (frame.header.with_head(*version, head), head),
        };
        self.file.write_all(&header.encode(self.salt, frame.place.offset))?;
        self.file.write_all(head)?;
        if header.stored_body() > 0 {
            self.body(frame)?;
        }
        self.length += header.stored_size();
        Ok(())
    }

    fn body(&mut self, frame: &Frame) -> io::Result<()> {
        let mut rest = frame.body();
        let mut checksum = crc32fast::Hasher::new();
        let mut piece = vec![0; PIECE.min(rest.length as usize)];
        while rest.length > 0 {
            let part = &mut piece[..(rest.length as usize).min(PIECE)];
            self.segment.read_exact_at(part, rest.start)?;
            checksum.update(part);
            self.file.write_all(part)?;
            rest.start += part.len() as u64;
            rest.length -= part.len() as u32;
        }
        self.damaged |= checksum.finalize() != rest.checksum;
        Ok(())
    }

    /// Everything is on stable storage when it returns the file's length.
    fn finish(self, at: Timestamp, end: u64) -> io::Result<u64> {
        let length = self.length;
        let origin = Origin::Rewritten { at, end, length };
        let header = SegmentHeader { salt: self.salt, origin, ..self.segment.header() };
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header.encode())?;
        file.sync()?;
        Ok(length)
    }
}

/// Bytes of a body that are copied at a time.
const PIECE: usize = 256 << 10;
