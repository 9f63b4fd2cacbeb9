//! Keys of the rows, by their first byte. Numbers are big-endian, so that rows are ordered. Empty values are
//! written as –.
//!
//! | key | value |
//! |---|---|
//! | `m` id | a message ([`crate::ledger::rows::MessageRow`]) |
//! | `s` id index(2) | a recipient ([`crate::ledger::rows::RecipientRow`]) of a message with several |
//! | `e` id at(8) journal position(12) part(2), or id start of the day(8) hash(16) of an event's identity | a trail event ([`crate::ledger::rows::TrailEventRow`]) |
//! | `q` lane(1) hash(8) of the queue key, due(8) id | queue entry of an open message ([`crate::ledger::rows::QueueKeyRow`]) |
//! | `w` id | time and upstream of an attempt that began to send the message |
//! | `i` hash(8) of the Message-ID, id | – the message's row distinguishes equal hashes |
//! | `r` hash(8) of the recipient, id | – |
//! | `o` hash(8) of the Odoo record, id | – |
//! | `d` day(2) hash(16) of an event's identity | – an event without a tracking id was applied |
//! | `t` signed at(8) hash(16) of a webhook's token | digest of the body that came with it |
//! | `u` hash(16) of the awaited message's id or Message-ID, event's id | an orphaned event ([`crate::ledger::rows::OrphanRow`]) |
//! | `y` 0(1) event's id | a dead letter ([`crate::ledger::rows::DeadLetterRow`]) |
//! | `y` 1(1) event's id | the replayed event ([`crate::record::ProviderEventV1`]) |
//! | `h` hash(8) of an address, received(8) hash(16) of a hint's identity | a contact hint ([`crate::ledger::contact_hints::ReceivedHintRow`]) |
//! | `n` id index(2) action(1) | – a pending DSN for a recipient |
//! | `b` upstream | the operator's reason for keeping its breaker open |
//! | `p` upstream | time up to which its provider's events are complete |
//! | `c` hash(8) of the upstream, day(2) | number of recipients that it accepted on that day (UTC) |
//! | `z` sink | position in the journal up to which it has everything, and the time of that |
//! | `a` hash(8) of the sink, journal position(12) part(2) | time and reason of its permanent rejection |
//! | `l` hash(8) of the sink, due(8) journal position(12) part(2) | – a delayed delivery to the sink |
//! | `g` segment(4) | bytes of finished messages in that segment of the journal |
//! | `x` address (in lower case), 0, list | suppression evidence ([`crate::record::SuppressionEvidenceRow`]) |
//! | `x` | number of suppressed addresses |
//! | `v` 0(1) id | an inbound message ([`crate::ledger::inbound::InboundRow`]) |
//! | `v` 1(1) id | it waits: due time and recipient |
//! | `v` 2(1) hash(16) of Message-ID and recipient | the last inbound message with both |
//! | `f` | the salt by which the suppression list recognises erased addresses |
//! | `k` name | the journal position, the schema version |

use crate::ledger::rows::{QueueKeyRow, encode_row};
use crate::log_cursor::LogCursor;
use crate::position::Position;
use crate::record::dsn_action_from_flag;
use crate::sink_cursor::DelayedDelivery;
use mailtrail_mail::{Lane, Timestamp, TrackingId};
use mailtrail_trail::{DsnAction, ReportedRecipient};
use sha2::{Digest, Sha256};

/// Rows that are not derived from the journal's records.
pub const META_PREFIX: &[u8] = b"k";
pub const ERASURE_SALT: &[u8] = b"f";
pub const POSITION_KEY: &[u8] = b"kposition";
pub const SCHEMA_KEY: &[u8] = b"kschema";

pub fn message_key(id: TrackingId) -> Vec<u8> {
    concat_key(b'm', &[&id.to_bytes()])
}

pub fn recipient_key(id: TrackingId, place: u16) -> Vec<u8> {
    concat_key(b's', &[&id.to_bytes(), &place.to_be_bytes()])
}

