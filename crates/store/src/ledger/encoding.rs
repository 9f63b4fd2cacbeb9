//! Encoding of keys and rows. Numbers in keys are big-endian, so that rows are ordered.

use crate::log_cursor::LogCursor;
use crate::position::Position;
use mailtrail_mail::{Timestamp, TrackingId};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

/// Encodes a row for the ledger.
pub fn encode_row(row: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(row).expect("plain data in memory always encodes")
}

/// Decodes a row; the inverse of [`encode_row`]. `None` for a damaged row.
pub fn decode_row<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

/// Concatenates the parts of a key.
pub fn concat_key(prefix: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEY_CAPACITY);
    key.extend_from_slice(prefix);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// Hashes texts so that no two lists of texts give the same input.
pub fn hash_parts(parts: &[&str]) -> [u8; 16] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    let mut short = [0; 16];
    short.copy_from_slice(&digest.finalize()[..16]);
    short
}

/// Hashes the encoded form of a row.
pub fn hash_row(row: &impl Serialize) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&Sha256::digest(encode_row(row))[..8]);
    short
}

/// Encodes a journal position.
pub fn position_bytes(position: Position) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&position.segment.to_be_bytes());
    bytes[4..].copy_from_slice(&position.offset.to_be_bytes());
    bytes
}

/// Encodes a time.
pub fn time_bytes(at: Timestamp) -> [u8; 8] {
    at.as_millis().to_be_bytes()
}

/// Decodes the time at an offset of a key.
pub fn parse_time(key: &[u8], offset: usize) -> Option<Timestamp> {
    let bytes = key.get(offset..offset + 8)?.try_into().ok()?;
    Some(Timestamp::from_millis(u64::from_be_bytes(bytes)))
}

/// Decodes the tracking id at the end of a key.
pub fn parse_tracking_id(key: &[u8]) -> Option<TrackingId> {
    let start = key.len().checked_sub(16)?;
    key[start..].try_into().ok().map(TrackingId::from_bytes)
}

/// Decodes a record's position and the index of its entry.
pub fn parse_log_position(bytes: &[u8]) -> Option<(LogCursor, u16)> {
    let segment = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let offset = u64::from_be_bytes(bytes.get(4..12)?.try_into().ok()?);
    Some((LogCursor(Position { segment, offset }), u16::from_be_bytes(bytes.get(12..14)?.try_into().ok()?)))
}

/// Initial capacity of a key, in bytes; only names of upstreams and addresses make longer ones.
const KEY_CAPACITY: usize = 48;
