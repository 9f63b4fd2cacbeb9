//! Counts what the store holds, now and then, for the metrics.
//!
//! It walks the queue's places, not the mails, and takes at most a hundredth of the time: however much waits, the figures
//! are only older then. It never decides anything.

use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::transport::UpstreamSelection;
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::QueueKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What a census works with.
pub struct Census {
    /// Where the mail is.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Which upstream mail heads for.
    pub ways: Arc<UpstreamSelection>,
    /// The upstreams, by name.
    pub upstreams: Vec<String>,
}

/// Mails by state and upstream; those that are held are for none.
type Counts = BTreeMap<(&'static str, String), u64>;

/// What is found at a time.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    counts: Counts,
    oldest: Option<Timestamp>,
}

impl Census {
    /// Counts until we stop.
    pub async fn run(self, stopping: CancellationToken) {
        let (census, mut known) = (Arc::new(self), Counts::new());
        let mut pause = Duration::ZERO;
        while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let (counting, begun) = (census.clone(), Instant::now());
            match tokio::task::spawn_blocking(move || {
                counting.show_store();
                counting.count()
            })
            .await
            {
                Ok(Ok(found)) => census.show(&found, &mut known),
                Ok(Err(error)) => tracing::error!(%error, "what waits cannot be counted; it is tried again"),
                // A count that broke off is made again.
                Err(_) => {}
            }
            pause = LEAST_PAUSE.max(begun.elapsed() * 100);
        }
    }

    fn count(&self) -> Result<Found, ReadError> {
        let mut counts: Counts =
            self.upstreams.iter().flat_map(|name| STATES.map(|state| ((state, name.clone()), 0))).collect();
        counts.insert((HELD, String::new()), 0);
        let mut oldest = None;
        for (waits, waiting) in self.store.queue_depths()? {
            *counts.entry(self.place(&waits)).or_default() += waiting.messages;
            if waits != QueueKey::Held {
                oldest = oldest.into_iter().chain([waiting.oldest]).min();
            }
        }
        // What is being sent keeps its place in the queue until it is known what came of it.
        for begun in self.store.interrupted_attempts()? {
            let waits = self.store.queue_key(begun.id)?.map(|waits| self.place(&waits));
            if let Some(count) = waits.and_then(|place| counts.get_mut(&place)) {
                *count = count.saturating_sub(1);
                *counts.entry((SENDING, begun.upstream)).or_default() += 1;
            }
        }
        Ok(Found { counts, oldest })
    }

    fn place(&self, waits: &QueueKey) -> (&'static str, String) {
        match waits {
            QueueKey::Held => (HELD, String::new()),
            waits => (QUEUED, self.ways.preferred(waits).unwrap_or_default().to_owned()),
        }
    }

    fn show_store(&self) {
        match self.store.disk_usage() {
            Ok(size) => {
                for (part, bytes) in [("journal", size.journal_bytes), ("ledger", size.ledger_bytes)] {
                    metrics::gauge!("mailtrail_store_bytes", "part" => part).set(bytes as f64);
                }
                metrics::gauge!("mailtrail_disk_free_bytes").set(size.free_bytes as f64);
            }
            Err(error) => tracing::error!(%error, "the store's files cannot be measured; it is tried again"),
        }
    }

    fn show(&self, found: &Found, known: &mut Counts) {
        // Of an upstream that is no more nothing waits.
        known.values_mut().for_each(|count| *count = 0);
        known.extend(found.counts.clone());
        for ((state, upstream), count) in known.iter() {
            metrics::gauge!("mailtrail_queue_messages", "state" => *state, "upstream" => upstream.clone())
                .set(*count as f64);
        }
        let age = found.oldest.map_or(Duration::ZERO, |oldest| self.clock.now().duration_since(oldest));
        metrics::gauge!("mailtrail_queue_oldest_seconds").set(age.as_secs_f64());
    }
}

const QUEUED: &str = "queued";
const SENDING: &str = "sending";
const HELD: &str = "held";
const STATES: [&str; 2] = [QUEUED, SENDING];
const LEAST_PAUSE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use mailtrail_mail::TrackingId;
    use mailtrail_trail::{AcceptedMessage, AttemptStarted, Message};

    #[tokio::test]
    async fn mail_is_counted_where_it_stands() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Clock::System).unwrap();
        let mut ids = Vec::new();
        for second in 1..=5 {
            let id = TrackingId::new(Timestamp::from_secs(1_789_387_200 + second), 1);
            let accepted = AcceptedMessage {
                message: Message::new(id, "test"),
                recipients: vec!["a@example.net".parse().unwrap()],
            };
            store.put_message_applied(accepted, Bytes::from_static(b"A: b\r\n\r\n")).await.unwrap();
            ids.push(id);
        }
        store
            .record_attempt_start(AttemptStarted {
                id: ids[0],
                at: Clock::System.now(),
                upstream: "b".into(),
            })
            .await
            .unwrap();
        store.checkpoint().await;
        let upstreams = vec!["a".to_owned(), "b".to_owned()];
        let ways = UpstreamSelection::new(upstreams.iter().map(|name| (name.clone(), false)).collect(), &[]);
        let census = Census { store: store.clone(), clock: Clock::System, ways: Arc::new(ways), upstreams };
        let found = census.count().unwrap();
        let expected = [
            ((HELD, ""), 0),
            ((QUEUED, "a"), 4),
            ((QUEUED, "b"), 0),
            ((SENDING, "a"), 0),
            ((SENDING, "b"), 1),
        ];
        let counts: Vec<_> =
            found.counts.iter().map(|((state, name), count)| ((*state, &**name), *count)).collect();
        assert_eq!(counts, expected);
        assert_eq!(found.oldest, Some(ids[0].timestamp()));
        let size = store.disk_usage().unwrap();
        let written = std::fs::read_dir(directory.path().join("journal")).unwrap();
        let written: u64 = written.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(size.journal_bytes, written);
        assert!(size.ledger_bytes > 0 && size.free_bytes > 0);
    }
}