pub fn trail_prefix(id: TrackingId) -> Vec<u8> {
    concat_key(b'e', &[&id.to_bytes()])
}

/// Returns the key of the trail event of an attempt's outcome; there is one for each part of the outcome.
pub fn attempt_event_key(id: TrackingId, at: Timestamp, place: Position, part: u16) -> Vec<u8> {
    concat_key(
        b'e',
        &[&id.to_bytes(), &at.as_millis().to_be_bytes(), &position_bytes(place), &part.to_be_bytes()],
    )
}

/// Returns the key of a provider event in the trail. Its time is the start of the day. Copies of an event
/// therefore have the same key, whatever the precision of their timestamps.
pub fn provider_event_key(id: TrackingId, at: Timestamp, upstream: &str, identity: &str) -> Vec<u8> {
    let day = Timestamp::from_secs(u64::from(at.day_number()) * 86_400);
    concat_key(b'e', &[&id.to_bytes(), &day.as_millis().to_be_bytes(), &hash_parts(&[upstream, identity])])
}

/// Returns the key prefix of one queue: the messages of a lane with the same queue key.
pub fn queue_prefix(lane: Lane, waits: &QueueKeyRow) -> Vec<u8> {
    let lane = u8::from(lane == Lane::Bulk);
    concat_key(b'q', &[&[lane], &Sha256::digest(encode_row(waits))[..8]])
}

pub fn queue_key(mut queue: Vec<u8>, at: Timestamp, id: TrackingId) -> Vec<u8> {
    queue.extend_from_slice(&at.as_millis().to_be_bytes());
    queue.extend_from_slice(&id.to_bytes());
    queue
}

/// Splits a key made by [`queue_key`] into queue, due time and message.
pub fn parse_queue_key(key: &[u8]) -> Option<(&[u8], Timestamp, TrackingId)> {
    let at = u64::from_be_bytes(key.get(10..18)?.try_into().ok()?);
    Some((&key[..10], Timestamp::from_millis(at), parse_tracking_id(key)?))
}

/// Returns the lane in a queue prefix.
pub fn parse_lane(queue: &[u8]) -> Lane {
    if queue.get(1) == Some(&0) { Lane::Transactional } else { Lane::Bulk }
}

pub fn attempt_key(id: TrackingId) -> Vec<u8> {
    concat_key(b'w', &[&id.to_bytes()])
}

pub fn message_id_prefix(text: &str) -> Vec<u8> {
    concat_key(b'i', &[&hash_parts(&[text])[..8]])
}

pub fn address_prefix(folded: &str) -> Vec<u8> {
    concat_key(b'r', &[&hash_parts(&[folded])[..8]])
}

pub fn odoo_record_prefix(written: &str) -> Vec<u8> {
    concat_key(b'o', &[&hash_parts(&[written])[..8]])
}

/// Returns the key of an index row: the prefix of the index and the message that it refers to.
pub fn index_key(mut prefix: Vec<u8>, id: TrackingId) -> Vec<u8> {
    prefix.extend_from_slice(&id.to_bytes());
    prefix
}

/// Returns the message at the end of a key.
pub fn parse_tracking_id(key: &[u8]) -> Option<TrackingId> {
    let start = key.len().checked_sub(16)?;
    key[start..].try_into().ok().map(TrackingId::from_bytes)
}

pub fn event_dedup_key(upstream: &str, identity: &str, at: Timestamp) -> Vec<u8> {
    concat_key(b'd', &[&at.day_number().to_be_bytes(), &hash_parts(&[upstream, identity])])
}

pub fn token_key(upstream: &str, token: &str, signed_at: Timestamp) -> Vec<u8> {
    concat_key(b't', &[&signed_at.as_millis().to_be_bytes(), &hash_parts(&[upstream, token])])
}

pub fn orphan_prefix(waits_for: &str) -> Vec<u8> {
    concat_key(b'u', &[&hash_parts(&[waits_for])])
}

