//! Tables of provider events and contact hints.

use crate::ledger::encoding::{concat_key, hash_parts, parse_time, parse_tracking_id, time_bytes};
use crate::ledger::memtable::Memtable;
use crate::ledger::rows::{DeadLetterRow, OrphanRow};
use crate::ledger::table::{Table, TableRow, TableRows};
use crate::ledger::write_batch::WriteBatch;
use crate::record::{ProviderEventV1, ReceivedHintV1};
use mailtrail_mail::{Timestamp, TrackingId};

/// Events and hints that were applied, by source, identity and day.
pub struct EventDedup;

impl Table for EventDedup {
    const PREFIX: &'static [u8] = b"d";
    type Key<'k> = (&'k str, &'k str, Timestamp);
    type ParsedKey<'k> = u16;
    type Row<'r> = ();

    fn key((source, dedup_key, at): (&str, &str, Timestamp)) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&at.day_number().to_be_bytes(), &hash_parts(&[source, dedup_key])])
    }

    fn parse_key(key: &[u8]) -> Option<u16> {
        key.get(1..3)?.try_into().ok().map(u16::from_be_bytes)
    }
}

/// Digests of the bodies that came with webhook tokens, by upstream, token and signing time.
pub struct WebhookTokens;

impl Table for WebhookTokens {
    const PREFIX: &'static [u8] = b"t";
    type Key<'k> = (&'k str, &'k str, Timestamp);
    type ParsedKey<'k> = u16;
    type Row<'r> = [u8; 16];

    fn key((upstream, token, signed_at): (&str, &str, Timestamp)) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&time_bytes(signed_at), &hash_parts(&[upstream, token])])
    }

    fn parse_key(key: &[u8]) -> Option<u16> {
        parse_time(key, 1).map(|signed_at| signed_at.day_number())
    }
}

/// Orphaned events, by the awaited message's tracking id or Message-ID, and the event's id.
pub struct Orphans;

impl Table for Orphans {
    const PREFIX: &'static [u8] = b"u";
    type Key<'k> = (&'k str, TrackingId);
    type ParsedKey<'k> = TrackingId;
    type Row<'r> = OrphanRow;

    fn key((awaited, event_id): (&str, TrackingId)) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&hash_parts(&[awaited]), &event_id.to_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<TrackingId> {
        parse_tracking_id(key)
    }
}

impl Orphans {
    /// Returns the events that wait for a message; of those from before the batch, the newest `limit`.
    pub fn awaiting(rows: &WriteBatch<'_>, awaited: &str, limit: usize) -> sled::Result<Vec<TableRow<Self>>> {
        Self::scan_batch(rows, &concat_key(Self::PREFIX, &[&hash_parts(&[awaited])]), limit)
    }
}

/// Undecodable events, by id.
pub struct DeadLetters;

impl Table for DeadLetters {
    const PREFIX: &'static [u8] = &[b'y', 0];
    type Key<'k> = TrackingId;
    type ParsedKey<'k> = TrackingId;
    type Row<'r> = DeadLetterRow;

    fn key(event_id: TrackingId) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&event_id.to_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<TrackingId> {
        parse_tracking_id(key)
    }
}

/// Events that were decoded again, by id.
pub struct ReplayedEvents;

impl Table for ReplayedEvents {
    const PREFIX: &'static [u8] = &[b'y', 1];
    type Key<'k> = TrackingId;
    type ParsedKey<'k> = TrackingId;
    type Row<'r> = ProviderEventV1;

    fn key(event_id: TrackingId) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&event_id.to_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<TrackingId> {
        parse_tracking_id(key)
    }
}

/// Contact hints, by folded address, time of receipt, source and identity. The row has the journal's form.
pub struct ContactHints;

impl Table for ContactHints {
    const PREFIX: &'static [u8] = b"h";
    type Key<'k> = (&'k str, Timestamp, &'k str, &'k str);
    type ParsedKey<'k> = ();
    type Row<'r> = ReceivedHintV1;

    fn key((address, received_at, source, dedup_key): (&str, Timestamp, &str, &str)) -> Vec<u8> {
        let address = &hash_parts(&[address])[..8];
        concat_key(Self::PREFIX, &[address, &time_bytes(received_at), &hash_parts(&[source, dedup_key])])
    }

    fn parse_key(_: &[u8]) -> Option<()> {
        Some(())
    }
}

impl ContactHints {
    /// Returns hints about a folded address, the latest received first. Equal hashes are possible.
    pub fn newest<'m>(rows: &'m Memtable, address: &str) -> TableRows<'m, Self> {
        Self::scan_prefix_rev(rows, &concat_key(Self::PREFIX, &[&hash_parts(&[address])[..8]]))
    }
}

/// Times up to which a provider's events are complete, by upstream.
pub struct PollCursors;

impl Table for PollCursors {
    const PREFIX: &'static [u8] = b"p";
    type Key<'k> = &'k str;
    type ParsedKey<'k> = ();
    type Row<'r> = u64;

    fn key(upstream: &str) -> Vec<u8> {
        concat_key(Self::PREFIX, &[upstream.as_bytes()])
    }

    fn parse_key(_: &[u8]) -> Option<()> {
        Some(())
    }
}
