//! Searches the journal for records that mention an address.

use crate::erase::error::EraseError;
use crate::erase::matches::ErasureMatches;
use crate::erase::record_matcher::{RecordMatcher, address_matcher};
use crate::inner::StoreInner;
use crate::journal::{Frame, Retain, Segment, segment_path, unreadable_segment_bytes};
use crate::log_entry::append_entries;
use crate::read_error::ReadError;
use crate::record::Record;
use crate::replay::{ReplayProgress, SegmentChain, is_corrupt, segment_chain, truncate_at};
use mailtrail_mail::{Mailbox, Pseudonym};
use mailtrail_trail::{InboundRecord, InboundState};
use std::io;

impl StoreInner {
    /// Finds everything that mentions an address. Reads all committed data. Blocks. Traffic continues;
    /// maintenance waits.
    pub(crate) fn find_mentions(
        &self,
        address: &Mailbox,
        progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<ErasureMatches, EraseError> {
        let mention = address_matcher(address)?;
        let _upkeep = self.lock_maintenance();
        if let Some(committer) = &self.commit_pipeline {
            committer.drain_blocking()?;
        }
        let position = self.ledger()?.position()?.unwrap_or_default();
        let chain = truncate_at(segment_chain(&self.journal_dir).map_err(ReadError::from)?, position);
        // Every pseudonym has this form.
        let name = Pseudonym::Trail.derive(mention.address(), &[0; 16]);
        let look = RecordMatcher { matcher: &mention, pseudonym: &name };
        self.search_segments(&chain, &look, &mut |done, total| progress(ReplayProgress { done, total }))
    }

    pub(super) fn search_segments(
        &self,
        chain: &SegmentChain,
        record_matcher: &RecordMatcher<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<ErasureMatches, EraseError> {
        let mut segments = Vec::with_capacity(chain.len());
        for (number, end) in chain {
            match Segment::open(&self.journal_dir, *number, *end) {
                Ok(segment) => segments.push((*number, segment)),
                Err(error) if is_corrupt(&error) => {
                    let lost = unreadable_segment_bytes(&self.journal_dir, *number, *end)
                        .map_err(ReadError::from)?;
                    lost.map_or(Ok(()), |_| Err(EraseError::JournalDamaged))?;
                }
                Err(error) => return Err(ReadError::from(error).into()),
            }
        }
        let total: u64 = segments.iter().map(|(_, segment)| segment.trusted_length()).sum();
        let (mut found, mut done) = (ErasureMatches::default(), 0);
        for (number, segment) in segments {
            let (mut failed, mut damaged) = (None, false);
            let each = |frame: Frame| {
                progress(done + frame.file_offset(), total);
                self.classify_record(&frame, &segment, record_matcher, &mut found).map_err(|error| {
                    failed = Some(error);
                    io::Error::other("stopped")
                })
            };
            let scanned = segment.scan_frames(0, true, each, |_| damaged = true);
            if let Some(error) = failed {
                return Err(error.into());
            }
            scanned.map_err(ReadError::from)?;
            if damaged {
                return Err(EraseError::JournalDamaged);
            }
            // Bytes of a failed write after the segment's end are no record, but may contain parts of one.
            let path = segment_path(&self.journal_dir, number);
            if std::fs::metadata(path).map_err(ReadError::from)?.len() > segment.trusted_length() {
                found.segments.insert(number);
            }
            done += segment.trusted_length();
        }
        Ok(found)
    }

    /// Adds a record that mentions the address to the matches.
    fn classify_record(
        &self,
        frame: &Frame,
        segment: &Segment,
        record_matcher: &RecordMatcher<'_>,
        found: &mut ErasureMatches,
    ) -> Result<(), ReadError> {
        if record_matcher.evaluate_frame(frame, segment)? == Retain::All {
            return Ok(());
        }
        found.segments.insert(frame.position.segment);
        found.records += 1;
        found.bodies += u64::from(frame.body_length > 0);
        let ledger = self.ledger()?;
        let Ok(record) = Record::decode(frame.kind, frame.version, &frame.payload) else { return Ok(()) };
        match record {
            Record::AcceptedMessage(accepted) => {
                let id = accepted.message.id;
                let open = match ledger.load_message(id)? {
                    Some((_, row)) => row.queue_entry.is_some() || ledger.is_sending(id)?,
                    None => frame.body_length > 0,
                };
                found.pending.messages.extend(open.then_some(id));
                found.messages.insert(id);
            }
            Record::AttemptOutcome(outcome) => drop(found.messages.insert(outcome.id)),
            Record::QueueAction(action) => drop(found.messages.insert(action.id)),
            Record::ReceivedEvent(received) => drop(found.events.insert(received.id())),
            Record::DeadLetter(dead_letter) => drop(found.events.insert(dead_letter.id())),
            Record::ReceivedHint(hint) => drop(found.events.insert(hint.id())),
            Record::Inbound(inbound) => {
                let id = match &*inbound {
                    InboundRecord::Received(received) => received.id,
                    InboundRecord::Transitioned(transition) => transition.id,
                };
                let message = ledger.inbound_mail(id)?;
                let open = message.is_some_and(|(message, _)| message.state == InboundState::Waiting);
                found.pending.inbound.extend(open.then_some(id));
                found.inbound.insert(id);
            }
            other => append_entries(&ledger, other, &mut found.log_entries)?,
        }
        Ok(())
    }
}
