//! The journal thread: writes what comes in groups, and syncs each.
//!
//! While a sync runs, the next group gathers. A record that somebody waits for is written at once; one that nobody
//! waits for rides with the next, if that comes soon: a lone client pays one sync a message, not three. Where many write
//! at once, those who were just answered are about to come again, and a short pause takes them along. On a slow disk the
//! next group does not wait for the last one's sync: several run side by side, and are answered in their order.

use crate::group_commit::{Answer, CommitError, Group, Request, Task, Wish};
use crate::journal::{Draft, Place, Writer};
use crate::record::{Kept, Record};
use mailtrail_mail::Clock;
use mailtrail_trail::Inbound;
use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout_at;

/// The journal thread's work.
pub struct Scribe {
    writer: Writer,
    tasks: mpsc::Sender<Task>,
    room: Arc<Semaphore>,
    clock: Clock,
    /// Why the last group could not be written.
    trouble: watch::Sender<Option<String>>,
    /// Why the ledger is closed, if it is.
    closed: watch::Receiver<Option<String>>,
    /// Groups that were written and are being synced, oldest first.
    syncing: VecDeque<(Written, JoinHandle<io::Result<()>>)>,
    /// How long the last group took.
    took: Duration,
}

/// What goes into one sync.
#[derive(Default)]
struct Batch {
    records: Vec<(Record, Wish, Answer)>,
    drafts: Vec<Draft>,
    drained: Vec<Answer>,
    sealed: Option<Duration>,
    bytes: u64,
    urgent: bool,
}

/// A group that is kept once it is synced.
struct Written {
    records: Vec<Kept>,
    answers: Vec<(Wish, Answer)>,
    start: Place,
    end: Place,
    began: Instant,
}

/// The ledger thread has ended.
pub struct Gone;

