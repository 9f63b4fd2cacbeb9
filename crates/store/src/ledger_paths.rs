//! The directories of a ledger: selects the ledger in use, sets damaged ones aside and removes others.

use crate::journal::segment_path;
use crate::ledger::{Ledger, LedgerError};
use crate::open_error::{OpenError, io_error};
use crate::replay::{OpenReport, ReplayError, ReplayProgress, SegmentChain, replay_journal};
use crate::shortage::check_writable;
use mailtrail_mail::Clock;
use std::io;
use std::path::{Path, PathBuf};

/// Directories of a ledger and its journal.
#[derive(Clone)]
pub struct LedgerPaths {
    /// Directory of the journal.
    pub journal_dir: PathBuf,
    /// Directory of the ledger generations.
    pub ledger_dir: PathBuf,
    /// Source of the time.
    pub clock: Clock,
}

impl LedgerPaths {
    /// Opens the ledger and applies the missing records of the journal; returns the end of the journal. A
    /// damaged ledger is set aside and rebuilt. A ledger that cannot be opened or written for now
    /// ([`OpenError::is_shortage`]) is left unchanged.
    pub fn open_and_replay(
        &self,
        chain: &SegmentChain,
        threads: usize,
        report: &mut OpenReport,
        progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<(Ledger, u64), OpenError> {
        let mut opened_ledger = self.select_ledger(chain, report)?;
        let end = match replay_journal(&self.journal_dir, chain, &opened_ledger, threads, report, progress) {
            Err(ReplayError::Ledger(reason)) => {
                let damaged = opened_ledger.directory().to_owned();
                drop(opened_ledger);
                self.quarantine(&damaged).map_err(io_error(&self.ledger_dir))?;
                opened_ledger = create_for_rebuild(&self.ledger_dir, reason, report)?;
                replay_journal(&self.journal_dir, chain, &opened_ledger, threads, report, progress)
            }
            replayed => replayed,
        };
        let end = end.map_err(|error| match error {
            ReplayError::Ledger(reason) => io_error(&self.ledger_dir)(io::Error::other(reason)),
            ReplayError::Shortage(reason) => OpenError::Shortage { path: self.ledger_dir.clone(), reason },
            ReplayError::UnreadableRecord { record, .. } if record.is_newer => {
                OpenError::NewerVersion(record)
            }
            ReplayError::UnreadableRecord { record, segment, offset } => {
                OpenError::UnreadableRecord { path: segment_path(&self.journal_dir, segment), offset, record }
            }
            ReplayError::Io(source) => io_error(&self.journal_dir)(source),
        })?;
        Ok((opened_ledger, end))
    }

    /// Selects the newest ledger that fits the journal, or an empty one. Any other ledger is left from an
    /// interrupted rebuild.
    fn select_ledger(&self, chain: &SegmentChain, report: &mut OpenReport) -> Result<Ledger, OpenError> {
        let ledger = &self.ledger_dir;
        let (mut best, mut problem): (Option<Ledger>, Option<String>) = (None, None);
        for number in ledger_generations(ledger).map_err(io_error(ledger))? {
            let directory = ledger.join(number.to_string());
            match open_if_current(&directory, chain) {
                Ok(None) => {
                    tracing::info!(directory = %directory.display(), "interrupted ledger build removed; starting again");
                    std::fs::remove_dir_all(&directory).map_err(io_error(&directory))?;
                }
                Ok(Some(opened_ledger)) => {
                    let better =
                        best.as_ref().is_none_or(|best| best.position().ok() < opened_ledger.position().ok());
                    let worse = if better { best.replace(opened_ledger) } else { Some(opened_ledger) };
                    if let Some(worse) = worse {
                        let left = worse.directory().to_owned();
                        drop(worse);
                        std::fs::remove_dir_all(&left).map_err(io_error(&left))?;
                    }
                }
                Err(UnusableLedger::Shortage(reason)) => {
                    return Err(OpenError::Shortage { path: directory, reason });
                }
                Err(UnusableLedger::Damaged(error)) => {
                    problem = Some(error);
                    self.quarantine(&directory).map_err(io_error(&directory))?;
                }
            }
        }
        match (best, problem) {
            (Some(best), _) => Ok(best),
            (None, None) => create_empty_ledger(ledger),
            (None, Some(problem)) => create_for_rebuild(ledger, problem, report),
        }
    }

    /// Moves a damaged ledger aside for inspection. Only the latest one is kept.
    fn quarantine(&self, directory: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.ledger_dir)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension.to_string_lossy().starts_with(DAMAGED_EXTENSION))
            {
                std::fs::remove_dir_all(&path)?;
            }
        }
        let aside = directory.with_extension(format!("{DAMAGED_EXTENSION}-{}", self.clock.now().as_secs()));
        tracing::warn!(aside = %aside.display(), "a damaged ledger is kept aside");
        std::fs::rename(directory, aside)
    }
}

