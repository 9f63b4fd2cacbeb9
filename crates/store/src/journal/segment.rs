use crate::journal::Place;
use crate::journal::disk::Disk;
use crate::journal::frame::{Frame, FrameHeader, u32_at, u64_at};
use mailtrail_mail::Timestamp;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The reading end of one segment.
#[derive(Debug)]
pub struct Segment {
    file: File,
    header: SegmentHeader,
    /// Byte of the file up to where it is trusted.
    end: u64,
    /// Whether anybody said so, or it is just the file's end.
    is_sealed: bool,
    /// Offset and byte of each frame of a rewritten segment that still has a body (no message is empty: it begins with
    /// our own lines); worked out when first asked for.
    bodies: OnceLock<Vec<(u64, u64)>>,
}

/// Where the body of a record lies in its segment's file.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Its first byte.
    pub start: u64,
    /// How many bytes it has.
    pub length: u32,
    /// The CRC32 that they should have.
    pub checksum: u32,
}

/// What a scan met that is no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which segment.
    pub segment: u32,
    /// Byte of its file where the bad bytes start.
    pub at: u64,
    /// How many there are up to the next good frame or the segment's end.
    pub bytes: u64,
}

impl Segment {
    /// Opens segment `number`. `end` is what its successor says; without one, the file's length.
    pub fn open(directory: &Path, number: u32, end: Option<u64>) -> io::Result<Self> {
        let file = File::open(segment_path(directory, number))?;
        let mut bytes = [0; SegmentHeader::LENGTH];
        file.read_exact_at(&mut bytes, 0)?;
        let header = SegmentHeader::decode(&bytes, number).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("segment {number} has a bad header"))
        })?;
        let said = match header.origin {
            Origin::Written => end,
            Origin::Rewritten { length, .. } => Some(length),
        };
        let end = match said {
            Some(end) => end,
            None => file.metadata()?.len(),
        };
        Ok(Self { file, header, end, is_sealed: said.is_some(), bodies: OnceLock::new() })
    }

    /// Where the segment before this one ends.
    pub fn previous_end(&self) -> u64 {
        self.header.previous_end
    }

    /// When it was made.
    pub fn made(&self) -> Timestamp {
        self.header.made
    }

    /// When it was rewritten, if it was.
    pub fn rewritten(&self) -> Option<Timestamp> {
        match self.header.origin {
            Origin::Written => None,
            Origin::Rewritten { at, .. } => Some(at),
        }
    }

    /// Bytes of the file that are trusted.
    pub fn length(&self) -> u64 {
        self.end
    }

    /// Reads on from the record at `offset`: the frames to `each`, the gaps to `damaged`. Bodies are checked when
    /// `bodies` says so, else skipped. Behind a bad frame the scan goes on at the next good one: a whole record that
    /// nobody was told of does no harm, a lost one that somebody was told of would. Returns the offset behind the
    /// last good frame.
    pub fn scan(
        &self,
        offset: u64,
        bodies: bool,
        mut each: impl FnMut(Frame) -> io::Result<()>,
        mut damaged: impl FnMut(Damage),
    ) -> io::Result<u64> {
        let start = SegmentHeader::LENGTH as u64;
        let (mut at, mut done) = match self.header.origin {
            Origin::Written => (offset.max(start), offset.max(start)),
            // Offsets say nothing about bytes there.
            Origin::Rewritten { .. } => (start, offset.max(start)),
        };
        let mut reader = self.reader(at, SCAN);
        let available = self.end.min(self.file.metadata()?.len());
        let gap = |at, next| Damage { segment: self.header.number, at, bytes: next - at };
        while at < available {
            if let Some(frame) = self.read_frame(&mut reader, at, available, bodies)? {
                at += frame.header.stored_size();
                if frame.place.offset >= offset {
                    done = frame.place.offset + frame.header.size();
                    each(frame)?;
                }
                continue;
            }
            let next = self.next_frame(at + 1, available)?;
            // Space that was laid out ahead and not used.
            if next.is_none() && !self.is_sealed && self.is_blank(at, available)? {
                return Ok(done);
            }
            damaged(gap(at, next.unwrap_or(self.end)));
            let Some(next) = next else { return Ok(done) };
            at = next;
            reader = self.reader(at, SCAN);
        }
        if available < self.end {
            damaged(gap(at, self.end));
        }
        match self.header.origin {
            // Its last record may be longer than the one that was there.
            Origin::Rewritten { end, .. } => Ok(end.max(offset)),
            Origin::Written => Ok(done),
        }
    }

    /// Where the body of the record at `offset` lies; `None` where no good frame starts, or where the body is gone. The
    /// body is not checked.
    pub fn body(&self, offset: u64) -> io::Result<Option<Extent>> {
        let Some(at) = self.byte_of(offset)? else { return Ok(None) };
        // The file may have grown since it was opened.
        let length = self.file.metadata()?.len();
        let frame = self.read_frame(&mut self.reader(at, READ), at, length, false)?;
        let frame = frame.filter(|frame| frame.place.offset == offset && !frame.header.body_is_gone);
        Ok(frame.map(|frame| frame.body()))
    }

    /// Reads bytes of a body.
    pub fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    /// Where the record at `offset` starts in the file.
    fn byte_of(&self, offset: u64) -> io::Result<Option<u64>> {
        if self.header.origin == Origin::Written {
            return Ok(Some(offset));
        }
        let bodies = match self.bodies.get() {
            Some(bodies) => bodies,
            None => {
                let mut bodies = Vec::new();
                let keep = |frame: Frame| {
                    if frame.body_length > 0 {
                        bodies.push((frame.place.offset, frame.at));
                    }
                    Ok(())
                };
                self.scan(0, false, keep, |_| {})?;
                self.bodies.get_or_init(|| bodies)
            }
        };
        let found = bodies.binary_search_by_key(&offset, |(offset, _)| *offset);
        Ok(found.ok().map(|index| bodies[index].1))
    }

    /// The frame that starts at byte `at`, or `None` if none does that ends before `end`.
    fn read_frame(
        &self,
        reader: &mut (impl Read + Seek),
        at: u64,
        end: u64,
        check_body: bool,
    ) -> io::Result<Option<Frame>> {
        let mut bytes = [0; FrameHeader::LENGTH];
        if at + FrameHeader::LENGTH as u64 > end {
            return Ok(None);
        }
        reader.read_exact(&mut bytes)?;
        let Some((header, offset)) = FrameHeader::decode(&bytes, self.header.salt) else { return Ok(None) };
        if at + header.stored_size() > end {
            return Ok(None);
        }
        let mut head = vec![0; header.head_length as usize];
        reader.read_exact(&mut head)?;
        if header.checked(&head).head_checksum != header.head_checksum {
            return Ok(None);
        }
        let body_length = header.stored_body();
        if !check_body {
            reader.seek_relative(i64::from(body_length))?;
        } else if body_length > 0 && body_checksum(reader, body_length)? != header.body_checksum {
            return Ok(None);
        }
        let place = Place { segment: self.header.number, offset };
        let (kind, version) = (header.kind, header.version);
        Ok(Some(Frame { place, kind, version, head, body_length, header, at }))
    }

    /// The next byte from `from` on where a whole good frame starts.
    fn next_frame(&self, from: u64, end: u64) -> io::Result<Option<u64>> {
        let mut window = vec![0; 1 << 20];
        let mut base = from;
        while base + FrameHeader::LENGTH as u64 <= end {
            let length = (end - base).min(window.len() as u64) as usize;
            self.file.read_exact_at(&mut window[..length], base)?;
            for hit in memchr::memmem::find_iter(&window[..length], FrameHeader::MAGIC) {
                let at = base + hit as u64;
                if self.read_frame(&mut self.reader(at, READ), at, end, true)?.is_some() {
                    return Ok(Some(at));
                }
            }
            // A magic may lie across two windows.
            base += (length - (FrameHeader::MAGIC.len() - 1).min(length - 1)) as u64;
        }
        Ok(None)
    }

    fn is_blank(&self, from: u64, end: u64) -> io::Result<bool> {
        let mut window = vec![0; READ];
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

    fn reader(&self, at: u64, buffer: usize) -> io::BufReader<Reader<'_>> {
        io::BufReader::with_capacity(buffer, Reader { file: &self.file, at })
    }

    pub(super) fn header(&self) -> SegmentHeader {
        self.header
    }
}

