//! The journal on disk: append-only segments, the truth of the store.
//!
//! A segment starts with a header (magic, its number, a random salt, **where the segment before it ends**, when it
//! was made). Frames follow: magic, kind, version, lengths and checksums of head and body, head, body. A segment is
//! trusted up to the end that its successor names, so bytes of a failed or torn write are never read again; the last
//! segment is trusted up to its last good frame. The salt is mixed into the checksums: a message that
//! happens to (or means to) contain frames is never taken for them.
//!
//! A write error or a failed sync is final for a segment: the next batch goes to a new one.

use crate::clock::Timestamp;
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A place in the journal: segment and byte.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Place {
    /// Number of the segment, from 1.
    pub segment: u32,
    /// Byte in the segment.
    pub offset: u64,
}

/// A record on its way into the journal.
#[derive(Debug)]
pub struct Draft {
    header: [u8; FRAME_HEADER],
    head: Vec<u8>,
    body: Bytes,
}

impl Draft {
    /// Frames a record; the checksums are worked out here, on the caller's thread.
    pub fn new(kind: u8, version: u8, head: Vec<u8>, body: Bytes) -> Self {
        let mut header = [0; FRAME_HEADER];
        header[..4].copy_from_slice(FRAME_MAGIC);
        header[4] = kind;
        header[5] = version;
        header[8..12].copy_from_slice(&(head.len() as u32).to_le_bytes());
        header[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[16..20].copy_from_slice(&crc32fast::hash(&body).to_le_bytes());
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&header[..20]);
        checksum.update(&head);
        header[20..].copy_from_slice(&checksum.finalize().to_le_bytes());
        Self { header, head, body }
    }

    /// Bytes in the journal.
    pub fn size(&self) -> usize {
        FRAME_HEADER + self.head.len() + self.body.len()
    }

    fn salted(&mut self, salt: u32) {
        for at in [16, 20] {
            let checksum = u32_at(&self.header, at) ^ salt;
            self.header[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
        }
    }
}

/// The writing end: one per journal.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    number: u32,
    end: u64,
    segment: Option<(File, u32)>,
}

impl Writer {
    /// Starts a new segment behind segment `last`, which is trusted up to `end`.
    pub fn start(directory: &Path, last: u32, end: u64, now: Timestamp) -> io::Result<Self> {
        let mut writer = Self { directory: directory.to_owned(), number: last, end, segment: None };
        writer.rotate(now)?;
        Ok(writer)
    }

    /// Where the segments are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the next record goes.
    pub fn place(&self) -> Place {
        Place { segment: self.number, offset: self.end }
    }

    /// Appends the drafts and syncs them: when it returns their places they are on stable storage, when it fails
    /// none of them will ever be read.
    pub fn append(&mut self, drafts: &mut [Draft], now: Timestamp) -> io::Result<Vec<Place>> {
        if self.segment.is_none() || self.end >= SEGMENT_SIZE {
            self.rotate(now)?;
        }
        let Some((file, salt)) = &mut self.segment else { return Err(io::Error::other("no segment")) };
        let (salt, start) = (*salt, self.end);
        drafts.iter_mut().for_each(|draft| draft.salted(salt));
        let written = write_all(file, drafts).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Best effort only: the next segment's header names `start` as this one's end.
            let _ = file.set_len(start);
            self.segment = None;
            drafts.iter_mut().for_each(|draft| draft.salted(salt));
            return Err(error);
        }
        let mut offset = start;
        let places = drafts.iter().map(|draft| {
            let place = Place { segment: self.number, offset };
            offset += draft.size() as u64;
            place
        });
        let places = places.collect();
        self.end = offset;
        Ok(places)
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        self.segment = None;
        let number = self.number.checked_add(1).ok_or_else(|| io::Error::other("out of segment numbers"))?;
        let path = segment_path(&self.directory, number);
        let salt = fastrand::u32(..);
        let header = SegmentHeader { number, salt, previous_end: self.end, made: now };
        // A left-over of a creation that failed half way was never written to by anybody.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(&header.encode())?;
        file.sync_data()?;
        File::open(&self.directory)?.sync_all()?;
        (self.number, self.end, self.segment) = (number, SEGMENT_HEADER as u64, Some((file, salt)));
        Ok(())
    }
}

