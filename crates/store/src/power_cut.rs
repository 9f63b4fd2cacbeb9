//! Tests of power cuts, and of disk faults at every call.
//!
//! [`RecordingDisk`] records every write, sync, rename and directory entry. [`RecordingDisk::crash_state`]
//! creates one of the states that a power cut may leave. Synced data is present; everything else is present,
//! lost or torn, by sector and by name. The ledger is missing, as old as its last checkpoint, or damaged. The
//! store opens on that state and must still have everything that it ever acknowledged.

use crate::body::MessageBody;
use crate::disk_space::FreeSpace;
use crate::erase::ErasureRequest;
use crate::journal::{Disk, DiskFile, LocalDisk};
use crate::open::OpenOptions;
use crate::open_error::OpenError;
use crate::replay::OpenReport;
use crate::retention::Retention;
use crate::store::Store;
use crate::stored_body::StoredBody;
use bytes::Bytes;
use fastrand::Rng;
use futures_util::future::join_all;
use mailtrail_mail::{Clock, ManualClock, Timestamp, TrackingId};
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, AttemptStarted, AttemptStatus, Diagnostic, EventKind, EventSource,
    Message, OperatorAction, OperatorActionData, ProviderEvent, ReceivedEvent, RecipientResult,
    TrailEventKind,
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

/// Default number of seeds; set by `MAILTRAIL_TEST_SEEDS`.
const DEFAULT_SEEDS: u64 = 1000;
/// Duration of a sync that the next group does not wait for.
const SLOW_SYNC_TIME: Duration = Duration::from_micros(1500);
/// Seeds that share one workload.
const CUTS_PER_WORKLOAD: u64 = 25;

