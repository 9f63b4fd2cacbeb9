use crate::ledger::apply::attempt::{
    apply_attempt_start, apply_breaker_override, apply_outcome, apply_queue_action,
};
use crate::ledger::apply::contact_hint::apply_hint;
use crate::ledger::apply::event_replay::apply_event_replay;
use crate::ledger::apply::inbound::apply_inbound;
use crate::ledger::apply::message::{apply_accepted, apply_duplicate};
use crate::ledger::apply::provider_event::{apply_dead_letter, apply_received_event};
use crate::ledger::apply::sink::apply_sink_ack;
use crate::ledger::apply::suppression::apply_suppression_change;
use crate::ledger::table::Table;
use crate::ledger::tables::{ErasureSalt, PollCursors};
use crate::ledger::write_batch::WriteBatch;
use crate::position::Position;
use crate::record::Record;
use mailtrail_trail::{Erasure, PollCursor};

/// Applies one record that lies at `position` and has a body of `body_length` bytes.
pub fn apply_record(
    rows: &mut WriteBatch<'_>,
    record: &Record,
    position: Position,
    body_length: u32,
) -> sled::Result<()> {
    match record {
        Record::AcceptedMessage(record) => apply_accepted(rows, record, position, body_length),
        Record::DuplicateSubmission(record) => apply_duplicate(rows, record, position),
        Record::AttemptStarted(record) => apply_attempt_start(rows, record),
        Record::AttemptOutcome(record) => apply_outcome(rows, record, position),
        Record::QueueAction(record) => apply_queue_action(rows, record, position),
        Record::BreakerOverride(record) => {
            apply_breaker_override(rows, record);
            Ok(())
        }
        Record::SinkAck(record) => {
            apply_sink_ack(rows, record);
            Ok(())
        }
        Record::SuppressionChange(record) => apply_suppression_change(rows, record),
        Record::ReceivedHint(record) => apply_hint(rows, record),
        Record::PollCursor(PollCursor { upstream, until }) => {
            PollCursors::put(rows, upstream, &until.as_millis());
            Ok(())
        }
        Record::ReceivedEvent(record) => apply_received_event(rows, record),
        Record::DeadLetter(record) => apply_dead_letter(rows, record),
        Record::EventReplay(record) => apply_event_replay(rows, record),
        Record::Inbound(record) => apply_inbound(rows, record, position, body_length),
        Record::Erasure(record) => apply_erasure(rows, record),
        // Only the log shows them, and it is read from the journal.
        Record::OperatorAction(_) => Ok(()),
    }
}

/// Stores the salt of the first erasure; later ones use the same.
fn apply_erasure(rows: &mut WriteBatch<'_>, erasure: &Erasure) -> sled::Result<()> {
    ErasureSalt::put_if_absent(rows, (), &erasure.salt)?;
    Ok(())
}
