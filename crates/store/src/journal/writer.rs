use crate::disk_space::Free;
use crate::journal::Place;
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::frame::{Draft, FrameHeader};
use crate::journal::segment::{Origin, SegmentHeader, segment_path};
use crate::shortage::is_shortage;
use mailtrail_mail::Timestamp;
use std::io::{self, IoSlice, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The writing end: one per journal.
#[derive(Debug)]
pub struct Writer {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    number: u32,
    end: u64,
    segment: Option<Open>,
}

/// The segment that is written to.
#[derive(Debug)]
struct Open {
    file: Box<dyn DiskFile>,
    salt: u32,
    made: Timestamp,
    /// Up to where zeros are laid out: a sync of bytes below it changes no metadata, which halves its time.
    laid_out: u64,
}

impl Writer {
    /// Starts a new segment behind segment `last`, which is trusted up to `end`.
    pub fn start(
        disk: Arc<dyn Disk>,
        directory: &Path,
        last: u32,
        end: u64,
        now: Timestamp,
    ) -> io::Result<Self> {
        let mut writer = Self { disk, directory: directory.to_owned(), number: last, end, segment: None };
        match writer.rotate(now) {
            // The first record that is written makes the segment.
            Err(error) if is_shortage(&error) => {
                tracing::error!(%error, "the journal cannot be written now; it is tried again");
            }
            rotated => rotated?,
        }
        Ok(writer)
    }

    /// What may still be written to the disk.
    pub fn free(&self) -> io::Result<Free> {
        self.disk.free(&self.directory)
    }

    /// Where the next record goes.
    pub fn place(&self) -> Place {
        Place { segment: self.number, offset: self.end }
    }

    /// When the segment that is written to was made.
    pub fn made(&self) -> Option<Timestamp> {
        self.segment.as_ref().map(|open| open.made)
    }

    /// Whether that segment holds any record.
    pub fn is_used(&self) -> bool {
        self.end > SegmentHeader::LENGTH as u64
    }

    /// Whether the next records go to the segment that is written to, and not to a new one.
    pub fn has_room(&self) -> bool {
        self.segment.is_some() && self.end < SEGMENT_SIZE
    }

    /// Another opening of the segment that the next records go to. Its sync covers what is written from now on.
    pub fn reopen(&mut self, now: Timestamp) -> io::Result<Box<dyn DiskFile>> {
        self.make_room(now)?;
        self.disk.reopen(&segment_path(&self.directory, self.number))
    }

    /// Appends the drafts: once they are synced they are on stable storage. When it fails none of them will ever be
    /// read.
    pub fn write(&mut self, drafts: &[Draft], now: Timestamp) -> io::Result<Vec<Place>> {
        self.make_room(now)?;
        let Some(open) = &mut self.segment else { return Err(io::Error::other("no segment")) };
        let mut end = self.end;
        let places: Vec<Place> = drafts
            .iter()
            .map(|draft| {
                let place = Place { segment: self.number, offset: end };
                end += draft.size();
                place
            })
            .collect();
        let written = open.write(drafts, &places).and_then(|()| open.lay_out(self.end, end));
        if let Err(error) = written {
            self.give_up(self.place());
            return Err(error);
        }
        self.end = end;
        Ok(places)
    }

    /// Returns when what was written is on stable storage.
    pub fn sync(&mut self) -> io::Result<()> {
        self.segment.as_mut().map_or(Ok(()), |open| open.file.sync())
    }

    /// Takes back what was written to the segment from `start` on; what comes next goes to a new one.
    pub fn give_up(&mut self, start: Place) {
        self.end = start.offset;
        if let Some(mut open) = self.segment.take() {
            // Best effort only: the next segment's header names the end of this one.
            let _ = open.file.truncate(self.end);
        }
    }

    fn make_room(&mut self, now: Timestamp) -> io::Result<()> {
        if self.has_room() { Ok(()) } else { self.rotate(now) }
    }

    /// Goes on with a new segment.
    pub fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let sealed = self.segment.take();
        let number = self.number.checked_add(1).ok_or_else(|| io::Error::other("out of segment numbers"))?;
        let salt = fastrand::u32(..);
        let header =
            SegmentHeader { number, salt, previous_end: self.end, made: now, origin: Origin::Written };
        // A left-over of a creation that failed half way was never written to by anybody.
        let mut file = self.disk.create(&segment_path(&self.directory, number))?;
        file.write_all(&header.encode())?;
        file.sync()?;
        self.disk.sync_directory(&self.directory)?;
        if let Some(sealed) = sealed {
            sealed.trim(self.end);
        }
        (self.number, self.end) = (number, SegmentHeader::LENGTH as u64);
        self.segment = Some(Open { file, salt, made: now, laid_out: self.end });
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(open) = self.segment.take() {
            open.trim(self.end);
        }
    }
}

impl Open {
    /// Gives back what was laid out in vain; nothing reads it, so it does not matter if that fails.
    fn trim(mut self, end: u64) {
        if self.laid_out > end {
            let _ = self.file.truncate(end);
        }
    }

    fn write(&mut self, drafts: &[Draft], places: &[Place]) -> io::Result<()> {
        let headers: Vec<[u8; FrameHeader::LENGTH]> = drafts
            .iter()
            .zip(places)
            .map(|(draft, place)| draft.header.encode(self.salt, place.offset))
            .collect();
        let mut parts = Vec::with_capacity(drafts.len() * 3);
        for (draft, header) in drafts.iter().zip(&headers) {
            parts.extend([header, &draft.head[..], draft.body.first()].map(IoSlice::new));
            if let Some(rest) = draft.body.rest() {
                write_all(&mut self.file, &mut parts)?;
                parts.clear();
                rest.copy_to(&mut self.file)?;
            }
        }
        write_all(&mut self.file, &mut parts)
    }

    /// Lays out space for small batches to come. Large ones write most of the time anyway.
    fn lay_out(&mut self, start: u64, end: u64) -> io::Result<()> {
        if end <= self.laid_out || end - start > SMALL_BATCH || end >= SEGMENT_SIZE {
            return Ok(());
        }
        // Without space for it the records are whole all the same.
        if self.file.write_all(&ZEROS).is_ok() {
            self.laid_out = end + ZEROS.len() as u64;
        }
        self.file.seek(SeekFrom::Start(end)).map(drop)
    }
}

fn write_all(file: &mut impl Write, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    let mut rest = parts;
    // Leading empty parts would make a successful write of nothing look like a full disk.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let batch = rest.len().min(MAX_PARTS);
        match file.write_vectored(&rest[..batch]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Bytes after which a new segment starts.
const SEGMENT_SIZE: u64 = 64 << 20;
/// Bytes of a batch for which laying out ahead pays.
const SMALL_BATCH: u64 = 12 << 10;
/// What is laid out at a time.
static ZEROS: [u8; 512 << 10] = [0; 512 << 10];
/// IOV_MAX of Linux.
const MAX_PARTS: usize = 1024;
