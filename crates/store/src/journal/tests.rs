use crate::journal::Place;
use crate::journal::compact::{Keep, RewriteError, rewrite};
use crate::journal::disk::LocalDisk;
use crate::journal::frame::{Draft, Frame, FrameHeader};
use crate::journal::segment::{Segment, SegmentHeader, segment_path, segments};
use crate::journal::writer::Writer;
use bytes::Bytes;
use mailtrail_mail::Timestamp;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_seconds(1_789_387_200);

fn writer(directory: &TempDir, last: u32, end: u64) -> Writer {
    Writer::start(Arc::<LocalDisk>::default(), directory.path(), last, end, NOW).unwrap()
}

fn append(writer: &mut Writer, drafts: &[Draft]) -> Vec<Place> {
    let places = writer.write(drafts, NOW).unwrap();
    writer.sync().unwrap();
    places
}

fn draft(number: u8, body: &'static [u8]) -> Draft {
    Draft::new(number, 1, vec![number; 3], Bytes::from_static(body).into())
}

/// Kinds, gaps and the end of what is in a segment.
fn found(directory: &Path, number: u32, end: Option<u64>) -> (Vec<u8>, Vec<u64>, u64) {
    let (mut kinds, mut gaps) = (Vec::new(), Vec::new());
    let segment = Segment::open(directory, number, end).unwrap();
    let each = |frame: Frame| {
        kinds.push(frame.kind);
        Ok(())
    };
    let end = segment.scan(0, true, each, |damage| gaps.push(damage.bytes)).unwrap();
    (kinds, gaps, end)
}

fn body(segment: &Segment, offset: u64) -> Option<Vec<u8>> {
    let extent = segment.body(offset).unwrap()?;
    let mut bytes = vec![0; extent.length as usize];
    segment.read_exact_at(&mut bytes, extent.start).unwrap();
    assert_eq!(crc32fast::hash(&bytes), extent.checksum);
    Some(bytes)
}

#[test]
fn what_was_appended_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(&directory, 0, 0);
    let places = append(&mut writer, &[draft(1, b"one"), draft(2, b""), draft(3, b"three")]);
    let (kinds, gaps, end) = found(directory.path(), 1, None);
    // The space that is laid out ahead is no damage.
    assert_eq!((kinds, gaps, end), (vec![1, 2, 3], vec![], writer.place().offset));
    let segment = Segment::open(directory.path(), 1, None).unwrap();
    assert_eq!(body(&segment, places[2].offset).unwrap(), b"three");
    assert!(body(&segment, places[2].offset + 1).is_none());
    writer.rotate(NOW).unwrap();
    assert_eq!(std::fs::metadata(segment_path(directory.path(), 1)).unwrap().len(), end);
}

#[test]
fn a_torn_tail_ends_the_last_segment_and_is_never_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = writer(&directory, 0, 0);
    let places = append(&mut first, &[draft(1, b"one"), draft(2, b"two")]);
    let (path, one_end, end) = (segment_path(directory.path(), 1), places[1].offset, first.place().offset);
    let whole = std::fs::read(&path).unwrap();
    for cut in one_end + 1..end {
        std::fs::write(&path, &whole[..cut as usize]).unwrap();
        let (kinds, gaps, found_end) = found(directory.path(), 1, None);
        assert_eq!((kinds, gaps.len(), found_end), (vec![1], 1, one_end), "cut at {cut}");
        // Somebody who knows its end misses the rest.
        assert_eq!(found(directory.path(), 1, Some(end)).1, [end - one_end], "cut at {cut}");
    }
    let mut next = writer(&directory, 1, one_end);
    append(&mut next, &[draft(3, b"three")]);
    assert_eq!(Segment::open(directory.path(), 2, None).unwrap().previous_end(), one_end);
}

#[test]
fn a_flipped_bit_costs_one_record() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(&directory, 0, 0);
    let places = append(&mut writer, &[draft(1, b"one"), draft(2, b"two"), draft(3, b"three")]);
    let (path, end) = (segment_path(directory.path(), 1), writer.place().offset);
    let whole = std::fs::read(&path).unwrap();
    for byte in places[1].offset..places[2].offset {
        let mut flipped = whole.clone();
        flipped[byte as usize] ^= 4;
        std::fs::write(&path, &flipped).unwrap();
        let expected = (vec![1, 3], vec![places[2].offset - places[1].offset], end);
        assert_eq!(found(directory.path(), 1, Some(end)), expected, "byte {byte}");
    }
}