#[test]
fn power_cut_loses_no_committed_record() {
    let seeds = std::env::var("MAILTRAIL_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let seeds: u64 = seeds.unwrap_or(DEFAULT_SEEDS);
    let mut counts = CheckCounts::default();
    for history in 0..seeds.div_ceil(CUTS_PER_WORKLOAD) {
        let recorder = RecordingDisk::default();
        recorder.state().sync_time = if history % 2 == 1 { SLOW_SYNC_TIME } else { Duration::ZERO };
        let past = Workload::run(history, 3, &recorder);
        for cut in 0..CUTS_PER_WORKLOAD {
            let mut random = Rng::with_seed(history << 32 | cut);
            let at = random.usize(1..=recorder.operations());
            let crash_dir = scratch_dir();
            recorder.crash_state(at, past.directory.path(), crash_dir.path(), &mut random);
            past.restore_ledger(at, crash_dir.path(), &mut random);
            let broken = past.check(at, crash_dir.path(), &mut counts);
            assert!(broken.is_empty(), "history {history}, cut {cut} behind operation {at}: {broken:?}");
        }
        counts.parallel_syncs += recorder.state().parallel_syncs;
    }
    println!("{counts:?}");
    assert!(
        counts.damaged > seeds / 50
            && counts.replayed > seeds
            && counts.erased > seeds / 50
            && counts.parallel_syncs > seeds / 50,
        "the cuts did little: {counts:?}"
    );
}

#[test]
fn disk_failure_at_any_call_loses_no_committed_record() {
    let mut counts = CheckCounts::default();
    let quick = [
        InjectedFault::AnyCall,
        InjectedFault::DiskFull,
        InjectedFault::ShortWrite,
        InjectedFault::FailedSync,
    ]
    .map(|fault| (fault, Duration::ZERO));
    for (fault, sync_time) in quick
        .into_iter()
        .chain([InjectedFault::AnyCall, InjectedFault::FailedSync].map(|fault| (fault, SLOW_SYNC_TIME)))
    {
        let mut call = 0;
        loop {
            let recorder = RecordingDisk::failing_at(fault, call);
            recorder.state().sync_time = sync_time;
            let past = Workload::run(call, 2, &recorder);
            counts.refused += past.refused;
            // The power also fails directly after the last operation.
            let (at, crash_dir) = (recorder.operations(), scratch_dir());
            recorder.crash_state(at, past.directory.path(), crash_dir.path(), &mut Rng::with_seed(call));
            for what_is_left in [crash_dir.path(), past.directory.path()] {
                let broken = past.check(at, what_is_left, &mut counts);
                assert!(broken.is_empty(), "{fault:?} of call {call}: {broken:?}");
            }
            if !recorder.has_failed() {
                break;
            }
            call += 1;
        }
        assert!(call > 10, "{fault:?} had only {call} calls to fail");
        println!("{fault:?}, syncs of {sync_time:?}: {call} calls, {counts:?}");
    }
    assert!(counts.refused > 50, "{counts:?}");
}

#[tokio::test]
async fn reports_a_failed_sync_until_a_write_succeeds() {
    let (directory, recorder) = (scratch_dir(), RecordingDisk::default());
    let (store, _) = open_store(directory.path(), time_at(0), Arc::new(recorder.clone())).unwrap();
    let trouble = store.write_errors().unwrap();
    let mut seen = Vec::new();
    for number in 1..=4 {
        if number == 2 {
            recorder.state().fault = Some((InjectedFault::FailedSync, 0));
        }
        let kept =
            store.put_message(accepted_message(number), Bytes::from_static(b"A: b\r\n\r\n")).await.is_ok();
        seen.push((kept, trouble.borrow().is_some()));
    }
    assert_eq!(seen, [(true, false), (false, true), (true, false), (true, false)]);
}

/// Checks the test itself: it detects a disk with no-op syncs.
#[test]
fn detects_a_disk_that_ignores_syncs() {
    let recorder = RecordingDisk::default();
    recorder.state().ignores_syncs = true;
    let past = Workload::run(1, 2, &recorder);
    let found_out = (0..20).filter(|cut| {
        let (mut random, crash_dir) = (Rng::with_seed(*cut), scratch_dir());
        recorder.crash_state(recorder.operations(), past.directory.path(), crash_dir.path(), &mut random);
        !past.check(recorder.operations(), crash_dir.path(), &mut CheckCounts::default()).is_empty()
    });
    assert!(found_out.count() > 10);
}

/// A panicked thread accepts nothing any more and is reported: the daemon ends, and its supervisor restarts
/// it.
#[tokio::test]
async fn reports_a_panicked_journal_thread() {
    let directory = scratch_dir();
    let (store, _) = open_store(directory.path(), time_at(0), Arc::new(PanickingDisk)).unwrap();
    assert!(store.put_message(accepted_message(1), Bytes::new()).await.is_err());
    assert_eq!(store.wait_failed().await, "the journal's thread broke");
}

/// A disk that panics when it is asked for its free space.
#[derive(Debug)]
struct PanickingDisk;

impl Disk for PanickingDisk {
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        LocalDisk::default().create_file(path)
    }

    fn reopen_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        LocalDisk::default().reopen_file(path)
    }

    fn rename_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalDisk::default().rename_file(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        LocalDisk::default().remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        LocalDisk::default().sync_directory(path)
    }

    fn free_space(&self, _: &Path) -> io::Result<FreeSpace> {
        panic!("it breaks")
    }
}

/// Counters of the checks, to prove that they had something to check.
#[derive(Debug, Default)]
struct CheckCounts {
    opened: u64,
    guarantees: u64,
    damaged: u64,
    rebuilt: u64,
    replayed: u64,
    refused: u64,
    erased: u64,
    parallel_syncs: u64,
}

/// A few busy hours of a store, and its guarantees.
struct Workload {
    directory: TempDir,
    /// Guarantees, each with the disk operation after which it holds.
    guarantees: Vec<(usize, Guarantee)>,
    /// Submitted messages, accepted or not.
    messages: BTreeMap<u64, Bytes>,
    /// Copies of the ledger at its checkpoints.
    ledgers: Vec<(usize, TempDir)>,
    refused: u64,
}

#[derive(Clone, Copy, Debug)]
enum Guarantee {
    Accepted(u64),
    AttemptStarted(u64),
    EventStored(u64),
    Finished(u64),
    /// By an operator, the given number of hours after the start.
    OperatorAction(u64),
    /// Erasure of the address of all finished messages.
    Erased,
}

