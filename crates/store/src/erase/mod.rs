//! Takes an address out of everything that the store keeps; what it took part in stays, under a pseudonym.
//!
//! The active segment is sealed, and every sealed one that mentions the address is written anew: the pseudonym stands in
//! its place, in the recipient as in an error's words, and messages and raw payloads that mention it are left out. Then
//! the ledger is made anew from that, and the one before is removed with all its files, since sled forgets nothing. What
//! the suppression list knows stands there under a name that only the address itself leads to.
//!
//! Nothing is touched before it is known that no message that waits mentions the address and that the journal is whole.
//! Each segment changes in one step, and places stay, so the old ledger fits at every moment; a crash leaves some segments
//! behind that still mention it. The key that makes the pseudonym lies in a file until the end: a second run goes on with
//! the same one, so what belongs together joins again. In between, should the ledger be lost as well, an event that names
//! its send by Message-ID and address may find it only after the second run.

mod address_matcher;

use crate::erase::address_matcher::Mention;
use crate::group_commit::{CommitError, Committer};
use crate::journal::{Frame, Keep, RewriteError, Segment, lost_with_header, rewrite, segment_path};
use crate::log_reader::Entry;
use crate::rebuild::RebuildError;
use crate::record::Record;
use crate::replay::{Chain, Progress, chain, is_unreadable, up_to};
use crate::{ReadError, Store};
use mailtrail_mail::{Mailbox, Pseudonym, Timestamp, TrackingId};
use mailtrail_trail::suppression::{Change, Listing, Mark};
use mailtrail_trail::{Erased, Inbound, Leg};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

/// What mentions an address.
#[derive(Clone, Debug, Default)]
pub struct Mentioned {
    /// Records of the journal.
    pub records: u64,
    /// Messages and raw payloads: those of such records, and those that mention it themselves.
    pub bodies: u64,
    /// Sends from it, to it, or with it in their trail.
    pub sends: BTreeSet<TrackingId>,
    /// Reports of providers.
    pub reports: BTreeSet<TrackingId>,
    /// Mail from outside.
    pub inbound: BTreeSet<TrackingId>,
    /// What else the log says.
    pub others: Vec<Entry>,
    /// What waits.
    pub waiting: InTheWay,
    /// The segments in which all that lies.
    segments: BTreeSet<u32>,
}

/// Mail that waits and mentions an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InTheWay {
    /// Sends; also those of which the ledger knows nothing.
    pub sends: BTreeSet<TrackingId>,
    /// Mail from outside.
    pub inbound: BTreeSet<TrackingId>,
}

impl InTheWay {
    fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.inbound.is_empty()
    }
}

/// An address that is to be erased.
#[derive(Clone, Copy, Debug)]
pub struct Erasing<'a> {
    /// Which.
    pub address: &'a Mailbox,
    /// Who wants that.
    pub operator: &'a str,
    /// Why.
    pub reason: &'a str,
    /// When.
    pub at: Timestamp,
}

