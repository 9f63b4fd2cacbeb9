//! Frames: one record each, with checksums. The format is in the doc of [`crate::journal`].

use crate::body::MessageBody;
use crate::position::Position;

/// An encoded record, ready for the journal.
#[derive(Debug)]
pub struct EncodedRecord {
    pub(super) header: FrameHeader,
    pub(super) payload: Vec<u8>,
    pub(super) body: MessageBody,
}

impl EncodedRecord {
    /// Frames a record. Computes the checksums here, on the caller's thread.
    pub fn new(kind: u8, version: u8, payload: Vec<u8>, body: MessageBody) -> Self {
        let header = FrameHeader {
            kind,
            version,
            body_dropped: false,
            payload_length: payload.len() as u32,
            body_length: body.size() as u32,
            body_checksum: body.checksum(),
            payload_checksum: 0,
        };
        Self { header: header.with_checksum(&payload), payload, body }
    }

    /// Returns the size in the journal, in bytes.
    pub fn size(&self) -> u64 {
        self.header.logical_size()
    }

    /// Returns the length of the body, in bytes.
    pub fn body_length(&self) -> u32 {
        self.header.body_length
    }
}

/// A frame found in a segment.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Position of the frame.
    pub position: Position,
    /// Kind of the record.
    pub kind: u8,
    /// Version of the record.
    pub version: u8,
    /// Record without its body.
    pub payload: Vec<u8>,
    /// Length of the body that is present, in bytes.
    pub body_length: u32,
    pub(super) header: FrameHeader,
    /// File offset of the frame.
    pub(super) file_offset: u64,
}

/// Header of a frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameHeader {
    pub kind: u8,
    pub version: u8,
    /// Whether the body was dropped; its bytes still count for the offsets after it.
    pub body_dropped: bool,
    pub payload_length: u32,
    pub body_length: u32,
    pub body_checksum: u32,
    /// Checksum of all fields above and of the payload.
    pub payload_checksum: u32,
}

impl FrameHeader {
    pub const ENCODED_LEN: usize = 32;
    pub const MAGIC: &[u8; 4] = b"\xf5mt\x02";

    /// Returns the bytes that the frame takes in logical offsets.
    pub fn logical_size(&self) -> u64 {
        Self::ENCODED_LEN as u64 + u64::from(self.payload_length) + u64::from(self.body_length)
    }

    /// Returns the bytes that the frame takes in the file.
    pub fn stored_size(&self) -> u64 {
        Self::ENCODED_LEN as u64 + u64::from(self.payload_length) + u64::from(self.stored_body_length())
    }

    /// Returns the bytes of the body in the file.
    pub fn stored_body_length(&self) -> u32 {
        if self.body_dropped { 0 } else { self.body_length }
    }

    /// Returns the header of this frame without its body.
    pub fn without_body(self, head: &[u8]) -> Self {
        Self { body_dropped: self.body_length > 0, ..self }.with_checksum(head)
    }

    /// Returns the header for another record at this offset, without a body. That record may be longer: the
    /// frames of a rewritten segment are contiguous in the file, and their logical offsets stay.
    pub fn with_payload(self, version: u8, head: &[u8]) -> Self {
        Self { version, payload_length: head.len() as u32, ..self }.without_body(head)
    }

    /// Returns the header with the checksum for this payload.
    pub fn with_checksum(self, head: &[u8]) -> Self {
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&self.checksummed_bytes());
        checksum.update(head);
        Self { payload_checksum: checksum.finalize(), ..self }
    }

    /// Encodes the header for a segment with the given salt, at the given offset.
    pub fn encode(&self, salt: u32, offset: u64) -> [u8; Self::ENCODED_LEN] {
        let mask = checksum_mask(salt, offset);
        let mut bytes = [0; Self::ENCODED_LEN];
        bytes[..20].copy_from_slice(&self.checksummed_bytes());
        bytes[16..20].copy_from_slice(&(self.body_checksum ^ mask).to_le_bytes());
        bytes[20..24].copy_from_slice(&(self.payload_checksum ^ mask).to_le_bytes());
        bytes[24..].copy_from_slice(&offset.to_le_bytes());
        bytes
    }

    /// Decodes a header and its offset, if the bytes can be one.
    pub fn decode(bytes: &[u8; Self::ENCODED_LEN], salt: u32) -> Option<(Self, u64)> {
        let offset = read_u64_le(bytes, 24);
        let mask = checksum_mask(salt, offset);
        let header = Self {
            kind: bytes[4],
            version: bytes[5],
            body_dropped: bytes[6] == 1,
            payload_length: read_u32_le(bytes, 8),
            body_length: read_u32_le(bytes, 12),
            body_checksum: read_u32_le(bytes, 16) ^ mask,
            payload_checksum: read_u32_le(bytes, 20) ^ mask,
        };
        let whole = header.encode(salt, offset) == *bytes;
        whole.then_some((header, offset))
    }

    fn checksummed_bytes(&self) -> [u8; 20] {
        let mut words = [0; 20];
        words[..4].copy_from_slice(Self::MAGIC);
        words[4..7].copy_from_slice(&[self.kind, self.version, u8::from(self.body_dropped)]);
        words[8..12].copy_from_slice(&self.payload_length.to_le_bytes());
        words[12..16].copy_from_slice(&self.body_length.to_le_bytes());
        words[16..].copy_from_slice(&self.body_checksum.to_le_bytes());
        words
    }
}

fn checksum_mask(salt: u32, offset: u64) -> u32 {
    salt ^ crc32fast::hash(&offset.to_le_bytes())
}

pub fn read_u32_le(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

pub fn read_u64_le(bytes: &[u8], at: usize) -> u64 {
    u64::from(read_u32_le(bytes, at)) | u64::from(read_u32_le(bytes, at + 4)) << 32
}