impl Workload {
    /// Runs messages of several sizes, attempts, events, maintenance and restarts.
    fn run(seed: u64, hours: u64, recorder: &RecordingDisk) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut past = Self {
            directory: scratch_dir(),
            guarantees: Vec::new(),
            messages: BTreeMap::new(),
            ledgers: Vec::new(),
            refused: 0,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut number = 0;
        for hour in 0..hours {
            let time = time_at(hour * SECONDS_PER_HOUR);
            let Ok((store, _)) = open_store(past.directory.path(), time, Arc::new(recorder.clone())) else {
                past.refused += 1;
                continue;
            };
            for _ in 0..3 {
                let first = number;
                number += random.u64(1..5);
                runtime.block_on(past.run_messages(&store, first..number, &mut random, recorder));
            }
            let noted = runtime.block_on(store.record_operator_action(operator_action(hour))).is_ok();
            past.refused += u64::from(!noted);
            past.guarantees.extend(noted.then(|| (recorder.operations(), Guarantee::OperatorAction(hour))));
            runtime.block_on(store.checkpoint());
            past.ledgers
                .push((recorder.operations(), copy_to_scratch(&past.directory.path().join("ledger"))));
            // No record about this message follows.
            if hour + 1 == hours && random.bool() {
                let done = erase_bob(&store).then(|| (recorder.operations(), Guarantee::Erased));
                past.refused += u64::from(done.is_none());
                past.guarantees.extend(done);
            }
            // A faulty disk may fail here, too.
            while store
                .run_maintenance_step(&RETENTION, time_at((hour + 2) * SECONDS_PER_HOUR))
                .unwrap_or(false)
            {}
        }
        past
    }

    async fn run_messages(
        &mut self,
        store: &Store,
        numbers: Range<u64>,
        random: &mut Rng,
        recorder: &RecordingDisk,
    ) {
        let mut work = Vec::new();
        for number in numbers {
            let length = [1, 100, 3000, 40_000, 150_000][random.usize(..5)];
            let message: Bytes = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            self.messages.insert(number, message.clone());
            // Part of some messages is in a file.
            let mut message = MessageBody::from(message);
            if length > 10_000 && random.bool() {
                let mut rest = store.create_spill_file().unwrap();
                rest.append(&message.head()[5000..]).unwrap();
                message = MessageBody::new(message.head().slice(..5000), Some(rest));
            }
            work.push(process_message(store, number, message, will_finish(number), recorder));
        }
        for (promises, refused) in join_all(work).await {
            self.guarantees.extend(promises);
            self.refused += refused;
        }
    }

    /// Restores a possible state of the ledger, which is not written through the recording disk.
    fn restore_ledger(&self, at: usize, crash_dir: &Path, random: &mut Rng) {
        let usable = self.ledgers.iter().rev().find(|(when, _)| *when <= at);
        let Some((_, ledger)) = usable else { return };
        let ledger_state = random.u8(..4);
        if ledger_state == 0 {
            return;
        }
        copy_dir(ledger.path(), &crash_dir.join("ledger"));
        if ledger_state == 1 {
            let generation = std::fs::read_dir(crash_dir.join("ledger")).unwrap().next().unwrap().unwrap();
            let db = File::options().write(true).open(generation.path().join("db")).unwrap();
            let length = db.metadata().unwrap().len();
            if random.bool() {
                db.set_len(random.u64(..length)).unwrap();
            } else {
                db.write_all_at(&[random.u8(..)], random.u64(..length.min(20_000))).unwrap();
            }
        }
    }

    /// Opens the crash state, queries everything that was acknowledged before the cut, and returns the
    /// violations.
    fn check(&self, cut: usize, directory: &Path, counts: &mut CheckCounts) -> Vec<String> {
        let (store, report) =
            open_store(directory, time_at(9 * SECONDS_PER_HOUR), Arc::<LocalDisk>::default()).unwrap();
        counts.opened += 1;
        counts.damaged += u64::from(!report.corrupt_ranges.is_empty());
        counts.rebuilt += u64::from(report.rebuild_reason.is_some());
        counts.replayed += report.replayed_records;
        let promised =
            self.guarantees.iter().filter(|(when, _)| *when <= cut).map(|(_, guarantee)| *guarantee);
        let promised: Vec<Guarantee> = promised.collect();
        counts.guarantees += promised.len() as u64;
        let mut broken: Vec<String> = Vec::new();
        broken.extend(promised.iter().filter(|p| !self.is_upheld(&store, **p)).map(|p| format!("{p:?}")));
        // An interrupted erasure continues, and a new one does no harm.
        if cut.is_multiple_of(8) && erase_bob(&store) {
            counts.erased += 1;
            let now: Vec<_> = promised.iter().filter(|p| !self.is_upheld(&store, **p)).collect();
            broken.extend(now.iter().map(|p| format!("{p:?} when erased again")));
            broken.extend(mentions_bob(directory).then(|| "not all is erased".to_owned()));
        }
        // Delivered bodies are whole, acknowledged or not.
        for id in store.queued_ids(999).unwrap() {
            let number = id.timestamp().duration_since(time_at(0)).as_secs();
            let whole = read_message(&store, id).as_ref() == self.messages.get(&number);
            broken.extend((!whole).then(|| format!("message {number} is another")));
        }
        broken
    }

