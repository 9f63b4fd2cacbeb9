//! Group commit: one thread writes the journal, one applies what was written.
//!
//! While a sync runs, the next group gathers; a lone writer waits for nobody. The channel between the two threads is
//! bounded, so a slow projection slows the writers down instead of filling the memory.

use super::journal::{Draft, Place, Writer};
use super::lock::Lock;
use super::record::{Record, VERSION};
use super::sled::Projection;
use crate::clock::Clock;
use crate::wakeup::Wakeup;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Why a record was not kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The disk refused.
    #[error("the journal cannot be written: {0}")]
    Disk(String),
    /// The store was opened for reading, or has failed.
    #[error("the store takes nothing: it was opened for reading, or it has failed")]
    ReadOnly,
}

/// The writing side of a store.
pub struct Committer {
    requests: mpsc::Sender<Request>,
    failure: watch::Receiver<Option<String>>,
}

enum Request {
    Commit { record: Record, draft: Draft, ticket: Ticket },
    Drain(oneshot::Sender<()>),
}

/// Who waits for a record, and for what.
enum Ticket {
    Durable(oneshot::Sender<Result<(), CommitError>>),
    Applied(oneshot::Sender<Result<(), CommitError>>),
}

/// Records that are on stable storage.
struct Group {
    records: Vec<(Record, Place)>,
    applied: Vec<oneshot::Sender<Result<(), CommitError>>>,
    drained: Vec<oneshot::Sender<()>>,
    position: Place,
}

impl Committer {
    /// Starts both threads. They let go of the projection after the last [`Committer`] is gone, and of the lock after
    /// that: whoever gets the lock next can open the projection.
    pub fn start(
        writer: Writer,
        projection: Arc<Projection>,
        clock: Clock,
        due: Wakeup,
        lock: Arc<Lock>,
    ) -> io::Result<Self> {
        let (requests, incoming) = mpsc::channel(REQUESTS);
        let (groups, written) = mpsc::channel(GROUPS);
        let (failed, failure) = watch::channel(None);
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write(writer, incoming, groups, clock))?;
        std::thread::Builder::new().name("ledger".into()).spawn(move || {
            if let Err(error) = apply(&projection, written, &due) {
                tracing::error!(%error, "the ledger failed; the journal is whole: restart to rebuild the ledger from it");
                let _ = failed.send(Some(error));
            }
            drop(projection);
            drop(lock);
        })?;
        Ok(Self { requests, failure })
    }

    /// Returns when the record is on stable storage.
    pub async fn durable(&self, record: Record, body: Bytes) -> Result<(), CommitError> {
        self.commit(record, body, Ticket::Durable).await
    }

    /// Returns when lookups see the record, too.
    pub async fn applied(&self, record: Record, body: Bytes) -> Result<(), CommitError> {
        self.commit(record, body, Ticket::Applied).await
    }

    async fn commit(
        &self,
        record: Record,
        body: Bytes,
        ticket: fn(oneshot::Sender<Result<(), CommitError>>) -> Ticket,
    ) -> Result<(), CommitError> {
        let draft = Draft::new(record.kind(), VERSION, record.encode(), body);
        let (answer, answered) = oneshot::channel();
        let request = Request::Commit { record, draft, ticket: ticket(answer) };
        self.requests.send(request).await.map_err(|_| CommitError::ReadOnly)?;
        answered.await.unwrap_or(Err(CommitError::ReadOnly))
    }

    /// Returns when everything sent before is applied and the projection is on stable storage.
    pub async fn drain(&self) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Drain(answer)).await.is_ok() {
            // An end of the threads is an end, too.
            let _ = answered.await;
        }
    }

    /// Waits for the projection to fail.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // It ends without a word only by a panic, as long as somebody is there to ask.
            Err(_) => "the ledger's thread broke".to_owned(),
        }
    }
}

