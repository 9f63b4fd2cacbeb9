//! Rewrites a sealed segment without the records that are no longer needed.

use crate::journal::disk::{Disk, DiskFile};
use crate::journal::frame::Frame;
use crate::journal::segment::{Segment, SegmentHeader, SegmentOrigin, segment_path, unfinished_path};
use mailtrail_mail::Timestamp;
use std::io::{self, SeekFrom, Write};
use std::path::Path;

/// Part of a record that a rewrite retains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retain {
    /// The record with its body.
    All,
    /// The record without its body.
    DropBody,
    /// No part of the record.
    Drop,
    /// The record without its body and with a new payload.
    Replace {
        /// New version of the record.
        version: u8,
        /// Payload of that version.
        payload: Vec<u8>,
    },
}

/// Result of a rewrite.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompactionResult {
    /// File size before, in bytes.
    pub bytes_before: u64,
    /// File size after, in bytes; 0 if the segment was removed.
    pub bytes_after: u64,
}

/// Reason why a segment was not rewritten.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    /// Some bytes are no record. The segment is left as it is, for inspection.
    #[error("segment {0} of the journal is damaged and stays as it is")]
    Corrupt(u32),
    /// I/O error of the segment, by its number.
    #[error("segment {0} of the journal cannot be rewritten: {1}")]
    Io(u32, #[source] io::Error),
}

/// Rewrites a sealed segment: retains what `keep` returns for each record, and replaces the file atomically.
/// An empty segment is removed if `may_go`: no segment before it may depend on it for its end.
pub fn rewrite_segment(
    disk: &dyn Disk,
    directory: &Path,
    segment: &Segment,
    may_go: bool,
    now: Timestamp,
    mut keep: impl FnMut(&Frame) -> io::Result<Retain>,
) -> Result<CompactionResult, CompactionError> {
    let number = segment.header().number;
    let failed = |error| CompactionError::Io(number, error);
    let (path, unfinished) = (segment_path(directory, number), unfinished_path(directory, number));
    let mut copy = SegmentCopy::create(disk, &unfinished, segment).map_err(failed)?;
    let mut damaged = false;
    let each = |frame: Frame| {
        let wish = keep(&frame)?;
        copy.copy_frame(&frame, wish)
    };
    let end = segment.scan_frames(0, false, each, |_| damaged = true).map_err(failed)?;
    if damaged || copy.damaged {
        disk.remove_file(&unfinished).map_err(failed)?;
        return Err(CompactionError::Corrupt(number));
    }
    let bytes_before = segment.trusted_length();
    if copy.is_empty() && may_go {
        let gone = disk.remove_file(&unfinished).and_then(|()| disk.remove_file(&path));
        gone.and_then(|()| disk.sync_directory(directory)).map_err(failed)?;
        return Ok(CompactionResult { bytes_before, bytes_after: 0 });
    }
    let bytes_after = copy.finish(now, end).map_err(failed)?;
    let placed = disk.rename_file(&unfinished, &path).and_then(|()| disk.sync_directory(directory));
    placed.map_err(failed)?;
    Ok(CompactionResult { bytes_before, bytes_after })
}

struct SegmentCopy<'a> {
    segment: &'a Segment,
    file: io::BufWriter<Box<dyn DiskFile>>,
    salt: u32,
    length: u64,
    damaged: bool,
}

impl<'a> SegmentCopy<'a> {
    fn create(disk: &dyn Disk, path: &Path, segment: &'a Segment) -> io::Result<Self> {
        let mut file = io::BufWriter::with_capacity(COPY_CHUNK_BYTES, disk.create_file(path)?);
        // Space for the header, which is written once the length is known.
        file.write_all(&[0; SegmentHeader::ENCODED_LEN])?;
        let length = SegmentHeader::ENCODED_LEN as u64;
        Ok(Self { segment, file, salt: fastrand::u32(..), length, damaged: false })
    }

    fn is_empty(&self) -> bool {
        self.length == SegmentHeader::ENCODED_LEN as u64
    }

    fn copy_frame(&mut self, frame: &Frame, keep: Retain) -> io::Result<()> {
        let (header, head) = match &keep {
            Retain::All => (frame.header, &frame.payload),
            Retain::DropBody => (frame.header.without_body(&frame.payload), &frame.payload),
            Retain::Drop => return Ok(()),
            Retain::Replace { version, payload } => (frame.header.with_payload(*version, payload), payload),
        };
        self.file.write_all(&header.encode(self.salt, frame.position.offset))?;
        self.file.write_all(head)?;
        if header.stored_body_length() > 0 {
            self.copy_body(frame)?;
        }
        self.length += header.stored_size();
        Ok(())
    }

    fn copy_body(&mut self, frame: &Frame) -> io::Result<()> {
        let mut rest = frame.body_extent();
        let mut checksum = crc32fast::Hasher::new();
        let mut piece = vec![0; COPY_CHUNK_BYTES.min(rest.length as usize)];
        while rest.length > 0 {
            let part = &mut piece[..(rest.length as usize).min(COPY_CHUNK_BYTES)];
            self.segment.read_exact_at(part, rest.start)?;
            checksum.update(part);
            self.file.write_all(part)?;
            rest.start += part.len() as u64;
            rest.length -= part.len() as u32;
        }
        self.damaged |= checksum.finalize() != rest.checksum;
        Ok(())
    }

    /// Writes the header and returns the file's length once everything is on stable storage.
    fn finish(self, at: Timestamp, end: u64) -> io::Result<u64> {
        let length = self.length;
        let origin = SegmentOrigin::Rewritten { at, end, length };
        let header = SegmentHeader { salt: self.salt, origin, ..self.segment.header() };
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header.encode())?;
        file.fsync()?;
        Ok(length)
    }
}

/// Bytes of a body copied at a time.
const COPY_CHUNK_BYTES: usize = 256 << 10;
