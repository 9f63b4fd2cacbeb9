//! The keys, by their first byte; numbers are big-endian, so that rows lie in order.
//!
//! | key | value |
//! |---|---|
//! | `m` id | the send ([`crate::ledger::rows::SendRow`]) |
//! | `s` id place(2) | a recipient ([`crate::ledger::rows::RecipientRow`]) of a send with several |
//! | `e` id at(8) journal place(12) part(2), or id start of the day(8) hash(16) of an event's identity | a fact ([`crate::ledger::rows::FactRow`]) |
//! | `q` lane(1) hash(8) of what it waits for, due(8) id | an open send's place in the queue ([`crate::ledger::rows::WaitsRow`]) |
//! | `w` id | when and to which upstream an attempt began to send the message |
//! | `i` hash(8) of the Message-ID, id | – what has the hash of another is told apart by the send's row |
//! | `r` hash(8) of the recipient, id | – |
//! | `o` hash(8) of Odoo's record, id | – |
//! | `d` day(2) hash(16) of an event's identity | – an event that names no send was applied |
//! | `t` signed at(8) hash(16) of a webhook's token | digest of the body it came with |
//! | `u` hash(16) of what it waits for, report's id | an event without a send ([`crate::ledger::rows::OrphanRow`]) |
//! | `y` 0(1) report's id | a dead letter ([`crate::ledger::rows::DeadRow`]) |
//! | `y` 1(1) report's id | what a report says since it was read anew ([`crate::record::EventV1`]) |
//! | `h` hash(8) of an address, received(8) hash(16) of a hint's identity | a hint about it ([`crate::ledger::contact_hints::HintRow`]) |
//! | `n` id place(2) occasion(1) | – a report on a recipient that is to be made |
//! | `b` upstream | why an operator keeps its breaker open |
//! | `p` upstream | up to when its provider's events are all in |
//! | `c` hash(8) of the upstream, day(2) | recipients that it took on that day (UTC) |
//! | `z` sink | up to where in the journal it has everything, and since when |
//! | `a` hash(8) of the sink, journal place(12) part(2) | when and why it refused that |
//! | `l` hash(8) of the sink, due(8) journal place(12) part(2) | – the sink is offered that again then |
//! | `g` segment(4) | bytes of finished messages in that segment of the journal |
//! | `x` address (in lower case), 0, list | what speaks against it ([`crate::record::DossierRow`]) |
//! | `x` | dossiers that speak against their address |
//! | `v` 0(1) id | a mail from outside ([`crate::ledger::inbound::InboundRow`]) |
//! | `v` 1(1) id | it waits: until when, to whom |
//! | `v` 2(1) hash(16) of Message-ID and recipient | the last mail from outside with these |
//! | `f` | what the suppression list knows erased addresses by: a salt |
//! | `k` name | the journal's position, the schema's version |

use crate::journal::Place;
use crate::ledger::rows::{WaitsRow, encode};
use crate::log_reader::Cursor;
use crate::record::occasion;
use crate::sink_cursor::Delayed;
use mailtrail_mail::{Lane, Timestamp, TrackingId};
use mailtrail_trail::{About, Occasion};
use sha2::{Digest, Sha256};

/// What does not come from the journal's records.
pub const OF_THE_LEDGER: &[u8] = b"k";
pub const SALT: &[u8] = b"f";
pub const POSITION: &[u8] = b"kposition";
pub const SCHEMA: &[u8] = b"kschema";

pub fn send(id: TrackingId) -> Vec<u8> {
    join(b'm', &[&id.to_bytes()])
}

pub fn recipient(id: TrackingId, place: u16) -> Vec<u8> {
    join(b's', &[&id.to_bytes(), &place.to_be_bytes()])
}

pub fn facts(id: TrackingId) -> Vec<u8> {
    join(b'e', &[&id.to_bytes()])
}

/// The fact of an attempt's outcome, one for each part of it.
pub fn attempted(id: TrackingId, at: Timestamp, place: Place, part: u16) -> Vec<u8> {
    join(b'e', &[&id.to_bytes(), &at.millis().to_be_bytes(), &place_bytes(place), &part.to_be_bytes()])
}

/// The fact of a report. The same report has the same key, however precisely whoever brought it says when it was: it
/// lies at the start of its day.
pub fn reported(id: TrackingId, at: Timestamp, upstream: &str, identity: &str) -> Vec<u8> {
    let day = Timestamp::from_seconds(u64::from(at.day()) * 86_400);
    join(b'e', &[&id.to_bytes(), &day.millis().to_be_bytes(), &hash(&[upstream, identity])])
}

