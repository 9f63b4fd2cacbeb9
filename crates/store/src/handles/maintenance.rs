//! Maintenance and supervision: compaction, rebuild, backup, verification, erasure and health.

use crate::backup::{BackupError, BackupReport};
use crate::check_report::CheckReport;
use crate::commit_command::CommitError;
use crate::disk_space::FreeSpace;
use crate::erase::{EraseError, ErasureMatches, ErasureRequest};
use crate::group_commit::CommitPipeline;
use crate::maintenance_error::MaintenanceError;
use crate::read_error::ReadError;
use crate::rebuild::RebuildError;
use crate::replay::ReplayProgress;
use crate::retention::Retention;
use crate::store::Store;
use crate::verify::VerifyReport;
use mailtrail_mail::{Mailbox, Timestamp, TrackingId};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use tokio::sync::watch;

/// Size of the store's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUsage {
    /// Size of the journal, in bytes.
    pub journal_bytes: u64,
    /// Size of the ledger, in bytes.
    pub ledger_bytes: u64,
    /// Free space of the disk.
    pub free_bytes: u64,
}

impl Store {
    /// Waits until every committed record is applied and survives a power cut without replay.
    pub async fn checkpoint(&self) {
        if let Some(committer) = &self.0.commit_pipeline {
            // If the threads have ended, nothing more is pending.
            let _ = committer.drain().await;
        }
    }

    /// Checks that the journal and ledger threads respond, and so the disk. A ledger that cannot be written
    /// now counts as a response.
    pub async fn ping(&self) -> Result<(), CommitError> {
        match self.0.commit_pipeline()?.drain().await {
            Err(CommitError::Ledger(_)) => Ok(()),
            answered => answered,
        }
    }

    /// Returns a watch of the reason why the ledger is closed, `None` while it is open. The ledger is closed
    /// while it cannot be written. Returns `None` for a read-only store.
    pub fn ledger_closed(&self) -> Option<watch::Receiver<Option<String>>> {
        self.0.ledger_closed()
    }

    /// Waits until the ledger is open.
    pub async fn wait_ledger_open(&self) {
        if let Some(mut closed) = self.0.ledger_closed() {
            // If the ledger thread has ended, lookups return the error.
            let _ = closed.wait_for(Option::is_none).await;
        }
    }

    /// Waits until the store accepts no more records because the ledger failed; returns the reason.
    pub async fn wait_failed(&self) -> String {
        match &self.0.commit_pipeline {
            Some(committer) => committer.wait_failed().await,
            None => std::future::pending().await,
        }
    }

    /// Returns a watch of the last write error: why the last group of records was not written, or `None`.
    /// Returns `None` for a read-only store.
    pub fn write_errors(&self) -> Option<watch::Receiver<Option<String>>> {
        self.0.commit_pipeline.as_ref().map(CommitPipeline::write_errors)
    }

    /// Returns the free space of the store's disk.
    pub fn free_space(&self) -> io::Result<FreeSpace> {
        self.0.disk.free_space(&self.0.journal_dir)
    }

    /// Returns the sizes of the store's files. Reads the metadata of each file.
    pub fn disk_usage(&self) -> io::Result<DiskUsage> {
        Ok(DiskUsage {
            journal_bytes: directory_bytes(&self.0.journal_dir)?,
            ledger_bytes: directory_bytes(self.0.ledger()?.directory())?,
            free_bytes: self.free_space()?.bytes,
        })
    }

    /// Checks all queued messages: those accepted before `accepted`, attempts begun before `attempt_start`, and
    /// unexpected queue rows. Reads every row of the queue.
    pub fn check_queue(
        &self,
        accepted: Timestamp,
        attempt_start: Timestamp,
    ) -> Result<CheckReport, ReadError> {
        let ledger = self.0.ledger()?;
        let mut audit = CheckReport::default();
        ledger.check_queue(accepted, &mut audit)?;
        let interrupted = ledger.interrupted_attempts()?.into_iter();
        audit.stuck = interrupted.filter(|cut| cut.at < attempt_start).map(|cut| cut.id).collect();
        Ok(audit)
    }

    /// Checks that `limit` messages after `from` have the queue rows that they need. Returns the id to
    /// continue from, or `None` at the end.
    pub fn check_messages(
        &self,
        from: Option<TrackingId>,
        limit: usize,
    ) -> Result<(CheckReport, Option<TrackingId>), ReadError> {
        let mut audit = CheckReport::default();
        let next = self.0.ledger()?.check_messages(from, limit, &mut audit)?;
        Ok((audit, next))
    }

    /// Runs one step of maintenance. A step takes at most about 1 s, unless it rebuilds the ledger. Returns
    /// true if more work is due at once. Blocks. Traffic continues.
    pub fn run_maintenance_step(
        &self,
        retention: &Retention,
        now: Timestamp,
    ) -> Result<bool, MaintenanceError> {
        self.0.run_maintenance_step(retention, now)
    }

    /// Rebuilds the ledger from the journal and switches to it; returns the number of applied records. A
    /// ledger that holds less than the present one is used only with `despite_damage`. Blocks. Traffic
    /// continues; maintenance waits.
    pub fn rebuild_ledger(
        &self,
        despite_damage: bool,
        on_progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<u64, RebuildError> {
        self.0.rebuild_ledger(despite_damage, on_progress)
    }

    /// Copies the journal and the relay's self-signed certificate into a new directory that can replace the
    /// data directory. `target` is absolute. It exists only once the copy is complete and on stable storage.
    /// An error from `on_progress` stops the copy. Blocks. Traffic continues; maintenance waits.
    pub fn back_up(
        &self,
        target: &Path,
        on_progress: &mut dyn FnMut(ReplayProgress) -> io::Result<()>,
    ) -> Result<BackupReport, BackupError> {
        self.0.back_up(target, on_progress)
    }

    /// Reads and checks all committed records and compares the ledger with them. With `retention`, also
    /// checks that the ledger holds everything it must hold at `now`. An error from `on_progress` stops the
    /// run. Blocks. Traffic continues; maintenance waits.
    pub fn verify(
        &self,
        retention: Option<&Retention>,
        now: Timestamp,
        on_progress: &mut dyn FnMut(ReplayProgress) -> io::Result<()>,
    ) -> Result<VerifyReport, ReadError> {
        self.0.verify(retention, now, on_progress)
    }

    /// Finds everything that mentions an address. Reads all committed data. Blocks. Traffic continues;
    /// maintenance waits.
    pub fn find_mentions(
        &self,
        address: &Mailbox,
        on_progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<ErasureMatches, EraseError> {
        self.0.find_mentions(address, on_progress)
    }

    /// Erases an address from all committed data; returns the matches and the pseudonym. Blocks. Traffic
    /// continues; maintenance waits. An interruption loses no data, and a second run continues.
    pub fn erase_address(
        &self,
        request: &ErasureRequest<'_>,
        on_progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<(ErasureMatches, String), EraseError> {
        self.0.erase_address(request, on_progress)
    }
}

/// Sums the sizes of a directory's files; files that disappear in the meantime count 0.
fn directory_bytes(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(found) if found.is_dir() => directory_bytes(&entry.path())?,
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(bytes)
}
