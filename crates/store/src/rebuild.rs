//! Makes the ledger anew from the journal because somebody wants it.

use crate::compaction::UpkeepError;
use crate::group_commit::{CommitError, Committer, Task};
use crate::journal::Place;
use crate::ledger::Projection;
use crate::open::{OpenReport, empty};
use crate::replay::{Progress, chain, up_to};
use crate::{Store, replay};
use std::path::Path;
use std::sync::PoisonError;
use tokio::sync::oneshot;

/// Why there is no new ledger; the one before is in use on.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// It would know less than the one before.
    #[error(
        "the journal is damaged, and the present ledger knows more than what is left of it: {damaged} places of the \
         journal hold no record, and {lost} sends would be forgotten. The present ledger stays. `mailtrail store verify` \
         names the places; `--despite-damage` takes the new ledger all the same"
    )]
    Damaged {
        /// Places of the journal.
        damaged: usize,
        /// Sends that the present ledger knows and the new one does not.
        lost: u64,
    },
    /// It could not be brought up to what came meanwhile.
    #[error(
        "the new ledger could not take the old one's place, which is in use on; the daemon's log says why"
    )]
    Left,
    /// The making.
    #[error(transparent)]
    Failed(#[from] UpkeepError),
}

impl Store {
    /// Makes the ledger anew and goes on with that; returns how many records of the journal are in it. One that knows
    /// less than the present one is taken only `despite_damage`. Blocks. Traffic goes on, upkeep waits.
    pub fn rebuild(
        &self,
        despite_damage: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, RebuildError> {
        let _upkeep = self.0.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        self.renew(despite_damage, progress)
    }

    /// The same for who holds upkeep back already.
    pub(crate) fn renew(
        &self,
        despite_damage: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, RebuildError> {
        let present = self.projection().map_err(UpkeepError::from)?;
        let until = present.position().map_err(UpkeepError::from)?.unwrap_or_default();
        let (fresh, report) = self.built(until, progress)?;
        let directory = fresh.directory().to_owned();
        let (damaged, lost) = (report.damaged.len(), lost_in(&present, &fresh, until));
        drop(present);
        if !despite_damage && (damaged > 0 || lost > 0) {
            discard(fresh);
            return Err(RebuildError::Damaged { damaged, lost });
        }
        match &self.0.committer {
            Some(committer) => replace(committer, fresh).map_err(UpkeepError::from)?,
            None => {
                if let Some(old) = self.0.current.replace(fresh) {
                    remove(old.directory());
                }
            }
        }
        let in_use = self.projection().map_err(UpkeepError::from)?;
        if in_use.directory() == directory { Ok(report.replayed) } else { Err(RebuildError::Left) }
    }

    /// A new ledger of the journal up to `until`.
    pub(crate) fn built(
        &self,
        until: Place,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Projection, OpenReport), UpkeepError> {
        let chain = up_to(chain(&self.0.journal)?, until);
        let fresh = empty(&self.0.ledger)?;
        let mut report = OpenReport::default();
        // Traffic goes on beside one thread.
        let threads = if self.0.committer.is_some() { 1 } else { 2 };
        match replay::replay(&self.0.journal, &chain, &fresh, threads, &mut report, progress) {
            Ok(_) => Ok((fresh, report)),
            Err(error) => {
                discard(fresh);
                Err(error.into())
            }
        }
    }
}

/// Sends accepted before `until` that the present ledger knows and that one does not. What cannot be read of it counts as
/// nothing: it is no reason to keep it.
fn lost_in(present: &Projection, fresh: &Projection, until: Place) -> u64 {
    let mut lost = 0;
    let counted = present.places(|id, place, _| {
        lost += u64::from(place < until && matches!(fresh.knows(id), Ok(false)));
    });
    if let Err(error) = counted {
        tracing::warn!(%error, "the present ledger cannot be read to its end");
    }
    lost
}

/// Waits until the ledger thread goes on with another one, or with the one it has.
fn replace(committer: &Committer, fresh: Projection) -> Result<(), CommitError> {
    committer.task(Task::Replace(Box::new(fresh)))?;
    let (answer, answered) = oneshot::channel();
    committer.task(Task::Checkpoint(answer))?;
    answered.blocking_recv().unwrap_or(Err(CommitError::ReadOnly))
}

/// Lets go of a ledger that is not to be used, and removes it.
pub fn discard(projection: Projection) {
    let directory = projection.directory().to_owned();
    drop(projection);
    remove(&directory);
}

/// Removes a ledger that nobody needs.
pub fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        tracing::warn!(%error, directory = %directory.display(), "an old ledger cannot be removed");
    }
}