pub fn orphan_key(waits_for: &str, report: TrackingId) -> Vec<u8> {
    index_key(orphan_prefix(waits_for), report)
}

pub fn hint_prefix(folded: &str) -> Vec<u8> {
    concat_key(b'h', &[&hash_parts(&[folded])[..8]])
}

pub fn hint_key(folded: &str, received: Timestamp, source: &str, identity: &str) -> Vec<u8> {
    let mut key = hint_prefix(folded);
    key.extend_from_slice(&received.as_millis().to_be_bytes());
    key.extend_from_slice(&hash_parts(&[source, identity]));
    key
}

pub fn dead_letter_key(report: TrackingId) -> Vec<u8> {
    concat_key(b'y', &[&[0], &report.to_bytes()])
}

pub fn replayed_event_key(report: TrackingId) -> Vec<u8> {
    concat_key(b'y', &[&[1], &report.to_bytes()])
}

/// Prefixes of the rows of dead letters and of replayed events.
pub const DEAD_LETTER_PREFIXES: [&[u8]; 2] = [DEAD_LETTER_PREFIX, &[b'y', 1]];
pub const DEAD_LETTER_PREFIX: &[u8] = &[b'y', 0];

/// Prefixes of the rows of inbound messages, of their queue, and of their deduplication.
pub const INBOUND_PREFIX: &[u8] = &[b'v', 0];
pub const INBOUND_QUEUE_PREFIX: &[u8] = &[b'v', 1];
pub const INBOUND_DEDUP_PREFIX: &[u8] = &[b'v', 2];

pub fn inbound_key(id: TrackingId) -> Vec<u8> {
    concat_key(b'v', &[&[0], &id.to_bytes()])
}

pub fn inbound_queue_key(id: TrackingId) -> Vec<u8> {
    concat_key(b'v', &[&[1], &id.to_bytes()])
}

pub fn inbound_dedup_key(message_id: &str, recipient: &str) -> Vec<u8> {
    concat_key(b'v', &[&[2], &hash_parts(&[message_id, recipient])])
}

pub fn pending_dsn_key(about: &ReportedRecipient) -> Vec<u8> {
    let occasion = u8::from(about.action == DsnAction::Failed);
    concat_key(b'n', &[&about.tracking_id.to_bytes(), &about.recipient_index.to_be_bytes(), &[occasion]])
}

/// Returns the key prefix of all pending DSNs of one message.
pub fn pending_dsn_prefix(id: TrackingId) -> Vec<u8> {
    concat_key(b'n', &[&id.to_bytes()])
}

/// Decodes a key; the inverse of [`pending_dsn_key`].
pub fn parse_pending_dsn_key(key: &[u8]) -> Option<ReportedRecipient> {
    Some(ReportedRecipient {
        tracking_id: TrackingId::from_bytes(key.get(1..17)?.try_into().ok()?),
        recipient_index: u16::from_be_bytes(key.get(17..19)?.try_into().ok()?),
        action: dsn_action_from_flag(*key.get(19)? == 1),
    })
}

pub fn breaker_override_key(upstream: &str) -> Vec<u8> {
    concat_key(b'b', &[upstream.as_bytes()])
}

pub fn poll_cursor_key(upstream: &str) -> Vec<u8> {
    concat_key(b'p', &[upstream.as_bytes()])
}

pub fn relayed_count_key(upstream: &str, day: u16) -> Vec<u8> {
    concat_key(b'c', &[&hash_parts(&[upstream])[..8], &day.to_be_bytes()])
}

pub fn sink_cursor_key(name: &str) -> Vec<u8> {
    concat_key(b'z', &[name.as_bytes()])
}