fn write_all(file: &mut File, drafts: &[Draft]) -> io::Result<()> {
    let mut parts = Vec::with_capacity(drafts.len() * 3);
    for draft in drafts {
        parts.extend([IoSlice::new(&draft.header), IoSlice::new(&draft.head), IoSlice::new(&draft.body)]);
    }
    let mut rest = &mut parts[..];
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

/// A frame that was found in a segment.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Where it starts.
    pub place: Place,
    /// The record's kind.
    pub kind: u8,
    /// The record's version.
    pub version: u8,
    /// The record without its body.
    pub head: Vec<u8>,
    /// Bytes of the body.
    pub body_length: u32,
}

/// What a scan met that is no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the bad bytes start.
    pub place: Place,
    /// How many there are up to the next good frame or the segment's end.
    pub bytes: u64,
}

/// The reading end of one segment.
#[derive(Debug)]
pub struct Segment {
    file: File,
    header: SegmentHeader,
    /// Up to where it is trusted.
    end: u64,
}

impl Segment {
    /// Opens segment `number`. `end` is what its successor says; without one, the file's length.
    pub fn open(directory: &Path, number: u32, end: Option<u64>) -> io::Result<Self> {
        let file = File::open(segment_path(directory, number))?;
        let mut bytes = [0; SEGMENT_HEADER];
        file.read_exact_at(&mut bytes, 0)?;
        let header = SegmentHeader::decode(&bytes, number).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("segment {number} has a bad header"))
        })?;
        let length = file.metadata()?.len();
        Ok(Self { file, header, end: end.map_or(length, |end| end.min(length)) })
    }

    /// Where the segment before this one ends.
    pub fn previous_end(&self) -> u64 {
        self.header.previous_end
    }

    /// When it was made.
    pub fn made(&self) -> Timestamp {
        self.header.made
    }

    /// Reads on from `offset`: the frames to `each`, the gaps to `damaged`. Bodies are checked when `bodies` says
    /// so, else skipped. Behind a bad frame the scan goes on at the next good one: a whole record that nobody was
    /// told of does no harm, a lost one that somebody was told of would. Returns the end of the last good frame.
    pub fn scan(
        &self,
        offset: u64,
        bodies: bool,
        mut each: impl FnMut(Frame) -> io::Result<()>,
        mut damaged: impl FnMut(Damage),
    ) -> io::Result<u64> {
        let mut reader = io::BufReader::with_capacity(256 << 10, &self.file);
        let mut at = offset.max(SEGMENT_HEADER as u64);
        reader.seek(SeekFrom::Start(at))?;
        while at < self.end {
            match self.read_frame(&mut reader, at, bodies)? {
                Some(frame) => {
                    at += FRAME_HEADER as u64 + frame.head.len() as u64 + u64::from(frame.body_length);
                    each(frame)?;
                }
                None => {
                    let next = self.next_frame(at + 1)?;
                    let place = Place { segment: self.header.number, offset: at };
                    damaged(Damage { place, bytes: next.unwrap_or(self.end) - at });
                    let Some(next) = next else { return Ok(at) };
                    at = next;
                    reader.seek(SeekFrom::Start(at))?;
                }
            }
        }
        Ok(at)
    }

    /// Reads one whole frame with its body, both checked; `None` where none starts.
    pub fn read(&self, offset: u64) -> io::Result<Option<(Frame, Bytes)>> {
        let mut header = [0; FRAME_HEADER];
        let (start, end) = (offset + FRAME_HEADER as u64, self.file.metadata()?.len());
        if start > end {
            return Ok(None);
        }
        self.file.read_exact_at(&mut header, offset)?;
        let (head_length, body_length) = (u32_at(&header, 8), u32_at(&header, 12));
        let length = u64::from(head_length) + u64::from(body_length);
        if &header[..4] != FRAME_MAGIC || start + length > end {
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, start)?;
        let mut bytes = Bytes::from(bytes);
        let head = bytes.split_to(head_length as usize);
        let good = self.head_checksum(header, &head) == u32_at(&header, 20)
            && crc32fast::hash(&bytes) == u32_at(&header, 16) ^ self.header.salt;
        let place = Place { segment: self.header.number, offset };
        let frame = Frame { place, kind: header[4], version: header[5], head: head.into(), body_length };
        Ok(good.then_some((frame, bytes)))
    }

    /// The frame that starts at `at`, or `None` if none does.
    fn read_frame(
        &self,
        reader: &mut (impl Read + Seek),
        at: u64,
        check_body: bool,
    ) -> io::Result<Option<Frame>> {
        let mut header = [0; FRAME_HEADER];
        if at + FRAME_HEADER as u64 > self.end {
            return Ok(None);
        }
        reader.read_exact(&mut header)?;
        let (head_length, body_length) = (u32_at(&header, 8), u32_at(&header, 12));
        let frame_end = at + FRAME_HEADER as u64 + u64::from(head_length) + u64::from(body_length);
        if &header[..4] != FRAME_MAGIC || frame_end > self.end {
            return Ok(None);
        }
        let mut head = vec![0; head_length as usize];
        reader.read_exact(&mut head)?;
        if self.head_checksum(header, &head) != u32_at(&header, 20) {
            return Ok(None);
        }
        if !check_body {
            reader.seek_relative(i64::from(body_length))?;
        } else if body_checksum(reader, body_length)? != u32_at(&header, 16) ^ self.header.salt {
            return Ok(None);
        }
        let place = Place { segment: self.header.number, offset: at };
        Ok(Some(Frame { place, kind: header[4], version: header[5], head, body_length }))
    }

    fn head_checksum(&self, mut header: [u8; FRAME_HEADER], head: &[u8]) -> u32 {
        let body_checksum = u32_at(&header, 16) ^ self.header.salt;
        header[16..20].copy_from_slice(&body_checksum.to_le_bytes());
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&header[..20]);
        checksum.update(head);
        checksum.finalize() ^ self.header.salt
    }

    /// The next place from `from` on where a whole good frame starts.
    fn next_frame(&self, from: u64) -> io::Result<Option<u64>> {
        let mut window = vec![0; 1 << 20];
        let mut base = from;
        while base + FRAME_HEADER as u64 <= self.end {
            let length = (self.end - base).min(window.len() as u64) as usize;
            self.file.read_exact_at(&mut window[..length], base)?;
            for hit in memchr::memmem::find_iter(&window[..length], FRAME_MAGIC) {
                let at = base + hit as u64;
                let mut reader = io::BufReader::new(&self.file);
                reader.seek(SeekFrom::Start(at))?;
                if self.read_frame(&mut reader, at, true)?.is_some() {
                    return Ok(Some(at));
                }
            }
            // A magic may lie across two windows.
            base += (length - (FRAME_MAGIC.len() - 1).min(length - 1)) as u64;
        }
        Ok(None)
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

#[derive(Clone, Copy, Debug)]
struct SegmentHeader {
    number: u32,
    salt: u32,
    previous_end: u64,
    made: Timestamp,
}

impl SegmentHeader {
    fn encode(self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        bytes[..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&self.number.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.salt.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.made.millis().to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..32]);
        bytes[32..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SEGMENT_HEADER], number: u32) -> Option<Self> {
        let good = &bytes[..8] == SEGMENT_MAGIC
            && crc32fast::hash(&bytes[..32]) == u32_at(bytes, 32)
            && u32_at(bytes, 8) == number;
        let long = |at: usize| u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32;
        good.then(|| Self {
            number,
            salt: u32_at(bytes, 12),
            previous_end: long(16),
            made: Timestamp::from_millis(long(24)),
        })
    }
}

