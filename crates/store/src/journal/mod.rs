//! Journal on disk: segments of frames. It is the source of truth of the store.
//!
//! A segment starts with a header: magic, its number, a random salt, **where the previous segment ends**, and
//! its creation time. Frames follow, each made of a header, the record's payload and its body. The frame
//! header holds magic, kind, version, lengths and checksums of payload and body, and the frame's own offset.
//!
//! A segment is trusted up to the end that its successor names, so bytes of a failed or torn write are never
//! read again. The last segment is trusted up to its last good frame; zeros after it are preallocated space.
//! Salt and offset are mixed into the checksums. A message that contains frames, by accident or on purpose,
//! is therefore never mistaken for them, nor is a frame at a different offset.
//!
//! A write error or a failed sync is final for a segment: the next batch goes to a new one.
//!
//! A sealed segment may be rewritten without the records that are no longer needed. The remaining frames keep
//! their offsets, so a [`Position`](crate::position::Position) always means the same record. The header of a rewritten segment holds the
//! segment's original end and the file's length.

mod compact;
mod disk;
mod frame;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use compact::{CompactionError, Retain, rewrite_segment};
#[cfg(test)]
pub(crate) use disk::DiskFile;
pub(crate) use disk::{Disk, LocalDisk};
pub(crate) use frame::{EncodedRecord, Frame};
pub(crate) use segment::{
    CorruptRange, Extent, Segment, list_segments, remove_unfinished_files, segment_path,
    unreadable_segment_bytes,
};
pub(crate) use writer::Writer;