/// Why an address was not erased. Where nothing else is said, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// It has no domain.
    #[error("{0} has no domain, so it is everybody's; name a whole address")]
    Nobody(String),
    /// The message would be sent without its body, or with the address.
    #[error("{}", waits(.0))]
    Waits(InTheWay),
    /// What cannot be read cannot be searched.
    #[error(
        "the journal is damaged, so it cannot be searched for the address; `mailtrail store verify` names the places. A \
         backup that is whole may take its place"
    )]
    Damaged,
    /// An erasure that was cut off is to be ended first.
    #[error(
        "the erasure of another address, {pseudonym}, was cut off: run that one again first, or remove {path} where nobody \
         knows any more which it was"
    )]
    Another {
        /// What stands in the other's place.
        pseudonym: String,
        /// Where that is noted.
        path: PathBuf,
    },
    /// A file; run again, it goes on.
    #[error("{path} cannot be used: {source}; once that is mended, run the erasure again, and it goes on")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The same.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The same.
    #[error("{0}; once that is mended, run the erasure again, and it goes on")]
    Rewrite(#[from] RewriteError),
    /// The same.
    #[error("{0}; once that is mended, run the erasure again, and it goes on")]
    Rebuild(#[from] RebuildError),
    /// The store has failed, or was opened for reading.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<::sled::Error> for EraseError {
    fn from(error: ::sled::Error) -> Self {
        Self::Read(error.into())
    }
}

fn waits(waiting: &InTheWay) -> String {
    let named = |ids: &BTreeSet<TrackingId>| {
        let named: Vec<_> = ids.iter().take(NAMED).map(ToString::to_string).collect();
        let more = if ids.len() > NAMED { ", …" } else { "" };
        format!("{}{more}", named.join(", "))
    };
    let sends = (!waiting.sends.is_empty()).then(|| {
        format!(
            "{} messages that wait mention it: let them be sent, or take them out with `mailtrail queue delete \
             --reason WHY`: {}",
            waiting.sends.len(),
            named(&waiting.sends)
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
    /// All that mentions an address. Reads everything that was kept so far. Blocks. Traffic goes on, upkeep waits.
    pub fn mentions(
        &self,
        address: &Mailbox,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Mentioned, EraseError> {
        let mention = mention(address)?;
        let _upkeep = self.0.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(committer) = &self.0.committer {
            committer.drain_blocking()?;
        }
        let position = self.projection()?.position()?.unwrap_or_default();
        let chain = up_to(chain(&self.0.journal).map_err(ReadError::from)?, position);
        // Whatever would stand there has this form.
        let name = Pseudonym::Trail.of(mention.address(), &[0; 16]);
        let look = Look { mention: &mention, name: &name };
        self.search(&chain, &look, &mut |done, total| progress(Progress { done, total }))
    }

    /// Erases an address from everything that was kept so far; returns what mentioned it, and its pseudonym. Blocks.
    /// Traffic goes on, upkeep waits. An end of the process in the middle loses nothing, and a second run goes on.
    pub fn erase(
        &self,
        erasing: &Erasing<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Mentioned, String), EraseError> {
        let mention = mention(erasing.address)?;
        let committer = self.committer()?;
        let _upkeep = self.0.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let notebook = Notebook::open(&self.0.journal, mention.address())?;
        let look = Look { mention: &mention, name: &notebook.pseudonym };
        let chain = self.sealed(committer)?;
        // Searched, written anew, read into the new ledger.
        let mut step = |pass: u64, done: u64, total: u64| {
            progress(Progress { done: pass * PARTS + done * PARTS / total.max(1), total: 3 * PARTS });
        };
        let found = self.search(&chain, &look, &mut |done, total| step(0, done, total))?;
        if !found.waiting.is_empty() {
            return Err(EraseError::Waits(found.waiting));
        }
        notebook.keep()?;
        self.note(committer, erasing, &look, &found)?;
        for (index, (number, end)) in chain.iter().enumerate() {
            if found.segments.contains(number) {
                self.rewrite(*number, *end, &look)?;
            }
            step(1, index as u64, chain.len() as u64);
        }
        self.sync(&chain)?;
        self.renew(false, &mut |read| step(2, read.done, read.total))?;
        self.remove_other_ledgers()?;
        notebook.discard()?;
        Ok((found, notebook.pseudonym))
    }

    /// Everything that was kept so far, in segments that nobody writes to any more.
    fn sealed(&self, committer: &Committer) -> Result<Chain, EraseError> {
        committer.drain_blocking()?;
        let position = self.projection()?.position()?.unwrap_or_default();
        committer.seal(Duration::ZERO);
        committer.drain_blocking()?;
        let mut chain = chain(&self.0.journal).map_err(ReadError::from)?;
        let active = chain.pop();
        let used = active.is_some_and(|(number, _)| number == position.segment && position.offset > EMPTY);
        if used {
            let path = segment_path(&self.0.journal, position.segment + 1);
            return Err(EraseError::Io { path, source: io::Error::other("no new segment can be made") });
        }
        Ok(chain)
    }

    fn search(
        &self,
        chain: &Chain,
        look: &Look<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Mentioned, EraseError> {
        let mut segments = Vec::with_capacity(chain.len());
        for (number, end) in chain {
            match Segment::open(&self.0.journal, *number, *end) {
                Ok(segment) => segments.push((*number, segment)),
                Err(error) if is_unreadable(&error) => {
                    let lost = lost_with_header(&self.0.journal, *number, *end).map_err(ReadError::from)?;
                    lost.map_or(Ok(()), |_| Err(EraseError::Damaged))?;
                }
                Err(error) => return Err(ReadError::from(error).into()),
            }
        }
        let total: u64 = segments.iter().map(|(_, segment)| segment.length()).sum();
        let (mut found, mut done) = (Mentioned::default(), 0);
        for (number, segment) in segments {
            let (mut failed, mut damaged) = (None, false);
            let each = |frame: Frame| {
                progress(done + frame.at(), total);
                self.weigh(&frame, &segment, look, &mut found).map_err(|error| {
                    failed = Some(error);
                    io::Error::other("stopped")
                })
            };
            let scanned = segment.scan(0, true, each, |_| damaged = true);
            if let Some(error) = failed {
                return Err(error.into());
            }
            scanned.map_err(ReadError::from)?;
            if damaged {
                return Err(EraseError::Damaged);
            }
            // What a failed write left behind its end is nothing, but may be bytes of such a record.
            let path = segment_path(&self.0.journal, number);
            if std::fs::metadata(path).map_err(ReadError::from)?.len() > segment.length() {
                found.segments.insert(number);
            }
            done += segment.length();
        }
        Ok(found)
    }

    /// Takes up a record that mentions the address.
    fn weigh(
        &self,
        frame: &Frame,
        segment: &Segment,
        look: &Look<'_>,
        found: &mut Mentioned,
    ) -> Result<(), ReadError> {
        if look.at(frame, segment)? == Keep::All {
            return Ok(());
        }
        found.segments.insert(frame.place.segment);
        found.records += 1;
        found.bodies += u64::from(frame.body_length > 0);
        let projection = self.projection()?;
        let Ok(record) = Record::decode(frame.kind, frame.version, &frame.head) else { return Ok(()) };
        match record {
            Record::Accepted(accepted) => {
                let id = accepted.send.id;
                let open = match projection.send(id)? {
                    Some((_, row)) => row.queued.is_some() || projection.is_sending(id)?,
                    None => frame.body_length > 0,
                };
                found.waiting.sends.extend(open.then_some(id));
                found.sends.insert(id);
            }
            Record::Outcome(outcome) => drop(found.sends.insert(outcome.id)),
            Record::Action(action) => drop(found.sends.insert(action.id)),
            Record::Notice(notice) => drop(found.reports.insert(notice.id())),
            Record::Dead(dead) => drop(found.reports.insert(dead.id())),
            Record::Hint(hinted) => drop(found.reports.insert(hinted.id())),
            Record::Inbound(inbound) => {
                let id = match &*inbound {
                    Inbound::Arrived(arrival) => arrival.id,
                    Inbound::Moved(moved) => moved.id,
                };
                let mail = projection.inbound_mail(id)?;
                let open = mail.is_some_and(|(mail, _)| mail.leg == Leg::Waiting);
                found.waiting.inbound.extend(open.then_some(id));
                found.inbound.insert(id);
            }
            other => self.entries(other, &mut found.others)?,
        }
        Ok(())
    }

    /// Notes what is done, and puts what the suppression list knows under another name.
    fn note(
        &self,
        committer: &Committer,
        erasing: &Erasing<'_>,
        look: &Look<'_>,
        found: &Mentioned,
    ) -> Result<(), EraseError> {
        let said = |text: &str| look.mention.replaced(text, look.name).unwrap_or_else(|| text.to_owned());
        let projection = self.projection()?;
        let salt = projection.salt()?.unwrap_or_else(random);
        let listed: Option<Mailbox> = Pseudonym::Listed.of(look.mention.address(), &salt).parse().ok();
        let filed = projection.dossiers_of(look.mention.address())?;
        let known = filed.iter().filter(|filed| filed.dossier.is_listed());
        for (one, address) in known.zip(std::iter::repeat(listed).flatten()) {
            for (reason, live) in one.dossier.live() {
                let marks = live.marks().map(|mark| Mark { words: said(&mark.words), ..mark }).collect();
                let listing = Listing {
                    address: address.clone(),
                    list: Some(one.list.clone()).filter(|list| !list.is_empty()),
                    at: erasing.at,
                    operator: said(erasing.operator),
                    change: Change::Add { reason, marks },
                };
                committer.commit_blocking(Record::Listing(Box::new(listing)))?;
            }
        }
        if found.records > 0 || !filed.is_empty() {
            let erased = Erased {
                at: erasing.at,
                operator: said(erasing.operator),
                reason: said(erasing.reason),
                pseudonym: look.name.to_owned(),
                salt,
            };
            committer.commit_blocking(Record::Erased(Box::new(erased)))?;
        }
        Ok(())
    }

    fn rewrite(&self, number: u32, end: Option<u64>, look: &Look<'_>) -> Result<(), EraseError> {
        let segment = Segment::open(&self.0.journal, number, end).map_err(ReadError::from)?;
        // Upkeep has not looked through it because of this.
        let since = segment.rewritten().unwrap_or_default();
        let keep = |frame: &Frame| look.at(frame, &segment);
        rewrite(&*self.0.disk, &self.0.journal, &segment, false, since, keep)?;
        self.0.segments.forget(number);
        Ok(())
    }

    /// Has it on stable storage where segments end: behind that may have been what a failed write left.
    fn sync(&self, chain: &Chain) -> Result<(), EraseError> {
        for (number, _) in chain {
            let path = segment_path(&self.0.journal, *number);
            let synced = File::open(&path).and_then(|segment| segment.sync_all());
            synced.map_err(|source| EraseError::Io { path, source })?;
        }
        Ok(())
    }

    /// Removes what lies beside the present ledger: one that was damaged and put aside.
    fn remove_other_ledgers(&self) -> Result<(), EraseError> {
        let present = self.projection()?.directory().to_owned();
        let failed = |path: &Path, source| EraseError::Io { path: path.to_owned(), source };
        let entries = std::fs::read_dir(&self.0.ledger).map_err(|error| failed(&self.0.ledger, error))?;
        for entry in entries {
            let path = entry.map_err(|error| failed(&self.0.ledger, error))?.path();
            if path != present {
                std::fs::remove_dir_all(&path).map_err(|error| failed(&path, error))?;
            }
        }
        let synced = File::open(&self.0.ledger).and_then(|ledger| ledger.sync_all());
        synced.map_err(|error| failed(&self.0.ledger, error))
    }
}

fn mention(address: &Mailbox) -> Result<Mention, EraseError> {
    Mention::of(address).ok_or_else(|| EraseError::Nobody(address.to_string()))
}

/// What is looked for, and what takes its place.
struct Look<'a> {
    mention: &'a Mention,
    name: &'a str,
}

impl Look<'_> {
    /// What stays of a record.
    fn at(&self, frame: &Frame, segment: &Segment) -> io::Result<Keep> {
        if self.mention.may_be_in(&frame.head)
            && let Some(kept) = self.in_record(frame)?
        {
            return Ok(kept);
        }
        if frame.body_length == 0 {
            return Ok(Keep::All);
        }
        let body = frame.body();
        let mut bytes = vec![0; body.length as usize];
        segment.read_exact_at(&mut bytes, body.start)?;
        Ok(if self.mention.is_in(&bytes) { Keep::Head } else { Keep::All })
    }

    fn in_record(&self, frame: &Frame) -> io::Result<Option<Keep>> {
        let record = Record::decode(frame.kind, frame.version, &frame.head).map_err(io::Error::other)?;
        let changed = record.with_texts(&mut |text| self.mention.replaced(text, self.name));
        let changed = changed.map_err(io::Error::other)?;
        Ok(changed.map(|head| Keep::Changed { version: record.version(), head }))
    }
}

/// Where the key of the pseudonym is kept until everything is done.
struct Notebook {
    path: PathBuf,
    key: [u8; 16],
    pseudonym: String,
}

impl Notebook {
    /// The one of an erasure of the same address that was cut off, or a new one.
    fn open(journal: &Path, address: &str) -> Result<Self, EraseError> {
        let path = journal.parent().unwrap_or(journal).join(NOTEBOOK);
        let known = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(EraseError::Io { path, source }),
        };
        // One that is not whole was cut off before anything was changed.
        let noted = known.trim_end().split_once(' ').and_then(|(key, name)| {
            let key = u128::from_str_radix(key, 16).ok()?.to_be_bytes();
            Pseudonym::Trail.fits(name).then(|| (key, name.to_owned()))
        });
        let (key, pseudonym) = noted.unwrap_or_else(|| {
            let key = random();
            (key, Pseudonym::Trail.of(address, &key))
        });
        if Pseudonym::Trail.of(address, &key) != pseudonym {
            return Err(EraseError::Another { pseudonym, path });
        }
        Ok(Self { path, key, pseudonym })
    }

    /// Has it on stable storage.
    fn keep(&self) -> Result<(), EraseError> {
        let written = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
            writeln!(file, "{:032x} {}", u128::from_be_bytes(self.key), self.pseudonym)?;
            file.sync_all()?;
            self.sync()
        };
        written().map_err(|source| EraseError::Io { path: self.path.clone(), source })
    }

    fn discard(&self) -> Result<(), EraseError> {
        let removed = std::fs::remove_file(&self.path).and_then(|()| self.sync());
        removed.map_err(|source| EraseError::Io { path: self.path.clone(), source })
    }

    fn sync(&self) -> io::Result<()> {
        File::open(self.path.parent().unwrap_or(&self.path))?.sync_all()
    }
}

/// Says so if an erasure in this data directory was cut off.
pub fn remind(data_dir: &Path) {
    if data_dir.join(NOTEBOOK).exists() {
        tracing::warn!(
            "an erasure of an address was cut off: run `mailtrail erase` with the same address again"
        );
    }
}

/// From the system's source: nobody may work it out.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes
}

/// Ids that an error names.
const NAMED: usize = 20;
/// Bytes of a segment without any record.
const EMPTY: u64 = 60;
/// Parts in which the progress of each of the three passes is told.
const PARTS: u64 = 1000;
const NOTEBOOK: &str = "erasing";

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::{Dsn, DsnRecipient, MessageId, Notify, Record as OdooRecord, Ret};
    use mailtrail_trail::{
        Accepted, Errand, Event, Fate, Kind, Move, Notice, Ordered, Outcome, Replay, Send, Settled, Standing,
        Via, Words,
    };

    const ADA: &str = "ada@example.net";

    fn words() -> Words {
        let text = |text: &str| Some(format!("{text} {ADA}"));
        let (enhanced, host) = (Some("5.1.1".to_owned()), text("host"));
        Words { name: "RCPT".into(), code: Some(550), enhanced, text: text("no"), host, url: text("at") }
    }

    fn records() -> Vec<Record> {
        let at = Timestamp::from_millis(u64::MAX >> 16);
        let id = TrackingId::new(at, u128::MAX);
        let orcpt = Some(format!("rfc822;{ADA}").into());
        let notify = Some(Notify { success: true, failure: false, delay: true });
        let send = Send {
            user: Some(ADA.into()),
            peer: "2001:db8::1".parse().ok(),
            sender: ADA.parse().ok(),
            message_id: MessageId::parse(&format!("<{ADA}>")),
            subject: format!("\u{1f600} \"{ADA}\"\\"),
            records: OdooRecord::parse("sale.order,42").into_iter().collect(),
            tags: vec![ADA.into(), "x".into()],
            size: u64::MAX,
            dsn: Dsn {
                ret: Some(Ret::Headers),
                envid: Some(ADA.into()),
                recipients: [(7, DsnRecipient { notify, orcpt })].into_iter().collect(),
            },
            fingerprint: Some(u64::MAX),
            route: Some("mailgun".into()),
            ..Send::new(id, "odoo")
        };
        let recipients = vec!["bob@example.org".parse().unwrap(), ADA.parse().unwrap()];
        let settled = Settled { recipients: vec![0, u16::MAX], standing: Standing::Bounced, words: words() };
        let event = Event {
            kind: Kind::Bounced,
            at,
            identity: "mailgun/1".into(),
            recipient: Some(ADA.into()),
            tracking: Some(id),
            message_id: None,
            by_machine: true,
            test_mode: false,
            words: words(),
        };
        let token = Some(("token".to_owned(), at, [255; 16]));
        let (operator, reason) = (ADA.to_owned(), format!("{ADA} asked"));
        let fate = Fate::Released { operator: operator.clone(), reason: reason.clone() };
        let errands = [
            Errand::SinkReplay { sink: "hook".into(), since: at },
            Errand::StoreBackup { directory: format!("/{ADA}").into() },
            Errand::SendTest { id },
        ];
        let ordered = |errand| Ordered { at, errand, operator: operator.clone(), reason: reason.clone() };
        let removal = Listing {
            address: "bob@example.org".parse().unwrap(),
            list: None,
            at,
            operator: operator.clone(),
            change: Change::Remove { reason: None, words: reason.clone() },
        };
        let replay = Replay {
            id,
            at,
            operator: operator.clone(),
            reason: reason.clone(),
            upstream: "up".into(),
            via: Via::Poll,
            before: None,
            event: event.clone(),
        };
        let orders = errands.map(|errand| Record::Ordered(Box::new(ordered(errand))));
        let others = vec![
            Record::from(Accepted { send, recipients }),
            Record::Outcome(Outcome { id, at, upstream: "up".into(), settled: vec![settled], due: Some(at) }),
            Record::Notice(Box::new(Notice { upstream: "up".into(), at, via: Via::Poll, token, event })),
            Record::Replay(Box::new(replay)),
            Record::Inbound(Box::new(Inbound::Moved(Move { id, at, fate }))),
            Record::Listing(Box::new(removal)),
        ];
        orders.into_iter().chain(others).collect()
    }

    #[test]
    fn nothing_but_the_address_changes_and_all_of_it() {
        let (ada, name) = (Mention::of(&ADA.parse().unwrap()).unwrap(), "erased@invalid");
        let back = Mention::of(&name.parse().unwrap()).unwrap();
        for record in records() {
            let head = record.with_texts(&mut |text| ada.replaced(text, name)).unwrap().unwrap();
            assert!(memchr::memmem::find(&head, ADA.as_bytes()).is_none(), "{record:?}");
            let changed = Record::decode(record.kind(), record.version(), &head).unwrap();
            assert_eq!(changed.with_texts(&mut |text| ada.replaced(text, name)), Ok(None));
            let again = changed.with_texts(&mut |text| back.replaced(text, ADA)).unwrap().unwrap();
            assert_eq!(again, record.encode(), "{record:?}");
            // What could not be read any more is not written.
            let nameless = record.with_texts(&mut |text| ada.replaced(text, ""));
            assert_eq!(nameless.is_err(), matches!(record, Record::Accepted(_)));
        }
    }
}
