use crate::golden;
use crate::journal::compact::{CompactionError, Retain, rewrite_segment};
use crate::journal::disk::LocalDisk;
use crate::journal::frame::{EncodedRecord, Frame, FrameHeader};
use crate::journal::segment::{Segment, SegmentHeader, SegmentOrigin, list_segments, segment_path};
use crate::journal::writer::Writer;
use crate::position::Position;
use bytes::Bytes;
use mailtrail_mail::Timestamp;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

const FIXED_NOW: Timestamp = Timestamp::from_secs(1_789_387_200);

fn open_writer(directory: &TempDir, last: u32, end: u64) -> Writer {
    Writer::start_after(Arc::<LocalDisk>::default(), directory.path(), last, end, FIXED_NOW).unwrap()
}

fn write_and_sync(writer: &mut Writer, drafts: &[EncodedRecord]) -> Vec<Position> {
    let positions = writer.append(drafts, FIXED_NOW).unwrap();
    writer.fsync().unwrap();
    positions
}

fn encoded_record(number: u8, body: &'static [u8]) -> EncodedRecord {
    EncodedRecord::new(number, 1, vec![number; 3], Bytes::from_static(body).into())
}

/// Returns kinds, gaps and the end of a segment's content.
fn scan_segment(directory: &Path, number: u32, end: Option<u64>) -> (Vec<u8>, Vec<u64>, u64) {
    let (mut kinds, mut gaps) = (Vec::new(), Vec::new());
    let segment = Segment::open(directory, number, end).unwrap();
    let each = |frame: Frame| {
        kinds.push(frame.kind);
        Ok(())
    };
    let end = segment.scan_frames(0, true, each, |damage| gaps.push(damage.bytes)).unwrap();
    (kinds, gaps, end)
}

fn read_body(segment: &Segment, offset: u64) -> Option<Vec<u8>> {
    let extent = segment.body_extent(offset).unwrap()?;
    let mut bytes = vec![0; extent.length as usize];
    segment.read_exact_at(&mut bytes, extent.start).unwrap();
    assert_eq!(crc32fast::hash(&bytes), extent.checksum);
    Some(bytes)
}

#[test]
fn reads_back_appended_records() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = open_writer(&directory, 0, 0);
    let positions = write_and_sync(
        &mut writer,
        &[encoded_record(1, b"one"), encoded_record(2, b""), encoded_record(3, b"three")],
    );
    let (kinds, gaps, end) = scan_segment(directory.path(), 1, None);
    // Preallocated space is no damage.
    assert_eq!((kinds, gaps, end), (vec![1, 2, 3], vec![], writer.position().offset));
    let segment = Segment::open(directory.path(), 1, None).unwrap();
    assert_eq!(read_body(&segment, positions[2].offset).unwrap(), b"three");
    assert!(read_body(&segment, positions[2].offset + 1).is_none());
    writer.rotate_segment(FIXED_NOW).unwrap();
    assert_eq!(std::fs::metadata(segment_path(directory.path(), 1)).unwrap().len(), end);
}

#[test]
fn torn_tail_ends_the_last_segment() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = open_writer(&directory, 0, 0);
    let positions = write_and_sync(&mut first, &[encoded_record(1, b"one"), encoded_record(2, b"two")]);
    let (path, one_end, end) =
        (segment_path(directory.path(), 1), positions[1].offset, first.position().offset);
    let whole = std::fs::read(&path).unwrap();
    for cut in one_end + 1..end {
        std::fs::write(&path, &whole[..cut as usize]).unwrap();
        let (kinds, gaps, found_end) = scan_segment(directory.path(), 1, None);
        assert_eq!((kinds, gaps.len(), found_end), (vec![1], 1, one_end), "cut at {cut}");
        // With a known end, the missing bytes are reported.
        assert_eq!(scan_segment(directory.path(), 1, Some(end)).1, [end - one_end], "cut at {cut}");
    }
    let mut next = open_writer(&directory, 1, one_end);
    write_and_sync(&mut next, &[encoded_record(3, b"three")]);
    assert_eq!(Segment::open(directory.path(), 2, None).unwrap().previous_end(), one_end);
}

