//! The journal on disk: segments of frames, the truth of the store.
//!
//! A segment starts with a header: magic, its number, a random salt, **where the segment before it ends**, when it
//! was made. Frames follow: magic, kind, version, lengths and checksums of head and body, the frame's own offset;
//! head; body. A segment is trusted up to the end that its successor names, so bytes of a failed or torn write are
//! never read again; the last segment is trusted up to its last good frame, and zeros behind it are space that was
//! laid out ahead. Salt and offset are mixed into the checksums: a message that happens to (or means to) contain
//! frames is never taken for them, nor is a frame at another place.
//!
//! A write error or a failed sync is final for a segment: the next batch goes to a new one.
//!
//! A sealed segment may be rewritten without what nobody needs any more. The frames that stay keep their offsets, so
//! a [`Place`] means the same record for ever, and the header says where the segment ended and how long the file is.

mod compact;
mod disk;
mod frame;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use compact::{Retain, RewriteError, rewrite_segment};
#[cfg(test)]
pub(crate) use disk::DiskFile;
pub(crate) use disk::{Disk, LocalDisk};
pub(crate) use frame::{EncodedRecord, Frame};
pub(crate) use segment::{
    CorruptRange, Extent, Segment, list_segments, remove_unfinished_files, segment_path,
    unreadable_segment_bytes,
};
pub(crate) use writer::Writer;

/// A place in the journal: segment and byte.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Position {
    /// Number of the segment, from 1.
    pub segment: u32,
    /// Byte in the segment as it was first written.
    pub offset: u64,
}