/// Reason why a ledger is not used.
enum UnusableLedger {
    /// It cannot be opened now.
    Shortage(String),
    /// It is permanently unusable.
    Damaged(String),
}

impl From<LedgerError> for UnusableLedger {
    fn from(error: LedgerError) -> Self {
        if error.is_shortage() { Self::Shortage(error.to_string()) } else { Self::Damaged(error.to_string()) }
    }
}

impl From<::sled::Error> for UnusableLedger {
    fn from(error: ::sled::Error) -> Self {
        LedgerError::from(error).into()
    }
}

/// Opens a ledger generation; returns `None` if it was not finished.
fn open_if_current(directory: &Path, chain: &SegmentChain) -> Result<Option<Ledger>, UnusableLedger> {
    let opened = Ledger::open(directory);
    if matches!(opened, Err(LedgerError::Panicked)) {
        // sled panics on damaged files, and occasionally where it cannot write.
        check_writable(directory, MIN_FREE_BYTES)
            .map_err(|error| UnusableLedger::Shortage(error.to_string()))?;
    }
    let opened_ledger = opened?;
    match opened_ledger.position()? {
        Some(position) if !chain.iter().any(|(number, _)| *number == position.segment) => {
            Err(UnusableLedger::Damaged("it does not belong to this journal".to_owned()))
        }
        Some(_) => Ok(Some(opened_ledger)),
        None => Ok((!opened_ledger.is_incomplete()?).then_some(opened_ledger)),
    }
}

/// Lists the numbers of the existing ledger generations.
pub fn ledger_generations(ledger: &Path) -> io::Result<Vec<u32>> {
    if !ledger.is_dir() {
        return Ok(Vec::new());
    }
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(ledger)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(numbers)
}

/// Creates an empty ledger under the next number.
pub fn create_empty_ledger(ledger: &Path) -> Result<Ledger, OpenError> {
    let number =
        ledger_generations(ledger).map_err(io_error(ledger))?.into_iter().max().unwrap_or_default() + 1;
    let directory = ledger.join(number.to_string());
    Ledger::open(&directory).map_err(|source| OpenError::Ledger { path: directory, source })
}

fn create_for_rebuild(ledger: &Path, problem: String, report: &mut OpenReport) -> Result<Ledger, OpenError> {
    tracing::warn!(reason = problem, "the ledger is rebuilt from the journal");
    report.rebuild_reason = Some(problem);
    create_empty_ledger(ledger)
}

/// Closes a ledger that will not be used, and removes it.
pub fn discard_ledger(ledger: Ledger) {
    let directory = ledger.directory().to_owned();
    drop(ledger);
    remove_ledger_dir(&directory);
}

/// Removes the directory of an unused ledger.
pub fn remove_ledger_dir(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        tracing::warn!(%error, directory = %directory.display(), "cannot remove old ledger");
    }
}

/// Bytes of the disk that must be free before the ledger is written: sled does not recover from a failed
/// write.
pub const MIN_FREE_BYTES: u64 = 4 << 20;
const DAMAGED_EXTENSION: &str = "damaged";
