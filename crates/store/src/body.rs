//! Message bodies on their way into the journal: in memory, and on disk beyond a limit.

use crate::disk_space::FreeSpace;
use bytes::Bytes;
use crc32fast::Hasher;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A message body on its way into the journal: the first part in memory, the rest of a large one in a file.
#[derive(Clone, Debug)]
pub struct MessageBody {
    head: Bytes,
    tail: Option<Arc<SpillFile>>,
}

/// The part of a body that is not held in memory. The file has no name, so it never outlives the process.
#[derive(Debug)]
pub struct SpillFile {
    file: File,
    length: u64,
    checksum: Hasher,
    is_ascii: bool,
}

impl MessageBody {
    /// Creates a body of two parts.
    pub fn new(head: Bytes, rest: Option<SpillFile>) -> Self {
        Self { head, tail: rest.map(Arc::new) }
    }

    /// Returns the size of both parts, in bytes.
    pub fn size(&self) -> u64 {
        self.head.len() as u64 + self.tail.as_ref().map_or(0, |rest| rest.length)
    }

    /// Returns whether the body holds only ASCII.
    pub fn is_ascii(&self) -> bool {
        self.head.is_ascii() && self.tail.as_ref().is_none_or(|rest| rest.is_ascii)
    }

    /// Returns the part in memory.
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// Returns the part in a file.
    pub fn tail(&self) -> Option<&SpillFile> {
        self.tail.as_deref()
    }

    /// Returns the CRC32 of both parts as one, without reading the file.
    pub(crate) fn checksum(&self) -> u32 {
        self.checksum_from(0)
    }

    /// Returns the CRC32 without the first `start` bytes, which must be in memory.
    pub fn checksum_from(&self, start: usize) -> u32 {
        let mut checksum = Hasher::new();
        checksum.update(&self.head[start..]);
        if let Some(rest) = &self.tail {
            checksum.combine(&rest.checksum);
        }
        checksum.finalize()
    }
}

impl From<Bytes> for MessageBody {
    fn from(bytes: Bytes) -> Self {
        Self::new(bytes, None)
    }
}

impl SpillFile {
    /// Creates an empty file on the disk of `directory`.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile_in(directory)?,
            length: 0,
            checksum: Hasher::new(),
            is_ascii: true,
        })
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.length
    }

    /// Appends bytes. Fails like the journal if the disk has too little space. After an error the file is
    /// unusable.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        FreeSpace::from_statvfs(&rustix::fs::fstatvfs(&self.file)?).check_available(bytes.len() as u64)?;
        self.file.write_all(bytes)?;
        self.checksum.update(bytes);
        self.is_ascii &= bytes.is_ascii();
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Reads a range of the appended bytes; it must exist. Blocks.
    pub fn read_range(&self, part: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; part.end.saturating_sub(part.start) as usize];
        self.file.read_exact_at(&mut bytes, part.start)?;
        Ok(bytes)
    }

    /// Copies all bytes to `target` in chunks. Fails if they differ from the appended ones.
    pub(crate) fn copy_to(&self, target: &mut impl Write) -> io::Result<()> {
        let mut buffer = vec![0; COPY_CHUNK_BYTES];
        let (mut at, mut checksum) = (0, Hasher::new());
        while at < self.length {
            let piece = &mut buffer[..(self.length - at).min(COPY_CHUNK_BYTES as u64) as usize];
            self.file.read_exact_at(piece, at)?;
            checksum.update(piece);
            target.write_all(piece)?;
            at += piece.len() as u64;
        }
        if checksum.finalize() == self.checksum.clone().finalize() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "a spilled message is not what was written"))
    }
}

/// Bytes copied at a time.
const COPY_CHUNK_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_covers_both_parts() {
        let directory = tempfile::tempdir().unwrap();
        let text: Vec<u8> = (0..COPY_CHUNK_BYTES + 1000).map(|number| (number % 251) as u8).collect();
        for cut in [0, 1, 1000, text.len()] {
            let mut spill = SpillFile::new(directory.path()).unwrap();
            for piece in text[cut..].chunks(70_000) {
                spill.append(piece).unwrap();
            }
            let message = MessageBody::new(Bytes::copy_from_slice(&text[..cut]), Some(spill));
            let mut copy = message.head().to_vec();
            message.tail().unwrap().copy_to(&mut copy).unwrap();
            assert!(!message.is_ascii(), "cut at {cut}");
            assert!(copy == text && message.size() == text.len() as u64, "cut at {cut}");
            assert_eq!(message.checksum(), crc32fast::hash(&text), "cut at {cut}");
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no file has a name");
    }

    #[test]
    fn rejects_a_changed_spill_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut spill = SpillFile::new(directory.path()).unwrap();
        spill.append(b"what was written").unwrap();
        spill.file.write_all_at(b"t", 5).unwrap();
        let failed = spill.copy_to(&mut Vec::new()).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
    }
}
