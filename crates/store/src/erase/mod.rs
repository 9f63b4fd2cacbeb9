//! Erases an address from all stored data; the related records stay, under a pseudonym.
//!
//! The active segment is sealed, and every sealed segment that mentions the address is rewritten. The
//! pseudonym replaces the address in recipients as well as in error texts, and message bodies and raw
//! payloads that mention it are dropped. The ledger is then rebuilt from the journal, and the old one is
//! removed with all its files, since sled erases nothing. Suppression evidence is stored under a name that
//! can only be derived from the address itself.
//!
//! Nothing is changed before two checks: no queued message mentions the address, and the journal is
//! undamaged. Each segment changes atomically and positions stay, so the old ledger remains valid at every
//! moment; a crash leaves some segments that still mention the address. The key of the pseudonym is stored in
//! a file until the end. A second run continues with the same key, so that related records stay related. If
//! the ledger is also lost in between, an event that names its message by Message-ID and address may be
//! correlated only after the second run.

mod address_matcher;

use crate::erase::address_matcher::AddressMatcher;
use crate::group_commit::{CommitError, CommitPipeline};
use crate::journal::{
    CompactionError, Frame, Retain, Segment, rewrite_segment, segment_path, unreadable_segment_bytes,
};
use crate::log_reader::LogEntry;
use crate::rebuild::RebuildError;
use crate::record::Record;
use crate::replay::{ReplayProgress, SegmentChain, is_corrupt, segment_chain, truncate_at};
use crate::{ReadError, Store};
use mailtrail_mail::{Mailbox, Pseudonym, Timestamp, TrackingId};
use mailtrail_trail::suppression::{EvidenceItem, SuppressionChange, SuppressionChangeKind};
use mailtrail_trail::{Erasure, InboundRecord, InboundState};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

/// Data that mentions an address.
#[derive(Clone, Debug, Default)]
pub struct ErasureMatches {
    /// Records of the journal.
    pub records: u64,
    /// Bodies and raw payloads: those of the matching records, and those that mention the address themselves.
    pub bodies: u64,
    /// Messages from or to the address, or with the address in their trail.
    pub messages: BTreeSet<TrackingId>,
    /// Provider events.
    pub events: BTreeSet<TrackingId>,
    /// Inbound messages.
    pub inbound: BTreeSet<TrackingId>,
    /// Other log entries.
    pub log_entries: Vec<LogEntry>,
    /// Queued messages.
    pub pending: PendingReferences,
    /// Segments with matches.
    segments: BTreeSet<u32>,
}

/// Queued messages that mention an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingReferences {
    /// Messages, including those that the ledger lacks.
    pub messages: BTreeSet<TrackingId>,
    /// Inbound messages.
    pub inbound: BTreeSet<TrackingId>,
}

impl PendingReferences {
    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.inbound.is_empty()
    }
}

/// Request to erase an address.
#[derive(Clone, Copy, Debug)]
pub struct ErasureRequest<'a> {
    /// Address to erase.
    pub address: &'a Mailbox,
    /// Requesting operator.
    pub operator: &'a str,
    /// Reason for the erasure.
    pub reason: &'a str,
    /// Time of the request.
    pub at: Timestamp,
}