    fn is_upheld(&self, store: &Store, guarantee: Guarantee) -> bool {
        let number = match guarantee {
            Guarantee::Accepted(number)
            | Guarantee::AttemptStarted(number)
            | Guarantee::EventStored(number)
            | Guarantee::Finished(number) => number,
            Guarantee::OperatorAction(hour) => return is_logged(store, hour),
            Guarantee::Erased => {
                // Bytes of a failed write are no record, and were never acknowledged.
                let bob = "bob@example.net".parse().unwrap();
                return store.find_mentions(&bob, &mut |_| {}).is_ok_and(|found| found.records == 0);
            }
        };
        let Some(trail) = store.load_trail(tracking_id(number)).unwrap() else { return false };
        match guarantee {
            Guarantee::Accepted(number) => {
                read_message(store, tracking_id(number)).as_ref() == self.messages.get(&number)
                    || trail.next_attempt.is_none()
            }
            Guarantee::AttemptStarted(_) => trail.is_sending || trail.attempts > 0,
            Guarantee::Finished(_) => trail.next_attempt.is_none() && trail.attempts == 1,
            Guarantee::OperatorAction(_) | Guarantee::Erased => true,
            Guarantee::EventStored(number) => {
                store.has_event("mailgun", &provider_event(number)).unwrap()
                    && trail.recipients[0].has_provider_events()
            }
        }
    }
}

/// Runs one message through its life, recording guarantees and rejections.
async fn process_message(
    store: &Store,
    number: u64,
    message: MessageBody,
    finishes: bool,
    recorder: &RecordingDisk,
) -> (Vec<(usize, Guarantee)>, u64) {
    let (mut promises, mut refused) = (Vec::new(), 0);
    let mut note = |kept: bool, guarantee| {
        refused += u64::from(!kept);
        promises.extend(kept.then(|| (recorder.operations(), guarantee)));
        kept
    };
    if note(store.put_message(accepted_message(number), message).await.is_ok(), Guarantee::Accepted(number)) {
        note(
            store.record_attempt_start(attempt_started(number)).await.is_ok(),
            Guarantee::AttemptStarted(number),
        );
        note(
            store.put_event(received_event(number), Bytes::from("raw")).await.is_ok(),
            Guarantee::EventStored(number),
        );
        if finishes {
            note(
                store.record_attempt_outcome(relayed_outcome(number)).await.is_ok(),
                Guarantee::Finished(number),
            );
        }
    }
    (promises, refused)
}

/// A disk that records its operations and can inject faults.
#[derive(Clone, Debug, Default)]
struct RecordingDisk(Arc<Mutex<DiskState>>);

#[derive(Debug, Default)]
struct DiskState {
    operations: Vec<DiskOperation>,
    files: usize,
    /// Fault to inject, and the number of its call.
    fault: Option<(InjectedFault, u64)>,
    calls: u64,
    failed: bool,
    /// Whether syncs do nothing.
    ignores_syncs: bool,
    /// Duration of a sync.
    sync_time: Duration,
    /// Syncs in progress.
    syncing: u64,
    /// Syncs that started while another was in progress.
    parallel_syncs: u64,
}

