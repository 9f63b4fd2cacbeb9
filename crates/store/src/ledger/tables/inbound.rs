//! Tables of inbound messages.

use crate::ledger::encoding::{concat_key, hash_parts, parse_tracking_id};
use crate::ledger::inbound_row::InboundRow;
use crate::ledger::table::Table;
use mailtrail_mail::TrackingId;
use std::borrow::Cow;

/// Inbound messages, by id.
pub struct InboundMessages;

impl Table for InboundMessages {
    const PREFIX: &'static [u8] = &[b'v', 0];
    type Key<'k> = TrackingId;
    type ParsedKey<'k> = TrackingId;
    type Row<'r> = InboundRow;

    fn key(id: TrackingId) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&id.to_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<TrackingId> {
        parse_tracking_id(key)
    }
}

/// Due time and recipient of waiting inbound messages, by id.
pub struct InboundQueue;

impl Table for InboundQueue {
    const PREFIX: &'static [u8] = &[b'v', 1];
    type Key<'k> = TrackingId;
    type ParsedKey<'k> = TrackingId;
    type Row<'r> = (u64, Cow<'r, str>);

    fn key(id: TrackingId) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&id.to_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<TrackingId> {
        parse_tracking_id(key)
    }
}

/// The last inbound message with a Message-ID to a folded recipient.
pub struct InboundDedup;

impl Table for InboundDedup {
    const PREFIX: &'static [u8] = &[b'v', 2];
    type Key<'k> = (&'k str, &'k str);
    type ParsedKey<'k> = ();
    type Row<'r> = [u8; 16];

    fn key((message_id, recipient): (&str, &str)) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&hash_parts(&[message_id, recipient])])
    }

    fn parse_key(_: &[u8]) -> Option<()> {
        Some(())
    }
}