/// What the rows of one queue begin with: the mail of a lane that waits for the same.
pub fn queue(lane: Lane, waits: &WaitsRow) -> Vec<u8> {
    let lane = u8::from(lane == Lane::Bulk);
    join(b'q', &[&[lane], &Sha256::digest(encode(waits))[..8]])
}

pub fn due(mut queue: Vec<u8>, at: Timestamp, id: TrackingId) -> Vec<u8> {
    queue.extend_from_slice(&at.millis().to_be_bytes());
    queue.extend_from_slice(&id.to_bytes());
    queue
}

/// The queue, when and what, from a key made by [`due`].
pub fn read_due(key: &[u8]) -> Option<(&[u8], Timestamp, TrackingId)> {
    let at = u64::from_be_bytes(key.get(10..18)?.try_into().ok()?);
    Some((&key[..10], Timestamp::from_millis(at), read_id(key)?))
}

/// The lane in a queue's beginning.
pub fn read_lane(queue: &[u8]) -> Lane {
    if queue.get(1) == Some(&0) { Lane::Transactional } else { Lane::Bulk }
}

pub fn sending(id: TrackingId) -> Vec<u8> {
    join(b'w', &[&id.to_bytes()])
}

pub fn message_id(text: &str) -> Vec<u8> {
    join(b'i', &[&hash(&[text])[..8]])
}

pub fn address(folded: &str) -> Vec<u8> {
    join(b'r', &[&hash(&[folded])[..8]])
}

pub fn record(written: &str) -> Vec<u8> {
    join(b'o', &[&hash(&[written])[..8]])
}

/// The key of an index row: the index's prefix and the send it leads to.
pub fn indexed(mut prefix: Vec<u8>, id: TrackingId) -> Vec<u8> {
    prefix.extend_from_slice(&id.to_bytes());
    prefix
}

/// The send that a key ends with.
pub fn read_id(key: &[u8]) -> Option<TrackingId> {
    let start = key.len().checked_sub(16)?;
    key[start..].try_into().ok().map(TrackingId::from_bytes)
}

pub fn event(upstream: &str, identity: &str, at: Timestamp) -> Vec<u8> {
    join(b'd', &[&at.day().to_be_bytes(), &hash(&[upstream, identity])])
}

pub fn token(upstream: &str, token: &str, signed_at: Timestamp) -> Vec<u8> {
    join(b't', &[&signed_at.millis().to_be_bytes(), &hash(&[upstream, token])])
}

pub fn orphans(waits_for: &str) -> Vec<u8> {
    join(b'u', &[&hash(&[waits_for])])
}

pub fn orphan(waits_for: &str, report: TrackingId) -> Vec<u8> {
    indexed(orphans(waits_for), report)
}

pub fn hints(folded: &str) -> Vec<u8> {
    join(b'h', &[&hash(&[folded])[..8]])
}

pub fn hint(folded: &str, received: Timestamp, source: &str, identity: &str) -> Vec<u8> {
    let mut key = hints(folded);
    key.extend_from_slice(&received.millis().to_be_bytes());
    key.extend_from_slice(&hash(&[source, identity]));
    key
}

pub fn dead(report: TrackingId) -> Vec<u8> {
    join(b'y', &[&[0], &report.to_bytes()])
}

pub fn reread(report: TrackingId) -> Vec<u8> {
    join(b'y', &[&[1], &report.to_bytes()])
}

/// What the rows of all dead letters begin with, and those of what replayed reports say.
pub const LETTERS: [&[u8]; 2] = [DEAD, &[b'y', 1]];
pub const DEAD: &[u8] = &[b'y', 0];

/// What the rows of mail from outside begin with, those that say it waits, and what duplicates are recognised by.
pub const INBOUND: &[u8] = &[b'v', 0];
pub const INBOUND_WAITS: &[u8] = &[b'v', 1];
pub const INBOUND_SAME: &[u8] = &[b'v', 2];

pub fn inbound(id: TrackingId) -> Vec<u8> {
    join(b'v', &[&[0], &id.to_bytes()])
}

pub fn inbound_waits(id: TrackingId) -> Vec<u8> {
    join(b'v', &[&[1], &id.to_bytes()])
}

pub fn inbound_same(message_id: &str, recipient: &str) -> Vec<u8> {
    join(b'v', &[&[2], &hash(&[message_id, recipient])])
}

pub fn unreported(about: &About) -> Vec<u8> {
    let occasion = u8::from(about.occasion == Occasion::Failure);
    join(b'n', &[&about.id.to_bytes(), &about.recipient.to_be_bytes(), &[occasion]])
}

