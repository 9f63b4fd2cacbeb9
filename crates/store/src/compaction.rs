//! Keeps the store small: removes rows past retention, rewrites segments that hold much garbage, and rebuilds
//! the ledger when it has grown.
//!
//! The journal is the source of truth and the ledger is not, so a missing row alone never justifies dropping
//! data. A body is dropped only if a row marks the message as finished. A record without a row is dropped
//! only if it is past retention by its own time.

use crate::group_commit::{CommitError, CommitPipeline, LedgerCommand};
use crate::journal::{CompactionError, Frame, Position, Retain, Segment, rewrite_segment};
use crate::ledger::Ledger;
use crate::open::OpenError;
use crate::rebuild::discard_ledger;
use crate::record::Record;
use crate::replay::{ReplayError, segment_chain};
use crate::retention::Retention;
use crate::{ReadError, Store};
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{InboundRecord, InboundState};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::TryLockError;
use std::time::Duration;
use tokio::sync::oneshot;

/// State of maintenance between its steps.
#[derive(Debug, Default)]
pub struct CompactionState {
    /// Message from which the search for expired messages continues.
    expiry_cursor: Option<TrackingId>,
    /// Time of the next full pass.
    next_pass: Timestamp,
    /// Damaged segments, which are left as they are.
    corrupt_segments: HashSet<u32>,
    /// Size of the ledger, in bytes, at which its rows are counted again.
    measure_at_bytes: u64,
    /// Time at which the rows are counted again in any case.
    next_measure: Timestamp,
    /// File bytes of a new ledger per byte of its rows.
    overhead: f64,
}