/// The journal thread.
fn write(
    mut writer: Writer,
    mut incoming: mpsc::Receiver<Request>,
    groups: mpsc::Sender<Group>,
    clock: Clock,
) {
    while let Some(first) = incoming.blocking_recv() {
        let (mut records, mut drafts, mut tickets, mut drained) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Commit { record, draft, ticket } => {
                    bytes += draft.size();
                    records.push(record);
                    drafts.push(draft);
                    tickets.push(ticket);
                }
                Request::Drain(answer) => drained.push(answer),
            }
            let full = records.len() >= GROUP_RECORDS || bytes >= GROUP_BYTES;
            next = if full { None } else { incoming.try_recv().ok() };
        }
        let appended = match enough_space(&writer, &records) {
            Ok(()) => append(&mut writer, &mut drafts, clock),
            Err(error) => Err(error),
        };
        let places = match appended {
            Ok(places) => places,
            Err(error) => {
                refuse(tickets, &error);
                continue;
            }
        };
        let applied = tickets.into_iter().filter_map(acknowledge).collect();
        let records = records.into_iter().zip(places).collect();
        if groups.blocking_send(Group { records, applied, drained, position: writer.place() }).is_err() {
            return;
        }
    }
}

/// Appends a group; a segment that failed is given up, and the next group goes to a new one.
fn append(writer: &mut Writer, drafts: &mut [Draft], clock: Clock) -> io::Result<Vec<Place>> {
    if drafts.is_empty() {
        return Ok(Vec::new());
    }
    let started = Instant::now();
    let places = writer.append(drafts, clock.now());
    metrics::histogram!("mailtrail_commit_seconds").record(started.elapsed());
    places
}

/// Takes no new mail when the disk is nearly full: what is left is for the outcomes of the mail that is here, and for
/// the ledger, which cannot go on once it could not write.
fn enough_space(writer: &Writer, records: &[Record]) -> io::Result<()> {
    let grows = |record: &Record| matches!(record, Record::Accepted(_) | Record::Notice(_));
    if !records.iter().any(grows) {
        return Ok(());
    }
    let disk = rustix::fs::statvfs(writer.directory())?;
    if disk.f_bavail.saturating_mul(disk.f_frsize) >= FREE_SPACE {
        return Ok(());
    }
    let text = format!("less than {} MiB are free", FREE_SPACE >> 20);
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

fn refuse(tickets: Vec<Ticket>, error: &io::Error) {
    tracing::error!(%error, records = tickets.len(), "the journal cannot be written: nothing is accepted until it can");
    for ticket in tickets {
        let (Ticket::Durable(answer) | Ticket::Applied(answer)) = ticket;
        let _ = answer.send(Err(CommitError::Disk(error.to_string())));
    }
}

/// Answers who waits for the sync; gives back who waits for more.
fn acknowledge(ticket: Ticket) -> Option<oneshot::Sender<Result<(), CommitError>>> {
    match ticket {
        Ticket::Durable(answer) => {
            let _ = answer.send(Ok(()));
            None
        }
        Ticket::Applied(answer) => Some(answer),
    }
}

/// The ledger thread.
fn apply(projection: &Projection, mut written: mpsc::Receiver<Group>, due: &Wakeup) -> Result<(), String> {
    let mut checkpointed = Instant::now();
    while let Some(mut group) = written.blocking_recv() {
        while group.records.len() < APPLY_RECORDS
            && let Ok(next) = written.try_recv()
        {
            group.absorb(next);
        }
        let records = group.records.iter().map(|(record, place)| (record, *place));
        projection.apply(records, group.position).map_err(|error| error.to_string())?;
        due.ring();
        for answer in group.applied {
            let _ = answer.send(Ok(()));
        }
        if !group.drained.is_empty() || checkpointed.elapsed() >= CHECKPOINT_EVERY {
            projection.checkpoint().map_err(|error| error.to_string())?;
            checkpointed = Instant::now();
        }
        for answer in group.drained {
            let _ = answer.send(());
        }
    }
    projection.checkpoint().map_err(|error| error.to_string())
}

impl Group {
    fn absorb(&mut self, next: Self) {
        self.records.extend(next.records);
        self.applied.extend(next.applied);
        self.drained.extend(next.drained);
        self.position = next.position;
    }
}

/// Records that may wait for the journal thread.
const REQUESTS: usize = 1024;
/// Groups that may wait for the ledger thread.
const GROUPS: usize = 4;
/// Records of one sync.
const GROUP_RECORDS: usize = 256;
/// Bytes of one sync.
const GROUP_BYTES: usize = 8 << 20;
/// Bytes of the disk that new mail leaves free.
const FREE_SPACE: u64 = 16 << 20;
/// Records applied in one batch, from which on no further group is added.
const APPLY_RECORDS: usize = 200;
/// How much replay a restart may cost.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
