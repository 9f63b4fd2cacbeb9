//! One step of maintenance.

use crate::commit_command::{CommitError, LedgerCommand};
use crate::compaction::retain::{EVIDENCE_RETENTION, RetainPolicy};
use crate::compaction::state::CompactionState;
use crate::group_commit::CommitPipeline;
use crate::inner::StoreInner;
use crate::journal::{CompactionError, Frame, Segment, rewrite_segment};
use crate::ledger::Ledger;
use crate::ledger_paths::discard_ledger;
use crate::maintenance_error::MaintenanceError;
use crate::position::Position;
use crate::replay::segment_chain;
use crate::retention::Retention;
use mailtrail_mail::Timestamp;
use std::collections::HashMap;
use std::io;
use std::sync::TryLockError;
use std::time::Duration;
use tokio::sync::oneshot;

impl StoreInner {
    /// Runs one step of maintenance. A step takes at most about 1 s, unless it rebuilds the ledger. Returns
    /// true if more work is due at once. Blocks. Traffic continues.
    pub(crate) fn run_maintenance_step(
        &self,
        retention: &Retention,
        now: Timestamp,
    ) -> Result<bool, MaintenanceError> {
        let Some(commit_pipeline) = &self.commit_pipeline else { return Ok(false) };
        let mut state = match self.compaction.try_lock() {
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

/// One step of maintenance.
struct MaintenanceStep<'a> {
    store: &'a StoreInner,
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
        let chain = segment_chain(&self.store.journal_dir)?;
        for pair in chain.windows(2) {
            let ((number, end), (next, _)) = (pair[0], pair[1]);
            // Records that are not applied yet are not judged. The last segment is still written to.
            if position < (Position { segment: number, offset: end.unwrap_or(u64::MAX) }) {
                break;
            }
            let Ok(segment) = Segment::open(&self.store.journal_dir, number, end) else { continue };
            let until =
                Segment::open(&self.store.journal_dir, next, None).map_or(self.now, |next| next.created_at());
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
        let policy = RetainPolicy { ledger: self.ledger, retention: self.retention, now: self.now };
        let mut failed = None;
        let keep = |frame: &Frame| {
            policy.retain_record(frame).map_err(|error| {
                failed = Some(error);
                io::Error::other("the ledger cannot be read")
            })
        };
        let done =
            rewrite_segment(&*self.store.disk, &self.store.journal_dir, segment, may_go, self.now, keep);
        if let Some(error) = failed {
            return Err(error.into());
        }
        match done {
            Ok(done) => {
                self.store.segment_cache.evict(number);
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
                match Segment::open(&self.store.journal_dir, place.segment, None) {
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
/// Ledger size up to which no rebuild happens, in bytes.
const MIN_REBUILD_BYTES: u64 = 64 << 20;
/// Maximum ratio of the ledger's files to its rows.
const REBUILD_RATIO: u64 = 3;