/// Maintenance failed; it is tried again later.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// Error of a lookup.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Error of a rewrite.
    #[error(transparent)]
    Rewrite(#[from] CompactionError),
    /// Error of the replay into a new ledger.
    #[error("the ledger cannot be rebuilt: {0}")]
    Rebuild(#[from] ReplayError),
    /// Error of opening a new ledger.
    #[error("the ledger cannot be rebuilt: {0}")]
    Open(#[from] OpenError),
    /// The store's threads have ended.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<::sled::Error> for MaintenanceError {
    fn from(error: ::sled::Error) -> Self {
        Self::Read(error.into())
    }
}

impl From<io::Error> for MaintenanceError {
    fn from(error: io::Error) -> Self {
        Self::Read(error.into())
    }
}

impl Store {
    /// Runs one step of maintenance. A step takes at most about 1 s, unless it rebuilds the ledger. Returns
    /// true if more work is due at once. Blocks. Traffic continues.
    pub fn run_maintenance_step(
        &self,
        retention: &Retention,
        now: Timestamp,
    ) -> Result<bool, MaintenanceError> {
        let Some(commit_pipeline) = &self.0.commit_pipeline else { return Ok(false) };
        let mut state = match self.0.compaction.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // A full read of the journal is in progress, which must not change.
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        // A closed ledger is maintained once it is open again.
        let Ok(ledger) = self.ledger() else { return Ok(false) };
        let step = MaintenanceStep { store: self, commit_pipeline, ledger: &ledger, retention, now };
        Ok(step.compact_next_segment(&mut state)?
            || step.expire_rows(&mut state)?
            || step.rebuild_if_grown(&mut state)?)
    }
}

struct MaintenanceStep<'a> {
    store: &'a Store,
    commit_pipeline: &'a CommitPipeline,
    ledger: &'a Ledger,
    retention: &'a Retention,
    now: Timestamp,
}

impl MaintenanceStep<'_> {
    /// Rewrites the first segment that is worth it.
    fn compact_next_segment(&self, state: &mut CompactionState) -> Result<bool, MaintenanceError> {
        let Some(position) = self.ledger.position()? else { return Ok(false) };
        let garbage = self.ledger.garbage_by_segment()?;
        let mut before_may_need_it = false;
        let chain = segment_chain(&self.store.0.journal_dir)?;
        for pair in chain.windows(2) {
            let ((number, end), (next, _)) = (pair[0], pair[1]);
            // Records that are not applied yet are not judged. The last segment is still written to.
            if position < (Position { segment: number, offset: end.unwrap_or(u64::MAX) }) {
                break;
            }
            let Ok(segment) = Segment::open(&self.store.0.journal_dir, number, end) else { continue };
            let until = Segment::open(&self.store.0.journal_dir, next, None)
                .map_or(self.now, |next| next.created_at());
            let waste = garbage.get(&number).copied().unwrap_or_default();
            if !state.corrupt_segments.contains(&number) && self.is_worth_compacting(&segment, until, waste) {
                self.rewrite_segment(number, &segment, !before_may_need_it, waste, state)?;
                return Ok(true);
            }
            before_may_need_it = segment.rewritten_at().is_none();
        }
        Ok(false)
    }

    /// Returns whether a segment that was written until `until` holds enough garbage.
    fn is_worth_compacting(&self, segment: &Segment, until: Timestamp, waste: u64) -> bool {
        let rewritten = segment.rewritten_at().unwrap_or_default();
        let bodies_may_go = waste > 0 && until <= self.retention.bodies_horizon(self.now);
        let much = waste * 3 >= segment.trusted_length();
        let settled = self.now.duration_since(rewritten.max(until)) >= COLD_AFTER;
        // Once for each age at which data expires.
        let reached = |age| until.saturating_add(age) <= self.now && rewritten < until.saturating_add(age);
        // And periodically for data that was still in use then.
        let leftover = until <= self.retention.overall_horizon(self.now)
            && self.now.duration_since(rewritten) >= RECHECK_INTERVAL;
        (bodies_may_go && (much || settled))
            || reached(self.retention.events)
            || reached(self.retention.max_age())
            || leftover
    }

    fn rewrite_segment(
        &self,
        number: u32,
        segment: &Segment,
        may_go: bool,
        waste: u64,
        state: &mut CompactionState,
    ) -> Result<(), MaintenanceError> {
        let mut failed = None;
        let keep = |frame: &Frame| {
            self.retain_record(frame).map_err(|error| {
                failed = Some(error);
                io::Error::other("the ledger cannot be read")
            })
        };
        let done =
            rewrite_segment(&*self.store.0.disk, &self.store.0.journal_dir, segment, may_go, self.now, keep);
        if let Some(error) = failed {
            return Err(error.into());
        }
        match done {
            Ok(done) => {
                self.store.0.segment_cache.evict(number);
                // Messages that finished in the meantime still count.
                self.run_ledger_command(LedgerCommand::AccountGarbage(number, waste))?;
                state.next_pass = Timestamp::default();
                tracing::debug!(
                    segment = number,
                    before = done.bytes_before,
                    after = done.bytes_after,
                    "rewritten"
                );
                Ok(())
            }
            Err(CompactionError::Corrupt(number)) => {
                tracing::error!(segment = number, "a segment of the journal is damaged and stays as it is");
                state.corrupt_segments.insert(number);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the part of a record to retain.
    fn retain_record(&self, frame: &Frame) -> ::sled::Result<Retain> {
        let Ok(record) = Record::decode(frame.kind, frame.version, &frame.payload) else {
            return Ok(Retain::All);
        };
        let horizon = self.retention.overall_horizon(self.now);
        let forgotten =
            |id, at: Timestamp| Ok::<_, ::sled::Error>(at < horizon && !self.ledger.has_message(id)?);
        Ok(match record {
            Record::AcceptedMessage(accepted) => self.retain_accepted(accepted.message.id, frame)?,
            Record::AttemptStarted(begun) if self.ledger.is_sending(begun.id)? => Retain::All,
            Record::AttemptStarted(_) => Retain::Drop,
            Record::AttemptOutcome(outcome) if forgotten(outcome.id, outcome.at)? => Retain::Drop,
            Record::DuplicateSubmission(repeated) if forgotten(repeated.id, repeated.at)? => Retain::Drop,
            Record::QueueAction(action) if forgotten(action.id, action.at)? => Retain::Drop,
            Record::AttemptOutcome(_) | Record::DuplicateSubmission(_) | Record::QueueAction(_) => {
                Retain::All
            }
            // Few and small; a rebuild needs the last one of each upstream.
            Record::BreakerOverride(_) => Retain::All,
            Record::SinkAck(ack) if self.ledger.is_latest_ack(&ack)? => Retain::All,
            Record::SinkAck(ack) if ack.at >= horizon => Retain::All,
            Record::SinkAck(ack) if self.ledger.has_pending_delay(&ack)? => Retain::All,
            Record::SinkAck(_) => Retain::Drop,
            // Each is followed by a later one; one that old starts no poll any more.
            Record::PollCursor(poll_cursor) if poll_cursor.until >= horizon => Retain::All,
            Record::PollCursor(_) => Retain::Drop,
            // A removal must outlive the evidence that it invalidated, and segments are rewritten in any
            // order. A change without effect is never written, so there are few.
            Record::SuppressionChange(_) => Retain::All,
            // They record the operator, and hold the salt by which the suppression list recognises erased
            // addresses.
            Record::Erasure(_) => Retain::All,
            Record::OperatorAction(ordered) if ordered.at >= horizon => Retain::All,
            Record::OperatorAction(_) => Retain::Drop,
            Record::ReceivedEvent(received_event)
                if received_event.received_at >= self.retention.events_horizon(self.now) =>
            {
                Retain::All
            }
            Record::ReceivedEvent(received_event) if received_event.received_at >= horizon => {
                Retain::DropBody
            }
            Record::ReceivedEvent(received_event)
                if self.ledger.correlate(&received_event.event)?.is_some() =>
            {
                Retain::DropBody
            }
            Record::ReceivedEvent(received_event) if self.ledger.is_evidence_source(&received_event)? => {
                Retain::DropBody
            }
            Record::ReceivedEvent(_) => Retain::Drop,
            Record::ReceivedHint(received_hint)
                if received_hint.received_at >= self.retention.events_horizon(self.now) =>
            {
                Retain::All
            }
            Record::ReceivedHint(_) => Retain::Drop,
            Record::DeadLetter(dead_letter)
                if dead_letter.received_at >= self.retention.events_horizon(self.now) =>
            {
                Retain::All
            }
            // Its token is remembered as long as those of other events.
            Record::DeadLetter(dead_letter) if dead_letter.received_at >= horizon => Retain::DropBody,
            Record::DeadLetter(_) => Retain::Drop,
            Record::EventReplay(replay) if replay.at >= horizon => Retain::All,
            Record::EventReplay(replay) if self.ledger.correlate(&replay.event)?.is_some() => Retain::All,
            Record::EventReplay(_) => Retain::Drop,
            Record::Inbound(inbound) => self.retain_inbound(&inbound, frame)?,
        })
    }

    /// Returns the part of an inbound record to retain. A waiting message is retained. Its outcome is
    /// retained for longer than any message may wait, so that a rebuild never takes a message that it finds
    /// again for a waiting one.
    fn retain_inbound(&self, inbound: &InboundRecord, frame: &Frame) -> ::sled::Result<Retain> {
        let horizon = self.retention.overall_horizon(self.now);
        let (id, body_until) = match inbound {
            InboundRecord::Transitioned(moved)
                if moved.at >= horizon.min(self.now.saturating_sub(EVIDENCE_RETENTION)) =>
            {
                return Ok(Retain::All);
            }
            InboundRecord::Transitioned(_) => return Ok(Retain::Drop),
            InboundRecord::Received(arrival) => match self.ledger.inbound_mail(arrival.id)? {
                Some((mail, _)) if mail.state == InboundState::Waiting => return Ok(Retain::All),
                Some((mail, _)) if mail.state == InboundState::Delivered => {
                    (arrival.id, self.retention.bodies_horizon(self.now))
                }
                _ => (arrival.id, self.retention.events_horizon(self.now)),
            },
        };
        Ok(match id.timestamp() {
            came if came > body_until => Retain::All,
            came if came >= horizon && frame.body_length > 0 => Retain::DropBody,
            came if came >= horizon => Retain::All,
            _ => Retain::Drop,
        })
    }

    fn retain_accepted(&self, id: TrackingId, frame: &Frame) -> ::sled::Result<Retain> {
        let has_body = frame.body_length > 0;
        let age = self.now.duration_since(id.timestamp());
        match self.ledger.load_message(id)? {
            Some((_, row)) if row.queue_entry.is_some() || self.ledger.is_sending(id)? => Ok(Retain::All),
            Some(_) if id.timestamp() > self.retention.bodies_horizon(self.now) => Ok(Retain::All),
            Some(_) if has_body => Ok(Retain::DropBody),
            Some(_) => Ok(Retain::All),
            // No message waits that long: give_up_after is at most 30 days.
            None if has_body && age < self.retention.ledger + MAX_QUEUE_TIME => Ok(Retain::All),
            None if id.timestamp() >= self.retention.overall_horizon(self.now) => Ok(Retain::All),
            None => Ok(Retain::Drop),
        }
    }

    /// Removes some rows past retention. A message's row is removed after its body: the row is what allows
    /// the body to be dropped.
    fn expire_rows(&self, state: &mut CompactionState) -> Result<bool, MaintenanceError> {
        if self.now < state.next_pass {
            return Ok(false);
        }
        let before = self.retention.ledger_horizon(self.now);
        let mut segments = HashMap::new();
        let mut is_gone = |place: Position, since: Timestamp| {
            let rewritten = segments.entry(place.segment).or_insert_with(|| {
                match Segment::open(&self.store.0.journal_dir, place.segment, None) {
                    Ok(segment) => segment.rewritten_at().unwrap_or_default(),
                    Err(_) => self.now,
                }
            });
            *rewritten >= since
        };
        let (sends, next) =
            self.ledger.expired_messages(state.expiry_cursor, before, MESSAGES_PER_STEP, &mut is_gone)?;
        state.expiry_cursor = next;
        if !sends.is_empty() || next.is_some() {
            self.run_ledger_command(LedgerCommand::ExpireMessages(sends, before))?;
            return Ok(true);
        }
        let days = self.ledger.expired_dated_keys(self.retention.overall_horizon(self.now), ROWS_PER_STEP)?;
        let events = self.retention.events_horizon(self.now);
        let orphans = self.ledger.expired_orphans(events, ROWS_PER_STEP)?;
        let letters = self.ledger.expired_dead_letters(events, ROWS_PER_STEP)?;
        let hints = self.ledger.expired_hints(events, ROWS_PER_STEP)?;
        let inbound = self.ledger.expired_inbound(events, ROWS_PER_STEP)?;
        let keys = [days, orphans, letters, hints, inbound].concat();
        if !keys.is_empty() {
            self.run_ledger_command(LedgerCommand::DeleteKeys(keys))?;
            return Ok(true);
        }
        let before =
            self.retention.overall_horizon(self.now).min(self.now.saturating_sub(EVIDENCE_RETENTION));
        let dossiers = self.ledger.expired_evidence(before, ROWS_PER_STEP)?;
        if !dossiers.is_empty() {
            self.run_ledger_command(LedgerCommand::ExpireEvidence(dossiers, before))?;
            return Ok(true);
        }
        state.next_pass = self.now.saturating_add(PASS_INTERVAL);
        self.commit_pipeline.seal_segment(PASS_INTERVAL);
        Ok(false)
    }

    /// Sends a command to the ledger thread and waits until its effect is durable.
    fn run_ledger_command(&self, task: LedgerCommand) -> Result<(), MaintenanceError> {
        self.commit_pipeline.send_to_ledger(task)?;
        let (answer, answered) = oneshot::channel();
        self.commit_pipeline.send_to_ledger(LedgerCommand::Checkpoint(answer))?;
        Ok(answered.blocking_recv().unwrap_or(Err(CommitError::ReadOnly))?)
    }

    /// Rebuilds the ledger when its files exceed three times its rows: sled never releases space.
    fn rebuild_if_grown(&self, state: &mut CompactionState) -> Result<bool, MaintenanceError> {
        let size = self.ledger.size_on_disk()?;
        let grown = size >= state.measure_at_bytes;
        if size < MIN_REBUILD_BYTES || (!grown && self.now < state.next_measure) {
            return Ok(false);
        }
        (state.measure_at_bytes, state.next_measure) = (size + size / 4, self.now.saturating_add(COLD_AFTER));
        let live = self.ledger.live_bytes()?;
        let normal = (live as f64 * state.overhead * 1.5) as u64;
        if size <= (live * REBUILD_RATIO).max(normal) {
            return Ok(false);
        }
        tracing::info!(size, live, "ledger has grown; rebuilding it from the journal");
        let until = self.ledger.position()?.unwrap_or_default();
        let (fresh, report) = self.store.build_ledger(until, &mut |_| {})?;
        if !report.corrupt_ranges.is_empty() {
            discard_ledger(fresh);
            tracing::error!(
                damaged = report.corrupt_ranges.len(),
                "the ledger has grown and stays as it is: the journal is damaged, and a new one would know less; \
                 `mailtrail store verify` names the places, `store rebuild` makes one all the same"
            );
            return Ok(false);
        }
        state.overhead = fresh.size_on_disk()? as f64 / live.max(1) as f64;
        self.commit_pipeline.send_to_ledger(LedgerCommand::ReplaceLedger(Box::new(fresh)))?;
        Ok(false)
    }
}

/// Age at which soft bounces and removals are dropped: longer than any of them counts, and longer than any
/// event is delayed.
const EVIDENCE_RETENTION: Duration = Duration::from_secs(90 * 86_400);
/// Messages removed per step.
const MESSAGES_PER_STEP: usize = 100;
/// Other rows removed per step.
const ROWS_PER_STEP: usize = 1000;
/// Interval between passes, and age at which the current segment is sealed.
const PASS_INTERVAL: Duration = Duration::from_secs(3600);
/// Interval after which a segment is rewritten even for little garbage.
const COLD_AFTER: Duration = Duration::from_secs(86_400);
/// Interval between checks of a segment that is past retention.
const RECHECK_INTERVAL: Duration = Duration::from_secs(7 * 86_400);
/// Upper bound of the time that a message may wait, with margin.
const MAX_QUEUE_TIME: Duration = Duration::from_secs(31 * 86_400);
/// Ledger size up to which no rebuild happens, in bytes.
const MIN_REBUILD_BYTES: u64 = 64 << 20;
/// Maximum ratio of the ledger's files to its rows.
const REBUILD_RATIO: u64 = 3;