/// Reads on from a byte. The file's own position is everybody's, so it is not used.
struct Reader<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Frame {
    /// Byte of the file where it starts.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Byte of the file behind it, and the least offset that a record behind it can have.
    pub fn end(&self) -> (u64, u64) {
        (self.at + self.header.stored_size(), self.place.offset + 1)
    }

    /// Where the body lies.
    pub fn body(&self) -> Extent {
        let start = self.at + FrameHeader::LENGTH as u64 + u64::from(self.header.head_length);
        Extent { start, length: self.body_length, checksum: self.header.body_checksum }
    }
}

/// The numbers of the segments in a directory, ascending.
pub fn segments(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Bytes of a segment without a readable header, whose successor says that it ends at `end`; `None` where its creation
/// was cut off: the header is on stable storage before anything else is written.
pub fn lost_with_header(directory: &Path, number: u32, end: Option<u64>) -> io::Result<Option<u64>> {
    let header = SegmentHeader::LENGTH as u64;
    let bytes = std::fs::metadata(segment_path(directory, number))?.len();
    let was_used = bytes > header || end.is_some_and(|end| end > header);
    Ok(was_used.then_some(bytes))
}

/// Removes what a rewriting that was cut off left behind.
pub fn remove_unfinished(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) {
            disk.remove(&path)?;
        }
    }
    Ok(())
}

