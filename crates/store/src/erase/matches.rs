//! Request to erase an address, and the data that mentions it.

use crate::log_entry::LogEntry;
use mailtrail_mail::{Mailbox, Timestamp, TrackingId};
use std::collections::BTreeSet;

/// Data that mentions an address.
#[derive(Clone, Debug, Default)]
pub struct ErasureMatches {
    /// Records of the journal.
    pub records: u64,
    /// Bodies and raw payloads: those of the matching records, and those that mention the address themselves.
    pub bodies: u64,
    /// Messages from or to the address, or with the address in their trail.
    pub messages: BTreeSet<TrackingId>,
    /// Provider events with the address.
    pub events: BTreeSet<TrackingId>,
    /// Inbound messages from or to the address.
    pub inbound: BTreeSet<TrackingId>,
    /// Log entries of other records.
    pub log_entries: Vec<LogEntry>,
    /// Messages that are still queued.
    pub pending: PendingReferences,
    /// Segments to rewrite.
    pub(super) segments: BTreeSet<u32>,
}

/// Queued messages that mention an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingReferences {
    /// Messages, including those that the ledger lacks.
    pub messages: BTreeSet<TrackingId>,
    /// Inbound messages that wait for delivery.
    pub inbound: BTreeSet<TrackingId>,
}

impl PendingReferences {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.inbound.is_empty()
    }
}

/// Request to erase an address.
#[derive(Clone, Copy, Debug)]
pub struct ErasureRequest<'a> {
    /// Address that is erased.
    pub address: &'a Mailbox,
    /// Operator that requests the erasure.
    pub operator: &'a str,
    /// Reason for the erasure.
    pub reason: &'a str,
    /// Time of the request.
    pub at: Timestamp,
}
