//! Tables of messages, their recipients, trails and indexes.

use crate::ledger::encoding::{concat_key, hash_parts, parse_tracking_id, position_bytes, time_bytes};
use crate::ledger::memtable::Memtable;
use crate::ledger::rows::{MessageRow, RecipientRow, TrailEventRow};
use crate::ledger::table::{Table, TableRow, TableRows};
use crate::ledger::write_batch::WriteBatch;
use crate::position::Position;
use crate::record::dsn_action_from_flag;
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{DsnAction, ReportedRecipient};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ops::Bound::{Excluded, Included};

/// Messages by tracking id.
pub struct Messages;

impl Table for Messages {
    const PREFIX: &'static [u8] = b"m";
    type Key<'k> = TrackingId;
    type ParsedKey<'k> = TrackingId;
    type Row<'r> = MessageRow;

    fn key(id: TrackingId) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&id.to_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<TrackingId> {
        parse_tracking_id(key)
    }
}

/// Recipients of messages with several, by tracking id and index.
pub struct Recipients;

impl Table for Recipients {
    const PREFIX: &'static [u8] = b"s";
    type Key<'k> = (TrackingId, u16);
    type ParsedKey<'k> = ();
    type Row<'r> = RecipientRow;

    fn key((id, index): (TrackingId, u16)) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&id.to_bytes(), &index.to_be_bytes()])
    }

    fn parse_key(_: &[u8]) -> Option<()> {
        Some(())
    }
}

/// Trail events of messages.
pub struct TrailEvents;

/// Key of a trail event.
#[derive(Clone, Copy)]
pub enum TrailEventKey<'a> {
    /// Part of an attempt's outcome or of another record, by the record's position.
    OfRecord { id: TrackingId, at: Timestamp, position: Position, part: u16 },
    /// Provider event. Its time counts by the start of the day, so copies of an event have the same key,
    /// whatever the precision of their timestamps.
    OfEvent { id: TrackingId, at: Timestamp, upstream: &'a str, dedup_key: &'a str },
}

impl Table for TrailEvents {
    const PREFIX: &'static [u8] = b"e";
    type Key<'k> = TrailEventKey<'k>;
    type ParsedKey<'k> = ();
    type Row<'r> = TrailEventRow;

    fn key(key: TrailEventKey<'_>) -> Vec<u8> {
        match key {
            TrailEventKey::OfRecord { id, at, position, part } => concat_key(
                Self::PREFIX,
                &[&id.to_bytes(), &time_bytes(at), &position_bytes(position), &part.to_be_bytes()],
            ),
            TrailEventKey::OfEvent { id, at, upstream, dedup_key } => {
                let day = Timestamp::from_secs(u64::from(at.day_number()) * 86_400);
                concat_key(
                    Self::PREFIX,
                    &[&id.to_bytes(), &time_bytes(day), &hash_parts(&[upstream, dedup_key])],
                )
            }
        }
    }

    fn parse_key(_: &[u8]) -> Option<()> {
        Some(())
    }
}

impl TrailEvents {
    /// Returns the trail events of a message.
    pub fn of_message(rows: &Memtable, id: TrackingId) -> TableRows<'_, Self> {
        Self::scan_prefix(rows, &concat_key(Self::PREFIX, &[&id.to_bytes()]))
    }

    /// Returns the trail events of a message after the changes of a batch.
    pub fn of_message_in(rows: &WriteBatch<'_>, id: TrackingId) -> sled::Result<Vec<TableRow<Self>>> {
        Self::scan_batch(rows, &concat_key(Self::PREFIX, &[&id.to_bytes()]), usize::MAX)
    }
}

/// Attempts that are in progress or were interrupted, by tracking id.
pub struct Attempts;

/// Time and upstream of an attempt.
#[derive(Debug, Serialize, Deserialize)]
pub struct AttemptRow<'r> {
    pub at: u64,
    pub upstream: Cow<'r, str>,
}

impl Table for Attempts {
    const PREFIX: &'static [u8] = b"w";
    type Key<'k> = TrackingId;
    type ParsedKey<'k> = TrackingId;
    type Row<'r> = AttemptRow<'r>;

