//! The tables of the ledger, by the first byte of their keys. Empty rows are written as –.
//!
//! | key | row |
//! |---|---|
//! | `m` id | [`Messages`]: a message |
//! | `s` id index(2) | [`Recipients`]: a recipient of a message with several |
//! | `e` id at(8) journal position(12) part(2), or id start of the day(8) hash(16) of an event's identity | [`TrailEvents`]: a trail event |
//! | `q` lane(1) hash(8) of the queue key, due(8) id | [`QueueEntries`]: queue entry of an open message |
//! | `w` id | [`Attempts`]: time and upstream of an attempt that began to send the message |
//! | `i` hash(8) of the Message-ID, id | [`MessageIdIndex`]: – the message's row distinguishes equal hashes |
//! | `r` hash(8) of the recipient, id | [`RecipientIndex`]: – |
//! | `o` hash(8) of the Odoo record, id | [`OdooRecordIndex`]: – |
//! | `d` day(2) hash(16) of an event's identity | [`EventDedup`]: – an event without a tracking id was applied |
//! | `t` signed at(8) hash(16) of a webhook's token | [`WebhookTokens`]: digest of the body that came with it |
//! | `u` hash(16) of the awaited message's id or Message-ID, event's id | [`Orphans`]: an orphaned event |
//! | `y` 0(1) event's id | [`DeadLetters`]: a dead letter |
//! | `y` 1(1) event's id | [`ReplayedEvents`]: the replayed event |
//! | `h` hash(8) of an address, received(8) hash(16) of a hint's identity | [`ContactHints`]: a contact hint |
//! | `n` id index(2) action(1) | [`PendingDsns`]: – a pending DSN for a recipient |
//! | `b` upstream | [`BreakerOverrides`]: the operator's reason for keeping its breaker open |
//! | `p` upstream | [`PollCursors`]: time up to which its provider's events are complete |
//! | `c` hash(8) of the upstream, day(2) | [`RelayedCounts`]: number of recipients that it accepted on that day (UTC) |
//! | `z` sink | [`SinkCursors`]: position in the journal up to which it has everything, and the time of that |
//! | `a` hash(8) of the sink, journal position(12) part(2) | [`SinkDeadLetters`]: time and reason of its permanent rejection |
//! | `l` hash(8) of the sink, due(8) journal position(12) part(2) | [`DelayedDeliveries`]: – a delayed delivery to the sink |
//! | `g` segment(4) | [`SegmentGarbage`]: bytes of finished messages in that segment of the journal |
//! | `x` address (in lower case), 0, list | [`Evidence`]: suppression evidence |
//! | `x` | [`SuppressedCount`]: number of suppressed addresses |
//! | `v` 0(1) id | [`InboundMessages`]: an inbound message |
//! | `v` 1(1) id | [`InboundQueue`]: it waits: due time and recipient |
//! | `v` 2(1) hash(16) of Message-ID and recipient | [`InboundDedup`]: the last inbound message with both |
//! | `f` | [`ErasureSalt`]: the salt by which the suppression list recognises erased addresses |
//! | `k` name | the journal position, the schema version ([`crate::ledger::keys`]) |

mod events;
mod inbound;
mod messages;
mod queue;
mod sinks;
mod suppressions;

pub(crate) use events::{
    ContactHints, DeadLetters, EventDedup, Orphans, PollCursors, ReplayedEvents, WebhookTokens,
};
pub(crate) use inbound::{InboundDedup, InboundMessages, InboundQueue};
pub(crate) use messages::{
    AttemptRow, Attempts, MessageIdIndex, Messages, OdooRecordIndex, PendingDsns, RecipientIndex, Recipients,
    TrailEventKey, TrailEvents,
};
pub(crate) use queue::{BreakerOverrides, QueueEntries, RelayedCounts, SegmentGarbage};
pub(crate) use sinks::{DelayedDeliveries, SinkCursors, SinkDeadLetters};
pub(crate) use suppressions::{ErasureSalt, Evidence, SuppressedCount};
