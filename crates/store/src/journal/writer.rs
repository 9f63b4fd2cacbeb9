//! Appends frames to the active segment. A failed write or sync is final for a segment.

use crate::disk_space::FreeSpace;
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::frame::{EncodedRecord, FrameHeader};
use crate::journal::segment::{SegmentHeader, SegmentOrigin, segment_path};
use crate::position::Position;
use crate::shortage::is_shortage;
use mailtrail_mail::Timestamp;
use std::io::{self, IoSlice, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writer of the journal. There is one per journal.
#[derive(Debug)]
pub struct Writer {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    segment_number: u32,
    end_offset: u64,
    open_segment: Option<OpenSegment>,
}

/// The segment being written.
#[derive(Debug)]
struct OpenSegment {
    file: Box<dyn DiskFile>,
    salt: u32,
    created_at: Timestamp,
    /// Offset up to which zeros are preallocated. A sync of bytes below it changes no metadata, which halves
    /// its time.
    preallocated: u64,
}

impl Writer {
    /// Starts a new segment after segment `last`, which is trusted up to `end`.
    pub fn start_after(
        disk: Arc<dyn Disk>,
        directory: &Path,
        last: u32,
        end_offset: u64,
        now: Timestamp,
    ) -> io::Result<Self> {
        let mut writer = Self {
            disk,
            directory: directory.to_owned(),
            segment_number: last,
            end_offset,
            open_segment: None,
        };
        match writer.rotate_segment(now) {
            // The first record that is written creates the segment.
            Err(error) if is_shortage(&error) => {
                tracing::error!(%error, "the journal cannot be written now; it is tried again");
            }
            rotated => rotated?,
        }
        Ok(writer)
    }

    /// Returns the free space of the disk.
    pub fn free_space(&self) -> io::Result<FreeSpace> {
        self.disk.free_space(&self.directory)
    }

    /// Returns the position of the next record.
    pub fn position(&self) -> Position {
        Position { segment: self.segment_number, offset: self.end_offset }
    }

    /// Returns when the current segment was created.
    pub fn created_at(&self) -> Option<Timestamp> {
        self.open_segment.as_ref().map(|open| open.created_at)
    }

    /// Returns whether the current segment holds any record.
    pub fn is_nonempty(&self) -> bool {
        self.end_offset > SegmentHeader::ENCODED_LEN as u64
    }

    /// Returns whether the next records go to the current segment, not to a new one.
    pub fn has_open_segment(&self) -> bool {
        self.open_segment.is_some() && self.end_offset < MAX_SEGMENT_BYTES
    }

    /// Opens the segment of the next records again. A sync of the returned file covers everything written
    /// from then on.
    pub fn reopen_segment(&mut self, now: Timestamp) -> io::Result<Box<dyn DiskFile>> {
        self.ensure_segment(now)?;
        self.disk.reopen_file(&segment_path(&self.directory, self.segment_number))
    }

    /// Appends the drafts; they are on stable storage after the next sync. On an error none of them is ever
    /// read.
    pub fn append(&mut self, drafts: &[EncodedRecord], now: Timestamp) -> io::Result<Vec<Position>> {
        self.ensure_segment(now)?;
        let Some(open) = &mut self.open_segment else { return Err(io::Error::other("no segment")) };
        let mut end = self.end_offset;
        let places: Vec<Position> = drafts
            .iter()
            .map(|draft| {
                let position = Position { segment: self.segment_number, offset: end };
                end += draft.size();
                position
            })
            .collect();
        let written = open.append(drafts, &places).and_then(|()| open.preallocate(self.end_offset, end));
        if let Err(error) = written {
            self.abandon_segment(self.position());
            return Err(error);
        }
        self.end_offset = end;
        Ok(places)
    }

    /// Returns when all written bytes are on stable storage.
    pub fn fsync(&mut self) -> io::Result<()> {
        self.open_segment.as_mut().map_or(Ok(()), |open| open.file.fsync())
    }

    /// Discards the bytes of the segment from `start` on; later records go to a new segment.
    pub fn abandon_segment(&mut self, start: Position) {
        self.end_offset = start.offset;
        if let Some(mut open) = self.open_segment.take() {
            // Best effort only: the next segment's header names the end of this one.
            let _ = open.file.truncate(self.end_offset);
        }
    }

    fn ensure_segment(&mut self, now: Timestamp) -> io::Result<()> {
        if self.has_open_segment() { Ok(()) } else { self.rotate_segment(now) }
    }

    /// Continues in a new segment.
    pub fn rotate_segment(&mut self, now: Timestamp) -> io::Result<()> {
        let sealed = self.open_segment.take();
        let number =
            self.segment_number.checked_add(1).ok_or_else(|| io::Error::other("out of segment numbers"))?;
        let salt = fastrand::u32(..);
        let header = SegmentHeader {
            number,
            salt,
            previous_end: self.end_offset,
            created_at: now,
            origin: SegmentOrigin::Appended,
        };
        // A file left by an interrupted creation was never written to.
        let mut file = self.disk.create_file(&segment_path(&self.directory, number))?;
        file.write_all(&header.encode())?;
        file.fsync()?;
        self.disk.sync_directory(&self.directory)?;
        if let Some(sealed) = sealed {
            sealed.trim_preallocated(self.end_offset);
        }
        (self.segment_number, self.end_offset) = (number, SegmentHeader::ENCODED_LEN as u64);
        self.open_segment = Some(OpenSegment { file, salt, created_at: now, preallocated: self.end_offset });
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(open) = self.open_segment.take() {
            open.trim_preallocated(self.end_offset);
        }
    }
}

impl OpenSegment {
    /// Releases unused preallocated space. Nothing reads it, so a failure is harmless.
    fn trim_preallocated(mut self, end: u64) {
        if self.preallocated > end {
            let _ = self.file.truncate(end);
        }
    }

    fn append(&mut self, drafts: &[EncodedRecord], positions: &[Position]) -> io::Result<()> {
        let headers: Vec<[u8; FrameHeader::ENCODED_LEN]> = drafts
            .iter()
            .zip(positions)
            .map(|(draft, position)| draft.header.encode(self.salt, position.offset))
            .collect();
        let mut parts = Vec::with_capacity(drafts.len() * 3);
        for (draft, header) in drafts.iter().zip(&headers) {
            parts.extend([header, &draft.payload[..], draft.body.head()].map(IoSlice::new));
            if let Some(rest) = draft.body.tail() {
                write_all_vectored(&mut self.file, &mut parts)?;
                parts.clear();
                rest.copy_to(&mut self.file)?;
            }
        }
        write_all_vectored(&mut self.file, &mut parts)
    }

    /// Preallocates space for small batches to come. Large batches spend most of their time writing anyway.
    fn preallocate(&mut self, start: u64, end: u64) -> io::Result<()> {
        if end <= self.preallocated || end - start > MAX_PREALLOCATED_BATCH_BYTES || end >= MAX_SEGMENT_BYTES
        {
            return Ok(());
        }
        // Without preallocated space the records are still whole.
        if self.file.write_all(&PREALLOCATION_BLOCK).is_ok() {
            self.preallocated = end + PREALLOCATION_BLOCK.len() as u64;
        }
        self.file.seek(SeekFrom::Start(end)).map(drop)
    }
}

fn write_all_vectored(file: &mut impl Write, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    let mut rest = parts;
    // Leading empty parts would make a successful write of nothing look like a full disk.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let batch = rest.len().min(MAX_IO_SLICES);
        match file.write_vectored(&rest[..batch]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Size at which a new segment starts, in bytes.
const MAX_SEGMENT_BYTES: u64 = 64 << 20;
/// Largest batch for which preallocation pays, in bytes.
const MAX_PREALLOCATED_BATCH_BYTES: u64 = 12 << 10;
/// Zeros preallocated at a time.
static PREALLOCATION_BLOCK: [u8; 512 << 10] = [0; 512 << 10];
/// Maximum number of parts in one write: IOV_MAX of Linux.
const MAX_IO_SLICES: usize = 1024;
