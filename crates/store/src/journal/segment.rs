//! Segments: header, scan of the frames, and bodies by position.

use crate::journal::disk::Disk;
use crate::journal::frame::{Frame, FrameHeader, read_u32_le, read_u64_le};
use crate::position::Position;
use mailtrail_mail::Timestamp;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Reader of one segment.
#[derive(Debug)]
pub struct Segment {
    file: File,
    header: SegmentHeader,
    /// File offset up to which the segment is trusted.
    trusted_end: u64,
    /// Whether `trusted_end` was given by a successor; otherwise it is the end of the file.
    is_sealed: bool,
    /// Logical offset and file offset of each frame of a rewritten segment that still has a body. No body is
    /// empty, since it begins with the relay's own header lines. Built on first use.
    body_index: OnceLock<Vec<(u64, u64)>>,
}

/// Location of a record's body in its segment's file.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// File offset of the first byte.
    pub start: u64,
    /// Length of the body, in bytes.
    pub length: u32,
    /// CRC32 that the body must have.
    pub checksum: u32,
}

/// Bytes that a scan found not to be a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorruptRange {
    /// Number of the segment.
    pub segment: u32,
    /// File offset of the first bad byte.
    pub file_offset: u64,
    /// Number of bad bytes up to the next good frame or the segment's end.
    pub bytes: u64,
}