/// What a segment starts with.
#[derive(Clone, Copy, Debug)]
pub struct SegmentHeader {
    pub number: u32,
    pub salt: u32,
    pub previous_end: u64,
    pub made: Timestamp,
    pub origin: Origin,
}

/// How a segment came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By the records that were appended to it.
    Written,
    /// From the one that was written, which ended at `end`. The file has `length` bytes.
    Rewritten { at: Timestamp, end: u64, length: u64 },
}

impl SegmentHeader {
    pub const LENGTH: usize = 60;
    const MAGIC: &[u8; 8] = b"MTRAIL02";
    const CHECKED: usize = Self::LENGTH - 4;

    pub fn encode(self) -> [u8; Self::LENGTH] {
        let (at, end, length) = match self.origin {
            Origin::Written => (Timestamp::default(), 0, 0),
            Origin::Rewritten { at, end, length } => (at, end, length),
        };
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(Self::MAGIC);
        bytes[8..12].copy_from_slice(&self.number.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.salt.to_le_bytes());
        let numbers = [self.previous_end, self.made.millis(), at.millis(), end, length];
        for (place, number) in bytes[16..Self::CHECKED].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes[..Self::CHECKED]);
        bytes[Self::CHECKED..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; Self::LENGTH], number: u32) -> Option<Self> {
        let good = &bytes[..8] == Self::MAGIC
            && crc32fast::hash(&bytes[..Self::CHECKED]) == u32_at(bytes, Self::CHECKED)
            && u32_at(bytes, 8) == number;
        let time = |at| Timestamp::from_millis(u64_at(bytes, at));
        let origin = match u64_at(bytes, 48) {
            0 => Origin::Written,
            length => Origin::Rewritten { at: time(32), end: u64_at(bytes, 40), length },
        };
        let (salt, previous_end) = (u32_at(bytes, 12), u64_at(bytes, 16));
        good.then(|| Self { number, salt, previous_end, made: time(24), origin })
    }
}

/// Where a segment is.
pub fn segment_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}.seg"))
}

/// The name of a segment while it is rewritten.
pub fn unfinished_path(directory: &Path, number: u32) -> PathBuf {
    segment_path(directory, number).with_extension(UNFINISHED)
}

pub fn body_checksum(reader: &mut impl Read, length: u32) -> io::Result<u32> {
    let mut checksum = crc32fast::Hasher::new();
    let mut rest = length as usize;
    let mut buffer = [0; READ];
    while rest > 0 {
        let part = &mut buffer[..rest.min(READ)];
        reader.read_exact(part)?;
        checksum.update(part);
        rest -= part.len();
    }
    Ok(checksum.finalize())
}

const UNFINISHED: &str = "new";
/// Bytes read at a time.
const READ: usize = 8192;
/// Bytes read at a time by who reads everything.
const SCAN: usize = 256 << 10;