pub fn sink_dead_letter_key(sink: &str, cursor: LogCursor, part: u16) -> Vec<u8> {
    let mut key = sink_dead_letter_prefix(sink);
    key.extend_from_slice(&position_bytes(cursor.0));
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// Returns the key prefix of all entries that a sink rejected.
pub fn sink_dead_letter_prefix(sink: &str) -> Vec<u8> {
    concat_key(b'a', &[&hash_parts(&[sink])[..8]])
}

/// Returns the record and the index of its entry in a key made by [`sink_dead_letter_key`].
pub fn parse_sink_dead_letter_key(key: &[u8]) -> Option<(LogCursor, u16)> {
    parse_log_position(key.get(9..)?)
}

pub fn delayed_delivery_key(sink: &str, delayed: DelayedDelivery) -> Vec<u8> {
    let mut key = delayed_delivery_prefix(sink);
    key.extend_from_slice(&delayed.retry_at.as_millis().to_be_bytes());
    key.extend_from_slice(&position_bytes(delayed.cursor.0));
    key.extend_from_slice(&delayed.index.to_be_bytes());
    key
}

/// Returns the key prefix of all delayed deliveries of a sink.
pub fn delayed_delivery_prefix(sink: &str) -> Vec<u8> {
    concat_key(b'l', &[&hash_parts(&[sink])[..8]])
}

/// Decodes a key made by [`delayed_delivery_key`].
pub fn parse_delayed_delivery_key(key: &[u8]) -> Option<DelayedDelivery> {
    let due = u64::from_be_bytes(key.get(9..17)?.try_into().ok()?);
    let (cursor, index) = parse_log_position(key.get(17..)?)?;
    Some(DelayedDelivery { retry_at: Timestamp::from_millis(due), cursor, index })
}

/// Decodes a record's position and the index of its entry at the end of a key.
fn parse_log_position(bytes: &[u8]) -> Option<(LogCursor, u16)> {
    let segment = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let offset = u64::from_be_bytes(bytes.get(4..12)?.try_into().ok()?);
    Some((LogCursor(Position { segment, offset }), u16::from_be_bytes(bytes.get(12..14)?.try_into().ok()?)))
}

pub fn garbage_key(segment: u32) -> Vec<u8> {
    concat_key(b'g', &[&segment.to_be_bytes()])
}

/// Returns the prefix of all suppression rows. The row with exactly this key holds the number of suppressed
/// addresses.
pub fn suppression_table_prefix() -> Vec<u8> {
    vec![b'x']
}

/// Returns the key prefix of one address. Neither an address nor the name of a list contains a 0 byte.
pub fn suppression_address_prefix(folded: &str) -> Vec<u8> {
    concat_key(b'x', &[folded.as_bytes(), &[0]])
}

pub fn suppression_key(folded: &str, list: &str) -> Vec<u8> {
    concat_key(b'x', &[folded.as_bytes(), &[0], list.as_bytes()])
}

/// Splits a key made by [`suppression_key`] into address and list.
pub fn parse_suppression_key(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key.get(1..)?).ok()?.split_once('\0')
}

/// Prefixes of rows that are looked up for every message and rarely exist.
pub const NEGATIVE_CACHED: [u8; 2] = [ERASURE_SALT[0], b'x'];

pub fn is_negative_cached(key: &[u8]) -> bool {
    key.first().is_some_and(|class| NEGATIVE_CACHED.contains(class))
}

/// Prefixes of rows that are ordered by day: deduplication of events, and tokens.
pub const DATED_PREFIXES: [u8; 2] = [b'd', b't'];

/// Returns the day in a key made by [`event_dedup_key`] or [`token_key`].
pub fn parse_day(key: &[u8]) -> Option<u16> {
    match key.first()? {
        b'd' => Some(u16::from_be_bytes(key.get(1..3)?.try_into().ok()?)),
        _ => Some(Timestamp::from_millis(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?)).day_number()),
    }
}

fn position_bytes(place: Position) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&place.segment.to_be_bytes());
    bytes[4..].copy_from_slice(&place.offset.to_be_bytes());
    bytes
}

fn concat_key(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(48);
    key.push(prefix);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn hash_parts(parts: &[&str]) -> [u8; 16] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    let mut short = [0; 16];
    short.copy_from_slice(&digest.finalize()[..16]);
    short
}