impl Segment {
    /// Opens segment `number`. `end` is the end that its successor names; without one, the file's length is
    /// used.
    pub fn open(directory: &Path, number: u32, end: Option<u64>) -> io::Result<Self> {
        let file = File::open(segment_path(directory, number))?;
        let mut bytes = [0; SegmentHeader::ENCODED_LEN];
        file.read_exact_at(&mut bytes, 0)?;
        let header = SegmentHeader::decode(&bytes, number).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("segment {number} has a bad header"))
        })?;
        let known_end = match header.origin {
            SegmentOrigin::Appended => end,
            SegmentOrigin::Rewritten { length, .. } => Some(length),
        };
        let trusted_end = match known_end {
            Some(end) => end,
            None => file.metadata()?.len(),
        };
        Ok(Self { file, header, trusted_end, is_sealed: known_end.is_some(), body_index: OnceLock::new() })
    }

    /// Returns the end of the previous segment.
    pub fn previous_end(&self) -> u64 {
        self.header.previous_end
    }

    /// Returns the creation time.
    pub fn created_at(&self) -> Timestamp {
        self.header.created_at
    }

    /// Returns when the segment was rewritten, if it was.
    pub fn rewritten_at(&self) -> Option<Timestamp> {
        match self.header.origin {
            SegmentOrigin::Appended => None,
            SegmentOrigin::Rewritten { at, .. } => Some(at),
        }
    }

    /// Returns the number of trusted bytes of the file.
    pub fn trusted_length(&self) -> u64 {
        self.trusted_end
    }

    /// Reads from the record at `offset` on: passes frames to `each` and gaps to `damaged`. Bodies are
    /// verified if `bodies` is set, and skipped otherwise. After a bad frame the scan continues at the next
    /// good one: a whole record that was never acknowledged does no harm, but the loss of an acknowledged one
    /// would. Returns the offset after the last good frame.
    pub fn scan_frames(
        &self,
        offset: u64,
        bodies: bool,
        mut each: impl FnMut(Frame) -> io::Result<()>,
        mut damaged: impl FnMut(CorruptRange),
    ) -> io::Result<u64> {
        let start = SegmentHeader::ENCODED_LEN as u64;
        let (mut at, mut done) = match self.header.origin {
            SegmentOrigin::Appended => (offset.max(start), offset.max(start)),
            // Offsets do not determine file positions in a rewritten segment.
            SegmentOrigin::Rewritten { .. } => (start, offset.max(start)),
        };
        let mut reader = self.reader_at(at, SCAN_BUFFER_BYTES);
        let available = self.trusted_end.min(self.file.metadata()?.len());
        let gap = |file_offset, next| CorruptRange {
            segment: self.header.number,
            file_offset,
            bytes: next - file_offset,
        };
        while at < available {
            if let Some(frame) = self.read_frame(&mut reader, at, available, bodies)? {
                at += frame.header.stored_size();
                if frame.position.offset >= offset {
                    done = frame.position.offset + frame.header.logical_size();
                    each(frame)?;
                }
                continue;
            }
            let next = self.find_next_frame(at + 1, available)?;
            // Preallocated space that was not used.
            if next.is_none() && !self.is_sealed && self.is_zeroed(at, available)? {
                return Ok(done);
            }
            damaged(gap(at, next.unwrap_or(self.trusted_end)));
            let Some(next) = next else { return Ok(done) };
            at = next;
            reader = self.reader_at(at, SCAN_BUFFER_BYTES);
        }
        if available < self.trusted_end {
            damaged(gap(at, self.trusted_end));
        }
        match self.header.origin {
            // Its last record may be longer than the original one.
            SegmentOrigin::Rewritten { end, .. } => Ok(end.max(offset)),
            SegmentOrigin::Appended => Ok(done),
        }
    }

    /// Returns the location of the body of the record at `offset`; `None` if no good frame starts there, or
    /// if its body was dropped. Does not verify the body.
    pub fn body_extent(&self, offset: u64) -> io::Result<Option<Extent>> {
        let Some(at) = self.file_offset_of(offset)? else { return Ok(None) };
        // The file may have grown since it was opened.
        let length = self.file.metadata()?.len();
        let frame = self.read_frame(&mut self.reader_at(at, READ_BUFFER_BYTES), at, length, false)?;
        let frame = frame.filter(|frame| frame.position.offset == offset && !frame.header.body_dropped);
        Ok(frame.map(|frame| frame.body_extent()))
    }

    /// Reads bytes of a body.
    pub fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    /// Returns the file offset of the record at `offset`.
    fn file_offset_of(&self, offset: u64) -> io::Result<Option<u64>> {
        if self.header.origin == SegmentOrigin::Appended {
            return Ok(Some(offset));
        }
        let bodies = match self.body_index.get() {
            Some(bodies) => bodies,
            None => {
                let mut bodies = Vec::new();
                let keep = |frame: Frame| {
                    if frame.body_length > 0 {
                        bodies.push((frame.position.offset, frame.file_offset));
                    }
                    Ok(())
                };
                self.scan_frames(0, false, keep, |_| {})?;
                self.body_index.get_or_init(|| bodies)
            }
        };
        let found = bodies.binary_search_by_key(&offset, |(offset, _)| *offset);
        Ok(found.ok().map(|index| bodies[index].1))
    }

    /// Reads the frame that starts at file offset `at`; `None` if no frame starts there and ends before
    /// `end`.
    fn read_frame(
        &self,
        reader: &mut (impl Read + Seek),
        file_offset: u64,
        end: u64,
        check_body: bool,
    ) -> io::Result<Option<Frame>> {
        let mut bytes = [0; FrameHeader::ENCODED_LEN];
        if file_offset + FrameHeader::ENCODED_LEN as u64 > end {
            return Ok(None);
        }
        reader.read_exact(&mut bytes)?;
        let Some((header, offset)) = FrameHeader::decode(&bytes, self.header.salt) else { return Ok(None) };
        if file_offset + header.stored_size() > end {
            return Ok(None);
        }
        let mut payload = vec![0; header.payload_length as usize];
        reader.read_exact(&mut payload)?;
        if header.with_checksum(&payload).payload_checksum != header.payload_checksum {
            return Ok(None);
        }
        let body_length = header.stored_body_length();
        if !check_body {
            reader.seek_relative(i64::from(body_length))?;
        } else if body_length > 0 && compute_body_checksum(reader, body_length)? != header.body_checksum {
            return Ok(None);
        }
        let position = Position { segment: self.header.number, offset };
        let (kind, version) = (header.kind, header.version);
        Ok(Some(Frame { position, kind, version, payload, body_length, header, file_offset }))
    }

    /// Finds the first file offset at or after `from` at which a whole good frame starts.
    fn find_next_frame(&self, from: u64, end: u64) -> io::Result<Option<u64>> {
        let mut window = vec![0; 1 << 20];
        let mut base = from;
        while base + FrameHeader::ENCODED_LEN as u64 <= end {
            let length = (end - base).min(window.len() as u64) as usize;
            self.file.read_exact_at(&mut window[..length], base)?;
            for hit in memchr::memmem::find_iter(&window[..length], FrameHeader::MAGIC) {
                let at = base + hit as u64;
                if self.read_frame(&mut self.reader_at(at, READ_BUFFER_BYTES), at, end, true)?.is_some() {
                    return Ok(Some(at));
                }
            }
            // A magic may span two windows.
            base += (length - (FrameHeader::MAGIC.len() - 1).min(length - 1)) as u64;
        }
        Ok(None)
    }

    fn is_zeroed(&self, from: u64, end: u64) -> io::Result<bool> {
        let mut window = vec![0; READ_BUFFER_BYTES];
        let mut at = from;
        while at < end {
            let length = (end - at).min(window.len() as u64) as usize;
            self.file.read_exact_at(&mut window[..length], at)?;
            if window[..length].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += length as u64;
        }
        Ok(true)
    }

    fn reader_at(&self, offset: u64, buffer: usize) -> io::BufReader<SegmentReader<'_>> {
        io::BufReader::with_capacity(buffer, SegmentReader { file: &self.file, offset })
    }

    pub(super) fn header(&self) -> SegmentHeader {
        self.header
    }
}

/// Sequential reader from a file offset. It does not use the file's own position, which other readers share.
struct SegmentReader<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for SegmentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Seek for SegmentReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        self.offset = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}