fn segment_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}.seg"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn body_checksum(reader: &mut impl Read, length: u32) -> io::Result<u32> {
    let mut checksum = crc32fast::Hasher::new();
    let mut rest = length as usize;
    let mut buffer = [0; 8192];
    while rest > 0 {
        let part = &mut buffer[..rest.min(8192)];
        reader.read_exact(part)?;
        checksum.update(part);
        rest -= part.len();
    }
    Ok(checksum.finalize())
}

const SEGMENT_MAGIC: &[u8; 8] = b"MTRAIL01";
const SEGMENT_HEADER: usize = 36;
/// Bytes after which a new segment starts.
const SEGMENT_SIZE: u64 = 64 << 20;
const FRAME_MAGIC: &[u8; 4] = b"\xf5mt\x01";
const FRAME_HEADER: usize = 24;
/// IOV_MAX of Linux.
const MAX_PARTS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(number: u8, body: &'static [u8]) -> Draft {
        Draft::new(number, 1, vec![number; 3], Bytes::from_static(body))
    }

    fn found(directory: &Path, number: u32) -> (Vec<u8>, Vec<u64>, u64) {
        let (mut kinds, mut gaps) = (Vec::new(), Vec::new());
        let segment = Segment::open(directory, number, None).unwrap();
        let end = segment
            .scan(
                0,
                true,
                |frame| {
                    kinds.push(frame.kind);
                    Ok(())
                },
                |damage| gaps.push(damage.bytes),
            )
            .unwrap();
        (kinds, gaps, end)
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::start(directory.path(), 0, 0, Timestamp::default()).unwrap();
        let places = writer
            .append(&mut [draft(1, b"one"), draft(2, b""), draft(3, b"three")], Timestamp::default())
            .unwrap();
        assert_eq!(found(directory.path(), 1).0, [1, 2, 3]);
        let segment = Segment::open(directory.path(), 1, None).unwrap();
        let (frame, body) = segment.read(places[2].offset).unwrap().unwrap();
        assert_eq!((frame.kind, &frame.head[..], &body[..]), (3, &[3, 3, 3][..], &b"three"[..]));
        assert_eq!(found(directory.path(), 1).2, writer.place().offset);
    }

    #[test]
    fn a_torn_tail_ends_the_last_segment_and_is_never_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::start(directory.path(), 0, 0, Timestamp::default()).unwrap();
        writer.append(&mut [draft(1, b"one"), draft(2, b"two")], Timestamp::default()).unwrap();
        let path = segment_path(directory.path(), 1);
        let whole = std::fs::read(&path).unwrap();
        let (_, _, one_end) = {
            let segment = Segment::open(directory.path(), 1, None).unwrap();
            let mut ends = Vec::new();
            segment
                .scan(
                    0,
                    true,
                    |frame| {
                        ends.push(frame.place.offset);
                        Ok(())
                    },
                    |_| {},
                )
                .unwrap();
            ((), (), ends[1])
        };
        for cut in one_end as usize + 1..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (kinds, gaps, end) = found(directory.path(), 1);
            assert_eq!((kinds, gaps.len(), end), (vec![1], 1, one_end), "cut at {cut}");
        }
        let mut writer = Writer::start(directory.path(), 1, one_end, Timestamp::default()).unwrap();
        writer.append(&mut [draft(3, b"three")], Timestamp::default()).unwrap();
        let next = Segment::open(directory.path(), 2, None).unwrap();
        assert_eq!(next.previous_end(), one_end);
    }

    #[test]
    fn a_flipped_bit_costs_one_record_of_an_older_segment() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::start(directory.path(), 0, 0, Timestamp::default()).unwrap();
        writer
            .append(&mut [draft(1, b"one"), draft(2, b"two"), draft(3, b"three")], Timestamp::default())
            .unwrap();
        let path = segment_path(directory.path(), 1);
        let whole = std::fs::read(&path).unwrap();
        let second = SEGMENT_HEADER + FRAME_HEADER + 6;
        for byte in second..second + FRAME_HEADER + 6 {
            let mut flipped = whole.clone();
            flipped[byte] ^= 4;
            std::fs::write(&path, &flipped).unwrap();
            let (kinds, gaps, _) = found(directory.path(), 1);
            // The two reserved bytes are covered by the checksum like the rest.
            assert_eq!((kinds, gaps), (vec![1, 3], vec![(FRAME_HEADER + 6) as u64]), "byte {byte}");
        }
    }

    #[test]
    fn frames_inside_a_message_are_not_frames() {
        let directory = tempfile::tempdir().unwrap();
        let forged = draft(9, b"forged");
        let mut body = forged.header.to_vec();
        body.extend_from_slice(&forged.head);
        body.extend_from_slice(&forged.body);
        let mut writer = Writer::start(directory.path(), 0, 0, Timestamp::default()).unwrap();
        let mut drafts = [Draft::new(1, 1, vec![], body.into()), draft(2, b"two")];
        writer.append(&mut drafts, Timestamp::default()).unwrap();
        let path = segment_path(directory.path(), 1);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[SEGMENT_HEADER + 4] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(found(directory.path(), 1).0, [2]);
    }
}