#[derive(Clone, Debug)]
enum DiskOperation {
    Create {
        path: PathBuf,
        file: usize,
    },
    Write {
        file: usize,
        offset: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        file: usize,
        length: u64,
    },
    /// Sync of the operations before `of`; another sync may have completed in the meantime.
    Sync {
        file: usize,
        until_operation: usize,
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

/// Kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InjectedFault {
    /// EIO from any call.
    AnyCall,
    /// ENOSPC from a partial write.
    DiskFull,
    /// A write that is shorter than requested.
    ShortWrite,
    /// EIO from a sync: the written data may be present or not.
    FailedSync,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CallKind {
    Write,
    Sync,
    Other,
}

impl RecordingDisk {
    fn failing_at(fault: InjectedFault, call: u64) -> Self {
        Self(Arc::new(Mutex::new(DiskState { fault: Some((fault, call)), ..DiskState::default() })))
    }

    fn operations(&self) -> usize {
        self.state().operations.len()
    }

    fn has_failed(&self) -> bool {
        self.state().failed
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap()
    }

    fn push_operation(&self, operation: DiskOperation) {
        self.state().operations.push(operation);
    }

    /// Returns the fault of this call, if any.
    fn next_fault(&self, call: CallKind) -> Option<InjectedFault> {
        let mut record = self.state();
        let (fault, number) = record.fault?;
        let concerned = match fault {
            InjectedFault::AnyCall => true,
            InjectedFault::DiskFull | InjectedFault::ShortWrite => call == CallKind::Write,
            InjectedFault::FailedSync => call == CallKind::Sync,
        };
        if !concerned {
            return None;
        }
        record.calls += 1;
        let hit = record.calls == number + 1;
        record.failed |= hit;
        hit.then_some(fault)
    }

    fn inject_fault(&self, call: CallKind) -> io::Result<()> {
        match self.next_fault(call) {
            Some(_) => Err(io::Error::from_raw_os_error(EIO)),
            None => Ok(()),
        }
    }

    /// Creates one of the states in which a power cut after operation `cut` may leave the journal of
    /// `data_dir`.
    fn crash_state(&self, cut: usize, data_dir: &Path, crash_dir: &Path, random: &mut Rng) {
        let record = self.state();
        let mut files: BTreeMap<usize, FileState> = BTreeMap::new();
        let mut names = DirectoryState::default();
        for (number, operation) in record.operations[..cut].iter().enumerate() {
            match operation {
                DiskOperation::Create { path, file } => {
                    files.insert(*file, FileState::default());
                    names.apply_change(NameChange::Link(path.clone(), *file));
                }
                DiskOperation::Write { file, offset, bytes } => {
                    let change = UnsyncedChange::Write(*offset, bytes.clone());
                    files.entry(*file).or_default().unsynced.push((number, change));
                }
                DiskOperation::Truncate { file, length } => {
                    let change = UnsyncedChange::Truncate(*length);
                    files.entry(*file).or_default().unsynced.push((number, change));
                }
                DiskOperation::Sync { file, until_operation } => {
                    files.entry(*file).or_default().apply_sync(*until_operation)
                }
                DiskOperation::Rename { from, to } => {
                    let file = names.current[from];
                    names.apply_change(NameChange::Move(from.clone(), to.clone(), file));
                }
                DiskOperation::Remove { path } => names.apply_change(NameChange::Unlink(path.clone())),
                DiskOperation::SyncDirectory => names.sync(),
            }
        }
        std::fs::create_dir_all(crash_dir.join("journal")).unwrap();
        for (path, file) in names.after_power_cut(random) {
            let place = crash_dir.join(path.strip_prefix(data_dir).unwrap());
            std::fs::write(place, files[&file].after_power_cut(random)).unwrap();
        }
    }
}

/// Model of a file.
#[derive(Default)]
struct FileState {
    durable: Vec<u8>,
    /// In the order of their operations.
    unsynced: Vec<(usize, UnsyncedChange)>,
}

enum UnsyncedChange {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl FileState {
    fn apply_sync(&mut self, of: usize) {
        let rest = self.unsynced.partition_point(|(number, _)| *number < of);
        for (_, change) in self.unsynced.drain(..rest) {
            match change {
                UnsyncedChange::Write(at, bytes) => write_at(&mut self.durable, at as usize, &bytes),
                UnsyncedChange::Truncate(length) => self.durable.truncate(length as usize),
            }
        }
    }

    /// Returns the content after a power cut. Each sector of an unsynced write is present or not; a grown
    /// length may have any value in between.
    fn after_power_cut(&self, random: &mut Rng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let share = [0.0, 0.5, 0.9, 1.0][random.usize(..4)];
        for (_, change) in &self.unsynced {
            match change {
                UnsyncedChange::Write(at, new) => {
                    let mut at = *at as usize;
                    let mut new = &new[..];
                    while !new.is_empty() {
                        let sector = (SECTOR_BYTES - at % SECTOR_BYTES).min(new.len());
                        if random.f64() < share {
                            write_at(&mut bytes, at, &new[..sector]);
                        }
                        (at, new) = (at + sector, &new[sector..]);
                    }
                }
                UnsyncedChange::Truncate(length) if random.bool() => bytes.truncate(*length as usize),
                UnsyncedChange::Truncate(_) => {}
            }
        }
        if bytes.len() > self.durable.len() && random.u8(..4) == 0 {
            bytes.truncate(random.usize(self.durable.len()..bytes.len()));
        }
        bytes
    }
}

fn write_at(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Entries of a directory.
#[derive(Default)]
struct DirectoryState {
    current: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    unsynced: Vec<NameChange>,
}

#[derive(Clone)]
enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Move(PathBuf, PathBuf, usize),
}

impl NameChange {
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

impl DirectoryState {
    fn apply_change(&mut self, change: NameChange) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        self.durable = self.current.clone();
        self.unsynced.clear();
    }

    /// Returns the entries after a power cut: each change since the last sync is present or not.
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

impl Disk for RecordingDisk {
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inject_fault(CallKind::Other)?;
        let file = File::options().write(true).create(true).truncate(true).open(path)?;
        let mut record = self.state();
        record.files += 1;
        let number = record.files;
        record.operations.push(DiskOperation::Create { path: path.to_owned(), file: number });
        Ok(Box::new(RecordedFile { recorder: self.clone(), number, file }))
    }

    fn reopen_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inject_fault(CallKind::Other)?;
        let file = File::options().write(true).open(path)?;
        let created = |operation: &DiskOperation| match operation {
            DiskOperation::Create { path: created, file } if created == path => Some(*file),
            _ => None,
        };
        let number = self.state().operations.iter().rev().find_map(created).unwrap();
        Ok(Box::new(RecordedFile { recorder: self.clone(), number, file }))
    }

    fn rename_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inject_fault(CallKind::Other)?;
        std::fs::rename(from, to)?;
        self.push_operation(DiskOperation::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inject_fault(CallKind::Other)?;
        std::fs::remove_file(path)?;
        self.push_operation(DiskOperation::Remove { path: path.to_owned() });
        Ok(())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        self.inject_fault(CallKind::Sync)?;
        self.push_operation(DiskOperation::SyncDirectory);
        Ok(())
    }

    fn free_space(&self, _: &Path) -> io::Result<FreeSpace> {
        Ok(FreeSpace { bytes: u64::MAX, inodes: None })
    }
}

#[derive(Debug)]
struct RecordedFile {
    recorder: RecordingDisk,
    number: usize,
    file: File,
}

impl Write for RecordedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (done, error) = match self.recorder.next_fault(CallKind::Write) {
            None => (bytes.len(), None),
            Some(InjectedFault::ShortWrite) => (bytes.len().div_ceil(2), None),
            Some(InjectedFault::DiskFull) => (bytes.len() / 2, Some(ENOSPC)),
            Some(_) => (bytes.len() / 3, Some(EIO)),
        };
        let offset = self.file.stream_position()?;
        self.file.write_all(&bytes[..done])?;
        self.recorder.push_operation(DiskOperation::Write {
            file: self.number,
            offset,
            bytes: bytes[..done].to_vec(),
        });
        error.map_or(Ok(done), |error| Err(io::Error::from_raw_os_error(error)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for RecordedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl DiskFile for RecordedFile {
    fn fsync(&mut self) -> io::Result<()> {
        let until_operation = self.recorder.operations();
        let (lies, sync_time) = {
            let mut record = self.recorder.state();
            record.parallel_syncs += u64::from(record.syncing > 0);
            record.syncing += 1;
            (record.ignores_syncs, record.sync_time)
        };
        std::thread::sleep(sync_time);
        self.recorder.state().syncing -= 1;
        self.recorder.inject_fault(CallKind::Sync)?;
        if !lies {
            self.recorder.push_operation(DiskOperation::Sync { file: self.number, until_operation });
        }
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.recorder.inject_fault(CallKind::Other)?;
        self.file.set_len(length)?;
        self.recorder.push_operation(DiskOperation::Truncate { file: self.number, length });
        Ok(())
    }
}

/// Reads the body of a message; none of them is large.
fn read_message(store: &Store, id: TrackingId) -> Option<Bytes> {
    match store.load_job(id).unwrap()?.body? {
        StoredBody::InMemory(message) => Some(message),
        StoredBody::OnDisk(large) => panic!("{large:?}"),
    }
}

/// Opens a store; the threads of the previous one may need a moment to release it.
fn open_store(
    data_dir: &Path,
    now: Timestamp,
    disk: Arc<dyn Disk>,
) -> Result<(Store, OpenReport), OpenError> {
    let time: &'static ManualClock = Box::leak(Box::default());
    time.advance_to(now);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (clock, disk) = (Clock::Manual(time), disk.clone());
        match Store::open_with(OpenOptions {
            data_dir,
            clock,
            writable: true,
            disk,
            on_progress: &mut |_| {},
        }) {
            Err(OpenError::Locked(_)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}

/// Returns a directory on a file system where syncs are free, if there is one: the model does not need them.
fn scratch_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

fn copy_to_scratch(from: &Path) -> TempDir {
    let to = scratch_dir();
    copy_dir(from, to.path());
    to
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn time_at(seconds: u64) -> Timestamp {
    Timestamp::from_secs(1_789_387_200 + seconds)
}

fn tracking_id(number: u64) -> TrackingId {
    TrackingId::new(time_at(number), u128::from(number))
}

fn accepted_message(number: u64) -> AcceptedMessage {
    let message = Message {
        subject: format!("Quotation {number}"),
        size: number,
        ..Message::new(tracking_id(number), "odoo")
    };
    AcceptedMessage { message, recipients: vec![recipient_address(number).parse().unwrap()] }
}

fn will_finish(number: u64) -> bool {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 1
}

fn recipient_address(number: u64) -> &'static str {
    if will_finish(number) { "bob@example.net" } else { "ada@example.net" }
}

fn erase_bob(store: &Store) -> bool {
    let address = "bob@example.net".parse().unwrap();
    let erasing =
        ErasureRequest { address: &address, operator: "uid 0", reason: "asked for", at: time_at(0) };
    store.erase_address(&erasing, &mut |_| {}).is_ok()
}

fn mentions_bob(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        let file = |path| memchr::memmem::find(&std::fs::read(path).unwrap(), b"bob@example.net").is_some();
        if path.is_dir() { mentions_bob(&path) } else { file(&path) }
    })
}

fn operator_action(hour: u64) -> OperatorAction {
    let data = OperatorActionData::SinkReplay { sink: "hook".into(), since: time_at(0) };
    OperatorAction {
        at: time_at(hour * SECONDS_PER_HOUR),
        data,
        operator: "uid 0".into(),
        reason: "asked for".into(),
    }
}

fn is_logged(store: &Store, hour: u64) -> bool {
    let segments = store.log_segments().unwrap().into_iter();
    let mut entries = segments.flat_map(|(segment, _)| store.log_in_segment(segment).unwrap());
    entries.any(|entry| {
        matches!(entry.event.kind, TrailEventKind::OperatorAction(_))
            && entry.recorded_at == time_at(hour * SECONDS_PER_HOUR)
    })
}

fn attempt_started(number: u64) -> AttemptStarted {
    AttemptStarted { id: tracking_id(number), at: time_at(number), upstream: "mailgun".into() }
}

fn relayed_outcome(number: u64) -> AttemptOutcome {
    let settled = RecipientResult {
        recipients: vec![0],
        status: AttemptStatus::Relayed,
        diagnostic: Diagnostic::default(),
    };
    let (id, at) = (tracking_id(number), time_at(number));
    AttemptOutcome { id, at, upstream: "mailgun".into(), results: vec![settled], next_attempt: None }
}

fn provider_event(number: u64) -> ProviderEvent {
    ProviderEvent {
        kind: EventKind::Deferred,
        at: time_at(number),
        dedup_key: format!("event {number}"),
        recipient: Some(recipient_address(number).into()),
        tracking_id: Some(tracking_id(number)),
        message_id: None,
        automated: false,
        test_mode: false,
        diagnostic: Diagnostic::default(),
    }
}

fn received_event(number: u64) -> ReceivedEvent {
    ReceivedEvent {
        upstream: "mailgun".into(),
        received_at: time_at(number),
        source: EventSource::Webhook,
        token: None,
        event: provider_event(number),
    }
}

const SECONDS_PER_HOUR: u64 = 3600;
const RETENTION: Retention = Retention {
    ledger: Duration::from_secs(30 * 24 * SECONDS_PER_HOUR),
    bodies: Duration::ZERO,
    events: Duration::from_secs(30 * 24 * SECONDS_PER_HOUR),
};
const SECTOR_BYTES: usize = 512;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