impl Frame {
    /// Returns the file offset of the frame's first byte.
    pub fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// Returns the file offset after the frame, and the lowest logical offset that a following record can
    /// have.
    pub fn end_offsets(&self) -> (u64, u64) {
        (self.file_offset + self.header.stored_size(), self.position.offset + 1)
    }

    /// Returns the location of the body.
    pub fn body_extent(&self) -> Extent {
        let start =
            self.file_offset + FrameHeader::ENCODED_LEN as u64 + u64::from(self.header.payload_length);
        Extent { start, length: self.body_length, checksum: self.header.body_checksum }
    }
}

/// Lists the numbers of the segments in a directory, ascending.
pub fn list_segments(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Returns the size of a segment with an unreadable header, for which the successor names the end `end`.
/// Returns `None` if its creation was interrupted: the header is on stable storage before anything else is
/// written.
pub fn unreadable_segment_bytes(directory: &Path, number: u32, end: Option<u64>) -> io::Result<Option<u64>> {
    let header = SegmentHeader::ENCODED_LEN as u64;
    let bytes = std::fs::metadata(segment_path(directory, number))?.len();
    let was_used = bytes > header || end.is_some_and(|end| end > header);
    Ok(was_used.then_some(bytes))
}

/// Removes the files of an interrupted rewrite.
pub fn remove_unfinished_files(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED_EXTENSION) {
            disk.remove_file(&path)?;
        }
    }
    Ok(())
}

/// Header of a segment.
#[derive(Clone, Copy, Debug)]
pub struct SegmentHeader {
    pub number: u32,
    pub salt: u32,
    pub previous_end: u64,
    pub created_at: Timestamp,
    pub origin: SegmentOrigin,
}

/// Origin of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentOrigin {
    /// Written by appending records.
    Appended,
    /// Rewritten from an appended segment that ended at `end`. The file has `length` bytes.
    Rewritten { at: Timestamp, end: u64, length: u64 },
}

impl SegmentHeader {
    pub const ENCODED_LEN: usize = 60;
    const MAGIC: &[u8; 8] = b"MTRAIL02";
    const CHECKSUMMED_LEN: usize = Self::ENCODED_LEN - 4;

    pub fn encode(self) -> [u8; Self::ENCODED_LEN] {
        let (at, end, length) = match self.origin {
            SegmentOrigin::Appended => (Timestamp::default(), 0, 0),
            SegmentOrigin::Rewritten { at, end, length } => (at, end, length),
        };
        let mut bytes = [0; Self::ENCODED_LEN];
        bytes[..8].copy_from_slice(Self::MAGIC);
        bytes[8..12].copy_from_slice(&self.number.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.salt.to_le_bytes());
        let numbers = [self.previous_end, self.created_at.as_millis(), at.as_millis(), end, length];
        for (place, number) in bytes[16..Self::CHECKSUMMED_LEN].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes[..Self::CHECKSUMMED_LEN]);
        bytes[Self::CHECKSUMMED_LEN..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; Self::ENCODED_LEN], number: u32) -> Option<Self> {
        let good = &bytes[..8] == Self::MAGIC
            && crc32fast::hash(&bytes[..Self::CHECKSUMMED_LEN]) == read_u32_le(bytes, Self::CHECKSUMMED_LEN)
            && read_u32_le(bytes, 8) == number;
        let time = |at| Timestamp::from_millis(read_u64_le(bytes, at));
        let origin = match read_u64_le(bytes, 48) {
            0 => SegmentOrigin::Appended,
            length => SegmentOrigin::Rewritten { at: time(32), end: read_u64_le(bytes, 40), length },
        };
        let (salt, previous_end) = (read_u32_le(bytes, 12), read_u64_le(bytes, 16));
        good.then(|| Self { number, salt, previous_end, created_at: time(24), origin })
    }
}

/// Returns the path of a segment.
pub fn segment_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}.seg"))
}

/// Returns the path of a segment while it is being rewritten.
pub fn unfinished_path(directory: &Path, number: u32) -> PathBuf {
    segment_path(directory, number).with_extension(UNFINISHED_EXTENSION)
}

pub fn compute_body_checksum(reader: &mut impl Read, length: u32) -> io::Result<u32> {
    let mut checksum = crc32fast::Hasher::new();
    let mut rest = length as usize;
    let mut buffer = [0; READ_BUFFER_BYTES];
    while rest > 0 {
        let part = &mut buffer[..rest.min(READ_BUFFER_BYTES)];
        reader.read_exact(part)?;
        checksum.update(part);
        rest -= part.len();
    }
    Ok(checksum.finalize())
}

const UNFINISHED_EXTENSION: &str = "new";
/// Read buffer size, in bytes.
const READ_BUFFER_BYTES: usize = 8192;
/// Read buffer size of a full scan, in bytes.
const SCAN_BUFFER_BYTES: usize = 256 << 10;
