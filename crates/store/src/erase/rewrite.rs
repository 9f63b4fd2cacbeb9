//! Erases an address: rewrites the segments that mention it and rebuilds the ledger.

use crate::erase::error::EraseError;
use crate::erase::matches::{ErasureMatches, ErasureRequest};
use crate::erase::record_matcher::{RecordMatcher, address_matcher};
use crate::erase::state::{ErasureState, random_salt};
use crate::group_commit::CommitPipeline;
use crate::inner::StoreInner;
use crate::journal::{Frame, Segment, rewrite_segment, segment_path};
use crate::read_error::ReadError;
use crate::record::Record;
use crate::replay::{ReplayProgress, SegmentChain, segment_chain};
use mailtrail_mail::{Mailbox, Pseudonym};
use mailtrail_trail::Erasure;
use mailtrail_trail::suppression::{EvidenceItem, SuppressionChange, SuppressionChangeKind};
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

impl StoreInner {
    /// Erases an address from all committed data; returns the matches and the pseudonym. Blocks. Traffic
    /// continues; maintenance waits. An interruption loses no data, and a second run continues.
    pub(crate) fn erase_address(
        &self,
        request: &ErasureRequest<'_>,
        progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<(ErasureMatches, String), EraseError> {
        let mention = address_matcher(request.address)?;
        let committer = self.commit_pipeline()?;
        let _upkeep = self.lock_maintenance();
        let erasure_state = ErasureState::load_or_create(&self.journal_dir, mention.address())?;
        let record_matcher = RecordMatcher { matcher: &mention, pseudonym: &erasure_state.pseudonym };
        let chain = self.seal_all(committer)?;
        // Three passes: search, rewrite, rebuild of the ledger.
        let mut step = |pass: u64, done: u64, total: u64| {
            progress(ReplayProgress {
                done: pass * PROGRESS_STEPS + done * PROGRESS_STEPS / total.max(1),
                total: 3 * PROGRESS_STEPS,
            });
        };
        let found = self.search_segments(&chain, &record_matcher, &mut |done, total| step(0, done, total))?;
        if !found.pending.is_empty() {
            return Err(EraseError::Pending(found.pending));
        }
        erasure_state.save()?;
        self.record_erasure(committer, request, &record_matcher, &found)?;
        for (index, (number, end)) in chain.iter().enumerate() {
            if found.segments.contains(number) {
                self.rewrite_segment(*number, *end, &record_matcher)?;
            }
            step(1, index as u64, chain.len() as u64);
        }
        self.sync_segments(&chain)?;
        self.rebuild_locked(false, &mut |read| step(2, read.done, read.total))?;
        self.remove_other_ledgers()?;
        erasure_state.remove()?;
        Ok((found, erasure_state.pseudonym))
    }

    /// Returns all committed data as sealed segments, which are no longer written to.
    fn seal_all(&self, committer: &CommitPipeline) -> Result<SegmentChain, EraseError> {
        committer.drain_blocking()?;
        let position = self.ledger()?.position()?.unwrap_or_default();
        committer.seal_segment(Duration::ZERO);
        committer.drain_blocking()?;
        let mut chain = segment_chain(&self.journal_dir).map_err(ReadError::from)?;
        let active = chain.pop();
        let used = active
            .is_some_and(|(number, _)| number == position.segment && position.offset > EMPTY_SEGMENT_BYTES);
        if used {
            let path = segment_path(&self.journal_dir, position.segment + 1);
            return Err(EraseError::Io { path, source: io::Error::other("no new segment can be made") });
        }
        Ok(chain)
    }

    /// Records the erasure, and moves the suppression evidence to another name.
    fn record_erasure(
        &self,
        committer: &CommitPipeline,
        request: &ErasureRequest<'_>,
        record_matcher: &RecordMatcher<'_>,
        found: &ErasureMatches,
    ) -> Result<(), EraseError> {
        let replaced_text = |text: &str| {
            record_matcher.matcher.replace(text, record_matcher.pseudonym).unwrap_or_else(|| text.to_owned())
        };
        let ledger = self.ledger()?;
        let salt = ledger.erasure_salt()?.unwrap_or_else(random_salt);
        let listed: Option<Mailbox> =
            Pseudonym::Suppression.derive(record_matcher.matcher.address(), &salt).parse().ok();
        let evidence_rows = ledger.evidence_for_address(record_matcher.matcher.address())?;
        let known = evidence_rows.iter().filter(|row| row.evidence.is_listed());
        for (one, address) in known.zip(std::iter::repeat(listed).flatten()) {
            for (reason, live) in one.evidence.active() {
                let items = live
                    .items()
                    .map(|item| EvidenceItem { diagnostic: replaced_text(&item.diagnostic), ..item })
                    .collect();
                let listing = SuppressionChange {
                    address: address.clone(),
                    list: Some(one.list.clone()).filter(|list| !list.is_empty()),
                    at: request.at,
                    operator: replaced_text(request.operator),
                    kind: SuppressionChangeKind::Add { reason, items },
                };
                committer.commit_blocking(Record::SuppressionChange(Box::new(listing)))?;
            }
        }
        if found.records > 0 || !evidence_rows.is_empty() {
            let erased = Erasure {
                at: request.at,
                operator: replaced_text(request.operator),
                reason: replaced_text(request.reason),
                pseudonym: record_matcher.pseudonym.to_owned(),
                salt,
            };
            committer.commit_blocking(Record::Erasure(Box::new(erased)))?;
        }
        Ok(())
    }

    fn rewrite_segment(
        &self,
        number: u32,
        end: Option<u64>,
        record_matcher: &RecordMatcher<'_>,
    ) -> Result<(), EraseError> {
        let segment = Segment::open(&self.journal_dir, number, end).map_err(ReadError::from)?;
        // The rewrite for an erasure is no pass of maintenance, so the time of the last one is kept.
        let since = segment.rewritten_at().unwrap_or_default();
        let keep = |frame: &Frame| record_matcher.evaluate_frame(frame, &segment);
        rewrite_segment(&*self.disk, &self.journal_dir, &segment, false, since, keep)?;
        self.segment_cache.evict(number);
        Ok(())
    }

    /// Syncs the ends of the segments: bytes of a failed write may have followed them.
    fn sync_segments(&self, chain: &SegmentChain) -> Result<(), EraseError> {
        for (number, _) in chain {
            let path = segment_path(&self.journal_dir, *number);
            let synced = File::open(&path).and_then(|segment| segment.sync_all());
            synced.map_err(|source| EraseError::Io { path, source })?;
        }
        Ok(())
    }

    /// Removes other ledgers in the directory, such as a damaged one that was set aside.
    fn remove_other_ledgers(&self) -> Result<(), EraseError> {
        let present = self.ledger()?.directory().to_owned();
        let failed = |path: &Path, source| EraseError::Io { path: path.to_owned(), source };
        let entries = std::fs::read_dir(&self.ledger_dir).map_err(|error| failed(&self.ledger_dir, error))?;
        for entry in entries {
            let path = entry.map_err(|error| failed(&self.ledger_dir, error))?.path();
            if path != present {
                std::fs::remove_dir_all(&path).map_err(|error| failed(&path, error))?;
            }
        }
        let synced = File::open(&self.ledger_dir).and_then(|ledger| ledger.sync_all());
        synced.map_err(|error| failed(&self.ledger_dir, error))
    }
}

/// Size of a segment without any record, in bytes.
const EMPTY_SEGMENT_BYTES: u64 = 60;
/// Number of progress reports in each of the three passes.
const PROGRESS_STEPS: u64 = 1000;