impl Scribe {
    /// One that writes there, hands on what is kept, and tells why the last group could not be.
    pub fn new(
        writer: Writer,
        clock: Clock,
        tasks: mpsc::Sender<Task>,
        trouble: watch::Sender<Option<String>>,
        closed: watch::Receiver<Option<String>>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(WAITING));
        Self { writer, tasks, room, clock, trouble, closed, syncing: VecDeque::new(), took: Duration::ZERO }
    }

    /// Works until nobody can ask for anything, or nobody takes what was kept.
    pub async fn serve(mut self, mut incoming: mpsc::Receiver<Request>) -> Result<(), Gone> {
        let mut last = 0;
        while let Some(first) = self.meanwhile(incoming.recv()).await? {
            if self.syncing.len() >= SYNCS {
                self.end_sync().await?;
            }
            let mut batch = Batch::default();
            batch.add(first);
            self.gather(&mut batch, &mut incoming).await?;
            if self.syncing.is_empty() && last >= COMPANY && batch.records.len() < last {
                std::thread::sleep((self.took / PAUSE).min(LONGEST_PAUSE));
                batch.add_all(&mut incoming);
            }
            last = batch.records.len();
            self.commit(batch).await?;
        }
        self.end_syncs().await
    }

    /// Waits for something; groups whose syncs end meanwhile are handed on.
    async fn meanwhile<T>(&mut self, wanted: impl Future<Output = T>) -> Result<T, Gone> {
        let mut wanted = pin!(wanted);
        loop {
            let ended = tokio::select! {
                biased;
                ended = oldest(&mut self.syncing) => ended,
                value = &mut wanted => return Ok(value),
            };
            self.end_oldest(ended).await?;
        }
    }

    /// Takes along what waits already, and what comes while nobody is in a hurry.
    async fn gather(
        &mut self,
        batch: &mut Batch,
        incoming: &mut mpsc::Receiver<Request>,
    ) -> Result<(), Gone> {
        let patience = tokio::time::Instant::now() + PATIENCE;
        while !batch.is_full() {
            let next = match incoming.try_recv() {
                Ok(next) => next,
                Err(_) if batch.urgent || batch.drafts.len() >= CROWD || self.syncing.len() >= BUSY => break,
                Err(_) => match self.meanwhile(timeout_at(patience, incoming.recv())).await? {
                    Ok(Some(next)) => next,
                    Ok(None) | Err(_) => break,
                },
            };
            batch.add(next);
        }
        Ok(())
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), Gone> {
        let Batch { records, drafts, drained, sealed, bytes, .. } = batch;
        let closed = self.closed.borrow().clone();
        if let Some(why) = closed {
            // What is written now could not be looked up. Their syncs end, and the ledger takes them up when it is open.
            self.end_syncs().await?;
            let answers = records.into_iter().map(|(.., answer)| answer).chain(drained);
            answers.for_each(|answer| drop(answer.send(Err(CommitError::Ledger(why.clone())))));
            return Ok(());
        }
        if !drafts.is_empty() {
            match self.enough_space(&records, bytes) {
                Ok(()) => self.append(records, drafts).await?,
                Err(error) => refuse(records.into_iter().map(|(.., answer)| answer), &error),
            }
        }
        if sealed.is_some() || !drained.is_empty() {
            self.end_syncs().await?;
        }
        if let Some(age) = sealed {
            self.seal(age);
        }
        for answer in drained {
            self.hand_on(Task::Checkpoint(answer)).await?;
        }
        Ok(())
    }

    /// Writes a group and syncs it: here where syncs are fast, else beside the next groups.
    async fn append(&mut self, records: Vec<(Record, Wish, Answer)>, drafts: Vec<Draft>) -> Result<(), Gone> {
        let is_slow = self.took >= SLOW;
        // A new segment says how much of the one before is good.
        if !is_slow || !self.writer.has_room() {
            self.end_syncs().await?;
        }
        let (began, now) = (Instant::now(), self.clock.now());
        let beside = if is_slow { self.writer.reopen(now).ok() } else { None };
        if is_slow && beside.is_none() {
            // Without another descriptor it is synced here, behind those that are being synced.
            self.end_syncs().await?;
        }
        let places = match self.writer.write(&drafts, now) {
            Ok(places) => places,
            Err(error) => {
                self.note(began, Some(&error));
                refuse(records.into_iter().map(|(.., answer)| answer), &error);
                return Ok(());
            }
        };
        let written = Written::of(records, &drafts, places, self.writer.place(), began);
        match beside {
            Some(mut file) => self.syncing.push_back((written, spawn_blocking(move || file.sync()))),
            None => {
                let synced = self.writer.sync();
                self.judge(written, synced).await?;
            }
        }
        Ok(())
    }

    async fn end_oldest(&mut self, synced: io::Result<()>) -> Result<(), Gone> {
        match self.syncing.pop_front() {
            Some((written, _)) => self.judge(written, synced).await,
            None => Ok(()),
        }
    }

    async fn end_sync(&mut self) -> Result<(), Gone> {
        let ended = oldest(&mut self.syncing).await;
        self.end_oldest(ended).await
    }

    async fn end_syncs(&mut self) -> Result<(), Gone> {
        while !self.syncing.is_empty() {
            self.end_sync().await?;
        }
        Ok(())
    }

    /// Hands on what is kept now. A sync that failed takes what lies behind it along, and the segment is given up.
    async fn judge(&mut self, written: Written, synced: io::Result<()>) -> Result<(), Gone> {
        self.note(written.began, synced.as_ref().err());
        let Err(error) = synced else {
            self.took = written.began.elapsed();
            let records = written.records.len();
            let group = Group::from(written);
            let room = self.room(records).await;
            return self.hand_on(Task::Apply(group, room)).await;
        };
        let start = written.start;
        let mut lost = vec![written];
        for (behind, sync) in self.syncing.drain(..) {
            // Whether that succeeded does not matter.
            let _ = sync.await;
            lost.push(behind);
        }
        self.writer.give_up(start);
        refuse(lost.into_iter().flat_map(|lost| lost.answers).map(|(_, answer)| answer), &error);
        Ok(())
    }

    /// Notes how long a group took, and what went wrong.
    fn note(&self, began: Instant, error: Option<&io::Error>) {
        metrics::histogram!("mailtrail_commit_seconds").record(began.elapsed());
        let why = error.map(ToString::to_string);
        self.trouble.send_if_modified(|trouble| {
            let differs = *trouble != why;
            *trouble = why;
            differs
        });
    }

    async fn hand_on(&self, task: Task) -> Result<(), Gone> {
        self.tasks.send(task).await.map_err(|_| Gone)
    }

    /// Waits until the ledger thread has room for that many records.
    async fn room(&self, records: usize) -> OwnedSemaphorePermit {
        let records = u32::try_from(records.min(WAITING)).unwrap_or(u32::MAX);
        self.room.clone().acquire_many_owned(records).await.expect("nobody closes it")
    }

    fn seal(&mut self, age: Duration) {
        let now = self.clock.now();
        let old = self.writer.made().is_some_and(|made| now.since(made) >= age);
        if old
            && self.writer.is_used()
            && let Err(error) = self.writer.rotate(now)
        {
            tracing::error!(%error, "a new segment of the journal cannot be made");
        }
    }

    /// Only what grows the store is held back.
    fn enough_space(&self, records: &[(Record, Wish, Answer)], bytes: u64) -> io::Result<()> {
        let grows = |record: &Record| match record {
            Record::Accepted(_) | Record::Notice(_) | Record::Hint(_) | Record::Dead(_) => true,
            Record::Inbound(inbound) => matches!(**inbound, Inbound::Arrived(_)),
            _ => false,
        };
        if !records.iter().any(|(record, ..)| grows(record)) {
            return Ok(());
        }
        self.writer.free()?.admit(bytes)
    }
}