#[test]
fn frames_inside_a_message_are_not_frames() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(&directory, 0, 0);
    let at = SegmentHeader::LENGTH + FrameHeader::LENGTH;
    let forged = draft(9, b"forged");
    let mut body = forged.header.encode(0, at as u64).to_vec();
    body.extend_from_slice(&forged.head);
    body.extend_from_slice(forged.body.first());
    append(&mut writer, &[Draft::new(1, 1, vec![], Bytes::from(body).into()), draft(2, b"two")]);
    let path = segment_path(directory.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[SegmentHeader::LENGTH + 4] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(found(directory.path(), 1, None).0, [2]);
}

#[test]
fn a_rewritten_segment_keeps_the_places() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(&directory, 0, 0);
    let drafts = [draft(1, b"one"), draft(2, b"two"), draft(3, b"three"), draft(4, b"")];
    let places = append(&mut writer, &drafts);
    let end = writer.place().offset;
    writer.rotate(NOW).unwrap();
    let wishes = [Keep::Head, Keep::Nothing, Keep::All, Keep::Nothing];
    for _ in 0..2 {
        let old = Segment::open(directory.path(), 1, Some(end)).unwrap();
        let keep = |frame: &Frame| Ok(wishes[usize::from(frame.kind) - 1].clone());
        let done = rewrite(&LocalDisk::default(), directory.path(), &old, false, NOW, keep).unwrap();
        assert_eq!(done.after, std::fs::metadata(segment_path(directory.path(), 1)).unwrap().len());
        let new = Segment::open(directory.path(), 1, None).unwrap();
        assert_eq!((new.rewritten(), new.previous_end(), new.length()), (Some(NOW), 0, done.after));
        let mut frames = Vec::new();
        let each = |frame: Frame| {
            frames.push((frame.kind, frame.place, frame.body_length));
            Ok(())
        };
        assert_eq!(new.scan(0, true, each, |damage| panic!("{damage:?}")).unwrap(), end);
        assert_eq!(frames, [(1, places[0], 0), (3, places[2], 5)]);
        assert!(body(&new, places[0].offset).is_none() && body(&new, places[1].offset).is_none());
        assert_eq!(body(&new, places[2].offset).unwrap(), b"three");
        // A scan from a place inside begins there.
        assert_eq!(found_from(&new, places[1].offset), [3]);
        // Whoever has the old file open still reads it whole.
        assert_eq!(body(&old, places[2].offset).unwrap(), b"three");
    }
    assert_eq!(segments(directory.path()).unwrap(), [1, 2]);
}

fn found_from(segment: &Segment, offset: u64) -> Vec<u8> {
    let mut kinds = Vec::new();
    let each = |frame: Frame| {
        kinds.push(frame.kind);
        Ok(())
    };
    segment.scan(offset, true, each, |_| {}).unwrap();
    kinds
}

#[test]
fn an_empty_segment_goes_when_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(&directory, 0, 0);
    append(&mut writer, &[draft(1, b"one")]);
    let end = writer.place().offset;
    writer.rotate(NOW).unwrap();
    for (may_go, left) in [(false, &[1, 2][..]), (true, &[2])] {
        let old = Segment::open(directory.path(), 1, Some(end)).unwrap();
        rewrite(&LocalDisk::default(), directory.path(), &old, may_go, NOW, |_| Ok(Keep::Nothing)).unwrap();
        assert_eq!(segments(directory.path()).unwrap(), left);
    }
}

#[test]
fn a_damaged_segment_is_not_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(&directory, 0, 0);
    append(&mut writer, &[draft(1, b"one"), draft(2, b"two")]);
    let end = writer.place().offset;
    writer.rotate(NOW).unwrap();
    let path = segment_path(directory.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    for byte in [SegmentHeader::LENGTH + 4, end as usize - 1] {
        let mut flipped = whole.clone();
        flipped[byte] ^= 4;
        std::fs::write(&path, &flipped).unwrap();
        let old = Segment::open(directory.path(), 1, Some(end)).unwrap();
        let done = rewrite(&LocalDisk::default(), directory.path(), &old, true, NOW, |_| Ok(Keep::All));
        assert!(matches!(done, Err(RewriteError::Damaged(1))));
        assert_eq!(std::fs::read(&path).unwrap(), flipped);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