#[test]
fn flipped_bit_loses_one_record() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = open_writer(&directory, 0, 0);
    let positions = write_and_sync(
        &mut writer,
        &[encoded_record(1, b"one"), encoded_record(2, b"two"), encoded_record(3, b"three")],
    );
    let (path, end) = (segment_path(directory.path(), 1), writer.position().offset);
    let whole = std::fs::read(&path).unwrap();
    for byte in positions[1].offset..positions[2].offset {
        let mut flipped = whole.clone();
        flipped[byte as usize] ^= 4;
        std::fs::write(&path, &flipped).unwrap();
        let expected = (vec![1, 3], vec![positions[2].offset - positions[1].offset], end);
        assert_eq!(scan_segment(directory.path(), 1, Some(end)), expected, "byte {byte}");
    }
}

#[test]
fn ignores_frames_inside_a_body() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = open_writer(&directory, 0, 0);
    let at = SegmentHeader::ENCODED_LEN + FrameHeader::ENCODED_LEN;
    let forged = encoded_record(9, b"forged");
    let mut body = forged.header.encode(0, at as u64).to_vec();
    body.extend_from_slice(&forged.payload);
    body.extend_from_slice(forged.body.head());
    write_and_sync(
        &mut writer,
        &[EncodedRecord::new(1, 1, vec![], Bytes::from(body).into()), encoded_record(2, b"two")],
    );
    let path = segment_path(directory.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[SegmentHeader::ENCODED_LEN + 4] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(scan_segment(directory.path(), 1, None).0, [2]);
}

#[test]
fn rewrite_keeps_positions() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = open_writer(&directory, 0, 0);
    let drafts = [
        encoded_record(1, b"one"),
        encoded_record(2, b"two"),
        encoded_record(3, b"three"),
        encoded_record(4, b""),
    ];
    let positions = write_and_sync(&mut writer, &drafts);
    let end = writer.position().offset;
    writer.rotate_segment(FIXED_NOW).unwrap();
    let wishes = [Retain::DropBody, Retain::Drop, Retain::All, Retain::Drop];
    for _ in 0..2 {
        let old = Segment::open(directory.path(), 1, Some(end)).unwrap();
        let keep = |frame: &Frame| Ok(wishes[usize::from(frame.kind) - 1].clone());
        let done =
            rewrite_segment(&LocalDisk::default(), directory.path(), &old, false, FIXED_NOW, keep).unwrap();
        assert_eq!(done.bytes_after, std::fs::metadata(segment_path(directory.path(), 1)).unwrap().len());
        let new = Segment::open(directory.path(), 1, None).unwrap();
        assert_eq!(
            (new.rewritten_at(), new.previous_end(), new.trusted_length()),
            (Some(FIXED_NOW), 0, done.bytes_after)
        );
        let mut frames = Vec::new();
        let each = |frame: Frame| {
            frames.push((frame.kind, frame.position, frame.body_length));
            Ok(())
        };
        assert_eq!(new.scan_frames(0, true, each, |damage| panic!("{damage:?}")).unwrap(), end);
        assert_eq!(frames, [(1, positions[0], 0), (3, positions[2], 5)]);
        assert!(
            read_body(&new, positions[0].offset).is_none() && read_body(&new, positions[1].offset).is_none()
        );
        assert_eq!(read_body(&new, positions[2].offset).unwrap(), b"three");
        // A scan from a position inside begins there.
        assert_eq!(scan_kinds_from(&new, positions[1].offset), [3]);
        // A reader that has the old file open still reads it whole.
        assert_eq!(read_body(&old, positions[2].offset).unwrap(), b"three");
    }
    assert_eq!(list_segments(directory.path()).unwrap(), [1, 2]);
}