/// Reason why an address was not erased. Unless stated otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The address has no domain.
    #[error("{0} has no domain, so it identifies no single mailbox; give a full address")]
    NoDomain(String),
    /// Queued messages mention it: they would be sent without their body, or with the address.
    #[error("{}", describe_pending(.0))]
    Pending(PendingReferences),
    /// The journal is damaged, and damaged bytes cannot be searched.
    #[error(
        "the journal is damaged, so it cannot be searched for the address; `mailtrail store verify` names the places. A \
         backup that is whole may take its place"
    )]
    JournalDamaged,
    /// An interrupted erasure of another address must be completed first.
    #[error(
        "the erasure of another address, {pseudonym}, was cut off: run that one again first, or remove {path} where nobody \
         knows any more which it was"
    )]
    OtherInProgress {
        /// Pseudonym of the other address.
        pseudonym: String,
        /// State file of the interrupted erasure.
        path: PathBuf,
    },
    /// I/O error; another run continues.
    #[error("{path} cannot be used: {source}; once that is mended, run the erasure again, and it goes on")]
    Io {
        /// Path of the failed operation.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Read error.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Rewrite error; another run continues.
    #[error("{0}; once that is mended, run the erasure again, and it goes on")]
    Rewrite(#[from] CompactionError),
    /// Rebuild error; another run continues.
    #[error("{0}; once that is mended, run the erasure again, and it goes on")]
    Rebuild(#[from] RebuildError),
    /// The store has failed, or is read-only.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<::sled::Error> for EraseError {
    fn from(error: ::sled::Error) -> Self {
        Self::Read(error.into())
    }
}

fn describe_pending(waiting: &PendingReferences) -> String {
    let named = |ids: &BTreeSet<TrackingId>| {
        let named: Vec<_> = ids.iter().take(MAX_LISTED_IDS).map(ToString::to_string).collect();
        let more = if ids.len() > MAX_LISTED_IDS { ", …" } else { "" };
        format!("{}{more}", named.join(", "))
    };
    let sends = (!waiting.messages.is_empty()).then(|| {
        format!(
            "{} messages that wait mention it: let them be sent, or take them out with `mailtrail queue delete \
             --reason WHY`: {}",
            waiting.messages.len(),
            named(&waiting.messages)
        )
    });
    let inbound = (!waiting.inbound.is_empty()).then(|| {
        format!(
            "{} mails from outside that wait mention it: let them be delivered: {}",
            waiting.inbound.len(),
            named(&waiting.inbound)
        )
    });
    let all: Vec<_> = [sends, inbound].into_iter().flatten().collect();
    format!("the address is not erased; {}", all.join("; "))
}

impl Store {
    /// Finds everything that mentions an address. Reads all committed data. Blocks. Traffic continues;
    /// maintenance waits.
    pub fn find_mentions(
        &self,
        address: &Mailbox,
        progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<ErasureMatches, EraseError> {
        let mention = address_matcher(address)?;
        let _upkeep = self.0.compaction.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(committer) = &self.0.commit_pipeline {
            committer.drain_blocking()?;
        }
        let position = self.ledger()?.position()?.unwrap_or_default();
        let chain = truncate_at(segment_chain(&self.0.journal_dir).map_err(ReadError::from)?, position);
        // Every pseudonym has this form.
        let name = Pseudonym::Trail.derive(mention.address(), &[0; 16]);
        let look = RecordMatcher { matcher: &mention, pseudonym: &name };
        self.search_segments(&chain, &look, &mut |done, total| progress(ReplayProgress { done, total }))
    }

    /// Erases an address from all committed data; returns the matches and the pseudonym. Blocks. Traffic
    /// continues; maintenance waits. An interruption loses no data, and a second run continues.
    pub fn erase_address(
        &self,
        request: &ErasureRequest<'_>,
        progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<(ErasureMatches, String), EraseError> {
        let mention = address_matcher(request.address)?;
        let committer = self.commit_pipeline()?;
        let _upkeep = self.0.compaction.lock().unwrap_or_else(PoisonError::into_inner);
        let erasure_state = ErasureState::load_or_create(&self.0.journal_dir, mention.address())?;
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
        let mut chain = segment_chain(&self.0.journal_dir).map_err(ReadError::from)?;
        let active = chain.pop();
        let used = active
            .is_some_and(|(number, _)| number == position.segment && position.offset > EMPTY_SEGMENT_BYTES);
        if used {
            let path = segment_path(&self.0.journal_dir, position.segment + 1);
            return Err(EraseError::Io { path, source: io::Error::other("no new segment can be made") });
        }
        Ok(chain)
    }

    fn search_segments(
        &self,
        chain: &SegmentChain,
        record_matcher: &RecordMatcher<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<ErasureMatches, EraseError> {
        let mut segments = Vec::with_capacity(chain.len());
        for (number, end) in chain {
            match Segment::open(&self.0.journal_dir, *number, *end) {
                Ok(segment) => segments.push((*number, segment)),
                Err(error) if is_corrupt(&error) => {
                    let lost = unreadable_segment_bytes(&self.0.journal_dir, *number, *end)
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
            let path = segment_path(&self.0.journal_dir, number);
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
            other => self.append_entries(other, &mut found.log_entries)?,
        }
        Ok(())
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
        let segment = Segment::open(&self.0.journal_dir, number, end).map_err(ReadError::from)?;
        // The rewrite for an erasure is no pass of maintenance, so the time of the last one is kept.
        let since = segment.rewritten_at().unwrap_or_default();
        let keep = |frame: &Frame| record_matcher.evaluate_frame(frame, &segment);
        rewrite_segment(&*self.0.disk, &self.0.journal_dir, &segment, false, since, keep)?;
        self.0.segment_cache.evict(number);
        Ok(())
    }

    /// Syncs the ends of the segments: bytes of a failed write may have followed them.
    fn sync_segments(&self, chain: &SegmentChain) -> Result<(), EraseError> {
        for (number, _) in chain {
            let path = segment_path(&self.0.journal_dir, *number);
            let synced = File::open(&path).and_then(|segment| segment.sync_all());
            synced.map_err(|source| EraseError::Io { path, source })?;
        }
        Ok(())
    }

    /// Removes other ledgers in the directory, such as a damaged one that was set aside.
    fn remove_other_ledgers(&self) -> Result<(), EraseError> {
        let present = self.ledger()?.directory().to_owned();
        let failed = |path: &Path, source| EraseError::Io { path: path.to_owned(), source };
        let entries =
            std::fs::read_dir(&self.0.ledger_dir).map_err(|error| failed(&self.0.ledger_dir, error))?;
        for entry in entries {
            let path = entry.map_err(|error| failed(&self.0.ledger_dir, error))?.path();
            if path != present {
                std::fs::remove_dir_all(&path).map_err(|error| failed(&path, error))?;
            }
        }
        let synced = File::open(&self.0.ledger_dir).and_then(|ledger| ledger.sync_all());
        synced.map_err(|error| failed(&self.0.ledger_dir, error))
    }
}

fn address_matcher(address: &Mailbox) -> Result<AddressMatcher, EraseError> {
    AddressMatcher::new(address).ok_or_else(|| EraseError::NoDomain(address.to_string()))
}

/// Matcher and replacement.
struct RecordMatcher<'a> {
    matcher: &'a AddressMatcher,
    pseudonym: &'a str,
}

impl RecordMatcher<'_> {
    /// Returns the part of a record to retain.
    fn evaluate_frame(&self, frame: &Frame, segment: &Segment) -> io::Result<Retain> {
        if self.matcher.may_match(&frame.payload)
            && let Some(kept) = self.rewrite_record(frame)?
        {
            return Ok(kept);
        }
        if frame.body_length == 0 {
            return Ok(Retain::All);
        }
        let body = frame.body_extent();
        let mut bytes = vec![0; body.length as usize];
        segment.read_exact_at(&mut bytes, body.start)?;
        Ok(if self.matcher.matches(&bytes) { Retain::DropBody } else { Retain::All })
    }

    fn rewrite_record(&self, frame: &Frame) -> io::Result<Option<Retain>> {
        let record = Record::decode(frame.kind, frame.version, &frame.payload).map_err(io::Error::other)?;
        let changed = record.map_strings(&mut |text| self.matcher.replace(text, self.pseudonym));
        let changed = changed.map_err(io::Error::other)?;
        Ok(changed.map(|payload| Retain::Replace { version: record.version(), payload }))
    }
}

/// Key of the pseudonym, stored in a file until the erasure is complete.
struct ErasureState {
    path: PathBuf,
    key: [u8; 16],
    pseudonym: String,
}

impl ErasureState {
    /// Loads the state of an interrupted erasure of the same address, or creates a new one.
    fn load_or_create(journal: &Path, address: &str) -> Result<Self, EraseError> {
        let path = journal.parent().unwrap_or(journal).join(STATE_FILE);
        let known = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(EraseError::Io { path, source }),
        };
        // An incomplete file was interrupted before anything was changed.
        let noted = known.trim_end().split_once(' ').and_then(|(key, name)| {
            let key = u128::from_str_radix(key, 16).ok()?.to_be_bytes();
            Pseudonym::Trail.is_pseudonym(name).then(|| (key, name.to_owned()))
        });
        let (key, pseudonym) = noted.unwrap_or_else(|| {
            let key = random_salt();
            (key, Pseudonym::Trail.derive(address, &key))
        });
        if Pseudonym::Trail.derive(address, &key) != pseudonym {
            return Err(EraseError::OtherInProgress { pseudonym, path });
        }
        Ok(Self { path, key, pseudonym })
    }

    /// Writes the state to stable storage.
    fn save(&self) -> Result<(), EraseError> {
        let written = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
            writeln!(file, "{:032x} {}", u128::from_be_bytes(self.key), self.pseudonym)?;
            file.sync_all()?;
            self.sync_directory()
        };
        written().map_err(|source| EraseError::Io { path: self.path.clone(), source })
    }

    fn remove(&self) -> Result<(), EraseError> {
        let removed = std::fs::remove_file(&self.path).and_then(|()| self.sync_directory());
        removed.map_err(|source| EraseError::Io { path: self.path.clone(), source })
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(self.path.parent().unwrap_or(&self.path))?.sync_all()
    }
}

/// Logs a warning if an erasure in this data directory was interrupted.
pub fn warn_if_interrupted(data_dir: &Path) {
    if data_dir.join(STATE_FILE).exists() {
        tracing::warn!(
            "an erasure of an address was cut off: run `mailtrail erase` with the same address again"
        );
    }
}

/// Returns a salt from the operating system's random source; it must be unpredictable.
fn random_salt() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes
}

/// Maximum number of ids in an error.
const MAX_LISTED_IDS: usize = 20;
/// Size of a segment without any record, in bytes.
const EMPTY_SEGMENT_BYTES: u64 = 60;
/// Number of progress reports in each of the three passes.
const PROGRESS_STEPS: u64 = 1000;
const STATE_FILE: &str = "erasing";

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::{DsnParameters, DsnRecipient, MessageId, Notify, OdooRecord, Ret};
    use mailtrail_trail::{
        AcceptedMessage, AttemptOutcome, AttemptStatus, Diagnostic, EventKind, EventReplay, EventSource,
        InboundOutcome, InboundTransition, Message, OperatorAction, OperatorActionData, ProviderEvent,
        ReceivedEvent, RecipientResult,
    };

    const ADDRESS: &str = "ada@example.net";

    fn diagnostic() -> Diagnostic {
        let text = |text: &str| Some(format!("{text} {ADDRESS}"));
        let (enhanced_status, host) = (Some("5.1.1".to_owned()), text("host"));
        Diagnostic {
            name: "RCPT".into(),
            code: Some(550),
            enhanced_status,
            text: text("no"),
            host,
            url: text("at"),
        }
    }

    fn sample_records() -> Vec<Record> {
        let received_at = Timestamp::from_millis(u64::MAX >> 16);
        let id = TrackingId::new(received_at, u128::MAX);
        let orcpt = Some(format!("rfc822;{ADDRESS}").into());
        let notify = Some(Notify { success: true, failure: false, delay: true });
        let message = Message {
            user: Some(ADDRESS.into()),
            peer: "2001:db8::1".parse().ok(),
            sender: ADDRESS.parse().ok(),
            message_id: MessageId::parse(&format!("<{ADDRESS}>")),
            subject: format!("\u{1f600} \"{ADDRESS}\"\\"),
            odoo_records: OdooRecord::parse("sale.order,42").into_iter().collect(),
            tags: vec![ADDRESS.into(), "x".into()],
            size: u64::MAX,
            dsn: DsnParameters {
                ret: Some(Ret::Headers),
                envid: Some(ADDRESS.into()),
                recipients: [(7, DsnRecipient { notify, orcpt })].into_iter().collect(),
            },
            body_fingerprint: Some(u64::MAX),
            route: Some("mailgun".into()),
            ..Message::new(id, "odoo")
        };
        let recipients = vec!["bob@example.org".parse().unwrap(), ADDRESS.parse().unwrap()];
        let settled = RecipientResult {
            recipients: vec![0, u16::MAX],
            status: AttemptStatus::Bounced,
            diagnostic: diagnostic(),
        };
        let event = ProviderEvent {
            kind: EventKind::Bounced,
            at: received_at,
            dedup_key: "mailgun/1".into(),
            recipient: Some(ADDRESS.into()),
            tracking_id: Some(id),
            message_id: None,
            automated: true,
            test_mode: false,
            diagnostic: diagnostic(),
        };
        let token = Some(("token".to_owned(), received_at, [255; 16]));
        let (operator, reason) = (ADDRESS.to_owned(), format!("{ADDRESS} asked"));
        let outcome = InboundOutcome::Released { operator: operator.clone(), reason: reason.clone() };
        let actions = [
            OperatorActionData::SinkReplay { sink: "hook".into(), since: received_at },
            OperatorActionData::StoreBackup { directory: format!("/{ADDRESS}").into() },
            OperatorActionData::SendTest { id },
        ];
        let ordered = |data| OperatorAction {
            at: received_at,
            data,
            operator: operator.clone(),
            reason: reason.clone(),
        };
        let removal = SuppressionChange {
            address: "bob@example.org".parse().unwrap(),
            list: None,
            at: received_at,
            operator: operator.clone(),
            kind: SuppressionChangeKind::Remove { reason: None, comment: reason.clone() },
        };
        let replay = EventReplay {
            id,
            at: received_at,
            operator: operator.clone(),
            reason: reason.clone(),
            upstream: "up".into(),
            source: EventSource::Poll,
            previous: None,
            event: event.clone(),
        };
        let orders = actions.map(|action| Record::OperatorAction(Box::new(ordered(action))));
        let others = vec![
            Record::from(AcceptedMessage { message, recipients }),
            Record::AttemptOutcome(AttemptOutcome {
                id,
                at: received_at,
                upstream: "up".into(),
                results: vec![settled],
                next_attempt: Some(received_at),
            }),
            Record::ReceivedEvent(Box::new(ReceivedEvent {
                upstream: "up".into(),
                received_at,
                source: EventSource::Poll,
                token,
                event,
            })),
            Record::EventReplay(Box::new(replay)),
            Record::Inbound(Box::new(InboundRecord::Transitioned(InboundTransition {
                id,
                at: received_at,
                outcome,
            }))),
            Record::SuppressionChange(Box::new(removal)),
        ];
        orders.into_iter().chain(others).collect()
    }

    #[test]
    fn replaces_every_occurrence_of_the_address_and_nothing_else() {
        let (ada, name) = (AddressMatcher::new(&ADDRESS.parse().unwrap()).unwrap(), "erased@invalid");
        let back = AddressMatcher::new(&name.parse().unwrap()).unwrap();
        for record in sample_records() {
            let head = record.map_strings(&mut |text| ada.replace(text, name)).unwrap().unwrap();
            assert!(memchr::memmem::find(&head, ADDRESS.as_bytes()).is_none(), "{record:?}");
            let changed = Record::decode(record.kind(), record.version(), &head).unwrap();
            assert_eq!(changed.map_strings(&mut |text| ada.replace(text, name)), Ok(None));
            let again = changed.map_strings(&mut |text| back.replace(text, ADDRESS)).unwrap().unwrap();
            assert_eq!(again, record.encode(), "{record:?}");
            // A record that would not decode again is not written.
            let nameless = record.map_strings(&mut |text| ada.replace(text, ""));
            assert_eq!(nameless.is_err(), matches!(record, Record::AcceptedMessage(_)));
        }
    }
}
