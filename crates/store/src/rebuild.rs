//! Rebuilds the ledger from the journal on request.

use crate::commit_command::{CommitError, LedgerCommand};
use crate::group_commit::CommitPipeline;
use crate::inner::StoreInner;
use crate::ledger::Ledger;
use crate::ledger_paths::{create_empty_ledger, discard_ledger, remove_ledger_dir};
use crate::maintenance_error::MaintenanceError;
use crate::position::Position;
use crate::replay::{OpenReport, ReplayProgress, replay_journal, segment_chain, truncate_at};
use tokio::sync::oneshot;

/// Reason why the ledger was not rebuilt; the previous one stays in use.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The new ledger would hold less than the previous one.
    #[error(
        "the journal is damaged, and the present ledger knows more than what is left of it: {corrupt_ranges} places of the \
         journal hold no record, and {lost} sends would be forgotten. The present ledger stays. `mailtrail store verify` \
         names the places; `--despite-damage` takes the new ledger all the same"
    )]
    JournalDamaged {
        /// Damaged regions of the journal.
        corrupt_ranges: usize,
        /// Messages that the present ledger holds and the new one lacks.
        lost: u64,
    },
    /// The new ledger could not be brought up to date with the records written in the meantime.
    #[error("cannot switch to the new ledger; the old one stays in use. See the daemon's log")]
    NotReplaced,
    /// Error of the rebuild itself.
    #[error(transparent)]
    Failed(#[from] MaintenanceError),
}

impl StoreInner {
    /// Rebuilds the ledger from the journal and switches to it; returns the number of applied records. A
    /// ledger that holds less than the present one is used only with `despite_damage`. Blocks. Traffic
    /// continues; maintenance waits.
    pub(crate) fn rebuild_ledger(
        &self,
        despite_damage: bool,
        progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<u64, RebuildError> {
        let _upkeep = self.lock_maintenance();
        self.rebuild_locked(despite_damage, progress)
    }

    /// Rebuilds the ledger for a caller that holds the maintenance lock already.
    pub(crate) fn rebuild_locked(
        &self,
        despite_damage: bool,
        progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<u64, RebuildError> {
        let present = self.ledger().map_err(MaintenanceError::from)?;
        let until = present.position().map_err(MaintenanceError::from)?.unwrap_or_default();
        let (fresh, report) = self.build_ledger(until, progress)?;
        let directory = fresh.directory().to_owned();
        let (corrupt_ranges, lost) =
            (report.corrupt_ranges.len(), count_lost_messages(&present, &fresh, until));
        drop(present);
        if !despite_damage && (corrupt_ranges > 0 || lost > 0) {
            discard_ledger(fresh);
            return Err(RebuildError::JournalDamaged { corrupt_ranges, lost });
        }
        match &self.commit_pipeline {
            Some(committer) => replace_ledger(committer, fresh).map_err(MaintenanceError::from)?,
            None => {
                if let Some(old) = self.handle.replace(fresh) {
                    remove_ledger_dir(old.directory());
                }
            }
        }
        let in_use = self.ledger().map_err(MaintenanceError::from)?;
        if in_use.directory() == directory {
            Ok(report.replayed_records)
        } else {
            Err(RebuildError::NotReplaced)
        }
    }

    /// Builds a new ledger from the journal up to `until`.
    pub(crate) fn build_ledger(
        &self,
        until: Position,
        progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<(Ledger, OpenReport), MaintenanceError> {
        let chain = truncate_at(segment_chain(&self.journal_dir)?, until);
        let fresh = create_empty_ledger(&self.ledger_dir)?;
        let mut report = OpenReport::default();
        // Traffic needs the other processor.
        let threads = if self.commit_pipeline.is_some() { 1 } else { 2 };
        match replay_journal(&self.journal_dir, &chain, &fresh, threads, &mut report, progress) {
            Ok(_) => Ok((fresh, report)),
            Err(error) => {
                discard_ledger(fresh);
                Err(error.into())
            }
        }
    }
}

/// Counts messages accepted before `until` that the present ledger holds and the new one lacks. Unreadable
/// rows of the present ledger are not counted: they are no reason to keep it.
fn count_lost_messages(present: &Ledger, fresh: &Ledger, until: Position) -> u64 {
    let mut lost = 0;
    let counted = present.for_each_message(|id, position, _| {
        lost += u64::from(position < until && matches!(fresh.has_message(id), Ok(false)));
    });
    if let Err(error) = counted {
        tracing::warn!(%error, "the present ledger cannot be read to its end");
    }
    lost
}

/// Waits until the ledger thread has switched to the new ledger, or has kept the present one.
fn replace_ledger(committer: &CommitPipeline, fresh: Ledger) -> Result<(), CommitError> {
    committer.send_to_ledger(LedgerCommand::ReplaceLedger(Box::new(fresh)))?;
    let (answer, answered) = oneshot::channel();
    committer.send_to_ledger(LedgerCommand::Checkpoint(answer))?;
    answered.blocking_recv().unwrap_or(Err(CommitError::ReadOnly))
}