fn scan_kinds_from(segment: &Segment, offset: u64) -> Vec<u8> {
    let mut kinds = Vec::new();
    let each = |frame: Frame| {
        kinds.push(frame.kind);
        Ok(())
    };
    segment.scan_frames(offset, true, each, |_| {}).unwrap();
    kinds
}

#[test]
fn removes_an_empty_segment_when_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = open_writer(&directory, 0, 0);
    write_and_sync(&mut writer, &[encoded_record(1, b"one")]);
    let end = writer.position().offset;
    writer.rotate_segment(FIXED_NOW).unwrap();
    for (may_go, left) in [(false, &[1, 2][..]), (true, &[2])] {
        let old = Segment::open(directory.path(), 1, Some(end)).unwrap();
        rewrite_segment(&LocalDisk::default(), directory.path(), &old, may_go, FIXED_NOW, |_| {
            Ok(Retain::Drop)
        })
        .unwrap();
        assert_eq!(list_segments(directory.path()).unwrap(), left);
    }
}

#[test]
fn refuses_to_rewrite_a_corrupt_segment() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = open_writer(&directory, 0, 0);
    write_and_sync(&mut writer, &[encoded_record(1, b"one"), encoded_record(2, b"two")]);
    let end = writer.position().offset;
    writer.rotate_segment(FIXED_NOW).unwrap();
    let path = segment_path(directory.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    for byte in [SegmentHeader::ENCODED_LEN + 4, end as usize - 1] {
        let mut flipped = whole.clone();
        flipped[byte] ^= 4;
        std::fs::write(&path, &flipped).unwrap();
        let old = Segment::open(directory.path(), 1, Some(end)).unwrap();
        let done = rewrite_segment(&LocalDisk::default(), directory.path(), &old, true, FIXED_NOW, |_| {
            Ok(Retain::All)
        });
        assert!(matches!(done, Err(CompactionError::Corrupt(1))));
        assert_eq!(std::fs::read(&path).unwrap(), flipped);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}

/// The segment that `tests/golden/journal.txt` has; the test program of that name reads it.
#[test]
fn headers_are_written_as_ever() {
    let lines = golden::journal();
    let header = SegmentHeader {
        number: 1,
        salt: 0x5eed_1234,
        previous_end: 0,
        created_at: Timestamp::from_secs(1_600_084_800),
        origin: SegmentOrigin::Appended,
    };
    assert_eq!(golden::hex(&header.encode()), lines[0][1]);
    let mut offset = SegmentHeader::ENCODED_LEN as u64;
    for line in &lines[1..] {
        let [_, kind, version, frame, head, body] = &line[..] else { panic!("{line:?}") };
        let body = Bytes::from(golden::bytes(body));
        let draft = EncodedRecord::new(
            kind.parse().unwrap(),
            version.parse().unwrap(),
            golden::bytes(head),
            body.into(),
        );
        assert_eq!(golden::hex(&draft.header.encode(header.salt, offset)), *frame, "{line:?}");
        offset += draft.size();
    }
    let first = EncodedRecord::new(1, 5, vec![7; 9], Bytes::from_static(b"body").into()).header;
    let rewritten = SegmentHeader {
        number: 2,
        previous_end: offset,
        origin: SegmentOrigin::Rewritten { at: Timestamp::from_millis(77), end: 88, length: 99 },
        ..header
    };
    let written = format!(
        "segment, rewritten: {}\nframe without its body: {}\nframe with another record: {}\n",
        golden::hex(&rewritten.encode()),
        golden::hex(&first.without_body(&[7; 9]).encode(header.salt, 60)),
        golden::hex(&first.with_payload(6, &[8; 20]).encode(header.salt, 60)),
    );
    golden::check("journal-rewritten.txt", &written);
}