impl Batch {
    fn add_all(&mut self, incoming: &mut mpsc::Receiver<Request>) {
        while !self.is_full()
            && let Ok(next) = incoming.try_recv()
        {
            self.add(next);
        }
    }

    fn add(&mut self, request: Request) {
        match request {
            Request::Commit { record, draft, wish, answer } => {
                self.bytes += draft.size();
                self.urgent |= wish.urgent;
                self.records.push((record, wish, answer));
                self.drafts.push(draft);
            }
            Request::Seal(age) => (self.sealed, self.urgent) = (Some(age), true),
            Request::Drain(answer) => {
                self.drained.push(answer);
                self.urgent = true;
            }
        }
    }

    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS || self.bytes >= BATCH_BYTES
    }
}

impl Written {
    fn of(
        records: Vec<(Record, Wish, Answer)>,
        drafts: &[Draft],
        places: Vec<Place>,
        end: Place,
        began: Instant,
    ) -> Self {
        let start = places.first().copied().unwrap_or(end);
        let kept = |((record, wish, answer), (draft, place)): ((Record, Wish, Answer), (&Draft, Place))| {
            (Kept { record, place, body: draft.body_length() }, (wish, answer))
        };
        let (records, answers) = records.into_iter().zip(drafts.iter().zip(places)).map(kept).unzip();
        Self { records, answers, start, end, began }
    }
}

impl From<Written> for Group {
    /// Answers who waited for the sync only.
    fn from(written: Written) -> Self {
        let mut answers = Vec::new();
        for (wish, answer) in written.answers {
            if wish.applied {
                answers.push(answer);
            } else {
                // Who went away does not mind.
                let _ = answer.send(Ok(()));
            }
        }
        Self { records: written.records, answers, position: written.end }
    }
}

/// Waits for the oldest sync; never ends where there is none.
async fn oldest(syncing: &mut VecDeque<(Written, JoinHandle<io::Result<()>>)>) -> io::Result<()> {
    match syncing.front_mut() {
        Some((_, sync)) => sync.await.unwrap_or_else(|broken| Err(io::Error::other(broken))),
        None => pending().await,
    }
}

fn refuse(answers: impl Iterator<Item = Answer>, error: &io::Error) {
    let refused = answers.map(|answer| answer.send(Err(CommitError::Disk(error.to_string()))));
    let records = refused.count();
    tracing::error!(%error, records, "the journal cannot be written: nothing is accepted until it can");
}

/// Records of one sync.
const BATCH_RECORDS: usize = 256;
/// Bytes of one sync.
const BATCH_BYTES: u64 = 8 << 20;
/// How long a record that nobody waits for waits for company.
const PATIENCE: Duration = Duration::from_millis(1);
/// Records that nobody waits for, from which on they wait no longer.
const CROWD: usize = 16;
/// Records of a sync from which on the next one waits for as many.
const COMPANY: usize = 4;
/// That part of the time that the last group took is waited: less than the sync that it saves.
const PAUSE: u32 = 4;
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(2);
/// A group that takes so long is not waited for by the next: they are synced side by side.
const SLOW: Duration = Duration::from_millis(1);
/// Groups that are synced at the same time, at most.
const SYNCS: usize = 8;
/// Groups that are being synced, from which on the next one waits for no company.
const BUSY: usize = 2;
/// Records that may wait for it: as many as come while it writes a window to sled. A few KiB each, without messages.
const WAITING: usize = 4096;