/// All that are to be made on one send.
pub fn unreported_of(id: TrackingId) -> Vec<u8> {
    join(b'n', &[&id.to_bytes()])
}

/// The inverse of [`unreported`].
pub fn read_unreported(key: &[u8]) -> Option<About> {
    Some(About {
        id: TrackingId::from_bytes(key.get(1..17)?.try_into().ok()?),
        recipient: u16::from_be_bytes(key.get(17..19)?.try_into().ok()?),
        occasion: occasion(*key.get(19)? == 1),
    })
}

pub fn forced_open(upstream: &str) -> Vec<u8> {
    join(b'b', &[upstream.as_bytes()])
}

pub fn polled(upstream: &str) -> Vec<u8> {
    join(b'p', &[upstream.as_bytes()])
}

pub fn taken(upstream: &str, day: u16) -> Vec<u8> {
    join(b'c', &[&hash(&[upstream])[..8], &day.to_be_bytes()])
}

pub fn sink(name: &str) -> Vec<u8> {
    join(b'z', &[name.as_bytes()])
}

pub fn refused(sink: &str, cursor: Cursor, part: u16) -> Vec<u8> {
    let mut key = refused_by(sink);
    key.extend_from_slice(&place_bytes(cursor.0));
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// All that a sink refused.
pub fn refused_by(sink: &str) -> Vec<u8> {
    join(b'a', &[&hash(&[sink])[..8]])
}

/// The record and its part in a key made by [`refused`].
pub fn read_refused(key: &[u8]) -> Option<(Cursor, u16)> {
    read_place(key.get(9..)?)
}

pub fn delayed(sink: &str, delayed: Delayed) -> Vec<u8> {
    let mut key = delayed_by(sink);
    key.extend_from_slice(&delayed.due.millis().to_be_bytes());
    key.extend_from_slice(&place_bytes(delayed.cursor.0));
    key.extend_from_slice(&delayed.part.to_be_bytes());
    key
}

/// All that a sink delayed.
pub fn delayed_by(sink: &str) -> Vec<u8> {
    join(b'l', &[&hash(&[sink])[..8]])
}

/// What was delayed, from a key made by [`delayed`].
pub fn read_delayed(key: &[u8]) -> Option<Delayed> {
    let due = u64::from_be_bytes(key.get(9..17)?.try_into().ok()?);
    let (cursor, part) = read_place(key.get(17..)?)?;
    Some(Delayed { due: Timestamp::from_millis(due), cursor, part })
}

/// A record and its part at the end of a key.
fn read_place(bytes: &[u8]) -> Option<(Cursor, u16)> {
    let segment = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let offset = u64::from_be_bytes(bytes.get(4..12)?.try_into().ok()?);
    Some((Cursor(Place { segment, offset }), u16::from_be_bytes(bytes.get(12..14)?.try_into().ok()?)))
}

pub fn garbage(segment: u32) -> Vec<u8> {
    join(b'g', &[&segment.to_be_bytes()])
}

/// How many addresses are listed; what the rows of all of them begin with.
pub fn listed() -> Vec<u8> {
    vec![b'x']
}

/// What the rows of one address begin with. Neither it nor the name of a list holds a 0.
pub fn dossiers(folded: &str) -> Vec<u8> {
    join(b'x', &[folded.as_bytes(), &[0]])
}

pub fn dossier(folded: &str, list: &str) -> Vec<u8> {
    join(b'x', &[folded.as_bytes(), &[0], list.as_bytes()])
}

/// The address and the list, from a key made by [`dossier`].
pub fn read_dossier(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key.get(1..)?).ok()?.split_once('\0')
}

/// The rows of which some are asked for with every mail, and few are there.
pub const SPARSE: [u8; 2] = [SALT[0], b'x'];

pub fn is_sparse(key: &[u8]) -> bool {
    key.first().is_some_and(|class| SPARSE.contains(class))
}

/// The rows that lie in the order of their days: of events and of tokens.
pub const BY_DAY: [u8; 2] = [b'd', b't'];

/// The day in a key made by [`event`] or [`token`].
pub fn read_day(key: &[u8]) -> Option<u16> {
    match key.first()? {
        b'd' => Some(u16::from_be_bytes(key.get(1..3)?.try_into().ok()?)),
        _ => Some(Timestamp::from_millis(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?)).day()),
    }
}

fn place_bytes(place: Place) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&place.segment.to_be_bytes());
    bytes[4..].copy_from_slice(&place.offset.to_be_bytes());
    bytes
}

fn join(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(48);
    key.push(prefix);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn hash(parts: &[&str]) -> [u8; 16] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    let mut short = [0; 16];
    short.copy_from_slice(&digest.finalize()[..16]);
    short
}