    fn key(id: TrackingId) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&id.to_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<TrackingId> {
        parse_tracking_id(key)
    }
}

/// Recipients for which a DSN is pending.
pub struct PendingDsns;

impl Table for PendingDsns {
    const PREFIX: &'static [u8] = b"n";
    type Key<'k> = &'k ReportedRecipient;
    type ParsedKey<'k> = ReportedRecipient;
    type Row<'r> = ();

    fn key(about: &ReportedRecipient) -> Vec<u8> {
        let is_failure = u8::from(about.action == DsnAction::Failed);
        let index = about.recipient_index.to_be_bytes();
        concat_key(Self::PREFIX, &[&about.tracking_id.to_bytes(), &index, &[is_failure]])
    }

    fn parse_key(key: &[u8]) -> Option<ReportedRecipient> {
        Some(ReportedRecipient {
            tracking_id: TrackingId::from_bytes(key.get(1..17)?.try_into().ok()?),
            recipient_index: u16::from_be_bytes(key.get(17..19)?.try_into().ok()?),
            action: dsn_action_from_flag(*key.get(19)? == 1),
        })
    }
}

impl PendingDsns {
    /// Returns the pending DSNs of a message.
    pub fn of_message(rows: &Memtable, id: TrackingId) -> TableRows<'_, Self> {
        Self::scan_prefix(rows, &concat_key(Self::PREFIX, &[&id.to_bytes()]))
    }
}

/// Index of messages by the hash of a text, with the first byte `P`. Equal hashes are possible.
pub struct MessageIndex<const P: u8>;

/// Index by Message-ID.
pub type MessageIdIndex = MessageIndex<b'i'>;
/// Index by recipient, folded.
pub type RecipientIndex = MessageIndex<b'r'>;
/// Index by Odoo record.
pub type OdooRecordIndex = MessageIndex<b'o'>;

impl<const P: u8> Table for MessageIndex<P> {
    const PREFIX: &'static [u8] = &[P];
    type Key<'k> = (&'k str, TrackingId);
    type ParsedKey<'k> = TrackingId;
    type Row<'r> = ();

    fn key((text, id): (&str, TrackingId)) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&hash_parts(&[text])[..8], &id.to_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<TrackingId> {
        parse_tracking_id(key)
    }
}

impl<const P: u8> MessageIndex<P> {
    fn prefix_of(text: &str) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&hash_parts(&[text])[..8]])
    }

    /// Returns messages with that text, newest first.
    pub fn newest(rows: &Memtable, text: &str) -> impl Iterator<Item = sled::Result<TrackingId>> {
        tracking_ids(Self::scan_prefix_rev(rows, &Self::prefix_of(text)))
    }

    /// Returns messages with that text after `id`, oldest first.
    pub fn newer_than(
        rows: &Memtable,
        text: &str,
        id: TrackingId,
    ) -> impl Iterator<Item = sled::Result<TrackingId>> {
        let last = TrackingId::from_bytes([u8::MAX; 16]);
        tracking_ids(Self::range(rows, Excluded((text, id)), Included((text, last))))
    }

    /// Returns whether any of these messages has that text.
    pub fn contains_any(rows: &Memtable, text: &str, ids: &[TrackingId]) -> sled::Result<bool> {
        let prefix = Self::prefix_of(text);
        for id in ids {
            if rows.contains_key(&concat_key(&prefix, &[&id.to_bytes()]))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns messages with that text after the changes of a batch, oldest first; of those from before the
    /// batch, the newest `limit`.
    pub fn ids_in(rows: &WriteBatch<'_>, text: &str, limit: usize) -> sled::Result<Vec<TrackingId>> {
        let rows = Self::scan_batch(rows, &Self::prefix_of(text), limit)?;
        Ok(rows.iter().filter_map(TableRow::key).collect())
    }
}

/// Returns the messages that rows refer to.
fn tracking_ids<const P: u8>(
    rows: TableRows<'_, MessageIndex<P>>,
) -> impl Iterator<Item = sled::Result<TrackingId>> {
    rows.filter_map(|row| row.map(|row| row.key()).transpose())
}
