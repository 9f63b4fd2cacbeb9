//! What is left when the power goes, and what becomes of a store whose disk fails at any call.
//!
//! [`Recorder`] is a disk that notes every write, sync, rename and directory entry. [`Recorder::remains`] makes one of
//! the states that a power cut may leave behind: what was synced is there, everything else is there, lost or torn,
//! sector by sector and name by name. The ledger is gone, as old as its last checkpoint, or damaged. The store opens on
//! that and must know all it ever promised.

use crate::Store;
use crate::body::Message;
use crate::disk_space::Free;
use crate::erase::Erasing;
use crate::journal::{Disk, DiskFile, LocalDisk};
use crate::open::{OpenError, OpenReport, Opening};
use crate::retention::Retention;
use crate::stored_body::Stored;
use bytes::Bytes;
use fastrand::Rng;
use futures_util::future::join_all;
use mailtrail_mail::{Clock, Moment, Timestamp, TrackingId};
use mailtrail_trail::{
    Accepted, Begun, Errand, Event, Kind, Notice, Ordered, Outcome, Send, Settled, Standing, Via, What, Words,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Seeds of the suite; more with `MAILTRAIL_TEST_SEEDS`.
const SEEDS: u64 = 1000;
/// A sync that is not waited for by the next group.
const SLOW_SYNC: Duration = Duration::from_micros(1500);
/// Seeds that share one history.
const CUTS: u64 = 25;

#[test]
fn a_power_cut_loses_nothing_that_was_promised() {
    let seeds = std::env::var("MAILTRAIL_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let seeds: u64 = seeds.unwrap_or(SEEDS);
    let mut tally = Tally::default();
    for history in 0..seeds.div_ceil(CUTS) {
        let recorder = Recorder::default();
        recorder.record().sync_time = if history % 2 == 1 { SLOW_SYNC } else { Duration::ZERO };
        let past = Past::live(history, 3, &recorder);
        for cut in 0..CUTS {
            let mut random = Rng::with_seed(history << 32 | cut);
            let at = random.usize(1..=recorder.operations());
            let remains = workplace();
            recorder.remains(at, past.directory.path(), remains.path(), &mut random);
            past.leave_ledger(at, remains.path(), &mut random);
            let broken = past.check(at, remains.path(), &mut tally);
            assert!(broken.is_empty(), "history {history}, cut {cut} behind operation {at}: {broken:?}");
        }
        tally.beside += recorder.record().beside;
    }
    println!("{tally:?}");
    assert!(
        tally.damaged > seeds / 50
            && tally.replayed > seeds
            && tally.erased > seeds / 50
            && tally.beside > seeds / 50,
        "the cuts did little: {tally:?}"
    );
}

#[test]
fn a_disk_that_fails_at_any_call_loses_nothing_that_was_promised() {
    let mut tally = Tally::default();
    let quick = [Fault::Io, Fault::Full, Fault::Short, Fault::Sync].map(|fault| (fault, Duration::ZERO));
    for (fault, sync_time) in
        quick.into_iter().chain([Fault::Io, Fault::Sync].map(|fault| (fault, SLOW_SYNC)))
    {
        let mut call = 0;
        loop {
            let recorder = Recorder::failing(fault, call);
            recorder.record().sync_time = sync_time;
            let past = Past::live(call, 2, &recorder);
            tally.refused += past.refused;
            // The power goes, too, right behind the last operation.
            let (at, remains) = (recorder.operations(), workplace());
            recorder.remains(at, past.directory.path(), remains.path(), &mut Rng::with_seed(call));
            for what_is_left in [remains.path(), past.directory.path()] {
                let broken = past.check(at, what_is_left, &mut tally);
                assert!(broken.is_empty(), "{fault:?} of call {call}: {broken:?}");
            }
            if !recorder.has_failed() {
                break;
            }
            call += 1;
        }
        assert!(call > 10, "{fault:?} had only {call} calls to fail");
        println!("{fault:?}, syncs of {sync_time:?}: {call} calls, {tally:?}");
    }
    assert!(tally.refused > 50, "{tally:?}");
}

#[tokio::test]
async fn a_sync_that_fails_is_known_until_a_write_succeeds() {
    let (directory, recorder) = (workplace(), Recorder::default());
    let (store, _) = open(directory.path(), at(0), Arc::new(recorder.clone())).unwrap();
    let trouble = store.trouble().unwrap();
    let mut seen = Vec::new();
    for number in 1..=4 {
        if number == 2 {
            recorder.record().fault = Some((Fault::Sync, 0));
        }
        let kept = store.accept(accepted(number), Bytes::from_static(b"A: b\r\n\r\n")).await.is_ok();
        seen.push((kept, trouble.borrow().is_some()));
    }
    assert_eq!(seen, [(true, false), (false, true), (true, false), (true, false)]);
}

/// The check itself: it notices a disk whose syncs do nothing.
#[test]
fn a_disk_that_lies_is_found_out() {
    let recorder = Recorder::default();
    recorder.record().lies = true;
    let past = Past::live(1, 2, &recorder);
    let found_out = (0..20).filter(|cut| {
        let (mut random, remains) = (Rng::with_seed(*cut), workplace());
        recorder.remains(recorder.operations(), past.directory.path(), remains.path(), &mut random);
        !past.check(recorder.operations(), remains.path(), &mut Tally::default()).is_empty()
    });
    assert!(found_out.count() > 10);
}

/// A thread that breaks takes nothing any more, and says so: the daemon ends, and what supervises it starts it again.
#[tokio::test]
async fn a_journal_that_breaks_is_told() {
    let directory = workplace();
    let (store, _) = open(directory.path(), at(0), Arc::new(Brittle)).unwrap();
    assert!(store.accept(accepted(1), Bytes::new()).await.is_err());
    assert_eq!(store.failed().await, "the journal's thread broke");
}

/// A disk that nobody may ask for its room.
#[derive(Debug)]
struct Brittle;

impl Disk for Brittle {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        LocalDisk::default().create(path)
    }

    fn reopen(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        LocalDisk::default().reopen(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalDisk::default().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        LocalDisk::default().remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        LocalDisk::default().sync_directory(path)
    }

    fn free(&self, _: &Path) -> io::Result<Free> {
        panic!("it breaks")
    }
}

/// What the checks met, to see that they had something to check.
#[derive(Debug, Default)]
struct Tally {
    opened: u64,
    promises: u64,
    damaged: u64,
    rebuilt: u64,
    replayed: u64,
    refused: u64,
    erased: u64,
    beside: u64,
}

/// A few busy hours of a store, and what it promised.
struct Past {
    directory: TempDir,
    /// Behind which operation of the disk it holds, and what.
    promises: Vec<(usize, Promise)>,
    /// Messages that were handed in, kept or not.
    messages: BTreeMap<u64, Bytes>,
    /// Copies of the ledger as its checkpoints left it.
    ledgers: Vec<(usize, TempDir)>,
    refused: u64,
}

#[derive(Clone, Copy, Debug)]
enum Promise {
    Accepted(u64),
    Begun(u64),
    Reported(u64),
    Finished(u64),
    /// By an operator, so many hours after the beginning.
    Ordered(u64),
    /// Of the address of all mail that was finished.
    Erased,
}

impl Past {
    /// Mail in several sizes, attempts, reports, upkeep and restarts.
    fn live(seed: u64, hours: u64, recorder: &Recorder) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut past = Self {
            directory: workplace(),
            promises: Vec::new(),
            messages: BTreeMap::new(),
            ledgers: Vec::new(),
            refused: 0,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut number = 0;
        for hour in 0..hours {
            let time = at(hour * HOUR);
            let Ok((store, _)) = open(past.directory.path(), time, Arc::new(recorder.clone())) else {
                past.refused += 1;
                continue;
            };
            for _ in 0..3 {
                let first = number;
                number += random.u64(1..5);
                runtime.block_on(past.busy(&store, first..number, &mut random, recorder));
            }
            let noted = runtime.block_on(store.order(ordered(hour))).is_ok();
            past.refused += u64::from(!noted);
            past.promises.extend(noted.then(|| (recorder.operations(), Promise::Ordered(hour))));
            runtime.block_on(store.settle_down());
            past.ledgers.push((recorder.operations(), copied(&past.directory.path().join("ledger"))));
            // Nothing to it comes afterwards.
            if hour + 1 == hours && random.bool() {
                let done = erase(&store).then(|| (recorder.operations(), Promise::Erased));
                past.refused += u64::from(done.is_none());
                past.promises.extend(done);
            }
            // A disk that fails may fail here, too.
            while store.maintain(&RETENTION, at((hour + 2) * HOUR)).unwrap_or(false) {}
        }
        past
    }

    async fn busy(&mut self, store: &Store, numbers: Range<u64>, random: &mut Rng, recorder: &Recorder) {
        let mut work = Vec::new();
        for number in numbers {
            let length = [1, 100, 3000, 40_000, 150_000][random.usize(..5)];
            let message: Bytes = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            self.messages.insert(number, message.clone());
            // The rest of some lies in a file.
            let mut message = Message::from(message);
            if length > 10_000 && random.bool() {
                let mut rest = store.spill().unwrap();
                rest.append(&message.first()[5000..]).unwrap();
                message = Message::new(message.first().slice(..5000), Some(rest));
            }
            work.push(one_mail(store, number, message, finishes(number), recorder));
        }
        for (promises, refused) in join_all(work).await {
            self.promises.extend(promises);
            self.refused += refused;
        }
    }

    /// The ledger is not written through the recorder: here is what may be left of it.
    fn leave_ledger(&self, at: usize, remains: &Path, random: &mut Rng) {
        let usable = self.ledgers.iter().rev().find(|(when, _)| *when <= at);
        let Some((_, ledger)) = usable else { return };
        let fate = random.u8(..4);
        if fate == 0 {
            return;
        }
        copy(ledger.path(), &remains.join("ledger"));
        if fate == 1 {
            let generation = std::fs::read_dir(remains.join("ledger")).unwrap().next().unwrap().unwrap();
            let db = File::options().write(true).open(generation.path().join("db")).unwrap();
            let length = db.metadata().unwrap().len();
            if random.bool() {
                db.set_len(random.u64(..length)).unwrap();
            } else {
                db.write_all_at(&[random.u8(..)], random.u64(..length.min(20_000))).unwrap();
            }
        }
    }

    /// Opens what is left, asks for everything that was promised before the cut, and says what does not hold.
    fn check(&self, cut: usize, directory: &Path, tally: &mut Tally) -> Vec<String> {
        let (store, report) = open(directory, at(9 * HOUR), Arc::<LocalDisk>::default()).unwrap();
        tally.opened += 1;
        tally.damaged += u64::from(!report.damaged.is_empty());
        tally.rebuilt += u64::from(report.rebuilt.is_some());
        tally.replayed += report.replayed;
        let promised = self.promises.iter().filter(|(when, _)| *when <= cut).map(|(_, promise)| *promise);
        let promised: Vec<Promise> = promised.collect();
        tally.promises += promised.len() as u64;
        let mut broken: Vec<String> = Vec::new();
        broken.extend(promised.iter().filter(|p| !self.holds(&store, **p)).map(|p| format!("{p:?}")));
        // An erasure that was cut off goes on, and one that was not does no harm.
        if cut.is_multiple_of(8) && erase(&store) {
            tally.erased += 1;
            let now: Vec<_> = promised.iter().filter(|p| !self.holds(&store, **p)).collect();
            broken.extend(now.iter().map(|p| format!("{p:?} when erased again")));
            broken.extend(mentions_bob(directory).then(|| "not all is erased".to_owned()));
        }
        // What is delivered is whole, promised or not.
        for id in store.queued(999).unwrap() {
            let number = id.timestamp().since(at(0)).as_secs();
            let whole = message(&store, id).as_ref() == self.messages.get(&number);
            broken.extend((!whole).then(|| format!("message {number} is another")));
        }
        broken
    }

    fn holds(&self, store: &Store, promise: Promise) -> bool {
        let number = match promise {
            Promise::Accepted(number)
            | Promise::Begun(number)
            | Promise::Reported(number)
            | Promise::Finished(number) => number,
            Promise::Ordered(hour) => return is_in_the_log(store, hour),
            Promise::Erased => {
                // Bytes that a failed write left are no record, and nobody was promised anything about them.
                let bob = "bob@example.net".parse().unwrap();
                return store.mentions(&bob, &mut |_| {}).is_ok_and(|found| found.records == 0);
            }
        };
        let Some(trail) = store.trail(id(number)).unwrap() else { return false };
        match promise {
            Promise::Accepted(number) => {
                message(store, id(number)).as_ref() == self.messages.get(&number) || trail.due.is_none()
            }
            Promise::Begun(_) => trail.sending || trail.attempts > 0,
            Promise::Finished(_) => trail.due.is_none() && trail.attempts == 1,
            Promise::Ordered(_) | Promise::Erased => true,
            Promise::Reported(number) => {
                store.knows_event("mailgun", &event(number)).unwrap() && trail.recipients[0].is_reported()
            }
        }
    }
}

/// Everything about one mail, with what was promised and how much was refused.
async fn one_mail(
    store: &Store,
    number: u64,
    message: Message,
    finishes: bool,
    recorder: &Recorder,
) -> (Vec<(usize, Promise)>, u64) {
    let (mut promises, mut refused) = (Vec::new(), 0);
    let mut note = |kept: bool, promise| {
        refused += u64::from(!kept);
        promises.extend(kept.then(|| (recorder.operations(), promise)));
        kept
    };
    if note(store.accept(accepted(number), message).await.is_ok(), Promise::Accepted(number)) {
        note(store.begin(begun(number)).await.is_ok(), Promise::Begun(number));
        note(store.report(notice(number), Bytes::from("raw")).await.is_ok(), Promise::Reported(number));
        if finishes {
            note(store.settle(relayed(number)).await.is_ok(), Promise::Finished(number));
        }
    }
    (promises, refused)
}

/// A disk that notes what is done to it, and fails when it is told to.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    operations: Vec<Operation>,
    files: usize,
    /// How the call with that number fails.
    fault: Option<(Fault, u64)>,
    calls: u64,
    failed: bool,
    /// Syncs do nothing.
    lies: bool,
    /// How long a sync takes.
    sync_time: Duration,
    /// Syncs under way.
    syncing: u64,
    /// Syncs that were begun while another was under way.
    beside: u64,
}

#[derive(Clone, Debug)]
enum Operation {
    Create {
        path: PathBuf,
        file: usize,
    },
    Write {
        file: usize,
        at: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        file: usize,
        length: u64,
    },
    /// Of what was done before operation `of`: another sync may have been waited for meanwhile.
    Sync {
        file: usize,
        of: usize,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    SyncDirectory,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// EIO from anything.
    Io,
    /// ENOSPC from a write, some of which was done.
    Full,
    /// A write does less than was asked for.
    Short,
    /// EIO from a sync: what was written may be there or not.
    Sync,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Write,
    Sync,
    Other,
}

impl Recorder {
    fn failing(fault: Fault, call: u64) -> Self {
        Self(Arc::new(Mutex::new(Record { fault: Some((fault, call)), ..Record::default() })))
    }

    fn operations(&self) -> usize {
        self.record().operations.len()
    }

    fn has_failed(&self) -> bool {
        self.record().failed
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap()
    }

    fn note(&self, operation: Operation) {
        self.record().operations.push(operation);
    }

    /// Whether this call fails, and how.
    fn fault(&self, call: Call) -> Option<Fault> {
        let mut record = self.record();
        let (fault, number) = record.fault?;
        let concerned = match fault {
            Fault::Io => true,
            Fault::Full | Fault::Short => call == Call::Write,
            Fault::Sync => call == Call::Sync,
        };
        if !concerned {
            return None;
        }
        record.calls += 1;
        let hit = record.calls == number + 1;
        record.failed |= hit;
        hit.then_some(fault)
    }

    fn may(&self, call: Call) -> io::Result<()> {
        match self.fault(call) {
            Some(_) => Err(io::Error::from_raw_os_error(EIO)),
            None => Ok(()),
        }
    }

    /// One of the states in which a power cut behind operation `cut` may leave the journal of `data_dir`.
    fn remains(&self, cut: usize, data_dir: &Path, remains: &Path, random: &mut Rng) {
        let record = self.record();
        let mut files: BTreeMap<usize, Inode> = BTreeMap::new();
        let mut names = Names::default();
        for (number, operation) in record.operations[..cut].iter().enumerate() {
            match operation {
                Operation::Create { path, file } => {
                    files.insert(*file, Inode::default());
                    names.change(Change::Link(path.clone(), *file));
                }
                Operation::Write { file, at, bytes } => {
                    let change = Unsynced::Write(*at, bytes.clone());
                    files.entry(*file).or_default().unsynced.push((number, change));
                }
                Operation::Truncate { file, length } => {
                    let change = Unsynced::Truncate(*length);
                    files.entry(*file).or_default().unsynced.push((number, change));
                }
                Operation::Sync { file, of } => files.entry(*file).or_default().sync(*of),
                Operation::Rename { from, to } => {
                    let file = names.now[from];
                    names.change(Change::Move(from.clone(), to.clone(), file));
                }
                Operation::Remove { path } => names.change(Change::Unlink(path.clone())),
                Operation::SyncDirectory => names.sync(),
            }
        }
        std::fs::create_dir_all(remains.join("journal")).unwrap();
        for (path, file) in names.after_power_cut(random) {
            let place = remains.join(path.strip_prefix(data_dir).unwrap());
            std::fs::write(place, files[&file].after_power_cut(random)).unwrap();
        }
    }
}

/// A file as the model knows it.
#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    /// In the order of their operations.
    unsynced: Vec<(usize, Unsynced)>,
}

enum Unsynced {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Inode {
    fn sync(&mut self, of: usize) {
        let rest = self.unsynced.partition_point(|(number, _)| *number < of);
        for (_, change) in self.unsynced.drain(..rest) {
            match change {
                Unsynced::Write(at, bytes) => write(&mut self.durable, at as usize, &bytes),
                Unsynced::Truncate(length) => self.durable.truncate(length as usize),
            }
        }
    }

    /// Sectors of unsynced writes are there or not; a length that grew may be any in between.
    fn after_power_cut(&self, random: &mut Rng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let share = [0.0, 0.5, 0.9, 1.0][random.usize(..4)];
        for (_, change) in &self.unsynced {
            match change {
                Unsynced::Write(at, new) => {
                    let mut at = *at as usize;
                    let mut new = &new[..];
                    while !new.is_empty() {
                        let sector = (SECTOR - at % SECTOR).min(new.len());
                        if random.f64() < share {
                            write(&mut bytes, at, &new[..sector]);
                        }
                        (at, new) = (at + sector, &new[sector..]);
                    }
                }
                Unsynced::Truncate(length) if random.bool() => bytes.truncate(*length as usize),
                Unsynced::Truncate(_) => {}
            }
        }
        if bytes.len() > self.durable.len() && random.u8(..4) == 0 {
            bytes.truncate(random.usize(self.durable.len()..bytes.len()));
        }
        bytes
    }
}

fn write(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The names in the directory.
#[derive(Default)]
struct Names {
    now: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Move(PathBuf, PathBuf, usize),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Link(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Unlink(path) => drop(names.remove(path)),
            Self::Move(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
        }
    }
}

impl Names {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        self.durable = self.now.clone();
        self.unsynced.clear();
    }

    /// Each change since the last sync is there or not.
    fn after_power_cut(&self, random: &mut Rng) -> BTreeMap<PathBuf, usize> {
        let mut names = self.durable.clone();
        for change in &self.unsynced {
            if random.bool() {
                change.apply(&mut names);
            }
        }
        names
    }
}

impl Disk for Recorder {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.may(Call::Other)?;
        let file = File::options().write(true).create(true).truncate(true).open(path)?;
        let mut record = self.record();
        record.files += 1;
        let number = record.files;
        record.operations.push(Operation::Create { path: path.to_owned(), file: number });
        Ok(Box::new(Recorded { recorder: self.clone(), number, file }))
    }

    fn reopen(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.may(Call::Other)?;
        let file = File::options().write(true).open(path)?;
        let created = |operation: &Operation| match operation {
            Operation::Create { path: created, file } if created == path => Some(*file),
            _ => None,
        };
        let number = self.record().operations.iter().rev().find_map(created).unwrap();
        Ok(Box::new(Recorded { recorder: self.clone(), number, file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.may(Call::Other)?;
        std::fs::rename(from, to)?;
        self.note(Operation::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.may(Call::Other)?;
        std::fs::remove_file(path)?;
        self.note(Operation::Remove { path: path.to_owned() });
        Ok(())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        self.may(Call::Sync)?;
        self.note(Operation::SyncDirectory);
        Ok(())
    }

    fn free(&self, _: &Path) -> io::Result<Free> {
        Ok(Free { bytes: u64::MAX, inodes: None })
    }
}

#[derive(Debug)]
struct Recorded {
    recorder: Recorder,
    number: usize,
    file: File,
}

impl Write for Recorded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (done, error) = match self.recorder.fault(Call::Write) {
            None => (bytes.len(), None),
            Some(Fault::Short) => (bytes.len().div_ceil(2), None),
            Some(Fault::Full) => (bytes.len() / 2, Some(ENOSPC)),
            Some(_) => (bytes.len() / 3, Some(EIO)),
        };
        let at = self.file.stream_position()?;
        self.file.write_all(&bytes[..done])?;
        self.recorder.note(Operation::Write { file: self.number, at, bytes: bytes[..done].to_vec() });
        error.map_or(Ok(done), |error| Err(io::Error::from_raw_os_error(error)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Recorded {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl DiskFile for Recorded {
    fn sync(&mut self) -> io::Result<()> {
        let of = self.recorder.operations();
        let (lies, sync_time) = {
            let mut record = self.recorder.record();
            record.beside += u64::from(record.syncing > 0);
            record.syncing += 1;
            (record.lies, record.sync_time)
        };
        std::thread::sleep(sync_time);
        self.recorder.record().syncing -= 1;
        self.recorder.may(Call::Sync)?;
        if !lies {
            self.recorder.note(Operation::Sync { file: self.number, of });
        }
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.recorder.may(Call::Other)?;
        self.file.set_len(length)?;
        self.recorder.note(Operation::Truncate { file: self.number, length });
        Ok(())
    }
}

/// The message of a send; none of them is large.
fn message(store: &Store, id: TrackingId) -> Option<Bytes> {
    match store.job(id).unwrap()?.message? {
        Stored::Small(message) => Some(message),
        Stored::Large(large) => panic!("{large:?}"),
    }
}

/// Opens a store; the threads of the one before may need a moment to let go.
fn open(data_dir: &Path, now: Timestamp, disk: Arc<dyn Disk>) -> Result<(Store, OpenReport), OpenError> {
    let time: &'static Moment = Box::leak(Box::default());
    time.set(now);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (clock, disk) = (Clock::Set(time), disk.clone());
        match (Opening { data_dir, clock, writing: true, disk, progress: &mut |_| {} }).open() {
            Err(OpenError::Locked(_)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}

/// Where syncs cost nothing, if there is such a place: the model does not need them.
fn workplace() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

fn copied(from: &Path) -> TempDir {
    let to = workplace();
    copy(from, to.path());
    to
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(1_789_387_200 + seconds)
}

fn id(number: u64) -> TrackingId {
    TrackingId::new(at(number), u128::from(number))
}

fn accepted(number: u64) -> Accepted {
    let send = Send { subject: format!("Quotation {number}"), size: number, ..Send::new(id(number), "odoo") };
    Accepted { send, recipients: vec![recipient(number).parse().unwrap()] }
}

fn finishes(number: u64) -> bool {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 1
}

fn recipient(number: u64) -> &'static str {
    if finishes(number) { "bob@example.net" } else { "ada@example.net" }
}

fn erase(store: &Store) -> bool {
    let address = "bob@example.net".parse().unwrap();
    let erasing = Erasing { address: &address, operator: "uid 0", reason: "asked for", at: at(0) };
    store.erase(&erasing, &mut |_| {}).is_ok()
}

fn mentions_bob(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        let file = |path| memchr::memmem::find(&std::fs::read(path).unwrap(), b"bob@example.net").is_some();
        if path.is_dir() { mentions_bob(&path) } else { file(&path) }
    })
}

fn ordered(hour: u64) -> Ordered {
    let errand = Errand::SinkReplay { sink: "hook".into(), since: at(0) };
    Ordered { at: at(hour * HOUR), errand, operator: "uid 0".into(), reason: "asked for".into() }
}

fn is_in_the_log(store: &Store, hour: u64) -> bool {
    let segments = store.log_segments().unwrap().into_iter();
    let mut entries = segments.flat_map(|(segment, _)| store.log_of(segment).unwrap());
    entries.any(|entry| matches!(entry.fact.what, What::Ordered(_)) && entry.written == at(hour * HOUR))
}

fn begun(number: u64) -> Begun {
    Begun { id: id(number), at: at(number), upstream: "mailgun".into() }
}

fn relayed(number: u64) -> Outcome {
    let settled = Settled { recipients: vec![0], standing: Standing::Relayed, words: Words::default() };
    let (id, at) = (id(number), at(number));
    Outcome { id, at, upstream: "mailgun".into(), settled: vec![settled], due: None }
}

fn event(number: u64) -> Event {
    Event {
        kind: Kind::Deferred,
        at: at(number),
        identity: format!("event {number}"),
        recipient: Some(recipient(number).into()),
        tracking: Some(id(number)),
        message_id: None,
        by_machine: false,
        test_mode: false,
        words: Words::default(),
    }
}

fn notice(number: u64) -> Notice {
    Notice {
        upstream: "mailgun".into(),
        at: at(number),
        via: Via::Webhook,
        token: None,
        event: event(number),
    }
}

const HOUR: u64 = 3600;
const RETENTION: Retention = Retention {
    ledger: Duration::from_secs(30 * 24 * HOUR),
    bodies: Duration::ZERO,
    events: Duration::from_secs(30 * 24 * HOUR),
};
const SECTOR: usize = 512;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
