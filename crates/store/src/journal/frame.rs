use crate::body::Message;
use crate::journal::Place;

/// A record on its way into the journal.
#[derive(Debug)]
pub struct Draft {
    pub(super) header: FrameHeader,
    pub(super) head: Vec<u8>,
    pub(super) body: Message,
}

impl Draft {
    /// Frames a record; the checksums are worked out here, on the caller's thread.
    pub fn new(kind: u8, version: u8, head: Vec<u8>, body: Message) -> Self {
        let header = FrameHeader {
            kind,
            version,
            body_is_gone: false,
            head_length: head.len() as u32,
            body_length: body.size() as u32,
            body_checksum: body.checksum(),
            head_checksum: 0,
        };
        Self { header: header.checked(&head), head, body }
    }

    /// Bytes in the journal.
    pub fn size(&self) -> u64 {
        self.header.size()
    }

    /// Bytes of the body.
    pub fn body_length(&self) -> u32 {
        self.header.body_length
    }
}

/// A frame that was found in a segment.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Where it is.
    pub place: Place,
    /// The record's kind.
    pub kind: u8,
    /// The record's version.
    pub version: u8,
    /// The record without its body.
    pub head: Vec<u8>,
    /// Bytes of the body that are here.
    pub body_length: u32,
    pub(super) header: FrameHeader,
    /// Byte of the file where it starts.
    pub(super) at: u64,
}

/// What stands in front of a record.
#[derive(Clone, Copy, Debug)]
pub struct FrameHeader {
    pub kind: u8,
    pub version: u8,
    /// The body was there once, and its bytes count for the offsets behind it.
    pub body_is_gone: bool,
    pub head_length: u32,
    pub body_length: u32,
    pub body_checksum: u32,
    /// Of everything above and the head.
    pub head_checksum: u32,
}

impl FrameHeader {
    pub const LENGTH: usize = 32;
    pub const MAGIC: &[u8; 4] = b"\xf5mt\x02";

    /// Bytes that the frame takes in the numbering of places.
    pub fn size(&self) -> u64 {
        Self::LENGTH as u64 + u64::from(self.head_length) + u64::from(self.body_length)
    }

    /// Bytes that the frame takes in the file.
    pub fn stored_size(&self) -> u64 {
        Self::LENGTH as u64 + u64::from(self.head_length) + u64::from(self.stored_body())
    }

    /// Bytes of the body in the file.
    pub fn stored_body(&self) -> u32 {
        if self.body_is_gone { 0 } else { self.body_length }
    }

    /// The same for a frame whose body is left out.
    pub fn without_body(self, head: &[u8]) -> Self {
        Self { body_is_gone: self.body_length > 0, ..self }.checked(head)
    }

    /// The same for another record in its place, without a body. It may be longer: the frames of a rewritten segment
    /// follow each other in the file, and their places stay.
    pub fn with_head(self, version: u8, head: &[u8]) -> Self {
        Self { version, head_length: head.len() as u32, ..self }.without_body(head)
    }

    /// With the checksum that belongs to this head.
    pub fn checked(self, head: &[u8]) -> Self {
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&self.words());
        checksum.update(head);
        Self { head_checksum: checksum.finalize(), ..self }
    }

    /// Its bytes in a segment with that salt, at that offset.
    pub fn encode(&self, salt: u32, offset: u64) -> [u8; Self::LENGTH] {
        let mask = mask(salt, offset);
        let mut bytes = [0; Self::LENGTH];
        bytes[..20].copy_from_slice(&self.words());
        bytes[16..20].copy_from_slice(&(self.body_checksum ^ mask).to_le_bytes());
        bytes[20..24].copy_from_slice(&(self.head_checksum ^ mask).to_le_bytes());
        bytes[24..].copy_from_slice(&offset.to_le_bytes());
        bytes
    }

    /// The header and its offset, where there may be one.
    pub fn decode(bytes: &[u8; Self::LENGTH], salt: u32) -> Option<(Self, u64)> {
        let offset = u64_at(bytes, 24);
        let mask = mask(salt, offset);
        let header = Self {
            kind: bytes[4],
            version: bytes[5],
            body_is_gone: bytes[6] == 1,
            head_length: u32_at(bytes, 8),
            body_length: u32_at(bytes, 12),
            body_checksum: u32_at(bytes, 16) ^ mask,
            head_checksum: u32_at(bytes, 20) ^ mask,
        };
        let whole = header.encode(salt, offset) == *bytes;
        whole.then_some((header, offset))
    }

    fn words(&self) -> [u8; 20] {
        let mut words = [0; 20];
        words[..4].copy_from_slice(Self::MAGIC);
        words[4..7].copy_from_slice(&[self.kind, self.version, u8::from(self.body_is_gone)]);
        words[8..12].copy_from_slice(&self.head_length.to_le_bytes());
        words[12..16].copy_from_slice(&self.body_length.to_le_bytes());
        words[16..].copy_from_slice(&self.body_checksum.to_le_bytes());
        words
    }
}

fn mask(salt: u32, offset: u64) -> u32 {
    salt ^ crc32fast::hash(&offset.to_le_bytes())
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
